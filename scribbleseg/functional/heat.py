"""Maps of numbers as colours over an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from scribbleseg.functional.intensity import rgb_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["overlay_heat"]


def overlay_heat(
    image: NDArray[np.uint8], values: NDArray[np.floating[Any]], *, alpha: float = 0.6
) -> NDArray[np.uint8]:
    """Blend a map into an image: dark blue for 0, through green and yellow, to dark red for 1.

    Args:
        image: uint8, shape ``(H, W, K)``; only its brightness is shown.
        values: Clipped to [0, 1], float, shape ``(H, W)``.
        alpha: Opacity in [0, 1].

    Returns:
        RGB picture, uint8, shape ``(H, W, 3)``.

    Raises:
        ValueError: If the sizes differ.

    Example:
        >>> picture = overlay_heat(np.zeros((1, 2, 3), np.uint8), np.array([[0.0, 0.8]]), alpha=1)
        >>> [int(np.argmax(pixel)) for pixel in picture[0]]  # blue, red
        [2, 0]
    """
    if values.shape != image.shape[:2]:
        raise ValueError(
            f"image {image.shape} and values {values.shape} differ in size: resize the map first"
        )
    levels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_TURBO)[..., ::-1]
    grey = rgb_view(image).mean(axis=2, keepdims=True)
    return np.asarray(np.rint((1 - alpha) * grey + alpha * colours), dtype=np.uint8)
