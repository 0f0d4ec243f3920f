"""Decoding image files of any depth and number of channels to 8 bits per channel."""

from __future__ import annotations

import logging
import threading
import warnings
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from scribbleseg.errors import (
    LabelFormatError,
    MissingExtraError,
    ScribbleNotFoundError,
)
from scribbleseg.functional.array_files import ARRAY_SUFFIXES, TIFF_SUFFIXES, read_array
from scribbleseg.functional.intensity import Intensity

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = [
    "IMAGE_SUFFIXES",
    "ORIENTATION_TAG",
    "decode_image",
    "is_deep_colour",
    "open_image",
]

logger = logging.getLogger(__name__)

ORIENTATION_TAG = 0x0112  # EXIF
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", *TIFF_SUFFIXES, ".webp", *ARRAY_SUFFIXES)

_NO_LIMIT = 1 << 62
_LIMIT_LOCK = threading.Lock()
_ALPHA_MODES = {"RGBA", "LA", "PA", "La", "RGBa"}
_SEPARATE_MODES = {2: "LA", 4: "RGBA"}


@contextmanager
def open_image(path: str | Path, *, max_pixels: int | None = None) -> Iterator[Image.Image]:
    """An image file whose header is read; refuses files with too many pixels.

    Args:
        path: Any format that Pillow reads.
        max_pixels: Largest number of pixels; ``None`` = Pillow's limit, about 89 million.

    Yields:
        The file; its pixels are read when they are first used.

    Raises:
        LabelFormatError: D202, if it has more pixels.
        OSError: If it does not exist or is no image.
    """
    limit = Image.MAX_IMAGE_PIXELS if max_pixels is None else max_pixels
    if max_pixels is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            try:
                file = Image.open(path)
            except Image.DecompressionBombError as error:
                raise LabelFormatError(f"D202 {path}: {error}; {_TOO_LARGE}") from error
    else:
        with _LIMIT_LOCK:  # Pillow's limit is a global of the process
            allowed, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                file = Image.open(path)
            finally:
                Image.MAX_IMAGE_PIXELS = allowed
    with file:
        if limit is not None and file.width * file.height > limit:
            raise LabelFormatError(
                f"D202 {path}: {file.width}x{file.height} = {file.width * file.height:,} px, more "
                f"than {limit:,}; {_TOO_LARGE}"
            )
        yield file


_TOO_LARGE = "tile the image, or raise `max_image_pixels` if you trust the file"


def decode_image(
    path: str | Path,
    *,
    channels: int = 3,
    intensity: Intensity | None = None,
    max_pixels: int | None = None,
) -> NDArray[np.uint8]:
    """Pixels of an image file in its EXIF orientation.

    Three channels are RGB, with grey files repeated; one channel is grey, with colours as
    luminance; other numbers must be what the file holds. Alpha is dropped, and only the first
    frame or page is used, both with a warning once per folder; a TIFF file with as many pages as
    ``channels`` is one image.

    Args:
        path: Any format that Pillow reads, TIFF of any depth (with tifffile), or ``.npy`` of shape
            ``(H, W)``, ``(H, W, K)`` or ``(K, H, W)``.
        channels: Channels K of the result, at least 1.
        intensity: Window for files of more than 8 bits; default 0.5 to 99.5 percentile.
        max_pixels: Larger images are refused; ``None`` = Pillow's limit, about 89 million.

    Returns:
        uint8, shape ``(H, W, K)``.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If it cannot be decoded or has too many pixels (D202), or other channels
            or values than expected (D203).
        MissingExtraError: If tifffile is needed and not installed.
    """
    path = Path(path)
    try:
        values = _read_values(path, channels, max_pixels)
    except (LabelFormatError, MissingExtraError, ScribbleNotFoundError):
        raise
    except FileNotFoundError as error:
        raise ScribbleNotFoundError(f"image {path} does not exist") from error
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise LabelFormatError(
            f"D202 {path}: cannot be decoded ({error}); the file is truncated or not an image: "
            "copy it again from its source, or remove it from the list"
        ) from error
    pixels = (intensity or Intensity()).apply(values, name=str(path))
    if channels == 3 and pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return pixels


def _read_values(path: Path, channels: int, max_pixels: int | None) -> NDArray[Any]:
    suffix = path.suffix.lower()
    if suffix in ARRAY_SUFFIXES or (suffix in TIFF_SUFFIXES and channels not in (1, 3)):
        return _read_array(path, channels, max_pixels)
    try:
        with open_image(path, max_pixels=max_pixels) as file:
            frames = 1
            if file.format != "MPO" and getattr(file, "is_animated", False):
                frames = getattr(file, "n_frames", 1)
            if not (suffix in TIFF_SUFFIXES and frames == channels > 1):
                if frames > 1:
                    _warn_once(f"has {frames} frames or pages, only the first is used", path.parent)
                if not is_deep_colour(file):
                    return _pixels(file, channels, path)
                if suffix not in TIFF_SUFFIXES:
                    return _deep_colours(path, channels)
    except UnidentifiedImageError:
        if suffix not in TIFF_SUFFIXES or not path.stat().st_size:
            raise
    return _read_array(path, channels, max_pixels)  # a TIFF that Pillow cannot read


def is_deep_colour(file: Image.Image) -> bool:
    """Whether a colour file has 16 bits per channel, of which Pillow would drop the lower 8."""
    return file.mode in ("RGB", "RGBA") and ";16" in str(getattr(file, "tile", ""))


def _deep_colours(path: Path, channels: int) -> NDArray[Any]:
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise OSError("damaged file")
    if channels != 3:
        raise LabelFormatError(
            f"D203 {path}: has {values.shape[2]} channels of 16 bits, expected {channels}; set "
            "`channels: 3`, or export one channel"
        )
    return np.ascontiguousarray(values[..., 2::-1])


def _read_array(path: Path, channels: int, max_pixels: int | None) -> NDArray[Any]:
    limit = Image.MAX_IMAGE_PIXELS if max_pixels is None else max_pixels
    values, pages = read_array(path, channels, max_pixels=limit or _NO_LIMIT)
    if pages:
        _warn_once(f"has {pages + 1} frames or pages, only the first is used", path.parent)
    return values


def _pixels(file: Image.Image, channels: int, path: Path) -> NDArray[Any]:
    image = file
    if file.getexif().get(ORIENTATION_TAG, 1) != 1:
        image = ImageOps.exif_transpose(file)
    if channels not in (1, 3):
        if image.mode == _SEPARATE_MODES.get(channels):
            return np.array(image)
        raise LabelFormatError(
            f"D203 {path}: has {len(image.getbands())} channels (mode {image.mode}), expected "
            f"{channels}; set `channels` to the number of channels of the files"
        )
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)[..., None]
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        low, _ = image.getchannel("A").getextrema()
        if isinstance(low, (int, float)) and low < 255:
            _warn_once("has transparent pixels; transparency is dropped", path.parent)
        image = image.convert("RGB")
    mode = "RGB" if channels == 3 else "L"
    pixels = np.array(image if image.mode == mode else image.convert(mode))
    return pixels if channels == 3 else pixels[..., None]


@lru_cache(maxsize=1024)
def _warn_once(what: str, folder: Path) -> None:
    """One line per folder and process: thousands of equal ones would hide the others."""
    logger.warning("%s: an image there %s (said once for this folder)", folder, what)
