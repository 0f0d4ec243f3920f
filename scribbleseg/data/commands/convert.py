"""``convert ROOT --out DIR``: any data set as a plain folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scribbleseg.data.commands.opening import open_source
from scribbleseg.data.commands.working import add_folders, add_workers, finish
from scribbleseg.data.convert import convert_source

if TYPE_CHECKING:
    import argparse

__all__ = ["add"]


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "convert",
        help="write a data set as a plain folder of images, scribbles and masks; resumable",
        description="Write images/, scribbles/, masks/, split files, classes.yaml and "
        "manifest.json. Ordinary images are copied byte for byte; labels become palette PNGs of "
        "ids, 255 = unlabelled. Finished files are kept, so the same command goes on after an "
        "interruption.",
    )
    add_folders(parser)
    parser.add_argument(
        "--split",
        nargs="+",
        choices=("train", "val", "test"),
        help="splits to convert (default: train, val, and test if there is one)",
    )
    parser.add_argument(
        "--link",
        action="store_true",
        help="hard links to image files instead of copies, where the disk allows it",
    )
    add_workers(parser)
    parser.set_defaults(run=_convert, allow_dense_scribbles=False)


def _convert(options: argparse.Namespace) -> int:
    source = open_source(options)
    report = convert_source(
        source,
        options.out,
        splits=options.split,
        link=options.link,
        workers=options.workers,
    )
    return finish(report, "converted")
