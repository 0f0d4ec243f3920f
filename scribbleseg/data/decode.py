"""Opening image files: which formats, limits, damage, orientation."""

from __future__ import annotations

import stat
import struct
import threading
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError, ScribbleSegError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["orient"]

TIFF_SUFFIXES = (".tif", ".tiff")

# an allow-list: other decoders of Pillow start programs (EPS) or are rarely looked after
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
ORIENTATION = 0x0112  # EXIF and TIFF tag
_DEFLATE = 1032  # no file unpacks to more than this many times its size
_LIMIT_LOCK = threading.Lock()
_COPY = (
    "the file is truncated or not an image: copy it again from its source, or remove it from "
    "the list"
)


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
    except Exception as error:  # decoders raise anything
        reason = str(error) or type(error).__name__
        raise LabelFormatError(f"D202 {path}: cannot be decoded ({reason}); {cure}") from error


def check_promise(path: Path, promised: int, stored: int | None = None) -> None:
    """Refuse (D202) a header that promises more than a file can hold, before memory is taken.

    Args:
        path: File.
        promised: Bytes of the array that the header describes.
        stored: Bytes that the file holds for it, compressed or not; by default all of its bytes.
    """
    held = path.stat().st_size if stored is None else stored
    if promised > _DEFLATE * held + (1 << 20):
        raise LabelFormatError(
            f"D202 {path}: its header promises {promised:,} bytes, but it holds {held:,}; the "
            "header is damaged: copy the file again from its source"
        )


def check_pixels(path: Path, size: Sequence[int], limit: int | None) -> None:
    """Refuse (D202) a height and width of more pixels than the limit, or than Pillow's."""
    limit = Image.MAX_IMAGE_PIXELS if limit is None else limit
    height, width = size
    if limit is not None and width * height > limit:
        raise LabelFormatError(
            f"D202 {path}: {width}x{height} = {width * height:,} px, more than {limit:,}; tile the "
            "image, or raise `max_image_pixels` if you trust the file"
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


@contextmanager
def open_image(path: Path, max_pixels: int | None = None) -> Iterator[Image.Image | None]:
    """An image file of a known format, its header read.

    Args:
        path: PNG, JPEG, TIFF, BMP, WebP or GIF, whatever its suffix.
        max_pixels: Largest number of pixels; ``None`` = Pillow's limit, about 89 million.

    Yields:
        The file, whose pixels are read when they are first used; ``None`` for a TIFF file that
        Pillow cannot read, such as one of 64-bit integers.

    Raises:
        LabelFormatError: If it has more pixels (D202).
        OSError: If it does not exist or is no such image.
    """
    # a stream: Pillow maps named files, and turns mapped TIFF files wrongly
    with path.open("rb") as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of damaged metadata, and of sizes that are checked here
        with _LIMIT_LOCK:  # Pillow's limit is a global of the process
            allowed, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(stream, formats=_FORMATS)
            except UnidentifiedImageError:
                image = None
            finally:
                Image.MAX_IMAGE_PIXELS = allowed
        if image is None:
            if path.suffix.lower() not in TIFF_SUFFIXES or not path.stat().st_size:
                # Pillow would name the stream
                raise UnidentifiedImageError(f"cannot identify image file {str(path)!r}")
            yield None
            return
        with image:
            # not as it is now: another thread may be at the same place
            limit = allowed if max_pixels is None else max_pixels
            check_pixels(path, (image.height, image.width), limit)
            if image.format == "PNG":  # of the formats here the one with a largest ratio
                check_promise(path, image.width * image.height * len(image.getbands()) // 8)
            yield image


def orientation_of(image: Image.Image, path: Path) -> int:
    """EXIF or TIFF orientation, 1 to 8, before the pixels are read."""
    # Pillow would decode all pixels of a PNG to look behind them
    plain = image.format == "PNG" and not _has_late_chunks(path)
    exif = Image.Image.getexif(image) if plain else image.getexif()
    value = exif.get(ORIENTATION, 1)
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
