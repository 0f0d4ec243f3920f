"""``spread ROOT --out DIR``: pseudo-labels by the random walker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scribbleseg.data.commands.opening import open_source
from scribbleseg.data.commands.working import add_folders, add_workers, finish
from scribbleseg.data.spread import spread_scribbles

if TYPE_CHECKING:
    import argparse

__all__ = ["add"]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "spread",
        help="spread scribbles into pseudo-labels with the random walker; resumable",
        description="Write one palette PNG per image, manifest.json and overview.png. Finished "
        "files are kept, so the same command goes on after an interruption; labels older than "
        "their scribble are made anew. Train on them with label_type: pseudo and "
        "pseudo_label_dir: DIR in the source.",
    )
    add_folders(parser)
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
    add_workers(parser)
    parser.set_defaults(run=_spread, allow_dense_scribbles=False)


def _spread(options: argparse.Namespace) -> int:
    source = open_source(options)
    report = spread_scribbles(
        source,
        options.out,
        split=options.split,
        beta=options.beta,
        min_confidence=options.min_confidence,
        workers=options.workers,
    )
    return finish(report, "spread")
