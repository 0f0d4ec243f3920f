"""Reading data files: every format is decoded in one place, and imported from here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

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
from scribbleseg.functional.images import decode_image

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

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

_EXIF_ORIENTATION = 0x0112


class ImageHeader(NamedTuple):
    """What a file says about its pixels before they are decoded.

    Attributes:
        size: Height and width in pixels after the EXIF rotation.
        raw_size: Height and width as stored.
        mode: Pillow mode, such as ``"RGB"`` or ``"I;16"``.
    """

    size: tuple[int, int]
    raw_size: tuple[int, int]
    mode: str


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """RGB image in its EXIF orientation, uint8, shape ``(H, W, 3)``.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If it cannot be decoded (D202).
    """
    return decode_image(path)


def read_header(path: str | Path) -> ImageHeader:
    """Size and mode of an image without decoding its pixels.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If it is not an image (D202).
    """
    try:
        with Image.open(path) as image:
            raw_size = (image.height, image.width)
            rotated = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
            return ImageHeader(raw_size[::-1] if rotated else raw_size, raw_size, image.mode)
    except FileNotFoundError as error:
        raise ScribbleNotFoundError(f"image {path} does not exist") from error
    except (
        OSError,
        UnidentifiedImageError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        raise LabelFormatError(
            f"D202 {path}: is not an image that can be read ({error}); copy it again from its "
            "source"
        ) from error


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
