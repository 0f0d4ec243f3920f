"""Class files: names, ids, colours, and which values of the label files mean what."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from scribbleseg.constants import IGNORE_INDEX, MAX_CLASSES, voc_palette
from scribbleseg.data.documents import read_bytes, read_yaml
from scribbleseg.data.labels import LabelCoding
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "CLASS_FILES",
    "CLASS_KEYS",
    "ClassTable",
    "normalise_name",
    "parse_colour",
    "read_classes",
    "table_of",
]

CLASS_FILES = ("classes.yaml", "classes.yml", "classes.json", "classes.txt", "labels.txt")
"""Names that are looked for in this order."""

CLASS_KEYS = {"classes", "ignore", "unlabelled_value", "unlabelled_color", "background"}
CLASS_KEYS |= {"compact", "flip_pairs"}
_ENTRY_KEYS = {"id", "name", "color", "aliases"}
_Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ClassTable:
    """What a class file says.

    Attributes:
        names: One name per class; the index is the id used everywhere.
        background: Id of the background class, ``None`` if there is none.
        colours: Exact colours given in the file and their ids; 255 = a colour of no class.
        aliases: Normalised names and aliases to ids.
        ignore: File values that become 255, in scribbles and masks.
        unlabelled_value: Value of scribble files that means unlabelled, besides 255.
        ids: File value of every class, if the file gives other values than 0..C-1.
        flip_pairs: Pairs of ids that a mirror image exchanges; a class is in at most one.
        counted: The file lists names only, so that values may be counted from 0 or from 1.
    """

    names: tuple[str, ...]
    background: int | None
    colours: dict[tuple[int, int, int], int] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    ignore: tuple[int, ...] = ()
    unlabelled_value: int | None = None
    ids: tuple[int, ...] | None = None
    flip_pairs: tuple[tuple[int, int], ...] = ()
    counted: bool = False

    @property
    def palette(self) -> NDArray[np.uint8]:
        """VOC colours with the colours of the file in their places, uint8, shape ``(256, 3)``."""
        palette = voc_palette()
        for colour, label in self.colours.items():
            if label != IGNORE_INDEX:
                palette[label] = colour
        return palette

    def coding(
        self,
        unlabelled: int | None = None,
        *,
        colour: tuple[int, int, int] | None = None,
        first: int = 0,
    ) -> LabelCoding:
        """What values and colours of the data set's files mean.

        Args:
            unlabelled: Value that means unlabelled, besides 255.
            colour: Colour that means unlabelled.
            first: Value of the first class where the class file gives names only; annotation tools
                that keep 0 for unlabelled pixels count from 1.
        """
        ids, number = self.ids, len(self.names)
        if first and ids is None:
            ids = tuple(range(first, number + first))
        void = tuple(voc_palette()[IGNORE_INDEX].tolist())
        colours = {void: IGNORE_INDEX, **self.colours} if self.colours else {}
        if colour is not None:
            colours[colour] = IGNORE_INDEX
        ignore = {*self.ignore, IGNORE_INDEX if unlabelled is None else unlabelled}
        return LabelCoding(
            number,
            None if ids is None else {value: index for index, value in enumerate(ids)},
            tuple(sorted(ignore - {IGNORE_INDEX})),
            colours,
        )


def normalise_name(name: str) -> str:
    """Form in which class names compare: case, ``_``, ``-`` and space do not count.

    Example:
        >>> normalise_name("Dining-Table") == normalise_name("dining table")
        True
    """
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def read_classes(root: str | Path) -> ClassTable:
    """Classes of a data set.

    ``classes.txt`` holds one name a line, line number = id; the first class is the background if it
    is called so; a first line ``__ignore__`` (labelme) is skipped. ``classes.yaml`` and
    ``classes.json`` hold ``{classes: [{id, name, color?, aliases?}], ignore?, unlabelled_value?,
    unlabelled_color?, background?, compact?, flip_pairs?}``; ``flip_pairs`` lists pairs of names or
    ids that a mirror image exchanges, such as ``[[left_hand, right_hand]]``.

    Args:
        root: Folder of the data set, or a class file.

    Raises:
        ScribbleNotFoundError: If there is no class file (D301).
        LabelFormatError: If names or ids are not unique, ids have gaps without ``compact: true``,
            pairs are not of two classes, or there are more than 255 classes (D401).
    """
    root = Path(root)
    files = (root / name for name in CLASS_FILES)
    path = root if root.is_file() else next((file for file in files if file.is_file()), None)
    if path is None:
        raise ScribbleNotFoundError(
            f"D301 {root}: no class file ({', '.join(CLASS_FILES)}); write classes.txt with one "
            "class name a line, in the order of the ids"
        )
    try:
        if path.suffix == ".txt":
            text = read_bytes(path, "class file").decode("utf-8-sig")
            data = {"classes": _names(text.rstrip().split("\n"), path)}
            return replace(table_of(data, path), counted=True)
        data = read_yaml(path, "class file")
    except LabelFormatError:
        raise
    except ValueError as error:
        raise LabelFormatError(f"D202 {path}: class file cannot be read: {error}") from error
    if isinstance(data, list):
        data = {"classes": data}
    if not isinstance(data, dict) or not isinstance(data.get("classes"), list):
        raise LabelFormatError(
            f"D401 {path}: expected `classes:` with a list of names or of {{id, name}} entries"
        )
    return table_of(data, path)


def _names(lines: list[str], path: Path) -> list[str]:
    names = [line.strip() for line in lines]
    if "" in names:
        raise LabelFormatError(
            f"D401 {path}: line {names.index('') + 1} is empty, but the line number is the id; "
            "remove the line or name the class"
        )
    # labelme numbers its line __ignore__ -1; its tools write such pixels as 255
    return names[1:] if names[0] == "__ignore__" else names


def table_of(data: dict[str, Any], path: Path) -> ClassTable:
    """Classes of the content of a class file; errors as of :func:`read_classes`, named by path."""
    try:
        return _table(data)
    except ValueError as error:
        raise LabelFormatError(f"D401 {path}: {error}") from error


class _Entry(NamedTuple):
    value: int
    name: str
    aliases: tuple[str, ...]
    colour: _Colour | None


def _table(data: dict[str, Any]) -> ClassTable:
    _check_keys(data, CLASS_KEYS, "file")
    ignore = [_integer(value, "ignore") for value in _listed(data.get("ignore"))]
    unlabelled = _unlabelled_colours(data.get("unlabelled_color"))
    entries: list[_Entry] = []
    for position, item in enumerate(data["classes"]):
        entry = _entry(item, position)
        if entry.name != "__ignore__":
            entries.append(entry)
            continue
        if entry.colour is not None:
            unlabelled.append(entry.colour)
        if entry.colour is None or "id" in item:
            ignore.append(entry.value)
    if not 2 <= len(entries) <= MAX_CLASSES:
        raise ValueError(
            f"lists {len(entries)} classes, expected 2..{MAX_CLASSES}: labels are 8-bit ids 0..254 "
            "and 255 = unlabelled; merge rare classes"
        )
    entries.sort(key=lambda entry: entry.value)
    ids, names = [entry.value for entry in entries], _by_name(entries)

    def index_of(value: object, option: str) -> int:
        if isinstance(value, str) and normalise_name(value) in names:
            return names[normalise_name(value)]
        if type(value) is int and value in ids:
            return ids.index(value)
        raise ValueError(
            f"{option} names {value!r}, which is no name, alias or id of a class; correct it, or "
            "add the class"
        )

    first = ids[0] if normalise_name(entries[0].name) == "background" else None
    background, value = data.get("background", first), data.get("unlabelled_value")
    return ClassTable(
        names=tuple(entry.name for entry in entries),
        background=None if background is None else index_of(background, "background"),
        colours=_by_colour(entries, unlabelled),
        aliases=names,
        ignore=tuple(value for value in ignore if value != IGNORE_INDEX),
        unlabelled_value=None if value is None else _integer(value, "unlabelled_value"),
        ids=_file_ids(ids, compact=data.get("compact") is True),
        flip_pairs=_flip_pairs(_listed(data.get("flip_pairs")), index_of),
    )


def _entry(item: object, position: int) -> _Entry:
    item = {"name": item} if isinstance(item, str) else item
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise ValueError(f"entry {position} is {item!r}, expected a name or {{id, name}}")
    name, colour = item["name"], item.get("color")
    _check_keys(item, _ENTRY_KEYS, f"class {name!r}")
    return _Entry(
        _integer(item.get("id", position), f"id of {name!r}"),
        name,
        tuple(map(str, _listed(item.get("aliases")))),
        None if colour is None else parse_colour(colour),
    )


def _by_name(entries: list[_Entry]) -> dict[str, int]:
    """Index of every class by its name and aliases, normalised."""
    names: dict[str, int] = {}
    for index, entry in enumerate(entries):
        for form in map(normalise_name, (entry.name, *entry.aliases)):
            if names.setdefault(form, index) != index:
                raise ValueError(
                    f"class name {entry.name!r} (id {entry.value}) is used twice, also by id "
                    f"{entries[names[form]].value}; case, '_', '-' and spaces do not count: rename "
                    "one"
                )
    return names


def _by_colour(entries: list[_Entry], unlabelled: list[_Colour]) -> dict[_Colour, int]:
    """Index of the class of every colour, 255 of colours that mean unlabelled."""
    known = [(entry.colour, index) for index, entry in enumerate(entries) if entry.colour]
    colours: dict[_Colour, int] = {}
    for colour, index in known + [(colour, IGNORE_INDEX) for colour in unlabelled]:
        if colours.setdefault(colour, index) != index:
            other = "unlabelled pixels" if index == IGNORE_INDEX else repr(entries[index].name)
            raise ValueError(
                f"color {list(colour)} is used twice, by {entries[colours[colour]].name!r} and by "
                f"{other}; choose another for one of them"
            )
    return colours


def _file_ids(ids: list[int], *, compact: bool) -> tuple[int, ...] | None:
    if len(set(ids)) < len(ids):
        twice = sorted({label for label in ids if ids.count(label) > 1})
        raise ValueError(f"ids {twice[:5]} are used twice; give each its own")
    if min(ids) < 0 or max(ids) > 65535:
        raise ValueError(f"ids must be in 0..65535, got {min(ids)}..{max(ids)}")
    gaps = sorted(set(range(max(ids) + 1)) - set(ids))
    if gaps and not compact:
        raise ValueError(
            f"{len(ids)} classes, but ids go to {max(ids)} and {len(gaps)} are unused (e.g. "
            f"{gaps[:5]}); set `compact: true` to renumber them, or list the missing classes"
        )
    return tuple(ids) if gaps else None


def _flip_pairs(
    pairs: list[Any], index_of: Callable[[object, str], int]
) -> tuple[tuple[int, int], ...]:
    found: list[tuple[int, int]] = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(
                f"flip_pairs holds {pair!r}, expected pairs of class names or ids, such as "
                "[left_hand, right_hand]"
            )
        first, second = (index_of(item, "flip_pairs") for item in pair)
        if first == second or {first, second} & {index for earlier in found for index in earlier}:
            raise ValueError(
                f"flip_pairs uses a class of {pair!r} twice, expected each class in at most one "
                "pair; remove one of its pairs"
            )
        found.append((first, second))
    return tuple(found)


def _check_keys(data: dict[str, Any], known: set[str], where: str) -> None:
    unknown = sorted(str(key) for key in data if key not in known)
    if unknown:
        raise ValueError(f"unknown keys {unknown} in the {where}; known are {sorted(known)}")


def _integer(value: object, what: str) -> int:
    if type(value) is not int:  # true is an int for Python, but no id
        raise ValueError(f"{what} is {value!r}, expected an integer")
    return value


def _listed(value: Any) -> list[Any]:
    """An option that may stand without its list."""
    return value if isinstance(value, list) else [] if value is None else [value]


def _unlabelled_colours(value: Any) -> list[_Colour]:
    one = isinstance(value, list) and all(isinstance(part, int) for part in value)
    return [parse_colour(colour) for colour in ([value] if one else _listed(value))]


def parse_colour(value: object) -> tuple[int, int, int]:
    """Red, green and blue of ``[red, green, blue]`` or ``"#rrggbb"``.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> parse_colour("#ff8000")
        (255, 128, 0)
    """
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        value = list(bytes.fromhex(value[1:]))
    if isinstance(value, (list, tuple)) and len(value) == 3:
        red, green, blue = value
        if all(type(part) is int and 0 <= part <= 255 for part in value):
            return red, green, blue
    raise ValueError(f'color {value!r}, expected [red, green, blue] in 0..255 or "#rrggbb"')
