"""Classes of Cityscapes and ADE20K, and the tables from the values of their files to ids."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data import io
from scribbleseg.data.classes import CLASS_FILES
from scribbleseg.data.readers.s4 import read_grey_label
from scribbleseg.errors import LabelFormatError
from scribbleseg.options import check_choice

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = [
    "ADE20K_CLASSES",
    "CITYSCAPES_CLASSES",
    "LabelIds",
    "ade20k_classes",
    "ade20k_table",
    "cityscapes_classes",
    "cityscapes_table",
    "clean_stem",
    "detect_label_ids",
    "find_labels",
]

LabelIds = Literal["auto", "label", "train"]
"""Coding of Cityscapes files: ``labelIds`` (0..33), ``trainIds`` (0..18), or found out."""

CITYSCAPES_CLASSES = {
    "road": (128, 64, 128),
    "sidewalk": (244, 35, 232),
    "building": (70, 70, 70),
    "wall": (102, 102, 156),
    "fence": (190, 153, 153),
    "pole": (153, 153, 153),
    "traffic light": (250, 170, 30),
    "traffic sign": (220, 220, 0),
    "vegetation": (107, 142, 35),
    "terrain": (152, 251, 152),
    "sky": (70, 130, 180),
    "person": (220, 20, 60),
    "rider": (255, 0, 0),
    "car": (0, 0, 142),
    "truck": (0, 0, 70),
    "bus": (0, 60, 100),
    "train": (0, 80, 100),
    "motorcycle": (0, 0, 230),
    "bicycle": (119, 11, 32),
}
"""Names of the 19 classes in the order of their ids, and their colours."""

_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_LAST_TRAIN_ID = 18
_COMPARED = 4
_SAMPLE = 32

ADE20K_CLASSES = (
    "wall",
    "building",
    "sky",
    "floor",
    "tree",
    "ceiling",
    "road",
    "bed",
    "windowpane",
    "grass",
    "cabinet",
    "sidewalk",
    "person",
    "earth",
    "door",
    "table",
    "mountain",
    "plant",
    "curtain",
    "chair",
    "car",
    "water",
    "painting",
    "sofa",
    "shelf",
    "house",
    "sea",
    "mirror",
    "rug",
    "field",
    "armchair",
    "seat",
    "fence",
    "desk",
    "rock",
    "wardrobe",
    "lamp",
    "bathtub",
    "railing",
    "cushion",
    "base",
    "box",
    "column",
    "signboard",
    "chest of drawers",
    "counter",
    "sand",
    "sink",
    "skyscraper",
    "fireplace",
    "refrigerator",
    "grandstand",
    "path",
    "stairs",
    "runway",
    "case",
    "pool table",
    "pillow",
    "screen door",
    "stairway",
    "river",
    "bridge",
    "bookcase",
    "blind",
    "coffee table",
    "toilet",
    "flower",
    "book",
    "hill",
    "bench",
    "countertop",
    "stove",
    "palm",
    "kitchen island",
    "computer",
    "swivel chair",
    "boat",
    "bar",
    "arcade machine",
    "hovel",
    "bus",
    "towel",
    "light",
    "truck",
    "tower",
    "chandelier",
    "awning",
    "streetlight",
    "booth",
    "television receiver",
    "airplane",
    "dirt track",
    "apparel",
    "pole",
    "land",
    "bannister",
    "escalator",
    "ottoman",
    "bottle",
    "buffet",
    "poster",
    "stage",
    "van",
    "ship",
    "fountain",
    "conveyer belt",
    "canopy",
    "washer",
    "plaything",
    "swimming pool",
    "stool",
    "barrel",
    "basket",
    "waterfall",
    "tent",
    "bag",
    "minibike",
    "cradle",
    "oven",
    "ball",
    "food",
    "step",
    "tank",
    "trade name",
    "microwave",
    "pot",
    "animal",
    "bicycle",
    "lake",
    "dishwasher",
    "screen",
    "blanket",
    "sculpture",
    "hood",
    "sconce",
    "vase",
    "traffic light",
    "tray",
    "ashcan",
    "fan",
    "pier",
    "crt screen",
    "plate",
    "monitor",
    "bulletin board",
    "shower",
    "radiator",
    "glass",
    "clock",
    "flag",
)
"""First name of each of the 150 classes, id 0 = value 1 of the files."""

_SUFFIX = re.compile(r"_(leftImg8bit|gtFine_[A-Za-z]+|gtCoarse_[A-Za-z]+)$")


def cityscapes_classes() -> io.ClassTable:
    """The 19 classes that are scored, with their colours; no background class."""
    colours = {colour: label for label, colour in enumerate(CITYSCAPES_CLASSES.values())}
    return io.ClassTable(tuple(CITYSCAPES_CLASSES), background=None, colours=colours)


def ade20k_classes(root: Path) -> io.ClassTable:
    """The 150 classes; those of a class file in ``root`` if there is one.

    Raises:
        LabelFormatError: If the class file does not list 150 classes (D401).
    """
    if not any((root / name).is_file() for name in CLASS_FILES):
        return io.ClassTable(ADE20K_CLASSES, background=None)
    table = io.read_classes(root)
    if len(table.names) != len(ADE20K_CLASSES):
        raise LabelFormatError(
            f"D401 {root}: the class file lists {len(table.names)} classes, expected the "
            f"{len(ADE20K_CLASSES)} of ADE20K without value 0; correct it, or remove it to use the "
            "built-in names"
        )
    return table


def cityscapes_table(label_ids: str, last: int = 33) -> NDArray[np.int32] | None:
    """Table from file values to ids; negative = must not occur; ``None`` if values are ids.

    Args:
        label_ids: ``"label"`` or ``"train"``.
        last: Largest value of ``labelIds``: 33, or 44 with the additional ones of KITTI-360.
    """
    if label_ids == "train":
        return None
    table = np.full(256, -1, dtype=np.int32)
    table[: last + 1] = IGNORE_INDEX
    table[list(_LABEL_IDS)] = np.arange(len(_LABEL_IDS))
    table[IGNORE_INDEX] = IGNORE_INDEX  # -1, the licence plate, in 8 bits
    return table


def ade20k_table() -> NDArray[np.int32]:
    """Table from file values to ids: 0 is void, 1..150 are classes; never ``label - 1``."""
    table = np.full(256, -1, dtype=np.int32)
    table[0] = table[IGNORE_INDEX] = IGNORE_INDEX
    table[1 : len(ADE20K_CLASSES) + 1] = np.arange(len(ADE20K_CLASSES))
    return table


def clean_stem(stem: str) -> str:
    """Stem without the role that Cityscapes adds to it.

    Example:
        >>> clean_stem("ulm/ulm_000000_000019_leftImg8bit")
        'ulm/ulm_000000_000019'
    """
    return _SUFFIX.sub("", stem)


def find_labels(folder: Path) -> dict[str, Path]:
    """Label files by :func:`clean_stem`; colour and instance pictures beside them are left out.

    Where a folder holds ``labelIds`` and ``labelTrainIds``, the former are taken for all images.

    Args:
        folder: Folder to search with its sub-folders; may be absent.

    Returns:
        Stem to file, sorted.

    Raises:
        LabelFormatError: If two files belong to one stem (D303).
    """
    if not folder.is_dir():
        return {}
    found = io.find_images(folder, suffixes=io.LABEL_SUFFIXES)
    roles = {stem: stem.rsplit("_", 1)[-1] for stem in found}
    skipped = {"color", "instanceIds", "instanceTrainIds"}
    if "labelIds" in roles.values():
        skipped.add("labelTrainIds")
    kept = {stem: path for stem, path in found.items() if roles[stem] not in skipped}
    files = {clean_stem(stem): path for stem, path in kept.items()}
    if len(files) < len(kept):
        twice = next(stem for stem in kept if files[clean_stem(stem)] != kept[stem])
        raise LabelFormatError(
            f"D303 {kept[twice]}: {len(kept) - len(files)} images have two label files (here also "
            f"{files[clean_stem(twice)].name}), expected one; remove or rename one of each"
        )
    return files


def detect_label_ids(
    scribbles: Mapping[str, Path], masks: Mapping[str, Path], wanted: LabelIds = "auto"
) -> tuple[str, str]:
    """Coding of the Cityscapes files of a data set: by their names, else by their largest value.

    A value beyond 18 settles it for a folder. Scribbles or blocks alone may miss such classes: if
    only one of the two folders has one, the other is read both ways, and the way that agrees with
    the first on the images of both counts.

    Args:
        scribbles: Files that train; up to 32 of them are read.
        masks: Dense files; up to 32 of them are read.
        wanted: Answer, or ``"auto"``.

    Returns:
        Coding of scribbles and of masks: ``"label"`` or ``"train"``.

    Raises:
        ConfigError: If ``wanted`` is unknown.
        LabelFormatError: If a file cannot be read.
    """
    check_choice("label_ids", wanted, get_args(LabelIds))
    if wanted != "auto":
        return wanted, wanted
    folders = (scribbles, masks)
    found = [_named(f) or ("label" if _beyond_train_ids(f) else None) for f in folders]
    if found[0] is None and found[1] == "label":
        found[0] = _agreeing(scribbles, masks, found[1])
    if found[1] is None and found[0] == "label":
        found[1] = _agreeing(masks, scribbles, found[0])
    return found[0] or "train", found[1] or "train"


def _agreeing(files: Mapping[str, Path], known: Mapping[str, Path], coding: str) -> str:
    """Coding under which files say most often what others of a known coding say."""
    score = {"label": 0, "train": 0}
    table = _full(cityscapes_table(coding))
    for stem in sorted(files.keys() & known.keys())[:_COMPARED]:
        own, other = read_grey_label(files[stem]), table[read_grey_label(known[stem])]
        if own.shape == other.shape:
            for way in score:
                ids = _full(cityscapes_table(way))[own]
                score[way] += int(((ids == other) & (ids != IGNORE_INDEX)).sum())
    return "label" if score["label"] >= score["train"] else "train"


def _full(table: NDArray[np.int32] | None) -> NDArray[np.int32]:
    return np.arange(65536, dtype=np.int32) if table is None else table


def _named(files: Mapping[str, Path]) -> str | None:
    ends = {path.stem.rsplit("_", 1)[-1] for path in list(files.values())[:1]}
    return "label" if "labelIds" in ends else "train" if "labelTrainIds" in ends else None


def _beyond_train_ids(files: Mapping[str, Path]) -> bool:
    paths = list(files.values())
    for path in paths[:: max(1, len(paths) // _SAMPLE)][:_SAMPLE]:
        values = read_grey_label(path)
        if (values[values != IGNORE_INDEX] > _LAST_TRAIN_ID).any():
            return True
    return False
