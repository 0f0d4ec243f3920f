"""Annotations of images: clicks and boxes in JSON, CSV or devkit XML."""

from __future__ import annotations

import csv
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
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from xml.etree.ElementTree import Element

__all__ = ["Box", "ClassIds", "Click"]

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
        if isinstance(value, (int, float)) and is_number(value) and value == int(value):
            number = int(value)
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
    """Clicks by stem from JSON, ``{stem: [{x, y, cls, rank}]}`` as in "What's the Point".

    In files of background clicks, ``cls`` may be missing: it is ``default_label`` then.
    """
    found = entries_by_stem(path, "clicks")
    return {stem: _clicks(value, ids, path, stem, default_label) for stem, value in found.items()}


def read_click_file(path: Path, ids: ClassIds) -> list[Click]:
    """Clicks of one image: a JSON list, or CSV with the header ``x,y,cls`` and maybe ``rank``."""
    if path.suffix.lower() != ".csv":
        return _clicks(read_json(path, "clicks"), ids, path, path.stem)
    try:
        text = read_bytes(path, "file of clicks").decode("utf-8-sig")
        rows = list(csv.DictReader(text.splitlines()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelFormatError(
            f"D202 {path}: is not a CSV file in UTF-8 ({error}); export it again"
        ) from error
    entries = [{key: _cell(value) for key, value in row.items() if key} for row in rows]
    return _clicks(entries, ids, path, path.stem)


def _cell(text: object) -> object:
    """Text as a number if it is one; class names stay text."""
    try:
        return float(text) if isinstance(text, str) else text
    except ValueError:
        return text


def _clicks(
    value: object, ids: ClassIds, path: Path, stem: str, default_label: int | None = None
) -> list[Click]:
    clicks = []
    for number, entry in enumerate(list_of(value, path, stem, "clicks", "{x, y, cls}"), 1):
        where = f"{stem!r}, click {number}"
        fields = {"cls": default_label, **entry} if isinstance(entry, dict) else {}
        absent = [name for name in ("x", "y", "cls") if fields.get(name) is None]
        if absent:
            raise LabelFormatError(
                f"D202 {path}: {where}: {', '.join(absent)} missing in {str(entry)[:200]}, "
                "expected {x, y, cls} with pixels and a class id or name"
            )
        numbers = {"x": fields["x"], "y": fields["y"], "rank": fields.get("rank") or 0}
        for name, found in numbers.items():
            if not is_number(found):
                raise LabelFormatError(
                    f"D202 {path}: {where}: {name} is {str(found)[:40]}, expected a finite number"
                )
        label = ids.of(fields["cls"], path, where)
        clicks.append(Click(label, float(numbers["x"]), float(numbers["y"]), int(numbers["rank"])))
    return clicks


# ----------------------------------------------------------------------------- boxes


def read_boxes(path: Path, ids: ClassIds) -> dict[str, list[Box]]:
    """Boxes by stem from JSON, ``{stem: [{box: [x0, y0, x1, y1], cls}]}`` with edges."""
    form = "{box: [x0, y0, x1, y1], cls}"
    boxes: dict[str, list[Box]] = {}
    for stem, value in entries_by_stem(path, "boxes").items():
        boxes[stem] = []
        for number, entry in enumerate(list_of(value, path, stem, "boxes", form), 1):
            where = f"{stem!r}, box {number}"
            fields = entry if isinstance(entry, dict) else {}
            corners = fields["box"] if isinstance(fields.get("box"), list) else []
            if len(corners) != 4 or not all(map(is_number, corners)) or "cls" not in fields:
                raise LabelFormatError(
                    f"D202 {path}: {where} is {str(entry)[:200]}, expected {form} with finite "
                    "numbers"
                )
            boxes[stem].append(_box(ids.of(fields["cls"], path, where), corners, path, where))
    return boxes


def read_devkit_boxes(path: Path, ids: ClassIds, *, difficult: bool = True) -> list[Box]:
    """Boxes of one VOC devkit file, ``annotation/object/{name, bndbox, difficult}``.

    Its corners count from 1 and belong to the box. Parts of a person (head, hand, foot) are
    no objects and are left out, and those that are marked as difficult without ``difficult``.
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
        left, top, right, bottom = (
            _corner(item, key, path, where) for key in ("xmin", "ymin", "xmax", "ymax")
        )
        boxes.append(_box(label, (left - 1, top - 1, right, bottom), path, where))
    return boxes


def _box(label: int, edges: Sequence[float], path: Path, where: str) -> Box:
    box = Box(label, *map(float, edges))
    if box.x1 <= box.x0 or box.y1 <= box.y0:
        raise LabelFormatError(
            f"D202 {path}: {where} is {box.x1 - box.x0:g} x {box.y1 - box.y0:g} px (width x "
            f"height, from {list(box[1:])}), expected a positive area; corners must be left, top, "
            "right, bottom, not left, top, width, height"
        )
    return box


def _corner(item: Element, key: str, path: Path, where: str) -> float:
    text = (item.findtext(f"bndbox/{key}") or "").strip()
    value = _cell(text)
    if not isinstance(value, float) or not is_number(value):
        raise LabelFormatError(
            f"D202 {path}: {where}: <bndbox/{key}> is {text!r}, expected a number of pixels"
        )
    return value
