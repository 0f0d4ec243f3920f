"""Devkits of PASCAL VOC and what is laid over them: folders, lists, scribbles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scribbleseg.data.lists import read_split, voc_stem
from scribbleseg.data.sources.index import find_labels
from scribbleseg.data.strokes import list_zip
from scribbleseg.errors import ScribbleNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scribbleseg.types import Label

__all__ = [
    "TRAIN_AUG_LISTS",
    "find_list",
    "find_scribbles",
    "locate_devkit",
    "voc_ids",
]

TRAIN_AUG_LISTS = (
    "SegmentationAug/train.txt",
    "SegmentationAug/train_aug.txt",
    "Segmentation/train_aug.txt",
    "Segmentation/trainaug.txt",
    "SegmentationAug/trainaug.txt",
    "train_aug.txt",
)
"""Where copies of VOC's list of 10,582 training images are found below ``ImageSets``."""


def locate_devkit(root: Path, years: Sequence[str] = ("VOC2012",)) -> Path:
    """Folder with ``JPEGImages``: ``root``, a devkit's year in it, or one in its ``VOCdevkit``.

    Raises:
        ScribbleNotFoundError: If there is none (D301).
    """
    for name in ("", *years, *(f"VOCdevkit/{year}" for year in years)):
        if (root / name / "JPEGImages").is_dir():
            return root / name
    raise ScribbleNotFoundError(
        f"D301 {root}: no JPEGImages here, in {years[0]} or in VOCdevkit/{years[0]}; set `root` to "
        f"the folder into which the archive of VOC {years[0].removeprefix('VOC')} was unpacked"
    )


def find_scribbles(
    root: Path, wanted: str, names: Sequence[str], class_names: Sequence[str]
) -> tuple[str, dict[str, Label]]:
    """Scribbles beside a devkit: where they are, for messages, and the files by stem.

    Args:
        root: Folder with ``JPEGImages``.
        wanted: Folder or zip archive, absolute or relative to ``root``; ``"auto"`` looks for
            ``names`` there and up to two folders above.
        names: Known folder names, the first one for messages.
        class_names: Classes of the data set.

    Raises:
        ScribbleNotFoundError: If ``wanted`` does not exist (D301).
    """
    if wanted != "auto":
        path = root / wanted
        if path.suffix.lower() == ".zip" and path.is_file():
            return str(path), list_zip(path)
        if not path.is_dir():
            raise ScribbleNotFoundError(
                f"D301 {path}: no such folder or zip archive; correct `scribbles`"
            )
        return str(path), find_labels(path, "scribble", class_names)
    candidates = [
        folder
        for base in (root, *list(root.parents)[:2])
        for folder in (base / name for name in names)
        if folder.is_dir()
    ]
    listed = [(folder, find_labels(folder, "scribble", class_names)) for folder in candidates]
    found = [(folder, files) for folder, files in listed if files]
    # drawings of different origin are not mixed: one folder, the first that holds PNGs
    for folder, files in found:
        if any(label.kind != "strokes" for label in files.values()):
            return str(folder), files
    if found:
        return str(found[0][0]), found[0][1]
    return f"{root / names[0]} (folder does not exist)", {}


def find_list(root: Path, wanted: str) -> Path:
    """Split file that an option names, with or without ``.txt``."""
    sets = root / "ImageSets"
    for base in (sets, sets / "Segmentation", root):
        for name in (wanted, f"{wanted}.txt"):
            if (base / name).is_file():
                return base / name
    return sets / wanted


def voc_ids(path: Path, *, repeats: bool = False) -> list[str]:
    """Stems of a list whose lines may be paths below any folder, or ids without underscore."""
    return [voc_stem(stem) for stem in read_split(path, repeats=repeats)]
