"""Images in array files: ``.npy``, and TIFF with any number of channels and any number type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.errors import LabelFormatError, MissingExtraError, ScribbleNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["ARRAY_SUFFIXES", "TIFF_SUFFIXES", "ArrayLayout", "read_array", "read_layout"]

ARRAY_SUFFIXES = (".npy",)
TIFF_SUFFIXES = (".tif", ".tiff")

_PAGE_AXES = "QIZTRLPVAH"  # letters of axes that separate images, not colours


class ArrayLayout:
    """Which axes of a stored array are rows, columns and channels.

    Args:
        shape: Shape as stored.
        channels: Channels K that the image should have.
        name: File, for messages.
        axes: Letter of every axis as TIFF files name them (``Y``, ``X``, ``S`` …), if known.

    Attributes:
        channel_axis: Axis of the channels among the axes longer than 1; ``None`` for grey images.
        pages: Further images in the file, which are not read.

    Raises:
        LabelFormatError: D203, if the shape fits neither ``(H, W)``, ``(H, W, K)`` nor
            ``(K, H, W)``.
    """

    def __init__(
        self, shape: Sequence[int], channels: int, name: str, axes: str | None = None
    ) -> None:
        kept = self._kept(shape, axes)
        self.shape = tuple(shape[axis] for axis in kept)
        letters = None if axes is None else "".join(axes[axis] for axis in kept)
        self.channel_axis: int | None = None
        self.pages = 0
        if letters is not None and len(letters) == 3 and "Y" in letters and "X" in letters:
            extra = next(i for i, letter in enumerate(letters) if letter not in "YX")
            if self.shape[extra] in {channels, 1}:
                self.channel_axis = extra
                return
            if letters[extra] in _PAGE_AXES and channels in (1, 3):
                self.channel_axis, self.pages = extra, self.shape[extra] - 1
                return
        elif len(self.shape) == 2:
            if channels in (1, 3):
                return
        elif len(self.shape) == 3 and letters is None:
            # the last axis wins where both fit, as in an image of K rows
            allowed = {channels, 1} if channels == 3 else {channels}
            for axis in (2, 0):
                if self.shape[axis] in allowed:
                    self.channel_axis = axis
                    return
        found = tuple(int(length) for length in shape)
        raise LabelFormatError(
            f"D203 {name}: array of shape {found}"
            + (f" (axes {axes})" if axes else "")
            + f", expected (H, W{f', {channels}' if channels > 1 else ''})"
            + (f" or ({channels}, H, W)" if channels > 1 else "")
            + "; set `channels` to the number of channels of the files, or store one image per file"
        )

    @staticmethod
    def _kept(shape: Sequence[int], axes: str | None) -> list[int]:
        """Axes that stay: those longer than 1, rows and columns, and at least the last two."""
        kept = list(range(len(shape)))
        for axis in range(len(shape)):
            spatial = axes is not None and axes[axis] in "YX"
            if len(kept) > 2 and shape[axis] == 1 and not spatial:
                kept.remove(axis)
        return kept

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        rows = [n for axis, n in enumerate(self.shape) if axis != self.channel_axis]
        return int(rows[0]), int(rows[1])

    def arrange(self, values: NDArray[Any]) -> NDArray[Any]:
        """The stored array as ``(H, W, K)``; of several pages the first."""
        values = values.reshape(self.shape)
        if self.channel_axis is None:
            return values[..., None]
        values = np.moveaxis(values, self.channel_axis, -1)
        return values[..., :1] if self.pages else values


def read_layout(path: Path, channels: int) -> tuple[ArrayLayout, np.dtype[Any]]:
    """Shape and number type of an array file, without its values.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If it is damaged (D202), holds objects (D501) or another shape (D203).
        MissingExtraError: If it is TIFF and tifffile is not installed.
    """
    if path.suffix.lower() in ARRAY_SUFFIXES:
        stored = _open_npy(path)
        return ArrayLayout(stored.shape, channels, str(path)), stored.dtype
    shape, axes, dtype, _ = _open_tiff(path, read=False)
    return ArrayLayout(shape, channels, str(path), axes), dtype


def read_array(path: Path, channels: int, *, max_pixels: int) -> tuple[NDArray[Any], int]:
    """Values of an array file.

    Args:
        path: ``.npy`` (never unpickled) or TIFF.
        channels: Channels K; arrays may be ``(H, W, K)`` or ``(K, H, W)``, and the last axis wins
            where both fit. Pages of a TIFF file count as channels if there are K of them.
        max_pixels: Largest number of pixels per channel; larger files are refused unread.

    Returns:
        Values as stored, shape ``(H, W, K)``, or ``(H, W, 1)`` for grey files; and the number of
        further pages, which were not read.

    Raises:
        ScribbleNotFoundError: See :func:`read_layout`.
        LabelFormatError: See :func:`read_layout`; D202 also if it has too many pixels.
        MissingExtraError: See :func:`read_layout`.
    """
    layout, _ = read_layout(path, channels)
    height, width = layout.size
    if height * width > max_pixels:
        raise LabelFormatError(
            f"D202 {path}: {width}x{height} = {height * width:,} px, more than {max_pixels:,}; "
            "tile the image, or raise `max_image_pixels` if you trust the file"
        )
    if path.suffix.lower() in ARRAY_SUFFIXES:
        values = np.array(_open_npy(path))
    else:
        values = _open_tiff(path, read=True)[3]
    native = values.dtype.newbyteorder("=")
    return layout.arrange(values).astype(native, copy=False), layout.pages


def _open_npy(path: Path) -> NDArray[Any]:
    """Memory map of the file: a header that promises too much fails before memory is taken."""
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError as error:
        raise ScribbleNotFoundError(f"image {path} does not exist") from error
    except (ValueError, OSError, EOFError, SyntaxError) as error:
        if "pickle" in str(error) or "object" in str(error).lower():
            raise LabelFormatError(
                f"D501 {path}: holds pickled Python objects, which are never loaded; save a plain "
                "array with numpy.save(..., allow_pickle=False)"
            ) from error
        raise LabelFormatError(
            f"D202 {path}: is not a complete .npy array ({error}); save it again"
        ) from error


def _open_tiff(
    path: Path, *, read: bool
) -> tuple[tuple[int, ...], str, np.dtype[Any], NDArray[Any]]:
    """Shape, axis letters and type of the first series, and its values if wanted."""
    try:
        import tifffile  # optional package
    except ImportError as error:
        raise MissingExtraError("tifffile", "medical", f"reading {path.name}") from error
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            values = series.asarray() if read else np.empty(0, dtype=series.dtype)
            return tuple(series.shape), str(series.axes), np.dtype(series.dtype), values
    except FileNotFoundError as error:
        raise ScribbleNotFoundError(f"image {path} does not exist") from error
    except Exception as error:
        # the decoders behind it raise anything on damaged files
        raise LabelFormatError(
            f"D202 {path}: cannot be decoded ({error or type(error).__name__}); the file is "
            "truncated or not a TIFF image: copy it again from its source"
        ) from error
