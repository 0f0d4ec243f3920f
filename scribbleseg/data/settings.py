"""What a source was asked for, as plain values: folders made from it must not be mixed."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from scribbleseg.data.source import ScribbleSource

__all__ = ["coding_digest", "image_settings", "source_settings"]

_IMAGES = {
    *("root", "image_dir", "images", "channels", "rgb_channels", "slice_axis"),
    *("intensity", "max_image_pixels", "year"),
}
_WITHOUT_EFFECT = {"cache_mib"}


def source_settings(source: ScribbleSource) -> dict[str, Any]:
    """Class, arguments and label coding of a source, ready for JSON.

    Args:
        source: Any source.

    Returns:
        ``source``, ``options`` (every argument, defaults included; paths are absolute) and
        ``coding``, see :func:`coding_digest`.
    """
    return {
        "source": type(source).__name__,
        "options": _arguments(source),
        "coding": coding_digest(source),
    }


def image_settings(source: ScribbleSource) -> dict[str, Any]:
    """The part of :func:`source_settings` that decides about images."""
    options = _arguments(source)
    chosen = {name: value for name, value in options.items() if name in _IMAGES}
    return {"source": type(source).__name__, "options": chosen}


def coding_digest(source: ScribbleSource) -> str:
    """Fingerprint of how label values become ids: names, ignored values, maps, colours."""
    table = getattr(source, "classes", None)
    parts: list[Any] = [list(source.class_names), source.background]
    parts.append(getattr(source, "unlabelled_value", None))
    if is_dataclass(table):
        parts += [_plain(getattr(table, field.name)) for field in fields(table)]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _arguments(source: ScribbleSource) -> dict[str, Any]:
    positional, named = source._given
    bound = inspect.signature(type(source)).bind(*positional, **named)
    bound.apply_defaults()
    flat: dict[str, Any] = {}
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
        return [_plain(item) for item in (sorted(value) if isinstance(value, set) else value)]
    return value if value is None or isinstance(value, (bool, int, float)) else repr(value)
