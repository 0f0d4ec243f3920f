"""``superpixels ROOT --out DIR``: over-segmentations, made once and kept on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scribbleseg.data.commands.opening import open_source
from scribbleseg.data.commands.working import add_folders, add_workers, finish
from scribbleseg.data.superpixel_cache import write_superpixels

if TYPE_CHECKING:
    import argparse

__all__ = ["add"]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "superpixels",
        help="over-segment images into 16-bit PNGs; resumable",
        description="Write one 16-bit PNG of superpixel ids per image, manifest.json and "
        "overview.png. Finished files are kept, so the same command goes on after an interruption.",
    )
    add_folders(parser)
    parser.add_argument(
        "--split",
        nargs="+",
        choices=("train", "val", "test", "predict"),
        default=["train"],
        help="splits to segment; predict = all images (default: train)",
    )
    parser.add_argument(
        "--method",
        choices=("slic", "felzenszwalb", "grid"),
        default="slic",
        help="slic: about equal sizes (default); felzenszwalb: irregular, follows edges; grid: "
        "rectangles",
    )
    parser.add_argument(
        "--segments", type=int, metavar="N", help="about how many per image (default: 800)"
    )
    parser.add_argument(
        "--compactness",
        type=float,
        help="slic: weight of position against colour (default: fitted to each superpixel)",
    )
    parser.add_argument(
        "--scale", type=float, help="felzenszwalb: preference for large regions (default: 300)"
    )
    parser.add_argument(
        "--min-size",
        type=int,
        metavar="PIXELS",
        help="felzenszwalb: smallest region (default: 100)",
    )
    add_workers(parser)
    parser.set_defaults(run=_superpixels, allow_dense_scribbles=False)


def _superpixels(options: argparse.Namespace) -> int:
    source = open_source(options)
    report = write_superpixels(
        source,
        options.out,
        splits=options.split,
        method=options.method,
        segments=options.segments,
        compactness=options.compactness,
        scale=options.scale,
        min_size=options.min_size,
        workers=options.workers,
    )
    return finish(report, "segmented")
