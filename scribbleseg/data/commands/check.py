"""``check ROOT``: faults and statistics of a data set."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scribbleseg.data.check.check import check_checkpoint, check_pseudo_labels, check_source
from scribbleseg.data.check.report import measure_loading, write_check_report
from scribbleseg.data.commands.opening import add_source, open_source
from scribbleseg.data.findings import printable
from scribbleseg.errors import ConfigError

if TYPE_CHECKING:
    import argparse

__all__ = ["add"]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    text = "find faults of a data set and count what is in it; exit status 1 on errors"
    parser = commands.add_parser("check", help=text)
    add_source(parser)
    option, splits, default = parser.add_argument, ("train", "val", "test"), ["train", "val"]
    text = "splits to check (default: train val)"
    option("--split", nargs="+", choices=splits, default=default, help=text)
    option("--sample", type=int, help="look at this many images only")
    option("--allow-dense-scribbles", action="store_true", help="switch D106 off")
    text = "compare the classes with those of a checkpoint (D402)"
    option("--checkpoint", type=Path, metavar="FILE", help=text)
    text = "check a folder of pseudo-labels for the training images (D601)"
    option("--pseudo-labels", type=Path, metavar="DIR", help=text)
    text = "write report.html, report.json and contact_sheet.png there"
    option("--report", type=Path, metavar="DIR", help=text)
    option("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    if options.sample is not None and options.sample < 1:
        raise ConfigError(f"--sample {options.sample}: expected at least 1")
    source, splits, further = open_source(options), options.split, []
    # what needs no image comes first: a wrong path is known at once
    if options.checkpoint is not None:
        further += check_checkpoint(source, options.checkpoint)
    if options.pseudo_labels is not None:
        further += check_pseudo_labels(source, options.pseudo_labels)
    shown = sys.stderr.isatty()
    report = check_source(source, splits=splits, sample=options.sample, progress=shown)
    report.findings += further
    report.findings.sort(key=lambda finding: (finding.code, finding.severity))
    if splits[0] in report.statistics.get("splits", {}):
        loading = measure_loading(source, source.records(splits[0]))
        report.statistics |= {"loading": loading} if loading else {}
    text = printable(f"{type(source).__name__} {options.root}") + f"\n{report.format()}"
    if options.json:
        text = json.dumps(report.to_dict(), indent=2)
    if options.report is not None:
        title = str(options.root)
        path = write_check_report(source, report, options.report, splits=splits, title=title)
        text += "" if options.json else f"\nreport: {printable(str(path))}"
    sys.stdout.write(text + "\n")
    return 1 if report.errors else 0
