"""Names of COCO's files: images are told by the number that ends their name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, get_args

from scribbleseg.data.coco_masks import Crowd, Overlap
from scribbleseg.data.lists import find_images, read_split
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.manifest import MANIFEST, check_manifest, read_manifest
from scribbleseg.options import check_choice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

__all__ = ["image_number"]

YEARS = (2014, 2017)
"""Releases of the images, the one of published comparisons first."""

SPLITS = ("train", "val")
"""Splits with public labels."""

PRESET = "coco2014-wsss"

MaskStyle = Literal["coco2014-wsss", "custom"]
"""``coco2014-wsss``: the masks of the published comparisons; ``custom``: options of your own."""

_NUMBER = re.compile(r"(?:^|[^0-9])0*([0-9]{1,12})$")


def image_number(name: str) -> int | None:
    """Image id of COCO that ends a file name, ``None`` without one.

    Example:
        >>> image_number("val2014/COCO_val2014_000000000042"), image_number("42"), image_number("x")
        (42, 42, None)
    """
    match = _NUMBER.search(name)
    return None if match is None else int(match[1])


def by_number(names: Iterable[str], place: str) -> dict[int, str]:
    """Names of files by image number, ascending; names without number are left out."""
    found: dict[int, str] = {}
    for name in names:
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


def list_numbers(path: Path) -> list[int]:
    """Image numbers of a split file, in its order."""
    found = {stem: image_number(stem) for stem in read_split(path)}
    bad = [stem for stem, number in found.items() if number is None]
    if bad:
        raise LabelFormatError(
            f"D501 {path}: {len(bad)} names do not end in an image number (e.g. {bad[0]!r}), "
            "expected names such as COCO_train2014_000000000009; correct the list"
        )
    return [number for number in found.values() if number is not None]


def image_stem(number: int, split: str, year: int) -> str:
    """Name of an image file of the release, without suffix."""
    return f"{'' if year == 2017 else f'COCO_{split}{year}_'}{number:012d}"


def image_folder(root: Path, split: str, year: int) -> Path | None:
    """Folder of the images of a split, in ``root`` or ``root/images``."""
    folders = (root / f"{split}{year}", root / "images" / f"{split}{year}")
    return next((folder for folder in folders if folder.is_dir()), None)


def instance_file(root: Path, split: str, year: int) -> Path:
    """Where the instances of a split are."""
    return root / "annotations" / f"instances_{split}{year}.json"


def find_year(root: Path, year: int | None) -> int:
    """The year that is asked for, or the first one that has an image folder."""
    years = YEARS if year is None else (year,)
    for candidate in years:
        if any(image_folder(root, split, candidate) for split in SPLITS):
            return candidate
    wanted = " or ".join(f"train{y}, val{y}" for y in years)
    raise ScribbleNotFoundError(
        f"D301 {root}: no folder {wanted} here or in images/; unpack the archives of the release "
        "there, or correct `root` and `year`"
    )


def mask_folder(mask_style: MaskStyle, crowd: Crowd, overlap: Overlap) -> str:
    """Name of the folder of masks of a style.

    Raises:
        ConfigError: If an option is unknown, or contradicts the style.
    """
    check_choice("mask_style", mask_style, get_args(MaskStyle))
    check_choice("crowd", crowd, get_args(Crowd))
    check_choice("overlap", overlap, get_args(Overlap))
    if mask_style == "custom":
        return f"masks_custom_{crowd}_{overlap}"
    if (crowd, overlap) != ("background", "order"):
        raise ConfigError(
            f"mask_style={mask_style!r} with crowd={crowd!r} and overlap={overlap!r}: this style "
            "is 'background' and 'order'; set `mask_style: custom`"
        )
    return f"masks_{mask_style}"


def painted_masks(
    folder: Path, class_names: Sequence[str], settings: Mapping[str, object]
) -> dict[int, Path]:
    """Masks of a folder by image number; empty if there is no folder.

    Raises:
        ConfigError: If the manifest says that they were painted with other settings.
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
    files = find_images(folder, suffixes=(".png",))
    return {number: files[name] for number, name in by_number(files, str(folder)).items()}
