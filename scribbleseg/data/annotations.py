"""Annotations of images: clicks and boxes in JSON, CSV or devkit XML."""

from __future__ import annotations

import csv
import math
from typing import TYPE_CHECKING, NamedTuple

from scribbleseg.data.classes import normalise_name
from scribbleseg.data.documents import (
    entries_by_stem,
    is_number,
    list_of,
    read_bytes,
    read_json,
    read_xml,
)
from scribbleseg.errors import LabelFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from xml.etree.ElementTree import Element

__all__ = [
    "Box",
    "ClassIds",
    "Click",
    "read_boxes",
    "read_click_file",
    "read_clicks",
    "read_devkit_boxes",
]

_PERSON_PARTS = ("head", "hand", "foot")


class ClassIds:
    """Class ids by id or name.

    Args:
        num_classes: Number of classes C.
        names: Normalised name or alias to id.
    """

    def __init__(self, num_classes: int, names: Mapping[str, int]) -> None:
        self.num_classes, self.names = num_classes, dict(names)

    def of(self, value: object, path: str | Path, where: str) -> int:
        """Id of an id or a name in an annotation file.

        Args:
            value: Id, or name or alias.
            path: File, for messages.
            where: Entry in the file, for messages.

        Raises:
            LabelFormatError: D101 for an id out of range, D401 for an unknown name.

        Example:
            >>> ClassIds(4, {"dining table": 3}).of("Dining-Table", "boxes.json", "a")
            3
        """
        if isinstance(value, str):
            found = self.names.get(normalise_name(value))
            if found is None:
                raise LabelFormatError(
                    f"D401 {path}: {where}: unknown class {value!r}, expected one of "
                    f"{sorted(self.names)}; correct the name, or add it to `aliases` of the class "
                    "file"
                )
            return found
        number = -1
        if isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1 << 31:
            number = int(value) if value == int(value) else -1
        if not 0 <= number < self.num_classes:
            raise LabelFormatError(
                f"D101 {path}: {where}: class {str(value)[:40]}, expected an id "
                f"0-{self.num_classes - 1} or a name; ids count all classes of the class file, the "
                "background included"
            )
        return number


class Click(NamedTuple):
    """One annotated point.

    Attributes:
        label: Class id, 0 to 254.
        x: Column in pixels; integers are pixel centres.
        y: Row in pixels.
        rank: Order in which objects were clicked, where the file tells it; 1 = first, 0 = unknown.
    """

    label: int
    x: float
    y: float
    rank: int = 0


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


# ---------------------------------------------------------------------------- clicks


def read_clicks(
    path: Path, ids: ClassIds, *, default_label: int | None = None
) -> dict[str, list[Click]]:
    """Clicks of all images, ``{stem: [{x, y, cls, rank}]}`` as in "What's the Point".

    Args:
        path: JSON file.
        ids: Classes.
        default_label: Class of clicks without ``cls``, as in files of background clicks.

    Returns:
        Stem to clicks in their order; an image may have none.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: D202 if the content has another form, D101 or D401 for an unknown class,
            D303 for a repeated stem, D501 for more than 64 MiB.
    """
    found = entries_by_stem(path, "clicks")
    return {stem: _clicks(found[stem], ids, path, stem, default_label) for stem in found}


def read_click_file(path: Path, ids: ClassIds) -> list[Click]:
    """Clicks of one image: a JSON list, or CSV with the header ``x,y,cls`` and maybe ``rank``.

    Raises:
        ScribbleSegError: See :func:`read_clicks`.
    """
    if path.suffix.lower() != ".csv":
        return _clicks(read_json(path, "clicks"), ids, path, path.stem, None)
    try:
        text = read_bytes(path, "file of clicks").decode("utf-8-sig")
        rows = list(csv.DictReader(text.splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelFormatError(
            f"D202 {path}: is not a CSV file in UTF-8 ({error}); export it again"
        ) from error
    entries = [{key: _cell(value) for key, value in row.items() if key} for row in rows]
    return _clicks(entries, ids, path, path.stem, None)


def _cell(text: object) -> object:
    """A CSV cell as number if it is one; class names stay text."""
    try:
        return float(text) if isinstance(text, str) else text
    except ValueError:
        return text


def _clicks(
    value: object, ids: ClassIds, path: Path, stem: str, default_label: int | None
) -> list[Click]:
    entries = list_of(value, path, stem, "clicks", "{x, y, cls}")
    found = []
    for number, entry in enumerate(entries, 1):
        where = f"{stem!r}, click {number}"
        fields = entry if isinstance(entry, dict) else {}
        if default_label is not None:
            fields = {"cls": default_label, **fields}
        absent = [name for name in ("x", "y", "cls") if fields.get(name) is None]
        if absent:
            raise LabelFormatError(
                f"D202 {path}: {where}: {', '.join(absent)} missing in {str(entry)[:200]}, "
                "expected {x, y, cls} with pixels and a class id or name"
            )
        numbers = {"x": fields["x"], "y": fields["y"], "rank": fields.get("rank") or 0}
        for name, number_found in numbers.items():
            if not is_number(number_found):
                raise LabelFormatError(
                    f"D202 {path}: {where}: {name} is {str(number_found)[:40]}, expected a finite "
                    "number"
                )
        label = ids.of(fields["cls"], path, where)
        found.append(Click(label, float(numbers["x"]), float(numbers["y"]), int(numbers["rank"])))
    return found


# ----------------------------------------------------------------------------- boxes


def read_boxes(path: Path, ids: ClassIds) -> dict[str, list[Box]]:
    """Boxes of all images, ``{stem: [{box: [x0, y0, x1, y1], cls}]}``.

    Args:
        path: JSON file. ``x1`` and ``y1`` are edges: a box over columns 2, 3 and 4 is 2 to 5.
        ids: Classes.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: D202 if the content has another form or a box has no area, D101 or D401
            for an unknown class, D303 for a repeated stem, D501 for more than 64 MiB.
    """
    form = "{box: [x0, y0, x1, y1], cls}"
    found: dict[str, list[Box]] = {}
    for stem, value in entries_by_stem(path, "boxes").items():
        found[stem] = []
        for number, entry in enumerate(list_of(value, path, stem, "boxes", form), 1):
            where = f"{stem!r}, box {number}"
            edges = entry.get("box") if isinstance(entry, dict) else None
            numbers = isinstance(edges, list) and all(map(is_number, edges))
            if edges is None or not numbers or len(edges) != 4 or "cls" not in entry:
                raise LabelFormatError(
                    f"D202 {path}: {where} is {str(entry)[:200]}, expected {form} with finite "
                    "numbers"
                )
            box = Box(ids.of(entry["cls"], path, where), *map(float, edges))
            found[stem].append(_with_area(box, path, where))
    return found


def _with_area(box: Box, path: Path, where: str) -> Box:
    if box.x1 <= box.x0 or box.y1 <= box.y0:
        raise LabelFormatError(
            f"D202 {path}: {where} is {box.x1 - box.x0:g} x {box.y1 - box.y0:g} px (width x "
            f"height, from {list(box[1:])}), expected a positive area; corners must be left, top, "
            "right, bottom, not left, top, width, height"
        )
    return box


def read_devkit_boxes(path: Path, ids: ClassIds, *, difficult: bool = True) -> list[Box]:
    """Boxes of one VOC devkit file, ``annotation/object/{name, bndbox, difficult}``.

    Its corners count from 1 and belong to the box. Parts of a person (head, hand, foot) are
    no objects and are left out.

    Args:
        path: XML file.
        ids: Classes.
        difficult: Keep objects that are marked as difficult.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: D501 for a DTD, entities or more than 64 MiB, D202 for malformed XML or
            boxes, D401 for an unknown name.
    """
    boxes = []
    # findall, not iter: parts of a person are nested in its object
    objects = read_xml(read_bytes(path, "annotation"), path).findall("object")
    for number, item in enumerate(objects, 1):
        name = (item.findtext("name") or "").strip()
        hard = (item.findtext("difficult") or "0").strip() == "1"
        if name.casefold() in _PERSON_PARTS or (hard and not difficult):
            continue
        where = f"object {number} ({name!r})"
        label = ids.of(name, path, where)
        corners = [_corner(item, key, path, where) for key in ("xmin", "ymin", "xmax", "ymax")]
        box = Box(label, corners[0] - 1, corners[1] - 1, corners[2], corners[3])
        boxes.append(_with_area(box, path, where))
    return boxes


def _corner(item: Element, key: str, path: Path, where: str) -> float:
    text = (item.findtext(f"bndbox/{key}") or "").strip()
    value = _cell(text)
    if not isinstance(value, float) or not math.isfinite(value):
        raise LabelFormatError(
            f"D202 {path}: {where}: <bndbox/{key}> is {text!r}, expected a number of pixels"
        )
    return value
