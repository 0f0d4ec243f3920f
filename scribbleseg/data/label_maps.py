"""Maps of whole numbers that go with an image: never interpolated, each with its own padding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import cv2
import numpy as np

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
