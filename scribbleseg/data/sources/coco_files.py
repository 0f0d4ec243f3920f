"""Names of COCO's files: images are told by the number that ends their name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from scribbleseg.data import io
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.manifest import MANIFEST, check_manifest, read_manifest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = [
    "SPLITS",
    "YEARS",
    "annotation_file",
    "by_number",
    "find_year",
    "image_folder",
    "image_number",
    "image_stem",
    "labels_by_stem",
    "list_numbers",
    "painted_masks",
]

YEARS = (2014, 2017)
"""Releases of the images, the one of published comparisons first."""

SPLITS = ("train", "val")
"""Splits with public labels."""

_NUMBER = re.compile(r"(?:^|[^0-9])0*([0-9]{1,12})$")


def image_number(name: str) -> int | None:
    """Image id of COCO that ends a file name, ``None`` without one.

    Example:
        >>> image_number("val2014/COCO_val2014_000000000042"), image_number("42"), image_number("x")
        (42, 42, None)
    """
    match = _NUMBER.search(name)
    return None if match is None else int(match[1])


def list_numbers(path: Path) -> list[int]:
    """Image numbers of a split file, in its order.

    Raises:
        ScribbleNotFoundError: If the file does not exist or lists nothing (D301).
        LabelFormatError: If a name is not safe or does not end in a number (D501).
    """
    found = {stem: image_number(stem) for stem in io.read_split(path)}
    bad = [stem for stem, number in found.items() if number is None]
    if bad:
        raise LabelFormatError(
            f"D501 {path}: {len(bad)} names do not end in an image number (e.g. {bad[0]!r}), "
            "expected names such as COCO_train2014_000000000009; correct the list"
        )
    return [number for number in found.values() if number is not None]


def by_number(files: dict[str, Path], place: str) -> dict[int, str]:
    """Names of files by image number, ascending; names without number are left out.

    Args:
        files: File by name.
        place: Their folder, for messages.

    Raises:
        LabelFormatError: If two files are of one image (D303).
    """
    found: dict[int, str] = {}
    for name in files:
        number = image_number(name)
        if number is None:
            continue
        if number in found:
            raise LabelFormatError(
                f"D303 {place}: {found[number]!r} and {name!r} are both of image {number}, "
                "expected one file per image; remove one"
            )
        found[number] = name
    return dict(sorted(found.items()))


def labels_by_stem(folder: Path, stems: dict[int, str]) -> dict[str, Path]:
    """Label files of a folder by the stem of their image."""
    if not folder.is_dir():
        return {}
    files = io.find_images(folder, suffixes=(*io.LABEL_SUFFIXES, ".xml"), unique=False)
    numbers = by_number(files, str(folder))
    return {stems[number]: files[name] for number, name in numbers.items() if number in stems}


def painted_masks(
    folder: Path, class_names: Sequence[str], settings: Mapping[str, object]
) -> dict[int, Path]:
    """Masks of a folder by image number; empty if there is no folder.

    Args:
        folder: PNG masks, with a manifest or without.
        class_names: Classes that the manifest must name.
        settings: How the masks must have been painted, where the manifest says it.

    Raises:
        ConfigError: If they were painted otherwise.
        LabelFormatError: If they have other classes (D401), or two are of one image (D303).
    """
    if not folder.is_dir():
        return {}
    check_manifest(folder, class_names)
    manifest = read_manifest(folder) or {}
    for key, wanted in settings.items():
        found = manifest.get(key, wanted)
        if found != wanted:
            raise ConfigError(
                f"{folder / MANIFEST}: these masks have {key}={found!r}, the source {key}="
                f"{wanted!r}; scores are not comparable: set the same option, or another "
                "`mask_dir`"
            )
    files = io.find_images(folder, suffixes=(".png",))
    return {number: files[name] for number, name in by_number(files, str(folder)).items()}


def image_stem(number: int, split: str, year: int) -> str:
    """Name of an image file of the release, without suffix."""
    prefix = "" if year == 2017 else f"COCO_{split}{year}_"
    return f"{prefix}{number:012d}"


def image_folder(root: Path, split: str, year: int) -> Path | None:
    """Folder of the images of a split, in ``root`` or ``root/images``; ``None`` without one."""
    for base in (root, root / "images"):
        if (base / f"{split}{year}").is_dir():
            return base / f"{split}{year}"
    return None


def annotation_file(root: Path, split: str, year: int) -> Path:
    """Where the instances of a split are."""
    return root / "annotations" / f"instances_{split}{year}.json"


def find_year(root: Path, year: int | None) -> int:
    """The year that is asked for, or the first one that has an image folder.

    Raises:
        ScribbleNotFoundError: If there is no image folder of it (D301).
    """
    for candidate in YEARS if year is None else (year,):
        if any(image_folder(root, split, candidate) for split in SPLITS):
            return candidate
    wanted = " or ".join(f"train{y}, val{y}" for y in (YEARS if year is None else (year,)))
    raise ScribbleNotFoundError(
        f"D301 {root}: no folder {wanted} here or in images/; unpack the archives of the release "
        "there, or correct `root` and `year`"
    )
