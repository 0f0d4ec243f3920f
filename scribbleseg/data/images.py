"""Image files of any depth and number of channels to the 8 bits that networks are given."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from scribbleseg.data.decode import (
    TIFF_SUFFIXES,
    array_layout,
    check_pixels,
    decoding,
    open_array,
    open_image,
    orient,
    orientation_of,
)
from scribbleseg.errors import LabelFormatError
from scribbleseg.functional.intensity import Intensity, check_rgb_channels
from scribbleseg.options import check_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scribbleseg.types import Label

__all__ = [
    "LABEL_SUFFIXES",
    "ImageHeader",
    "ImageOptions",
    "orient_label",
    "read_header",
    "read_image",
]

logger = logging.getLogger(__name__)

_EXIF_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"}  # of formats that carry EXIF
_TURNED: set[Path] = set()  # folders that this process has warned about

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
    suffix = path.suffix.lower()
    with decoding(path):
        if suffix == ".npy" or (suffix in TIFF_SUFFIXES and channels not in (1, 3)):
            return _array_header(path, channels)
        try:
            # a size is no reason to refuse a file: decoding its pixels is
            with open_image(path, max_pixels=1 << 62) as image:
                deep = image.mode[0] in "IF" or _deep_colour(image)
                orientation = orientation_of(image, path)
                turned = (image.width, image.height)
                if image.format == "TIFF" or orientation < 5:
                    turned = turned[::-1]  # Pillow names the size after the rotation of TIFF
                raw = turned[::-1] if orientation >= 5 else turned
                return ImageHeader(turned, raw, deep, orientation, len(image.getbands()) > 2)
        except UnidentifiedImageError:
            if suffix not in TIFF_SUFFIXES or not path.stat().st_size:
                raise
        return _array_header(path, channels)


def _deep_colour(image: Image.Image) -> bool:
    """Whether a colour file has 16 bits per channel, of which Pillow would drop the lower 8."""
    return image.mode in ("RGB", "RGBA") and ";16" in str(getattr(image, "tile", ""))


def _image_values(path: Path, channels: int, max_pixels: int | None) -> NDArray[Any]:
    suffix = path.suffix.lower()
    if suffix == ".npy" or (suffix in TIFF_SUFFIXES and channels not in (1, 3)):
        return _read_array(path, channels, max_pixels)
    try:
        with open_image(path, max_pixels=max_pixels) as image:
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if not (suffix in TIFF_SUFFIXES and frames == channels > 1):
                if frames > 1:
                    _warn_once(f"has {frames} frames or pages, only the first is used", path.parent)
                if not _deep_colour(image):
                    return _decoded(image, channels, path)
                if suffix not in TIFF_SUFFIXES:
                    return orient(_deep_colours(path, channels), orientation_of(image, path))
    except UnidentifiedImageError:
        if suffix not in TIFF_SUFFIXES or not path.stat().st_size:
            raise
    return _read_array(path, channels, max_pixels)  # a TIFF that Pillow cannot read


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


def _read_array(path: Path, channels: int, max_pixels: int | None) -> NDArray[Any]:
    """Values of an array file as ``(H, W, K)``, or ``(H, W, 1)`` if it is grey."""
    with open_array(path) as stored:
        layout = array_layout(stored, channels, path)
        limit = Image.MAX_IMAGE_PIXELS if max_pixels is None else max_pixels
        check_pixels(path, layout.size, limit)
        values = np.asarray(stored.values()).reshape(layout.sides)
    if layout.pages:
        _warn_once(f"has {layout.pages + 1} frames or pages, only the first is used", path.parent)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if layout.channel_axis is None:
        values = values[..., None]
    else:
        values = np.moveaxis(values, layout.channel_axis, -1)
        values = values[..., :1] if layout.pages else values
    return orient(values, stored.orientation)


def _array_header(path: Path, channels: int) -> ImageHeader:
    with open_array(path) as stored:
        raw = array_layout(stored, channels, path).size
    size = raw[::-1] if stored.orientation >= 5 else raw
    return ImageHeader(size, raw, stored.dtype.itemsize > 1, stored.orientation)


def orient_label(
    values: NDArray[np.uint8], label: Label, image: Path | None, *, channels: int = 3
) -> NDArray[np.uint8]:
    """The label in the orientation of its image, with a warning once per folder if it was turned.

    Labels carry no EXIF and should fit the rotated image; some tools export them in the stored
    frame. Only a size that fits that frame alone tells them: half turns and square images cannot be
    recognised, and fit as they are.

    Args:
        values: Ids, uint8, shape ``(H, W)``.
        label: Where they are from, for the warning.
        image: Image file; reads its header only.
        channels: Channels of the image.

    Returns:
        The label, turned if it fits only the stored frame; labels of other sizes as they are.
    """
    if image is None or image.suffix.lower() not in _EXIF_SUFFIXES or not image.is_file():
        return values
    header = read_header(image, channels=channels)
    if values.shape == header.size or values.shape != header.raw_size:
        return values
    if image.parent not in _TURNED:
        _TURNED.add(image.parent)
        stored, rotated = (f"{size[1]}x{size[0]}" for size in (header.raw_size, header.size))
        logger.warning(
            "D201 %s: label is %s (width x height), but %s is %s after its EXIF rotation and %s "
            "only before it; the label is rotated like the image. If it does not fit then, export "
            "labels of the rotated images (said once for this folder)",
            *(label, stored, image, rotated, stored),
        )
    return orient(values, header.orientation)
