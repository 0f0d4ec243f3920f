"""Labels that fit only the frame before the EXIF rotation of their image."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from scribbleseg.data import io

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["apply_orientation", "orient_label"]

logger = logging.getLogger(__name__)

_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"}  # of formats that carry EXIF
_TOLD: set[Path] = set()  # folders that this process has warned about


def apply_orientation(label: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Turn a map as an EXIF orientation turns its image.

    Args:
        label: As stored, uint8, shape ``(H, W)``.
        orientation: 1 to 8; 1 changes nothing.

    Example:
        >>> apply_orientation(np.array([[1, 2]], np.uint8), 6).tolist()
        [[1], [2]]
    """
    turned = {
        2: label[:, ::-1],
        3: label[::-1, ::-1],
        4: label[::-1],
        5: label.T,
        6: label.T[:, ::-1],
        7: label.T[::-1, ::-1],
        8: label.T[::-1],
    }
    return np.ascontiguousarray(turned.get(orientation, label))


def orient_label(
    label: NDArray[np.uint8], image: Path | None, name: str, *, channels: int = 3
) -> NDArray[np.uint8]:
    """The label in the orientation of its image, with a warning once per folder if it was turned.

    Labels carry no EXIF and should fit the rotated image; some tools export them in the stored
    frame. Only a size that fits that frame alone tells them: half turns and square images cannot be
    recognised, and fit as they are.

    Args:
        label: Ids, uint8, shape ``(H, W)``.
        image: Image file; reads its header only.
        name: File or stem of the label, for the warning.
        channels: Channels of the image.

    Returns:
        The label, turned if it fits only the stored frame; labels of other sizes as they are.
    """
    if image is None or image.suffix.lower() not in _SUFFIXES or not image.is_file():
        return label
    header = io.read_header(image, channels=channels)
    if label.shape == header.size or label.shape != header.raw_size:
        return label
    if image.parent not in _TOLD:
        _TOLD.add(image.parent)
        stored, rotated = (f"{size[1]}x{size[0]}" for size in (header.raw_size, header.size))
        logger.warning(
            "D201 %s: label is %s (width x height), but %s is %s after its EXIF rotation and %s "
            "only before it; the label is rotated like the image. If it does not fit then, export "
            "labels of the rotated images (said once for this folder)",
            name,
            stored,
            image,
            rotated,
            stored,
        )
    return apply_orientation(label, header.orientation)
