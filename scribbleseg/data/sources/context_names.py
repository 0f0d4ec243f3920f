"""Class names of PASCAL Context: spellings in its stroke files, and its 459 ids."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from scribbleseg.data.classes import normalise_name
from scribbleseg.data.sources.class_names import CONTEXT_CLASSES
from scribbleseg.data.strokes import read_scribblesup
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from scribbleseg.types import Label

__all__ = ["NAMES_459", "alias_ids", "read_459_ids", "unknown_names"]

NAMES_459 = "labels.txt"
"""File of the release that names the ids of its ``.mat`` files."""

_SHORT = {"diningtable": "table", "dining table": "table"}
_SCANNED = 2000  # stroke files that are searched for further unknown names


def alias_ids(aliases: Mapping[str, str]) -> dict[str, int]:
    """Ids of the 60 classes by further spelling of their names, known ones included.

    Args:
        aliases: Class name by further spelling.

    Raises:
        ConfigError: If there is no class of such a name.
    """
    known = {normalise_name(name): index for index, name in enumerate(CONTEXT_CLASSES)}
    ids = {}
    for tag, name in {**_SHORT, **aliases}.items():
        if normalise_name(name) not in known:
            raise ConfigError(
                f"aliases={{{tag!r}: {name!r}}}: no class has this name, expected one of "
                f"{', '.join(CONTEXT_CLASSES)}"
            )
        ids[tag] = known[normalise_name(name)]
    return ids


def unknown_names(files: Sequence[Label], known: Mapping[str, int]) -> LabelFormatError:
    """One error for the unknown names of all stroke files: they are corrected once."""
    scanned = list(dict.fromkeys(label for label in files if label.kind == "strokes"))[:_SCANNED]
    unknown: set[str] = set()

    class Collector(dict[str, int]):
        def get(self, tag: str, default: Any = None) -> Any:
            if tag not in self:
                unknown.add(tag)
            return super().get(tag, 0)

    for label in scanned:
        # another fault is reported when the file is used
        with suppress(LabelFormatError, ScribbleNotFoundError):
            read_scribblesup(label, Collector(known))
    names = ", ".join(repr(name) for name in sorted(unknown))
    return LabelFormatError(
        f"D401 {files[0]}: {len(unknown)} class names in {len(scanned):,} stroke files are "
        f"unknown: {names}; expected names of the 60 classes or of their known short forms: name "
        "the class of each in `aliases`, such as `aliases: {TAG: wall}`"
    )


def read_459_ids(path: Path) -> dict[int, int]:
    """Id of the 60 classes by id of the released files; classes that are none of them are 0.

    Args:
        path: Text file of ``id: name`` lines.

    Raises:
        LabelFormatError: If a line is no ``id: name`` or a name is absent (D401), or the file is
            not text (D202).
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise LabelFormatError(
            f"D202 {path}: is not UTF-8 text ({error.reason} at byte {error.start}); take the file "
            "from the release again"
        ) from error
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*(\d{1,4})\s*:\s*(.+?)\s*", line)
        if match is None:
            raise LabelFormatError(
                f"D401 {path}: line {number} is {line[:60]!r}, expected `id: name`; take the file "
                "from the release again"
            )
        names[normalise_name(match[2])] = int(match[1])
    wanted = [normalise_name(name) for name in CONTEXT_CLASSES[1:]]
    absent = [name for name in wanted if name not in names]
    if absent:
        raise LabelFormatError(
            f"D401 {path}: names {len(names)} classes, but not {', '.join(absent)}; expected all "
            f"{len(wanted)}: take the file with 459 names from the release"
        )
    table = dict.fromkeys([0, *names.values()], 0)
    return table | {names[name]: index for index, name in enumerate(wanted, 1)}
