"""Class tags in the stroke files of PASCAL Context, whose spelling is not documented."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from scribbleseg.data import io
from scribbleseg.data.readers.scribblesup import read_scribblesup
from scribbleseg.data.sources.class_names import CONTEXT_CLASSES
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["alias_ids", "unknown_tags"]

_ALIASES = {"diningtable": "table", "dining table": "table"}
_SCANNED = 2000  # stroke files that are searched for further unknown tags


def alias_ids(aliases: Mapping[str, str]) -> dict[str, int]:
    """Ids of the 60 classes by further spelling of their tags, known ones included.

    Args:
        aliases: Class name by tag.

    Raises:
        ConfigError: If there is no class of such a name.
    """
    known = {io.normalise_name(name): index for index, name in enumerate(CONTEXT_CLASSES)}
    ids = {}
    for tag, name in {**_ALIASES, **aliases}.items():
        if io.normalise_name(name) not in known:
            raise ConfigError(
                f"aliases={{{tag!r}: {name!r}}}: no class has this name, expected one of "
                f"{', '.join(CONTEXT_CLASSES)}"
            )
        ids[tag] = known[io.normalise_name(name)]
    return ids


class _TagCollector(dict[str, int]):
    """Known tags; others count as background and are remembered."""

    def __init__(self, known: Mapping[str, int]) -> None:
        super().__init__(known)
        self.unknown: set[str] = set()

    def get(self, tag: str, default: Any = None) -> Any:
        if tag not in self:
            self.unknown.add(tag)
        return super().get(tag, 0)


def unknown_tags(files: Sequence[Path], known: Mapping[str, int]) -> LabelFormatError:
    """One error for the unknown tags of all files: they are corrected once.

    Args:
        files: Label files, the one in which a tag was unknown first.
        known: Ids by tag.
    """
    strokes = [file for file in files if file.suffix.lower() == ".xml"]
    scanned = list(dict.fromkeys(strokes))[:_SCANNED]
    tags = _TagCollector(known)
    for file in scanned:
        # another fault is reported when the file is used
        with suppress(LabelFormatError, ScribbleNotFoundError):
            read_scribblesup(file, tags)
    unknown = ", ".join(repr(tag) for tag in sorted(tags.unknown))
    return LabelFormatError(
        f"D401 {files[0]}: {len(tags.unknown)} class tags in {len(scanned):,} stroke files are "
        f"unknown: {unknown}; expected names of the 60 classes or of their known short forms: "
        "name the class of each in `aliases`, such as `aliases: {TAG: wall}`"
    )
