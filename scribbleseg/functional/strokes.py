"""Strokes to pixels: the only rasteriser, so that one width means one width everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from scribbleseg.constants import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Renderer", "Stroke", "rasterize"]

Renderer = Literal["distance", "pillow"]

# A point exactly width/2 away belongs to the stroke in spite of rounding.
_TOLERANCE = 1e-9


class Stroke(NamedTuple):
    """One open polyline of one class.

    Attributes:
        label: Class id, 0 to 254.
        points: Vertices as (x, y) in pixels, float, shape ``(n, 2)``; integers are pixel centres.
            One point is a dot.
    """

    label: int
    points: ArrayLike


def rasterize(
    strokes: Iterable[Stroke],
    size: tuple[int, int],
    *,
    width: float = 3.0,
    renderer: Renderer = "distance",
    coordinate_offset: float = 0.0,
) -> NDArray[np.uint8]:
    """Draw strokes in their order; a later stroke overwrites an earlier one.

    Pixel (row i, column j) belongs to a stroke if its distance from (x=j, y=i) to the polyline is
    at most ``width / 2``. Parts outside the image are clipped.

    Args:
        strokes: Polylines in drawing order.
        size: Height and width of the image in pixels.
        width: Stroke width in pixels, positive.
        renderer: ``"distance"`` is the definition above; ``"pillow"`` draws Pillow lines with discs
            at the vertices, as the public code of gated CRF and tree energy losses does.
        coordinate_offset: Subtracted from both coordinates: 0 if pixel centres are integers, 0.5 if
            they are at .5, 1 for tools that count from 1.

    Returns:
        Class ids, uint8, shape ``(H, W)``; 255 = not drawn.

    Raises:
        ValueError: If a size or the width is not positive, a label is outside 0..254, or points are
            not finite or not of shape ``(n, 2)`` with n ≥ 1.

    Example:
        >>> rasterize([Stroke(1, [(1, 1), (3, 1)])], (3, 5), width=1.0).tolist()[1]
        [255, 1, 1, 1, 255]
    """
    height, columns = size
    if height < 1 or columns < 1:
        raise ValueError(f"size must be positive (height, width), got {size}")
    if not width > 0:
        raise ValueError(f"width must be positive (pixels), got {width}")
    checked = [_checked(stroke, coordinate_offset) for stroke in strokes]
    if renderer == "pillow":
        return _draw_with_pillow(checked, height, columns, width)
    if renderer != "distance":
        raise ValueError(f'renderer must be "distance" or "pillow", got {renderer!r}')
    canvas = np.full((height, columns), IGNORE_INDEX, dtype=np.uint8)
    for label, points in checked:
        starts, ends = (points, points) if len(points) == 1 else (points[:-1], points[1:])
        for start, end in zip(starts, ends, strict=True):
            _draw_segment(canvas, start, end, label, width / 2)
    return canvas


def _checked(stroke: Stroke, offset: float) -> tuple[int, NDArray[np.float64]]:
    points = np.asarray(stroke.points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"points must have shape (n, 2) with n >= 1, got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("points must be finite; a coordinate is NaN or infinite")
    if not 0 <= stroke.label < IGNORE_INDEX:
        raise ValueError(f"label must be in 0..254, got {stroke.label}")
    return int(stroke.label), points - offset


def _draw_segment(
    canvas: NDArray[np.uint8],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    label: int,
    radius: float,
) -> None:
    """Paint the pixels of the segment's bounding box that are at most ``radius`` away from it."""
    rows, columns = canvas.shape
    low = np.ceil(np.minimum(start, end) - radius - _TOLERANCE)
    high = np.floor(np.maximum(start, end) + radius + _TOLERANCE)
    left, top = int(max(low[0], 0)), int(max(low[1], 0))
    right, bottom = int(min(high[0], columns - 1)), int(min(high[1], rows - 1))
    if left > right or top > bottom:
        return
    x = np.arange(left, right + 1) - start[0]
    y = (np.arange(top, bottom + 1) - start[1])[:, None]
    dx, dy = end - start
    length = dx * dx + dy * dy
    # nearest point of the segment, as a fraction of its length
    along = np.clip((x * dx + y * dy) / length, 0.0, 1.0) if length > 0 else np.zeros(1)
    distance = (x - along * dx) ** 2 + (y - along * dy) ** 2
    box = canvas[top : bottom + 1, left : right + 1]
    box[distance <= radius * radius + _TOLERANCE] = label


def _draw_with_pillow(
    strokes: list[tuple[int, NDArray[np.float64]]], rows: int, columns: int, width: float
) -> NDArray[np.uint8]:
    image = Image.new("L", (columns, rows), IGNORE_INDEX)
    draw = ImageDraw.Draw(image)
    half = width / 2
    for label, points in strokes:
        vertices = [(float(x), float(y)) for x, y in points]
        if len(vertices) > 1:
            draw.line(vertices, fill=label, width=max(1, round(width)), joint="curve")
        for x, y in vertices:
            draw.ellipse((x - half, y - half, x + half, y + half), fill=label)
    return np.array(image, dtype=np.uint8)
