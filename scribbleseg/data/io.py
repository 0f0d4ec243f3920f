"""Reading data files: every format is decoded in one place, and imported from here."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from scribbleseg.data.classes import ClassTable, normalise_name, read_classes
from scribbleseg.data.labels import encode_label, read_label, read_raw_label
from scribbleseg.data.lists import (
    LABEL_SUFFIXES,
    find_images,
    natural_key,
    read_split,
    voc_stem,
)
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.array_files import ARRAY_SUFFIXES, TIFF_SUFFIXES, read_layout
from scribbleseg.functional.decode import ORIENTATION_TAG, decode_image, is_deep_colour, open_image

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scribbleseg.functional.intensity import Intensity

_ANY_SIZE = 1 << 62

__all__ = [
    "LABEL_SUFFIXES",
    "ClassTable",
    "ImageHeader",
    "encode_label",
    "find_images",
    "natural_key",
    "normalise_name",
    "read_classes",
    "read_header",
    "read_image",
    "read_label",
    "read_raw_label",
    "read_split",
    "require",
    "voc_stem",
]


class ImageHeader(NamedTuple):
    """What a file says about its pixels before they are decoded.

    Attributes:
        size: Height and width in pixels after the EXIF rotation.
        raw_size: Height and width as stored.
        mode: Pillow mode, such as ``"RGB"`` or ``"I;16"``; of array files ``"L"``, ``"I"`` or
            ``"F"`` by their number type.
        orientation: EXIF orientation, 1 = as stored.
    """

    size: tuple[int, int]
    raw_size: tuple[int, int]
    mode: str
    orientation: int = 1


def read_image(
    path: str | Path,
    *,
    channels: int = 3,
    intensity: Intensity | None = None,
    max_pixels: int | None = None,
) -> NDArray[np.uint8]:
    """Image in its EXIF orientation; see :func:`~scribbleseg.functional.decode.decode_image`.

    Args:
        path: Image file.
        channels: Channels K; 3 = RGB, 1 = grey.
        intensity: Window for more than 8 bits.
        max_pixels: Larger images are refused.

    Returns:
        uint8, shape ``(H, W, K)``.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If it cannot be decoded (D202) or has other channels (D203).
    """
    return decode_image(path, channels=channels, intensity=intensity, max_pixels=max_pixels)


def read_header(path: str | Path, *, channels: int = 3) -> ImageHeader:
    """Size and mode of an image without decoding its pixels.

    Args:
        path: Image file.
        channels: Channels K, which tell rows from channels in array files.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If it is not an image (D202).
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in ARRAY_SUFFIXES or (suffix in TIFF_SUFFIXES and channels not in (1, 3)):
        return _array_header(path, channels)
    try:
        # a size is no reason to refuse a file: decoding its pixels is
        with open_image(path, max_pixels=_ANY_SIZE) as image:
            raw_size = (image.height, image.width)
            # before EXIF is asked for: that may read the pixels
            mode = f"{image.mode};16" if is_deep_colour(image) else image.mode
            orientation = _orientation(image, path)
            size = raw_size[::-1] if orientation in (5, 6, 7, 8) else raw_size
            return ImageHeader(size, raw_size, mode, orientation)
    except FileNotFoundError as error:
        raise ScribbleNotFoundError(f"image {path} does not exist") from error
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        if suffix in TIFF_SUFFIXES:
            return _array_header(path, channels)
        raise LabelFormatError(
            f"D202 {path}: is not an image that can be read ({error}); copy it again from its "
            "source"
        ) from error


def _orientation(image: Image.Image, path: Path) -> int:
    """EXIF orientation; Pillow would decode all pixels of a PNG to look behind them."""
    if image.format == "PNG" and not _has_late_chunks(path):
        exif = Image.Image.getexif(image)
    else:
        exif = image.getexif()
    return int(exif.get(ORIENTATION_TAG, 1))


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


def _array_header(path: Path, channels: int) -> ImageHeader:
    layout, dtype = read_layout(path, channels)
    mode = "L" if dtype.itemsize == 1 else "F" if np.issubdtype(dtype, np.floating) else "I"
    return ImageHeader(layout.size, layout.size, mode)


def require(path: Path | None, role: str, image_id: str) -> Path:
    """The path, or an error if the record has no such file.

    Args:
        path: Field of a record.
        role: Name of the field, for the message: image, scribble or mask.
        image_id: Stem of the sample.

    Raises:
        ScribbleNotFoundError: If ``path`` is ``None``.
    """
    if path is None:
        raise ScribbleNotFoundError(
            f"D301 {image_id}: this sample has no {role} file; add it to the {role} folder, or "
            f"remove {image_id!r} from its split file"
        )
    return path
