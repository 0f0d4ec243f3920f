"""Bounding boxes: one JSON of all images, or one devkit XML per image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from scribbleseg.data.readers.stem_json import class_id, read_stem_json
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from xml.etree.ElementTree import Element

__all__ = ["Box", "read_annotation_boxes", "read_boxes"]

_PARTS = ("head", "hand", "foot")
_MAX_BYTES = 64 << 20


class Box(NamedTuple):
    """One axis-parallel box; edges, not pixel centres: a box 3 px wide has ``x1 - x0 = 3``.

    Attributes:
        label: Class id, 0 to 254.
        x0: Left edge in pixels; 0 is the left edge of the image.
        y0: Upper edge in pixels.
        x1: Right edge in pixels, greater than ``x0``.
        y1: Lower edge in pixels, greater than ``y0``.
    """

    label: int
    x0: float
    y0: float
    x1: float
    y1: float


def read_boxes(path: str | Path, ids: Mapping[str, int], num_classes: int) -> dict[str, list[Box]]:
    """Boxes of all images, ``{stem: [{box: [x0, y0, x1, y1], cls}]}``.

    Args:
        path: JSON file. ``x1`` and ``y1`` are edges: a box over columns 2, 3 and 4 is 2 to 5.
        ids: Normalised class name to id.
        num_classes: Number of classes C.

    Returns:
        Stem to boxes in their order; an image may have none.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: D202 if the content has another form or a box has no area, D101 or D401
            for an unknown class, D303 for a repeated stem, D501 for more than 64 MiB.
    """
    path = Path(path)
    found: dict[str, list[Box]] = {}
    for stem, entries in read_stem_json(path, "boxes").items():
        if not isinstance(entries, list):
            raise LabelFormatError(
                f"D202 {path}: boxes of {stem!r} are a {type(entries).__name__}, expected a list "
                "of {box: [x0, y0, x1, y1], cls}"
            )
        found[stem] = [
            _box(entry, ids, num_classes, path, f"{stem!r}, box {number}")
            for number, entry in enumerate(entries, 1)
        ]
    return found


def _box(
    entry: Any,
    ids: Mapping[str, int],
    num_classes: int,
    path: Path,
    where: str,
) -> Box:
    edges = entry.get("box") if isinstance(entry, dict) else None
    numbers = isinstance(edges, list) and all(
        isinstance(edge, (int, float)) and not isinstance(edge, bool) and math.isfinite(edge)
        for edge in edges
    )
    if edges is None or not numbers or len(edges) != 4 or "cls" not in entry:
        raise LabelFormatError(
            f"D202 {path}: {where} is {entry!r}, expected {{box: [x0, y0, x1, y1], cls}} with "
            "finite numbers"
        )
    box = Box(class_id(entry["cls"], ids, num_classes, path, where), *map(float, edges))
    return _with_area(box, path, where)


def _with_area(box: Box, path: Path, where: str) -> Box:
    if box.x1 <= box.x0 or box.y1 <= box.y0:
        raise LabelFormatError(
            f"D202 {path}: {where} is {box.x1 - box.x0:g} x {box.y1 - box.y0:g} px (width x "
            f"height, from {list(box[1:])}), expected a positive area; corners must be left, top, "
            "right, bottom, not left, top, width, height"
        )
    return box


def read_annotation_boxes(
    path: str | Path, ids: Mapping[str, int], *, difficult: bool = True
) -> list[Box]:
    """Boxes of one VOC devkit file, ``annotation/object/{name, bndbox, difficult}``.

    Its corners count from 1 and belong to the box. Parts of a person (head, hand, foot) are
    no objects and are left out.

    Args:
        path: XML file.
        ids: Normalised class name to id.
        difficult: Keep objects that are marked as difficult.

    Returns:
        Boxes in the order of the file.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: D501 for a DTD, entities or more than 64 MiB, D202 for malformed XML or
            boxes, D401 for an unknown name.
    """
    path = Path(path)
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise LabelFormatError(f"D501 {path}: more than 64 MiB, too large for one annotation")
        root = fromstring(path.read_bytes(), forbid_dtd=True)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ScribbleNotFoundError(f"D301 {path}: annotation does not exist") from error
    except DefusedXmlException as error:
        raise LabelFormatError(
            f"D501 {path}: XML with a DTD or entity declaration ({type(error).__name__}) is "
            "refused: annotations need none; take the file from its original release"
        ) from error
    except LabelFormatError:
        raise
    except (ParseError, ValueError) as error:
        raise LabelFormatError(
            f"D202 {path}: is not well-formed XML ({error}); copy it again from its source"
        ) from error
    boxes = []
    # findall, not iter: parts of a person are nested in its object
    for number, item in enumerate(root.findall("object"), 1):
        name = (item.findtext("name") or "").strip()
        hard = (item.findtext("difficult") or "0").strip() == "1"
        if name.casefold() in _PARTS or (hard and not difficult):
            continue
        where = f"object {number} ({name!r})"
        label = class_id(name, ids, len(ids), path, where)
        x0, y0, x1, y1 = (
            _corner(item, key, path, where) for key in ("xmin", "ymin", "xmax", "ymax")
        )
        boxes.append(_with_area(Box(label, x0 - 1, y0 - 1, x1, y1), path, where))
    return boxes


def _corner(item: Element, key: str, path: Path, where: str) -> float:
    text = (item.findtext(f"bndbox/{key}") or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise LabelFormatError(
            f"D202 {path}: {where}: <bndbox/{key}> is {text!r}, expected a number of pixels"
        )
    return value
