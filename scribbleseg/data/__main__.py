"""Data commands: ``python -m scribbleseg.data {check,spread} ROOT``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scribbleseg.data.check import check_source
from scribbleseg.data.sources import ACDCSource, FolderSource, VOCSource
from scribbleseg.data.spread import spread_scribbles
from scribbleseg.errors import ConfigError, ScribbleNotFoundError, ScribbleSegError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scribbleseg.data.source import ScribbleSource

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run a data command.

    Args:
        args: Command line without the program's name; ``sys.argv`` by default.

    Returns:
        Exit status: 0 = fine, 1 = the check found errors or some images could not be spread, 2 =
        the command cannot be run, 130 = interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m scribbleseg.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_check(commands)
    _add_spread(commands)
    options = parser.parse_args(args)
    try:
        status: int = options.run(options)
    except (ScribbleSegError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return status


def _add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "check", help="find faults of a data set and count what is in it; exit status 1 on errors"
    )
    _add_source(parser)
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
    source = _open_source(options)
    report = check_source(source, splits=options.split, sample=options.sample)
    if options.json:
        text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False)
    else:
        text = f"{type(source).__name__} {options.root}\n{report.format()}"
    sys.stdout.write(text + "\n")
    return 1 if report.errors else 0


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("root", type=Path, help="folder of the data set")
    parser.add_argument("--source", choices=("auto", "folder", "voc", "acdc"), default="auto")
    parser.add_argument("--unlabelled-value", type=int, help="scribble value for 'not drawn'")


def _add_spread(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "spread",
        help="spread scribbles into pseudo-labels with the random walker; resumable",
        description="Write one palette PNG per image, manifest.json and overview.png. Finished "
        "files are kept, so the same command goes on after an interruption; labels older than "
        "their scribble are made anew. Train on them with train_labels: pseudo and "
        "pseudo_label_dir: DIR in the source.",
    )
    _add_source(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--split", choices=("train", "val", "test"), default="train")
    parser.add_argument(
        "--beta",
        type=float,
        default=100.0,
        help="how strongly edges stop the labels, for intensities in [0, 1] as in scikit-image "
        "(default: 100)",
    )
    parser.add_argument(
        "--min-confidence",
        type=float,
        help="leave pixels below this probability (0 to 1) unlabelled (default: label all)",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, cores or 1),
        help="processes, each with its own memory; 0 = in this process (default: %(default)s)",
    )
    parser.set_defaults(run=_spread, allow_dense_scribbles=False)


def _spread(options: argparse.Namespace) -> int:
    source = _open_source(options)
    try:
        report = spread_scribbles(
            source,
            options.out,
            split=options.split,
            beta=options.beta,
            min_confidence=options.min_confidence,
            workers=options.workers,
        )
    except KeyboardInterrupt:
        sys.stderr.write(
            f"\ninterrupted: finished labels stay in {options.out}; the same command goes on "
            "there\n"
        )
        return 130
    sys.stdout.write(report.format() + "\n")
    if not report.failed:
        return 0
    reasons = "".join(f"  {name}: {why}\n" for name, why in list(report.failed.items())[:3])
    sys.stderr.write(
        f"error: {len(report.failed)} images could not be spread, such as\n{reasons}correct them "
        "and run the same command again: it does only what is missing\n"
    )
    return 1


def _open_source(options: argparse.Namespace) -> ScribbleSource:
    root: Path = options.root
    if not root.is_dir():
        raise ScribbleNotFoundError(f"{root}: no such folder")
    kind = _recognise(root) if options.source == "auto" else options.source
    if kind == "folder":
        return FolderSource(
            root,
            unlabelled_value=options.unlabelled_value,
            allow_dense_scribbles=options.allow_dense_scribbles,
        )
    if options.unlabelled_value is not None or options.allow_dense_scribbles:
        raise ConfigError(
            "--unlabelled-value and --allow-dense-scribbles are for plain folders, but "
            f"{root} is read as {kind!r}; pass --source folder if it is one"
        )
    return ACDCSource(root) if kind == "acdc" else VOCSource(root)


def _recognise(root: Path) -> str:
    if (root / "images").is_dir():
        return "folder"
    if any((root / name / "JPEGImages").is_dir() for name in ("", "VOC2012", "VOCdevkit/VOC2012")):
        return "voc"
    if (root / "ACDC_training_slices").is_dir() or any(root.glob("*.h5")):
        return "acdc"
    raise ScribbleNotFoundError(
        f"{root}: not a known layout; expected images/ (plain folder), JPEGImages/ (VOC) or "
        "ACDC_training_slices/ (ACDC)"
    )


if __name__ == "__main__":
    sys.exit(main())
