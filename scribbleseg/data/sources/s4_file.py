"""Scribbles for All (s4): strokes in HDF5."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scribbleseg.data.volumes import open_hdf5, read_data_set
from scribbleseg.errors import LabelFormatError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["S4File", "read_s4"]

_KEYS = ("scribble", "scribble_values", "image_dims", "config")


class S4File(NamedTuple):
    """Content of one HDF5 file.

    Attributes:
        lines: Polylines as (x, y) in pixels, float64, shape ``(N, P, 2)``; already shortened by the
            generator's ``scribble_scale``.
        values: Label value of each line as in the label files, int64, shape ``(N,)``.
        size: Height and width of the image in pixels.
        width: Width at which the PNG was drawn, in OpenCV's count.
        unlabelled_value: Value of the PNG that means "not drawn"; ``None`` if the file has none.
    """

    lines: NDArray[np.float64]
    values: NDArray[np.int64]
    size: tuple[int, int]
    width: float
    unlabelled_value: int | None


def read_s4(path: Path) -> S4File:
    """Strokes of one image.

    Args:
        path: HDF5 file with ``scribble``, ``scribble_values``, ``image_dims`` and ``config``.

    Returns:
        Lines and what the generator noted.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If it is not such a file (D202), or a value has unequal channels (D103).
        MissingExtraError: If h5py is not installed.
    """
    raw = _read(path)
    lines = np.asarray(raw["scribble"], dtype=np.float64)
    values = np.asarray(raw["scribble_values"], dtype=np.int64)
    dims = np.asarray(raw["image_dims"]).ravel()
    if len(lines) == 0:  # the shape of an empty list of lines
        lines, values = np.zeros((0, 1, 2)), np.zeros((0, 3), dtype=np.int64)
    shapes = lines.ndim == 3 and lines.shape[2] == 2 and values.shape == (len(lines), 3)
    if not shapes or len(dims) < 2 or not np.isfinite(lines).all():
        raise LabelFormatError(
            f"D202 {path}: scribble {lines.shape}, scribble_values {values.shape}, image_dims "
            f"{dims.tolist()}, expected finite (N, P, 2), (N, 3) and height, width; copy the file "
            "again from its release"
        )
    if (values != values[:, :1]).any():
        wrong = values[(values != values[:, :1]).any(axis=1)][0]
        raise LabelFormatError(
            f"D103 {path}: a line has the value {wrong.tolist()}, expected three equal numbers; "
            "the scribbles were made from coloured pictures, not from label files"
        )
    config = _config(raw["config"], path)
    return S4File(
        lines,
        values[:, 0],
        (int(dims[0]), int(dims[1])),
        float(config.get("line_thickness", 3)),
        _unlabelled(config.get("background_px_value"), path),
    )


def _read(path: Path) -> dict[str, Any]:
    with open_hdf5(path, "scribble") as content:
        absent = [key for key in _KEYS if key not in content]
        if absent:
            raise LabelFormatError(
                f"D202 {path}: holds no {', '.join(absent)}, expected {', '.join(_KEYS)}; this is "
                "not a file of Scribbles for All"
            )
        return {key: read_data_set(content, key, path) for key in _KEYS}


def _config(text: Any, path: Path) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, TypeError) as error:
        raise LabelFormatError(
            f"D202 {path}: config is not JSON ({error}); copy the file again from its release"
        ) from error
    if not isinstance(config, dict):
        raise LabelFormatError(
            f"D202 {path}: config is a {type(config).__name__}, expected an object; copy the file "
            "again from its release"
        )
    return config


def _unlabelled(value: Any, path: Path) -> int | None:
    if value is None:
        return None
    parts = set(value) if isinstance(value, list) else {value}
    found = next(iter(parts), None)
    if len(parts) != 1 or not isinstance(found, int) or not 0 <= found <= 255:
        raise LabelFormatError(
            f"D202 {path}: background_px_value is {value!r}, expected one value 0-255; set "
            "`unlabelled_value`"
        )
    return found
