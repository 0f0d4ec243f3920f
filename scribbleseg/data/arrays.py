"""Images in array files: ``.npy``, and TIFF of any number type and number of channels."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scribbleseg.data.decode import ORIENTATION, check_promise, orient
from scribbleseg.errors import LabelFormatError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__: list[str] = []

_PAGES = "QIZTRLPVAH"  # axes of TIFF along which images follow each other


class ArrayImage(NamedTuple):
    """An array that is an image; its values are not read yet.

    Attributes:
        size: Height and width as stored.
        orientation: EXIF orientation, 1 = as stored.
        deep: More than 8 bits per value.
        pages: Further images in the file.
        read: Gives the first image in its orientation, shape ``(H, W, K)``, grey ``(H, W, 1)``.
    """

    size: tuple[int, int]
    orientation: int
    deep: bool
    pages: int
    read: Callable[[], NDArray[Any]]


@contextmanager
def open_array(path: Path, channels: int) -> Iterator[ArrayImage]:
    """A ``.npy`` file (never unpickled), or the first series of a TIFF file.

    Raises:
        LabelFormatError: If it holds objects (D501), its header promises too much (D202), or it is
            no image of so many channels (D203).
        MissingExtraError: If tifffile is needed and not installed.
    """
    if path.suffix.lower() == ".npy":
        stored = _map_file(path)
        axes = "?" * stored.ndim
        yield _as_image(path, channels, axes, stored, lambda: np.array(stored))
        return
    try:
        import tifffile  # optional package
    except ImportError as error:
        raise MissingExtraError("tifffile", "medical", f"reading {path}") from error
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            check_promise(path, int(series.size) * series.dtype.itemsize)
            tags: Any = getattr(file.pages[0], "tags", {})
            orientation = getattr(tags.get(ORIENTATION), "value", 1)
            yield _as_image(path, channels, series.axes, series, series.asarray, orientation)
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from error


def _map_file(path: Path) -> NDArray[Any]:
    """A memory map: a header that promises too much fails before memory is taken."""
    try:
        mapped: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        if "pickle" in str(error) or "object" in str(error).lower():
            raise LabelFormatError(
                f"D501 {path}: holds pickled Python objects, which are never loaded; save a plain "
                "array with numpy.save(..., allow_pickle=False)"
            ) from error
        raise
    return mapped


def _as_image(
    path: Path,
    channels: int,
    axes: str,
    stored: Any,
    values: Callable[[], NDArray[Any]],
    orientation: object = 1,
) -> ArrayImage:
    """How an array of shape ``(H, W)``, ``(H, W, K)`` or ``(K, H, W)`` is an image.

    Args:
        path: File, for messages.
        channels: Channels K.
        axes: Letter of every axis as TIFF names them (``Y``, ``X``, ``S`` …); ``?`` = unknown.
        stored: Has the shape and the type.
        values: Reads the values.
        orientation: What the file says about it.
    """
    shape = tuple(map(int, stored.shape))
    kept = list(range(len(shape)))
    for axis, letter in enumerate(axes):
        # rows and columns stay, and at least the last two axes
        if len(kept) > 2 and shape[axis] == 1 and letter not in "YX":
            kept.remove(axis)
    sides = [shape[axis] for axis in kept]
    layout = _layout(sides, "".join(axes[axis] for axis in kept), channels)
    if layout is None:
        more = channels > 1
        raise LabelFormatError(
            f"D203 {path}: array of shape {shape}{f' (axes {axes})' if axes.strip('?') else ''}, "
            f"expected (H, W{f', {channels}' if more else ''})"
            f"{f' or ({channels}, H, W)' if more else ''}; set `channels` to the number of "
            "channels of the files, or store one image per file"
        )
    further, pages = layout
    height, width = (side for axis, side in enumerate(sides) if axis != further)
    turned = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1

    def read() -> NDArray[Any]:
        pixels = np.asarray(values()).reshape(sides)
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        pixels = pixels[..., None] if further is None else np.moveaxis(pixels, further, -1)
        return orient(pixels[..., :1] if pages else pixels, turned)

    return ArrayImage((height, width), turned, stored.dtype.itemsize > 1, pages, read)


def _layout(sides: Sequence[int], letters: str, channels: int) -> tuple[int | None, int] | None:
    """The axis that is neither rows nor columns, if there is one, and the further pages in it."""
    if len(sides) == 2 and channels in (1, 3):
        return None, 0
    if len(sides) != 3:
        return None
    if "?" in letters:
        # the last axis wins where both fit, as in an image of K rows
        for axis in (2, 0):
            if sides[axis] == channels or (sides[axis] == 1 and channels == 3):
                return axis, 0
    elif {"Y", "X"} <= set(letters):
        axis = next(index for index, letter in enumerate(letters) if letter not in "YX")
        if sides[axis] in {channels, 1}:
            return axis, 0
        if letters[axis] in _PAGES and channels in (1, 3):  # images, not colours
            return axis, sides[axis] - 1
    return None
