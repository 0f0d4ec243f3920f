"""Where images, masks and Scribbles for All are in each of their data sets."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from scribbleseg.data.sources.scene_classes import clean_stem

__all__ = ["KITTI_LISTS", "LAYOUTS", "Layout", "S4Dataset", "stem_of"]

S4Dataset = Literal["pascal", "cityscapes", "ade20k", "kitti360"]
"""Data set that the scribbles belong to."""


class Layout(NamedTuple):
    """Folders of a data set below its root, and what a stem in them starts with."""

    images: str
    masks: str
    scribbles: str
    train: str
    val: str


LAYOUTS = {
    "pascal": Layout("JPEGImages", "", "", "", ""),
    "cityscapes": Layout("leftImg8bit", "gtFine", "gtFine", "train/", "val/"),
    "ade20k": Layout("images", "annotations", "", "training/", "validation/"),
    "kitti360": Layout("data_2d_raw", "data_2d_semantics/train", "", "", ""),
}
KITTI_LISTS = "data_2d_semantics/train/2013_05_28_drive_{}_frames.txt"
_KITTI_STEM = re.compile(r"(?:.*/)?([^/]+)/image_00/(?:data_rect|semantic|scribble)/([^/]+)")


def stem_of(relative: str, dataset: str) -> str | None:
    """Stem of a file from its path without suffix.

    Args:
        relative: Path below the folder of images, labels or scribbles, without suffix.
        dataset: See :data:`S4Dataset`.

    Returns:
        Stem; ``None`` for files of other cameras of KITTI-360.

    Example:
        >>> stem_of("seq_1/image_00/data_rect/0007", "kitti360")
        'seq_1/0007'
    """
    if dataset != "kitti360":
        return clean_stem(relative)
    match = _KITTI_STEM.fullmatch(relative)
    return None if match is None else f"{match[1]}/{match[2]}"
