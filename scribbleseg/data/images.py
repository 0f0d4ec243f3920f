"""Pixels of image files: the 8 bits that networks are given, or the values as they are stored."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from scribbleseg.data.arrays import open_array
from scribbleseg.data.decode import (
    TIFF_SUFFIXES,
    check_pixels,
    decoding,
    open_image,
    orient,
    orientation_of,
)
from scribbleseg.errors import LabelFormatError
from scribbleseg.functional.intensity import Intensity, check_rgb_channels
from scribbleseg.options import check_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "LABEL_SUFFIXES",
    "ImageHeader",
    "ImageOptions",
    "Pixels",
    "read_header",
    "read_image",
    "read_pixels",
]

logger = logging.getLogger(__name__)

_PHOTOMETRIC = 262  # TIFF tag; 0 = white is zero

LABEL_SUFFIXES = (".png", *TIFF_SUFFIXES, ".bmp", ".gif", ".jpg", ".jpeg")
"""Label suffixes, preferred first; JPEG is listed to be found and refused."""


@dataclass(frozen=True)
class ImageOptions:
    """How the images of a data set are read.

    Attributes:
        channels: Channels K of every image: 3 = RGB, 1 = grey, others as the files have them.
        intensity: Window of images with more than 8 bits.
        rgb_channels: Three channels that stand for red, green and blue in pictures and where
            colours are compared; by default the first three.
        max_image_pixels: Larger images are refused, ``None`` = Pillow's limit (89 million).

    Raises:
        ConfigError: If an option is out of range.
    """

    channels: int = 3
    intensity: Intensity = field(default_factory=Intensity)
    rgb_channels: tuple[int, int, int] | None = None
    max_image_pixels: int | None = None

    def __post_init__(self) -> None:
        """Check the values; a window may be a mapping, as a YAML file holds it."""
        check_whole(1, channels=self.channels)
        if self.max_image_pixels is not None:
            check_whole(1, max_image_pixels=self.max_image_pixels)
        object.__setattr__(self, "intensity", Intensity.from_options(self.intensity))
        chosen = check_rgb_channels(self.rgb_channels, self.channels)
        object.__setattr__(self, "rgb_channels", chosen)


class ImageHeader(NamedTuple):
    """What a file says about its pixels before they are decoded.

    Attributes:
        size: Height and width in pixels as the file is decoded, after its EXIF rotation.
        raw_size: Height and width as stored.
        deep: More than 8 bits per channel.
        orientation: EXIF orientation, 1 = as stored.
        colour: Three or more channels.
    """

    size: tuple[int, int]
    raw_size: tuple[int, int]
    deep: bool = False
    orientation: int = 1
    colour: bool = False


def read_image(
    path: str | Path,
    *,
    channels: int = 3,
    intensity: Intensity | None = None,
    max_pixels: int | None = None,
) -> NDArray[np.uint8]:
    """Pixels of an image file in its EXIF or TIFF orientation.

    Three channels are RGB, with grey files repeated; one channel is grey, with colours as
    luminance; other numbers must be what the file holds. Alpha is dropped, and only the first
    frame or page is used, both with a warning once per folder; a TIFF file with as many pages as
    ``channels`` is one image.

    Args:
        path: PNG, JPEG, TIFF, BMP, WebP or GIF of any depth, or ``.npy`` of shape ``(H, W)``,
            ``(H, W, K)`` or ``(K, H, W)``.
        channels: Channels K of the result, at least 1.
        intensity: Window for files of more than 8 bits; default 0.5 to 99.5 percentile.
        max_pixels: Larger images are refused; ``None`` = Pillow's limit, about 89 million.

    Returns:
        uint8, shape ``(H, W, K)``.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If it cannot be decoded or has too many pixels (D202), or other channels
            or values than expected (D203).
    """
    path = Path(path)
    with decoding(path):
        values = _image_values(path, channels, max_pixels)
    pixels = (intensity or Intensity()).apply(values, name=str(path))
    return np.repeat(pixels, 3, axis=2) if channels == 3 and pixels.shape[2] == 1 else pixels


def read_header(path: str | Path, *, channels: int = 3) -> ImageHeader:
    """Size, depth and orientation of an image without decoding its pixels.

    Args:
        path: Image file.
        channels: Channels K, which tell rows from channels in array files.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If it is not an image (D202) or has another shape (D203).
    """
    path = Path(path)
    with decoding(path):
        if not _is_array(path, channels):
            # a size is no reason to refuse a file: decoding its pixels is
            with open_image(path, max_pixels=1 << 62) as image:
                if image is not None:
                    return _image_header(image, path)
        with open_array(path, channels) as array:
            size = array.size[::-1] if array.orientation >= 5 else array.size
            return ImageHeader(size, array.size, array.deep, array.orientation)


def _image_values(path: Path, channels: int, max_pixels: int | None) -> NDArray[Any]:
    """Brightness as stored, shape ``(H, W, K)``, grey ``(H, W, 1)``."""
    if not _is_array(path, channels):
        with open_image(path, max_pixels) as image:
            values = None if image is None else _brightness(image, channels, path)
        if values is not None:
            return values
    with open_array(path, channels) as array:
        check_pixels(path, array.size, max_pixels)
        _warn_of_pages(array.pages, path)
        return array.read()


def _is_array(path: Path, channels: int) -> bool:
    """Whether a file is read as an array, not with Pillow."""
    suffix = path.suffix.lower()
    return suffix == ".npy" or (suffix in TIFF_SUFFIXES and channels not in (1, 3))


def _image_header(image: Image.Image, path: Path) -> ImageHeader:
    orientation = orientation_of(image, path)
    raw = image.height, image.width
    turned = raw[::-1] if orientation >= 5 else raw
    if image.format == "TIFF":  # of which Pillow names the size after the rotation
        raw, turned = turned, raw
    deep = image.mode[0] in "IF" or _deep_colour(image)
    return ImageHeader(turned, raw, deep, orientation, len(image.getbands()) > 2)


def _deep_colour(image: Image.Image) -> bool:
    """Whether a colour file has 16 bits per channel, of which Pillow would drop the lower 8."""
    return image.mode in ("RGB", "RGBA") and ";16" in str(getattr(image, "tile", ""))


def _brightness(image: Image.Image, channels: int, path: Path) -> NDArray[Any] | None:
    """Its pixels, ``None`` if Pillow would spoil them."""
    tiff = path.suffix.lower() in TIFF_SUFFIXES
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if tiff and frames == channels > 1:
        return None  # pages that are channels
    _warn_of_pages(frames - 1, path)
    if not _deep_colour(image):
        return _decoded(image, channels, path)
    return None if tiff else orient(_deep_colours(path, channels), orientation_of(image, path))


def _deep_colours(path: Path, channels: int) -> NDArray[Any]:
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    values = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    if values is None:
        raise OSError("damaged file")
    if channels != 3:
        raise LabelFormatError(
            f"D203 {path}: has {values.shape[2]} channels of 16 bits, expected {channels}; set "
            "`channels: 3`, or export one channel"
        )
    return np.ascontiguousarray(values[..., 2::-1])


def _decoded(image: Image.Image, channels: int, path: Path) -> NDArray[Any]:
    image = ImageOps.exif_transpose(image)
    if channels not in (1, 3):
        if image.mode == {2: "LA", 4: "RGBA"}.get(channels):
            return np.array(image)
        raise LabelFormatError(
            f"D203 {path}: has {len(image.getbands())} channels (mode {image.mode}), expected "
            f"{channels}; set `channels` to the number of channels of the files"
        )
    if image.mode.startswith("I") or image.mode == "F":
        return np.asarray(image)[..., None]
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
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


def _warn_of_pages(further: int, path: Path) -> None:
    if further:
        text = f"has {further + 1} frames or pages, only the first is used"
        _warn_once(text, path.parent)


# --------------------------------------------------------- ids, colours and other values


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
        with open_image(path) as image:
            if image is not None:
                return _stored_values(image, path, what)
        with open_array(path, 1) as array:
            _check_pages(path, array.pages + 1, what)
            check_pixels(path, array.size, None)
            return Pixels(array.read()[..., 0])


def _stored_values(image: Image.Image, path: Path, what: str) -> Pixels:
    if image.format in {"JPEG", "MPO"} or path.suffix.lower() in {".jpg", ".jpeg"}:
        raise LabelFormatError(
            f"D103 {path}: a {what} file must not be a JPEG; compression changes the ids: export "
            "it again as PNG"
        )
    _check_pages(path, getattr(image, "n_frames", 1), what)
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


def _check_pages(path: Path, pages: int, what: str) -> None:
    if pages > 1:
        raise LabelFormatError(
            f"D203 {path}: holds {pages} pages or frames, expected one page; a {what} belongs to "
            "one image: save every page as a file of its own"
        )
