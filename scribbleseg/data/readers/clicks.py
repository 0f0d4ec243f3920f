"""Clicks: one point per object or region, as JSON of all images or one JSON or CSV per image."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from scribbleseg.data.readers.stem_json import class_id, read_json, read_stem_json
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Click", "read_click_file", "read_clicks"]

_COLUMNS = ("x", "y", "cls")


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


def read_clicks(
    path: str | Path,
    ids: Mapping[str, int],
    num_classes: int,
    *,
    default_label: int | None = None,
) -> dict[str, list[Click]]:
    """Clicks of all images, ``{stem: [{x, y, cls, rank}]}`` as in "What's the Point".

    Args:
        path: JSON file.
        ids: Normalised class name to id.
        num_classes: Number of classes C.
        default_label: Class of clicks without ``cls``, as in files of background clicks.

    Returns:
        Stem to clicks in their order; an image may have none.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: D202 if the content has another form, D101 or D401 for an unknown class,
            D303 for a repeated stem, D501 for more than 64 MiB.
    """
    content = read_stem_json(path, "clicks")
    return {
        stem: _clicks(entries, ids, num_classes, Path(path), stem, default_label)
        for stem, entries in content.items()
    }


def read_click_file(path: str | Path, ids: Mapping[str, int], num_classes: int) -> list[Click]:
    """Clicks of one image.

    Args:
        path: JSON list ``[{x, y, cls, rank}]``, or CSV with the header ``x,y,cls`` and, if wanted,
            ``rank``.
        ids: Normalised class name to id.
        num_classes: Number of classes C.

    Returns:
        Clicks in their order.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: See :func:`read_clicks`.
    """
    path = Path(path)
    if path.suffix.lower() != ".csv":
        return _clicks(read_json(path, "clicks"), ids, num_classes, path, path.stem, None)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream))
    except FileNotFoundError as error:
        raise ScribbleNotFoundError(f"D301 {path}: file of clicks does not exist") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelFormatError(
            f"D202 {path}: is not a CSV file in UTF-8 ({error}); export it again"
        ) from error
    entries = [{key: _number(value) for key, value in row.items() if key} for row in rows]
    return _clicks(entries, ids, num_classes, path, path.stem, None)


def _number(text: object) -> object:
    """A CSV cell as number if it is one; class names stay text."""
    try:
        return float(text) if isinstance(text, str) else text
    except ValueError:
        return text


def _clicks(
    entries: object,
    ids: Mapping[str, int],
    num_classes: int,
    path: Path,
    stem: str,
    default_label: int | None,
) -> list[Click]:
    if not isinstance(entries, list):
        raise LabelFormatError(
            f"D202 {path}: clicks of {stem!r} are a {type(entries).__name__}, expected a list of "
            "{x, y, cls}"
        )
    return [
        _click(entry, ids, num_classes, path, f"{stem!r}, click {number}", default_label)
        for number, entry in enumerate(entries, 1)
    ]


def _click(
    entry: Any,
    ids: Mapping[str, int],
    num_classes: int,
    path: Path,
    where: str,
    default_label: int | None,
) -> Click:
    fields = entry if isinstance(entry, dict) else {}
    if default_label is not None:
        fields = {"cls": default_label, **fields}
    absent = [name for name in _COLUMNS if fields.get(name) is None]
    if absent:
        raise LabelFormatError(
            f"D202 {path}: {where}: {', '.join(absent)} missing in {entry!r}, expected "
            "{x, y, cls} with pixels and a class id or name"
        )
    x, y, rank = fields["x"], fields["y"], fields.get("rank") or 0
    for name, value in (("x", x), ("y", y), ("rank", rank)):
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not math.isfinite(value)
        ):
            raise LabelFormatError(
                f"D202 {path}: {where}: {name} is {value!r}, expected a finite number"
            )
    label = class_id(fields["cls"], ids, num_classes, path, where)
    return Click(label, float(x), float(y), int(rank))
