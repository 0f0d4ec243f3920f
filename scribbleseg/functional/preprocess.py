"""From decoded pixels to network input; training-time validation and prediction share this path."""

from __future__ import annotations

from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scribbleseg.types import DataInfo

__all__ = ["mirrored_ids", "normalize", "preprocess", "resize_image", "resized_shape"]

_CV_CHANNELS = 4


def resized_shape(height: int, width: int, resize: int | tuple[int, int] | None) -> tuple[int, int]:
    """Size of an image after :func:`resize_image`.

    Args:
        height: Rows of the image, pixels.
        width: Columns of the image, pixels.
        resize: ``None`` = unchanged; an integer = length of the longer side, aspect ratio kept;
            ``(H, W)`` = exactly that size.

    Returns:
        ``(height, width)`` in pixels, each at least 1.

    Raises:
        ValueError: If ``resize`` is not positive.

    Example:
        >>> resized_shape(375, 500, 250)
        (188, 250)
        >>> resized_shape(375, 500, None), resized_shape(375, 500, (64, 64))
        ((375, 500), (64, 64))
    """
    if resize is None:
        return height, width
    sides = (resize,) if isinstance(resize, int) else tuple(resize)
    if min(sides) < 1 or (not isinstance(resize, int) and len(sides) != 2):
        raise ValueError(
            f"resize={resize!r} is not a size: use None, a positive number of pixels for the "
            "longer side, or a pair (height, width)"
        )
    if len(sides) == 2:
        return sides[0], sides[1]
    scale = sides[0] / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize_image(
    image: NDArray[np.uint8], resize: int | tuple[int, int] | None
) -> NDArray[np.uint8]:
    """Scale an image: pixel averages when it shrinks, bilinear otherwise.

    Args:
        image: uint8, shape ``(H, W, K)``.
        resize: See :func:`resized_shape`.

    Returns:
        uint8, shape ``(h, w, K)``; the input itself if its size does not change.

    Example:
        >>> resize_image(np.zeros((4, 8, 3), np.uint8), 4).shape
        (2, 4, 3)
    """
    height, width = image.shape[:2]
    new_height, new_width = resized_shape(height, width, resize)
    if (new_height, new_width) == (height, width):
        return image
    shrinks = new_height <= height and new_width <= width
    size, mode = (new_width, new_height), cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    channels = image.shape[2]
    if channels <= _CV_CHANNELS:
        resized = cv2.resize(image, size, interpolation=mode)
        return np.asarray(resized, dtype=np.uint8).reshape(new_height, new_width, channels)
    out = np.empty((new_height, new_width, channels), dtype=np.uint8)
    for first in range(0, channels, _CV_CHANNELS):  # OpenCV averages four channels at most
        part = np.ascontiguousarray(image[..., first : first + _CV_CHANNELS])
        out[..., first : first + _CV_CHANNELS] = resize_image(part, (new_height, new_width))
    return out


@lru_cache(maxsize=16)
def _normalized_levels(mean: tuple[float, ...], std: tuple[float, ...]) -> NDArray[np.float32]:
    """Normalised value of every 8-bit level per channel, float32, shape ``(K, 256)``."""
    levels = np.arange(256, dtype=np.float64)[None] / 255
    table = (levels - np.array(mean)[:, None]) / np.array(std)[:, None]
    return np.asarray(table, dtype=np.float32)


def normalize(
    image: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float32]:
    """Standardised channels, ``(image / 255 - mean) / std``, as the network expects them.

    Every 8-bit level is looked up in a table made in double precision, so the result is correctly
    rounded and the same on every processor.

    Args:
        image: uint8, shape ``(H, W, K)``.
        mean: K numbers in units of image / 255.
        std: K numbers in units of image / 255, not 0.

    Returns:
        float32, shape ``(K, H, W)``, contiguous.

    Raises:
        ValueError: If the image is not uint8, or has not one channel per mean.

    Example:
        >>> normalize(np.full((1, 2, 3), 255, np.uint8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).tolist()
        [[[1.0, 1.0]], [[1.0, 1.0]], [[1.0, 1.0]]]
    """
    channels = len(mean)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != channels:
        kind = "RGB image of shape (H, W, 3)" if channels == 3 else f"image (H, W, {channels})"
        raise ValueError(f"expected a uint8 {kind}, got {image.dtype} {image.shape}")
    table = _normalized_levels(tuple(mean), tuple(std))
    out = np.empty((channels, *image.shape[:2]), dtype=np.float32)
    for channel in range(channels):
        cv2.LUT(cv2.extractChannel(image, channel), table[channel : channel + 1], dst=out[channel])
    return out


def preprocess(image: NDArray[np.uint8], info: DataInfo) -> Tensor:
    """Network input of one image: resized and normalised as the data was in training.

    Args:
        image: uint8, shape ``(H, W, K)``.
        info: Where the input size, mean and standard deviation come from.

    Returns:
        float32, shape ``(K, h, w)`` with ``(h, w)`` from :func:`resized_shape`.
    """
    return torch.from_numpy(normalize(resize_image(image, info.resize), info.mean, info.std))


def mirrored_ids(flip_pairs: Sequence[tuple[int, int]], num_classes: int) -> list[int]:
    """Id that each class has in a mirror image: an involution of the ids.

    The same list maps ids (``ids[label]``) and reorders channels (``logits[:, ids]``), because it
    is its own inverse.

    Args:
        flip_pairs: Pairs of ids that a mirroring exchanges; every other class keeps its id.
        num_classes: C, or 256 for a table of all values of 8-bit labels.

    Returns:
        C ids.

    Raises:
        ValueError: If an id is not in 0..C-1 or is used twice.

    Example:
        >>> mirrored_ids([(1, 2)], 4)
        [0, 2, 1, 3]
    """
    used = list(chain.from_iterable(flip_pairs))
    if len(set(used)) < len(used) or not all(0 <= label < num_classes for label in used):
        raise ValueError(
            f"flip_pairs={tuple(flip_pairs)!r}: expected pairs of ids in 0..{num_classes - 1}, "
            "each id at most once"
        )
    ids = list(range(num_classes))
    for first, second in flip_pairs:
        ids[first], ids[second] = second, first
    return ids
