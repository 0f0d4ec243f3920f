"""``check ROOT``: faults and statistics of a data set."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from scribbleseg.data.check import check_source
from scribbleseg.data.commands.opening import add_source, open_source
from scribbleseg.errors import ConfigError

if TYPE_CHECKING:
    import argparse

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
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    if options.sample is not None and options.sample < 1:
        raise ConfigError(f"--sample {options.sample}: expected at least 1")
    source = open_source(options)
    report = check_source(source, splits=options.split, sample=options.sample)
    if options.json:
        text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False)
    else:
        text = f"{type(source).__name__} {options.root}\n{report.format()}"
    sys.stdout.write(text + "\n")
    return 1 if report.errors else 0
