"""Values that every layer shares: label coding, normalisation, colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "IGNORE_INDEX",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "IMAGE_SUFFIXES",
    "MAX_CLASSES",
    "voc_palette",
]

IGNORE_INDEX = 255
"""Label value that carries no supervision: not drawn (scribble) or void (mask)."""

MAX_CLASSES = 255
"""Labels are 8-bit: class ids 0..254 and the ignore value 255."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".npy")
"""Suffixes of image files, lower case."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def voc_palette(entries: int = 256) -> NDArray[np.uint8]:
    """Colours of the PASCAL VOC devkit: the bits of the id, interleaved over R, G and B.

    Args:
        entries: Number of colours, 1 to 256.

    Returns:
        Array of shape ``(entries, 3)``; id 255 is (224, 224, 192).

    Example:
        >>> voc_palette(3).tolist()
        [[0, 0, 0], [128, 0, 0], [0, 128, 0]]
    """
    ids = np.arange(entries)
    palette = np.zeros((entries, 3), dtype=np.int64)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((ids >> (3 * bit + channel)) & 1) << (7 - bit)
    return palette.astype(np.uint8)
