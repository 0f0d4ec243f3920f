"""JSON annotation files: size limit, duplicate keys, names as stems, classes by id or name."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from scribbleseg.data.classes import normalise_name
from scribbleseg.data.lists import voc_stem
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.images import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["class_id", "read_json", "read_stem_json"]

_MAX_BYTES = 64 << 20


def read_json(path: str | Path, role: str) -> Any:
    """Content of an annotation file.

    Args:
        path: UTF-8 JSON file of at most 64 MiB.
        role: What the file holds, in the plural, for messages: ``"clicks"``.

    Returns:
        The JSON value.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: If it is too large (D501), not JSON (D202), or a key is repeated (D303).
    """
    path = Path(path)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise LabelFormatError(
                f"D303 {path}: key {twice!r} is there {keys.count(twice)} times, expected once; "
                "readers would drop all but the last: join the entries"
            )
        return found

    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise LabelFormatError(
                f"D501 {path}: {size:,} bytes, more than 64 MiB, too large for a file of {role}; "
                "check that it is the right file, or split it by image"
            )
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ScribbleNotFoundError(f"D301 {path}: file of {role} does not exist") from error
    except LabelFormatError:
        raise
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, absurd nesting
        raise LabelFormatError(
            f"D202 {path}: is not valid JSON ({error}); copy the {role} again from their source"
        ) from error


def read_stem_json(path: str | Path, role: str) -> dict[str, Any]:
    """A JSON object with one entry per image.

    Keys may be stems, file names, or VOC ids without their underscore. They are only compared with
    the stems of images, never opened.

    Args:
        path: See :func:`read_json`.
        role: See :func:`read_json`.

    Returns:
        Stem to value, in the order of the file.

    Raises:
        ScribbleNotFoundError: See :func:`read_json`.
        LabelFormatError: See :func:`read_json`; D202 if the file is not an object.
    """
    content = read_json(path, role)
    if not isinstance(content, dict):
        raise LabelFormatError(
            f"D202 {path}: is a {type(content).__name__}, expected an object with the stem of each "
            f"image and its {role}"
        )
    by_stem = {_stem(key): value for key, value in content.items()}
    if len(by_stem) < len(content):
        stems = [_stem(key) for key in content]
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise LabelFormatError(
            f"D303 {path}: {twice!r} is there under {stems.count(twice)} names, expected one entry "
            "per image; join the entries"
        )
    return by_stem


def _stem(key: str) -> str:
    name = PurePosixPath(key)
    return voc_stem(str(name.with_suffix("")) if name.suffix.lower() in IMAGE_SUFFIXES else key)


def class_id(
    value: object, ids: Mapping[str, int], num_classes: int, path: str | Path, where: str
) -> int:
    """Class id of an id or a name in an annotation file.

    Args:
        value: Id, or name or alias.
        ids: Normalised name to id.
        num_classes: Number of classes C.
        path: File, for messages.
        where: Entry in the file, for messages.

    Returns:
        Id, 0..C-1.

    Raises:
        LabelFormatError: D101 for an id out of range, D401 for an unknown name.

    Example:
        >>> class_id("Dining-Table", {"dining table": 3}, 4, "boxes.json", "a")
        3
    """
    if isinstance(value, str):
        found = ids.get(normalise_name(value))
        if found is None:
            raise LabelFormatError(
                f"D401 {path}: {where}: unknown class {value!r}, expected one of {sorted(ids)}; "
                "correct the name, or add it to `aliases` of the class file"
            )
        return found
    whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value)
    if not whole or not 0 <= int(value) < num_classes:  # type: ignore[call-overload]
        raise LabelFormatError(
            f"D101 {path}: {where}: class {value!r}, expected an id 0-{num_classes - 1} or a name; "
            "ids count all classes of the class file, the background included"
        )
    return int(value)  # type: ignore[call-overload, no-any-return]
