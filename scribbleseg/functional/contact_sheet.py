"""One picture of many predictions, to judge a run at a glance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from scribbleseg.functional.images import compose_panel, overlay_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["contact_sheet", "thumbnails"]

_HEIGHT = 240  # pixels of a row


def thumbnails(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    palette: NDArray[np.uint8],
    *,
    background: int | None = None,
) -> list[NDArray[np.uint8]]:
    """Small copies of an image and of its labels drawn over it.

    Args:
        image: RGB, uint8, shape ``(H, W, 3)``.
        labels: Ids, uint8, shape ``(H, W)``.
        palette: 256 colours.
        background: Id that is not painted.

    Returns:
        Two RGB pictures, uint8, shape ``(240, w, 3)``; white below images wider than 2:1, so that
        one panorama does not widen the whole sheet.

    Example:
        >>> image = np.zeros((10, 80, 3), np.uint8)
        >>> [t.shape for t in thumbnails(image, image[..., 0], np.zeros((256, 3), np.uint8))]
        [(240, 480, 3), (240, 480, 3)]
    """
    height, width = image.shape[:2]
    scale = min(_HEIGHT / height, 2 * _HEIGHT / width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST
    small = np.asarray(cv2.resize(image, size, interpolation=kind), dtype=np.uint8)
    ids = np.asarray(cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST), dtype=np.uint8)
    drawn = overlay_labels(small, ids, palette, background=background)
    margin = ((0, _HEIGHT - size[1]), (0, 0), (0, 0))
    return [np.pad(tile, margin, constant_values=255) for tile in (small, drawn)]


def contact_sheet(
    rows: Sequence[Sequence[NDArray[np.uint8]]], names: Sequence[str]
) -> NDArray[np.uint8]:
    """Rows of :func:`thumbnails` as one RGB picture, each with its name."""
    return compose_panel(rows, ("image", "prediction"), tile_height=_HEIGHT, captions=names)
