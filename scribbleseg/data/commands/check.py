"""``check ROOT``: faults and statistics of a data set."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scribbleseg.data.check import check_source
from scribbleseg.data.commands.opening import add_source, open_source
from scribbleseg.errors import ConfigError, ScribbleSegError

if TYPE_CHECKING:
    import argparse

    from scribbleseg.data.findings import CheckReport
    from scribbleseg.data.source import ScribbleSource

__all__ = ["add"]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "check", help="find faults of a data set and count what is in it; exit status 1 on errors"
    )
    add_source(parser)
    parser.add_argument(
        "--split",
        nargs="+",
        choices=("train", "val", "test"),
        default=["train", "val"],
        help="splits to check (default: train val)",
    )
    parser.add_argument("--sample", type=int, help="look at this many images only")
    parser.add_argument("--allow-dense-scribbles", action="store_true", help="switch D106 off")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="compare the classes with those of a checkpoint (D402)",
    )
    parser.add_argument(
        "--pseudo-labels",
        type=Path,
        metavar="DIR",
        help="check a folder of pseudo-labels for the training images (D601)",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        help="write report.html, report.json and contact_sheet.png there",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    if options.sample is not None and options.sample < 1:
        raise ConfigError(f"--sample {options.sample}: expected at least 1")
    source = open_source(options)
    report = _examine(source, options)
    page = None
    if options.report is not None:
        from scribbleseg.data.check_report import write_check_report

        page = write_check_report(
            source, report, options.report, splits=options.split, title=str(options.root)
        )
    if options.json:
        text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False)
    else:
        text = f"{type(source).__name__} {options.root}\n{report.format()}"
        text += f"\nreport: {page}" if page is not None else ""
    sys.stdout.write(text + "\n")
    return 1 if report.errors else 0


def _examine(source: ScribbleSource, options: argparse.Namespace) -> CheckReport:
    """The report with what the command line asks for besides."""
    # what needs no image comes first: a wrong path is known at once
    further = []
    if options.checkpoint is not None:
        from scribbleseg.data.comparison import check_checkpoint

        further += check_checkpoint(source, options.checkpoint)
    if options.pseudo_labels is not None:
        from scribbleseg.data.pseudo_check import check_pseudo_labels

        further += check_pseudo_labels(source, options.pseudo_labels)
    report = check_source(
        source, splits=options.split, sample=options.sample, progress=sys.stderr.isatty()
    )
    report.findings += further
    report.findings.sort(key=lambda finding: (finding.code, finding.severity))
    from scribbleseg.data.loading import measure_loading

    try:
        loading = measure_loading(source, source.records(options.split[0]))
    except ScribbleSegError:
        loading = None  # a finding says why
    if loading is not None:
        report.statistics["loading"] = loading
    return report
