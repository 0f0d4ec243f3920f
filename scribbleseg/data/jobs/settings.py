"""What decides whether files of an earlier call may stay: settings of the source, and times."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from scribbleseg.data.source import ScribbleSource

__all__ = ["source_settings"]

_IMAGES = {
    *("root", "layout", "image_dir", "images", "channels", "rgb_channels", "slice_axis"),
    *("intensity", "max_image_pixels", "year"),
}
_WITHOUT_EFFECT = {"cache_mib"}


def is_fresh(target: Path, *inputs: Path | None) -> bool:
    """Whether a file is there, not empty, and not older than its inputs, or the archives of them.

    Args:
        target: File of an earlier call.
        inputs: What it was made of, see :meth:`~scribbleseg.data.source.ScribbleSource.inputs`.
    """
    with suppress(OSError):
        found = target.stat()
        return found.st_size > 0 and max(map(_last_change, inputs), default=0.0) <= found.st_mtime
    return False


def _last_change(path: Path | None) -> float:
    # most are files: the folders above are asked only if not
    for file in () if path is None else (path, *path.parents):
        with suppress(OSError):
            state = file.stat()
            return state.st_mtime if S_ISREG(state.st_mode) else 0.0
    return 0.0


def source_settings(source: ScribbleSource) -> dict[str, Any]:
    """What a source was asked for, as plain JSON values: folders made of it must not be mixed.

    Returns:
        ``source``, ``options`` (every argument, defaults included; paths are absolute) and
        ``coding``, see :func:`coding_digest`.
    """
    options, name = _arguments(source), type(source).__name__
    return {"source": name, "options": options, "coding": coding_digest(source)}


def image_settings(source: ScribbleSource) -> dict[str, Any]:
    """The part of :func:`source_settings` that decides about images."""
    options = {name: value for name, value in _arguments(source).items() if name in _IMAGES}
    return {"source": type(source).__name__, "options": options}


def coding_digest(source: ScribbleSource) -> str:
    """Fingerprint of how label values become ids: names, ignored values, maps, colours."""
    table = getattr(source, "classes", None)
    parts: list[Any] = [list(source.class_names), source.background]
    parts.append(getattr(source, "unlabelled_value", None))
    if getattr(source, "unlabelled_color", None) is not None:
        parts.append(source.unlabelled_color)  # type: ignore[attr-defined]
    if is_dataclass(table):
        parts += [_plain(getattr(table, field.name)) for field in fields(table)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _arguments(source: ScribbleSource) -> dict[str, Any]:
    positional, named = source._given
    bound = inspect.signature(type(source)).bind(*positional, **named)
    bound.apply_defaults()
    flat: dict[str, Any] = {}
    if "kwargs" in bound.arguments:  # those of its base class
        base = inspect.signature(type(source).__base__ or object).parameters.values()
        flat = {p.name: p.default for p in base if p.default is not p.empty}
    for name, value in bound.arguments.items():
        flat |= value if name == "kwargs" else {name: value}
    # a file in the data set decides as an argument does
    flat |= {name: value for name, value in source._from_file.items() if name in flat}
    for name in ("root", "sbd_root"):  # other paths are relative to the data set
        if flat.get(name) is not None:
            flat[name] = Path(flat[name]).resolve()
    return {name: _plain(v) for name, v in flat.items() if name not in _WITHOUT_EFFECT}


def _plain(value: Any) -> Any:
    if isinstance(value, (str, Path)):
        return str(value)
    if isinstance(value, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()[:16]
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        ordered = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [_plain(item) for item in ordered]
    return value if value is None or isinstance(value, (bool, int, float)) else repr(value)
