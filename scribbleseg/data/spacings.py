"""``spacing.json``: distances of voxels in a plain folder, whose pictures cannot hold them."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from scribbleseg.errors import LabelFormatError
from scribbleseg.functional.image_files import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scribbleseg.types import Record

__all__ = ["SPACING_FILE", "Spacing", "read_spacings", "write_spacings"]

SPACING_FILE = "spacing.json"
"""Name of the file, beside ``classes.txt``."""

Spacing = tuple[float, float, float]
"""Distance of neighbouring slices, rows and columns, mm."""


def read_spacings(root: Path) -> dict[str, Spacing]:
    """Distances by stem or group, empty without such a file.

    Args:
        root: Plain folder.

    Raises:
        LabelFormatError: If the file does not map names to three positive numbers (D202).
    """
    path = root / SPACING_FILE
    cure = "expected {stem or group: [slices, rows, columns]} in mm; correct or remove the file"
    if not path.is_file():  # a pipe would never end
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # bad JSON or bad UTF-8
        raise LabelFormatError(f"D202 {path}: is not valid JSON ({error}); {cure}") from error
    if not isinstance(content, dict):
        raise LabelFormatError(f"D202 {path}: is a {type(content).__name__}; {cure}")
    spacings: dict[str, Spacing] = {}
    for name, value in content.items():
        if not isinstance(value, list) or len(value) != 3 or not all(map(_is_distance, value)):
            raise LabelFormatError(f"D202 {path}: {name!r} has {value!r}; {cure}")
        slices, rows, columns = map(float, value)
        spacings[name] = (slices, rows, columns)
    return spacings


def _is_distance(value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 0 < float(value) < math.inf  # type: ignore[arg-type]


def write_spacings(root: Path, records: Sequence[Record], *, by_group: bool) -> None:
    """Add the distances of records to those that are there; no file if none is known.

    Args:
        root: Plain folder.
        records: Samples.
        by_group: Name groups, such as volumes, in place of all their images; images of groups
            whose images differ are named one by one.
    """
    known = {record.image_id: record for record in records if record.spacing is not None}
    if not known:
        return
    of_group: dict[str | None, set[Spacing | None]] = {}
    for record in records if by_group else ():
        of_group.setdefault(record.group, set()).add(record.spacing)
    spacings = read_spacings(root)
    for image_id, record in known.items():
        shared = record.group is not None and len(of_group.get(record.group, ())) == 1
        name = record.group if shared and record.group is not None else image_id
        if record.spacing is not None:
            spacings[name] = record.spacing
    lines = [f"{json.dumps(name)}: {json.dumps(list(spacings[name]))}" for name in sorted(spacings)]
    write_text(root / SPACING_FILE, "{\n" + ",\n".join(lines) + "\n}\n")
