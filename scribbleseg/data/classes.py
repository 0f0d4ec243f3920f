"""Class files: names, ids, colours, and which values of the label files mean what."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from scribbleseg.constants import IGNORE_INDEX, MAX_CLASSES, voc_palette
from scribbleseg.data.documents import read_bytes, read_yaml
from scribbleseg.data.labels import LabelCoding
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
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
_Entry = tuple[int, str, tuple[str, ...], tuple[int, int, int] | None]
_ENTRY_KEYS = {"id", "name", "color", "aliases"}


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
        number = len(self.names)
        ids, ignore = self.ids, set(self.ignore)
        if first and ids is None:
            ids = tuple(range(first, number + first))
        if unlabelled is not None:
            ignore.add(unlabelled)
        colours = dict(self.colours)
        if colours:
            colours.setdefault(tuple(voc_palette()[IGNORE_INDEX].tolist()), IGNORE_INDEX)
        if colour is not None:
            colours[colour] = IGNORE_INDEX
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

    Returns:
        The class table.

    Raises:
        ScribbleNotFoundError: If there is no class file (D301).
        LabelFormatError: If names or ids are not unique, ids have gaps without ``compact: true``,
            pairs are not of two classes, or there are more than 255 classes (D401).
    """
    root = Path(root)
    path = root if root.is_file() else _locate(root)
    try:
        if path.suffix == ".txt":
            return _from_lines(read_bytes(path, "class file").decode("utf-8-sig"), path)
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


def _locate(root: Path) -> Path:
    for name in CLASS_FILES:
        if (root / name).is_file():
            return root / name
    raise ScribbleNotFoundError(
        f"D301 {root}: no class file ({', '.join(CLASS_FILES)}); write classes.txt with one class "
        "name a line, in the order of the ids"
    )


def _from_lines(text: str, path: Path) -> ClassTable:
    names = [line.strip() for line in text.rstrip().split("\n")]
    if names[0] == "__ignore__":
        # labelme numbers this line -1; its tools write such pixels as 255
        names = names[1:]
    for number, name in enumerate(names, 1):
        if not name:
            raise LabelFormatError(
                f"D401 {path}: line {number} is empty, but the line number is the id; remove the "
                "line or name the class"
            )
    entries: list[_Entry] = [(index, name, (), None) for index, name in enumerate(names)]
    return replace(_table(entries, {}, path), counted=True)


def table_of(data: dict[str, Any], path: Path) -> ClassTable:
    """Classes of the content of a class file.

    Raises:
        LabelFormatError: See :func:`read_classes`.
    """
    _known_keys(data, CLASS_KEYS, path, "file")
    entries = []
    for position, item in enumerate(data["classes"]):
        item = {"name": item} if isinstance(item, str) else item
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise LabelFormatError(
                f"D401 {path}: entry {position} is {item!r}, expected a name or {{id, name}}"
            )
        _known_keys(item, _ENTRY_KEYS, path, f"class {item['name']!r}")
        label = _integer(item.get("id", position), path, f"id of {item['name']!r}")
        aliases = item.get("aliases") or ()
        aliases = (aliases,) if isinstance(aliases, str) else tuple(str(a) for a in aliases)
        colour = _colour(item.get("color"), path)
        if item["name"] != "__ignore__":
            entries.append((label, item["name"], aliases, colour))
            continue
        if "id" in item or colour is None:
            data = {**data, "ignore": [*_integers(data.get("ignore"), path), label]}
        if colour is not None:
            data = {**data, "unlabelled_color": [*_colours(data, path), list(colour)]}
    entries.sort(key=lambda entry: entry[0])
    return _table(entries, data, path)


def _table(
    entries: list[_Entry],
    data: dict[str, Any],
    path: Path,
) -> ClassTable:
    ids = [entry[0] for entry in entries]
    if not 2 <= len(entries) <= MAX_CLASSES:
        raise LabelFormatError(
            f"D401 {path}: lists {len(entries)} classes, expected 2..{MAX_CLASSES}: labels are "
            "8-bit ids 0..254 and 255 = unlabelled; merge rare classes"
        )
    names: dict[str, int] = {}
    colours: dict[tuple[int, int, int], int] = {}
    for index, (label, name, aliases, colour) in enumerate(entries):
        for form in dict.fromkeys(normalise_name(text) for text in (name, *aliases)):
            if form in names:
                raise LabelFormatError(
                    f"D401 {path}: class name {name!r} (id {label}) is used twice, also by id "
                    f"{ids[names[form]]}; case, '_', '-' and spaces do not count: rename one"
                )
            names[form] = index
        if colour is not None:
            if colour in colours:
                raise LabelFormatError(
                    f"D401 {path}: color {colour} is used twice; choose another for {name!r}"
                )
            colours[colour] = index
    for colour in _colours(data, path):
        if colours.setdefault(colour, IGNORE_INDEX) != IGNORE_INDEX:
            raise LabelFormatError(
                f"D401 {path}: unlabelled_color {list(colour)} is also the color of "
                f"{entries[colours[colour]][1]!r}; remove one of them"
            )
    return ClassTable(
        names=tuple(entry[1] for entry in entries),
        background=_background(ids, [entry[1] for entry in entries], data, path),
        colours=colours,
        aliases=names,
        ignore=tuple(_integers(data.get("ignore"), path)),
        unlabelled_value=None
        if data.get("unlabelled_value") is None
        else _integer(data["unlabelled_value"], path, "unlabelled_value"),
        ids=_file_ids(ids, data, path),
        flip_pairs=_flip_pairs(ids, names, data, path),
    )


def _file_ids(ids: list[int], data: dict[str, Any], path: Path) -> tuple[int, ...] | None:
    expected = list(range(len(ids)))
    if ids == expected:
        return None
    if len(set(ids)) < len(ids):
        twice = sorted({label for label in ids if ids.count(label) > 1})
        raise LabelFormatError(f"D401 {path}: ids {twice[:5]} are used twice; give each its own")
    if min(ids) < 0 or max(ids) > 65535:
        raise LabelFormatError(f"D401 {path}: ids must be in 0..65535, got {min(ids)}..{max(ids)}")
    if data.get("compact") is not True:
        gaps = sorted(set(range(max(ids) + 1)) - set(ids))
        raise LabelFormatError(
            f"D401 {path}: {len(ids)} classes, but ids go to {max(ids)} and {len(gaps)} are unused "
            f"(e.g. {gaps[:5]}); set `compact: true` to renumber them, or list the missing classes"
        )
    return tuple(ids)


def _background(ids: list[int], names: list[str], data: dict[str, Any], path: Path) -> int | None:
    if "background" not in data:
        return 0 if normalise_name(names[0]) == "background" else None
    value = data["background"]
    if value is None:
        return None
    label = _integer(value, path, "background")
    if label not in ids:
        raise LabelFormatError(
            f"D401 {path}: background {label} is not an id of a class; use null if there is none"
        )
    return ids.index(label)


def _flip_pairs(
    ids: list[int], names: dict[str, int], data: dict[str, Any], path: Path
) -> tuple[tuple[int, int], ...]:
    pairs = data.get("flip_pairs") or []
    if not isinstance(pairs, list):
        pairs = [pairs]
    found: list[tuple[int, int]] = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise LabelFormatError(
                f"D401 {path}: flip_pairs holds {pair!r}, expected pairs of class names or ids, "
                "such as [left_hand, right_hand]"
            )
        first, second = (_class_index(item, ids, names, path) for item in pair)
        twice = {first, second} & {label for earlier in found for label in earlier}
        if twice or first == second:
            raise LabelFormatError(
                f"D401 {path}: flip_pairs uses a class of {pair!r} twice, expected each class in "
                "at most one pair; remove one of its pairs"
            )
        found.append((first, second))
    return tuple(found)


def _class_index(value: object, ids: list[int], names: dict[str, int], path: Path) -> int:
    if isinstance(value, str) and normalise_name(value) in names:
        return names[normalise_name(value)]
    if isinstance(value, int) and not isinstance(value, bool) and value in ids:
        return ids.index(value)
    raise LabelFormatError(
        f"D401 {path}: flip_pairs names {value!r}, which is no name, alias or id of a class; "
        "correct it, or add the class"
    )


def _known_keys(data: dict[str, Any], known: set[str], path: Path, where: str) -> None:
    unknown = sorted(str(key) for key in data if key not in known)
    if unknown:
        raise LabelFormatError(
            f"D401 {path}: unknown keys {unknown} in the {where}; known are {sorted(known)}"
        )


def _integer(value: object, path: Path, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise LabelFormatError(f"D401 {path}: {what} is {value!r}, expected an integer")
    return value


def _integers(value: object, path: Path) -> list[int]:
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    found = [_integer(item, path, "ignore") for item in values]
    return [item for item in found if item != IGNORE_INDEX]


def _colours(data: dict[str, Any], path: Path) -> list[tuple[int, int, int]]:
    """Colours that mean unlabelled; one colour may stand without its list."""
    value = data.get("unlabelled_color")
    several = isinstance(value, list) and not all(isinstance(part, int) for part in value)
    found = [_colour(item, path) for item in (value if several else [value])]  # type: ignore[union-attr]
    return [colour for colour in found if colour is not None]


def _colour(value: object, path: Path) -> tuple[int, int, int] | None:
    try:
        return None if value is None else parse_colour(value)
    except ValueError as error:
        raise LabelFormatError(f"D401 {path}: {error}") from error


def parse_colour(value: object) -> tuple[int, int, int]:
    """Red, green and blue of ``[red, green, blue]`` or ``"#rrggbb"``.

    Raises:
        ValueError: If it is neither.

    Example:
        >>> parse_colour("#ff8000")
        (255, 128, 0)
    """
    if isinstance(value, str) and len(value) == 7 and value.startswith("#"):
        with contextlib.suppress(ValueError):
            value = list(bytes.fromhex(value[1:]))
    if isinstance(value, (list, tuple)) and len(value) == 3:
        numbers = [part for part in value if isinstance(part, int) and not isinstance(part, bool)]
        if len(numbers) == 3 and all(0 <= part <= 255 for part in numbers):
            return cast("tuple[int, int, int]", tuple(numbers))
    raise ValueError(f'color {value!r}, expected [red, green, blue] in 0..255 or "#rrggbb"')
