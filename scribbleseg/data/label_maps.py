"""Maps of whole numbers that go with an image: never interpolated, each with its own padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import cv2
import numpy as np

from scribbleseg.constants import IGNORE_INDEX

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LabelMap", "resize_map"]

Number = TypeVar("Number", bound=np.integer[Any])


class LabelMap(NamedTuple):
    """A map that takes part in the geometry of its image.

    Attributes:
        values: Any integer type, shape ``(H, W)``.
        fill: Value of padding, of the same type.
    """

    values: NDArray[Any]
    fill: int


def resize_map(values: NDArray[Number], size: tuple[int, int]) -> NDArray[Number]:
    """Nearest neighbour with exact pixel centres, so that values are never mixed.

    Args:
        values: uint8, uint16, int16 or int32, shape ``(H, W)``.
        size: New height and width, pixels.

    Returns:
        Same type, shape ``size``; the input itself if its size does not change.

    Example:
        >>> resize_map(np.array([[0, 70_000]], np.int32), (1, 4)).tolist()
        [[0, 0, 70000, 70000]]
    """
    if values.shape == tuple(size):
        return values
    height, width = size
    resized = cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, dtype=values.dtype)


def resize_labels(label: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A label map at another size, height and width, in which thin strokes survive."""
    return keep_labels(label, resize_map(label, size))


def keep_labels(label: NDArray[np.uint8], smaller: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A reduced scribble with the classes that nearest neighbour has lost.

    A stroke of one pixel falls between the pixels that nearest neighbour looks at. Of a class that
    keeps less than half of the pixels that its area predicts, every unlabelled pixel of the reduced
    map takes the label if the cell of the original that it covers holds one.

    Example:
        >>> thin = np.full((4, 8), 255, np.uint8)
        >>> thin[1] = 2
        >>> keep_labels(thin, np.full((2, 4), 255, np.uint8)).tolist()
        [[2, 2, 2, 2], [255, 255, 255, 255]]
    """
    (rows, columns), (height, width) = label.shape, smaller.shape
    if height >= rows and width >= columns:
        return smaller
    before, after = (
        cv2.calcHist([m], [0], None, [256], [0, 256]).ravel() for m in (label, smaller)
    )
    lost = 2 * after < before * (height * width / (rows * columns))
    lost[IGNORE_INDEX] = False
    if not lost.any():
        return smaller
    row, column = np.nonzero(lost[label])
    pooled = np.full_like(smaller, IGNORE_INDEX)
    pooled[row * height // rows, column * width // columns] = label[row, column]
    return np.where(smaller == IGNORE_INDEX, pooled, smaller)
