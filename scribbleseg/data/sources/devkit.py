"""Devkits of PASCAL VOC and what is laid over them: folders, lists, scribbles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scribbleseg.data import io
from scribbleseg.data.readers.scribblesup import list_zip
from scribbleseg.errors import ScribbleNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "TRAIN_AUG_LISTS",
    "find_list",
    "find_scribbles",
    "label_files",
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


def find_scribbles(root: Path, wanted: str, names: Sequence[str]) -> tuple[str, dict[str, Path]]:
    """Scribbles beside a devkit: where they are, for messages, and the files by stem.

    Args:
        root: Folder with ``JPEGImages``.
        wanted: Folder or zip archive, absolute or relative to ``root``; ``"auto"`` looks for
            ``names`` there and up to two folders above.
        names: Known folder names, the first one for messages.

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
        return str(path), label_files(path)
    candidates = [
        folder
        for base in (root, *list(root.parents)[:2])
        for folder in (base / name for name in names)
        if folder.is_dir()
    ]
    found = [(folder, files) for folder in candidates if (files := label_files(folder))]
    # drawings of different origin are not mixed: one folder, the first that holds PNGs
    for folder, files in found:
        if any(path.suffix.lower() != ".xml" for path in files.values()):
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


def label_files(folder: Path) -> dict[str, Path]:
    """Label and stroke files of a folder by stem; PNG is preferred over XML."""
    return io.find_images(folder, suffixes=(*io.LABEL_SUFFIXES, ".xml"), unique=False)


def voc_ids(path: Path) -> list[str]:
    """Stems of a list whose lines may be paths below any folder, or ids without underscore."""
    return [io.voc_stem(stem) for stem in io.read_split(path)]
