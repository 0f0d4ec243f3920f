"""Opening pixel files of every format: limits, damage, orientation, arrays, stored values."""

from __future__ import annotations

import stat
import struct
import threading
import tokenize
import warnings
import zipfile
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from scribbleseg.errors import (
    LabelFormatError,
    MissingExtraError,
    ScribbleNotFoundError,
    ScribbleSegError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = [
    "TIFF_SUFFIXES",
    "Pixels",
    "array_layout",
    "check_pixels",
    "check_promise",
    "decoding",
    "open_array",
    "open_image",
    "orient",
    "orientation_of",
    "read_pixels",
]

TIFF_SUFFIXES = (".tif", ".tiff")

# an allow-list: other decoders of Pillow start programs (EPS) or are rarely looked after
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
_DAMAGE = (
    *(OSError, EOFError, SyntaxError, ValueError, TypeError, KeyError, IndexError, ArithmeticError),
    *(RuntimeError, AttributeError, AssertionError, MemoryError),
    *(zlib.error, struct.error, zipfile.BadZipFile, tokenize.TokenError),
    *(UnidentifiedImageError, Image.DecompressionBombError),
)
_ORIENTATION = 0x0112  # EXIF and TIFF tag
_PHOTOMETRIC = 262  # TIFF tag; 0 = white is zero
_DEFLATE = 1032  # no file unpacks to more than this many times its size
_LIMIT_LOCK = threading.Lock()
_TOO_LARGE = "tile the image, or raise `max_image_pixels` if you trust the file"
_COPY = (
    "the file is truncated or not an image: copy it again from its source, or remove it from "
    "the list"
)


class Pixels(NamedTuple):
    """Content of a file whose values are not brightness: ids, colours, numbers.

    Attributes:
        values: As stored, shape ``(H, W)``, or ``(H, W, 3)`` for colours.
        alpha: Opacity 0..255, shape ``(H, W)``; ``None`` = opaque.
        palette: RGBA colour of every index, uint8, shape ``(n, 4)``, if there is a palette.
    """

    values: NDArray[Any]
    alpha: NDArray[np.uint8] | None = None
    palette: NDArray[np.uint8] | None = None


@contextmanager
def decoding(path: Path | str, what: str = "image", cure: str = _COPY) -> Iterator[None]:
    """Turn whatever a decoder raises into a library error that names the file.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: If it is damaged or of another kind (D202).
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe would wait for ever
            raise OSError("it is a folder or a pipe")
        yield
    except ScribbleSegError:
        raise
    except FileNotFoundError as error:
        raise ScribbleNotFoundError(f"D301 {what} {path} does not exist") from error
    except _DAMAGE as error:
        reason = str(error) or type(error).__name__
        raise LabelFormatError(f"D202 {path}: cannot be decoded ({reason}); {cure}") from error


def check_promise(
    path: Path, promised: int, stored: int | None = None, *, packed: bool = True
) -> None:
    """Refuse a header that promises more bytes than a file can hold, before memory is taken.

    Args:
        path: File.
        promised: Bytes of the array that the header describes.
        stored: Bytes that the file holds for it; by default the size of the file.
        packed: The bytes may be compressed.

    Raises:
        LabelFormatError: D202.
    """
    held = path.stat().st_size if stored is None else stored
    if promised > (_DEFLATE * held + (1 << 20) if packed else held):
        raise LabelFormatError(
            f"D202 {path}: its header promises {promised:,} bytes, but it holds {held:,}; the "
            "header is damaged: copy the file again from its source"
        )


def check_pixels(path: Path, size: Sequence[int], limit: int | None) -> None:
    """Refuse an image of more pixels than the limit; ``size`` is height and width.

    Raises:
        LabelFormatError: D202.
    """
    height, width = size
    if limit is not None and width * height > limit:
        raise LabelFormatError(
            f"D202 {path}: {width}x{height} = {width * height:,} px, more than {limit:,}; "
            f"{_TOO_LARGE}"
        )


def orient(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn an array of shape ``(H, W, …)`` as an EXIF orientation (1 to 8) turns its image.

    Example:
        >>> orient(np.array([[1, 2]], np.uint8), 6).tolist()
        [[1], [2]]
    """
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(pixels[rows, columns])


# ------------------------------------------------------------------------- Pillow's formats


@contextmanager
def open_image(path: Path, *, max_pixels: int | None = None) -> Iterator[Image.Image]:
    """An image file of a known format, its header read.

    Args:
        path: PNG, JPEG, TIFF, BMP, WebP or GIF, whatever its suffix.
        max_pixels: Largest number of pixels; ``None`` = Pillow's limit, about 89 million.

    Yields:
        The file; its pixels are read when they are first used.

    Raises:
        LabelFormatError: If it has more pixels (D202).
        OSError: If it does not exist or is no such image.
    """
    limit = Image.MAX_IMAGE_PIXELS if max_pixels is None else max_pixels
    # a stream: Pillow maps named files, and turns mapped TIFF files wrongly
    with path.open("rb") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, and of sizes that are checked here
        with _LIMIT_LOCK:  # Pillow's limit is a global of the process
            allowed, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(stream, formats=_FORMATS)
            except UnidentifiedImageError:  # Pillow would name the stream
                raise UnidentifiedImageError(f"cannot identify image file {str(path)!r}") from None
            finally:
                Image.MAX_IMAGE_PIXELS = allowed
        with image:
            check_pixels(path, (image.height, image.width), limit)
            if image.format == "PNG":  # of the formats here the one with a largest ratio
                check_promise(path, image.width * image.height * len(image.getbands()) // 8)
            yield image


def orientation_of(image: Image.Image, path: Path) -> int:
    """EXIF or TIFF orientation, 1 to 8, before the pixels are read."""
    # Pillow would decode all pixels of a PNG to look behind them
    plain = image.format == "PNG" and not _has_late_chunks(path)
    exif = Image.Image.getexif(image) if plain else image.getexif()
    value = exif.get(_ORIENTATION, 1)
    return int(value) if value in range(1, 9) else 1


def _has_late_chunks(path: Path) -> bool:
    """Whether a PNG file goes on after its pixels, or breaks off."""
    pixels = False
    with path.open("rb") as stream:
        stream.seek(8)
        while len(head := stream.read(8)) == 8:
            size, kind = struct.unpack(">I4s", head)
            if kind == b"IEND":
                return False
            if kind == b"IDAT":
                pixels = True
            elif pixels:
                return True
            stream.seek(size + 4, 1)  # content and checksum
    return True


# ------------------------------------------------------------------ arrays: .npy and TIFF


class StoredArray(NamedTuple):
    """An array file whose values are not read yet.

    Attributes:
        shape: As stored.
        axes: Letter of every axis as TIFF names them (``Y``, ``X``, ``S`` …); ``None`` = unknown.
        dtype: Number type.
        orientation: EXIF orientation of the values.
        values: Reads them.
    """

    shape: tuple[int, ...]
    axes: str | None
    dtype: np.dtype[Any]
    orientation: int
    values: Any


@contextmanager
def open_array(path: Path) -> Iterator[StoredArray]:
    """A ``.npy`` file (never unpickled), or the first series of a TIFF file of any number type.

    Raises:
        LabelFormatError: If it holds objects (D501), or its header promises too much (D202).
        MissingExtraError: If tifffile is needed and not installed.
    """
    if path.suffix.lower() == ".npy":
        try:
            # a memory map: a header that promises too much fails before memory is taken
            stored = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            if "pickle" in str(error) or "object" in str(error).lower():
                raise LabelFormatError(
                    f"D501 {path}: holds pickled Python objects, which are never loaded; save a "
                    "plain array with numpy.save(..., allow_pickle=False)"
                ) from error
            raise
        yield StoredArray(stored.shape, None, stored.dtype, 1, lambda: np.array(stored))
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
            value = getattr(tags.get(_ORIENTATION), "value", 1)
            orientation = int(value) if value in range(1, 9) else 1
            shape, axes = tuple(map(int, series.shape)), str(series.axes)
            yield StoredArray(shape, axes, np.dtype(series.dtype), orientation, series.asarray)
    except tifffile.TiffFileError as error:
        raise ValueError(str(error)) from error


class ArrayLayout(NamedTuple):
    """Which axes of a stored array are rows, columns and channels.

    Attributes:
        sides: Lengths of the axes that count, in their order.
        channel_axis: Which of them is that of the channels; ``None`` for grey images.
        pages: Further images in the file.
    """

    sides: tuple[int, ...]
    channel_axis: int | None
    pages: int

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width = (n for axis, n in enumerate(self.sides) if axis != self.channel_axis)
        return height, width


def array_layout(stored: StoredArray, channels: int, path: Path) -> ArrayLayout:
    """How an array of shape ``(H, W)``, ``(H, W, K)`` or ``(K, H, W)`` is an image.

    Raises:
        LabelFormatError: If it is none of them (D203).
    """
    shape, axes = stored.shape, stored.axes
    kept = list(range(len(shape)))
    for axis in range(len(shape)):
        # rows and columns stay, and at least the last two axes
        if len(kept) > 2 and shape[axis] == 1 and not (axes is not None and axes[axis] in "YX"):
            kept.remove(axis)
    sides = tuple(shape[axis] for axis in kept)
    letters = None if axes is None else "".join(axes[axis] for axis in kept)
    if len(sides) == 2 and channels in (1, 3):
        return ArrayLayout(sides, None, 0)
    if len(sides) == 3 and letters is not None and {"Y", "X"} <= set(letters):
        extra = next(index for index, letter in enumerate(letters) if letter not in "YX")
        if sides[extra] in {channels, 1}:
            return ArrayLayout(sides, extra, 0)
        if letters[extra] in "QIZTRLPVAH" and channels in (1, 3):  # images, not colours
            return ArrayLayout(sides, extra, sides[extra] - 1)
    elif len(sides) == 3 and letters is None:
        # the last axis wins where both fit, as in an image of K rows
        for axis in (2, 0):
            if sides[axis] in ({channels, 1} if channels == 3 else {channels}):
                return ArrayLayout(sides, axis, 0)
    more = channels > 1
    raise LabelFormatError(
        f"D203 {path}: array of shape {shape}{f' (axes {axes})' if axes else ''}, expected (H, W"
        f"{f', {channels}' if more else ''}){f' or ({channels}, H, W)' if more else ''}; set "
        "`channels` to the number of channels of the files, or store one image per file"
    )


# --------------------------------------------------------- ids, colours and other values


def read_pixels(path: str | Path, *, what: str = "label") -> Pixels:
    """Values of an image file as they are stored: never scaled, smoothed or inverted.

    Gray files of fewer than 8 bits, boolean TIFF of either photometric kind, integers of any width
    and floating-point numbers come out as the numbers in the file; of palette files the indices
    and the palette; of colour files RGB and alpha.

    Args:
        path: PNG, TIFF, BMP, GIF or WebP of one page.
        what: What the file is called in messages.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: If it cannot be decoded (D202), has several pages (D203), or is
            compressed with loss (D103).
    """
    path = Path(path)
    with decoding(path, what):
        try:
            with open_image(path) as image:
                return _stored_values(image, path, what)
        except UnidentifiedImageError:
            if path.suffix.lower() not in TIFF_SUFFIXES or not path.stat().st_size:
                raise
        # a TIFF that Pillow cannot read, such as one of 64-bit integers
        with open_array(path) as stored:
            layout = array_layout(stored, 1, path)
            if layout.pages or len(layout.sides) != 2:
                raise _several(path, f"an array of shape {stored.shape}", what)
            check_pixels(path, layout.size, Image.MAX_IMAGE_PIXELS)
            return Pixels(orient(stored.values().reshape(layout.sides), stored.orientation))


def _stored_values(image: Image.Image, path: Path, what: str) -> Pixels:
    if image.format in {"JPEG", "MPO"} or path.suffix.lower() in {".jpg", ".jpeg"}:
        raise LabelFormatError(
            f"D103 {path}: a {what} file must not be a JPEG; compression changes the ids: export "
            "it again as PNG"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        raise _several(path, f"{frames} pages or frames", what)
    tiles = getattr(image, "tile", ())
    raw_mode = str(tiles[0].args) if tiles else ""
    white_is_zero = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # type: ignore[attr-defined]
    image = ImageOps.exif_transpose(image)
    values: NDArray[Any] = np.asarray(image)
    if image.mode == "1":
        return Pixels(values.astype(np.uint8) ^ np.uint8(white_is_zero))
    if image.mode == "L":
        # Pillow spreads gray of 2 and 4 bits over 0..255
        step = 85 if "L;2" in raw_mode else 17 if "L;4" in raw_mode else 1
        return Pixels((255 - values if white_is_zero else values) // np.uint8(step))
    if image.mode == "P":
        image.apply_transparency()
        return Pixels(values, palette=np.array(image.getpalette("RGBA"), np.uint8).reshape(-1, 4))
    if image.mode == "F" or image.mode.startswith("I"):
        return Pixels(values)
    if ";16" in raw_mode:  # Pillow drops the lower 8 bits
        raise LabelFormatError(
            f"D103 {path}: holds colours of 16 bits, expected ids or colours of 8 bits; export the "
            f"{what} again"
        )
    pixels = np.asarray(image.convert("RGBA"))
    clear = image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
    return Pixels(pixels[..., :3], pixels[..., 3] if clear else None)


def _several(path: Path, found: str, what: str) -> LabelFormatError:
    return LabelFormatError(
        f"D203 {path}: holds {found}, expected one page; a {what} belongs to one image: save every "
        "page as a file of its own"
    )
