"""Strokes to pixels, the only rasteriser; and how synthetic strokes and points look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np
from PIL import Image, ImageDraw

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.errors import ConfigError
from scribbleseg.options import check_choice, check_number, check_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "PointStyle",
    "PointsPer",
    "Renderer",
    "ScribbleStyle",
    "Stroke",
    "covered_pixels",
    "rasterize",
]

Renderer = Literal["distance", "pillow"]

# A point exactly width/2 away belongs to the stroke in spite of rounding.
_TOLERANCE = 1e-9
_PIECE = 64.0  # pixels of a segment that share a box
_BOX_PIXELS = 1 << 20  # measured at a time
PointsPer = Literal["class", "component"]
"""What gets the asked number of points: every class of an image, or every object."""


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
    labels = np.array([label for label, _ in checked], dtype=np.uint8)
    for pixels, owners in covered_pixels([line for _, line in checked], size, width=width):
        canvas.flat[pixels] = labels[owners]  # of equal pixels the last assignment stays
    return canvas


def covered_pixels(
    lines: Sequence[NDArray[np.float64]], size: tuple[int, int], *, width: float
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Pixels at most ``width / 2`` away from polylines.

    Segments are cut into pieces of at most 64 pixels, whose bounding boxes are laid end to end and
    measured together, about ``2 ** 20`` pixels at a time: time O(length x width), memory bounded.

    Args:
        lines: Vertices as (x, y) in pixels, at least one each, shape ``(n, 2)``.
        size: Height and width of the image in pixels.
        width: Positive, pixels.

    Yields:
        Positions of pixels in row order, and the line that each belongs to; in the order of the
        lines, and repeated where several segments cover a pixel.

    Example:
        >>> [(pixels, line)] = covered_pixels([np.array([[1.0, 0.0]])], (1, 3), width=1.0)
        >>> pixels.tolist(), line.tolist()
        ([1], [0])
    """
    if not lines:
        return
    starts = np.concatenate([line if len(line) == 1 else line[:-1] for line in lines])
    ends = np.concatenate([line if len(line) == 1 else line[1:] for line in lines])
    owners = np.repeat(np.arange(len(lines)), [max(len(line) - 1, 1) for line in lines])
    segment, low, boxes = _pieces(starts, ends, size, width / 2 + _TOLERANCE)
    total = np.cumsum(boxes.prod(axis=1))
    begin = 0
    while begin < len(segment):
        before = total[begin - 1] if begin else 0
        stop = max(int(np.searchsorted(total, before + _BOX_PIXELS, side="right")), begin + 1)
        own = segment[begin:stop]
        yield _measured(
            *(starts[own], ends[own], owners[own], low[begin:stop], boxes[begin:stop]),
            *(size[1], width / 2),
        )
        begin = stop


def _pieces(
    starts: NDArray[np.float64], ends: NDArray[np.float64], size: tuple[int, int], reach: float
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Boxes around short pieces of segments: which segment, first corner and size as x, y.

    Pixels are measured against whole segments; a box of a piece has room for rounding.
    """
    limit = np.array([size[1] - 1, size[0] - 1])
    step = ends - starts
    with np.errstate(divide="ignore", invalid="ignore"):
        borders = np.stack([-reach - 1 - starts, limit + reach + 1 - starts]) / step
    # the part of each segment that the image can show, as fractions; 0/0 means all of it
    length = np.hypot(*step.T)
    long = length > _PIECE
    first = np.where(long, np.fmax(0.0, np.fmin(*borders)).max(axis=1), 0.0)
    last = np.where(long, np.fmin(1.0, np.fmax(*borders)).min(axis=1), 1.0)
    length *= np.maximum(last - first, 0.0)
    number = np.where(last >= first, np.maximum(np.ceil(length / _PIECE), 1), 0).astype(np.intp)
    segment = np.repeat(np.arange(len(starts)), number)
    place = np.arange(len(segment)) - np.repeat(np.cumsum(number) - number, number)
    share = (last - first)[segment] / number[segment]
    one, other = (
        starts[segment] + (first[segment] + share * (place + shift))[:, None] * step[segment]
        for shift in (0, 1)
    )
    around = reach + 0.5 * long[segment, None]
    # clipped as floats: a vertex may lie farther away than integers reach
    low = np.clip(np.ceil(np.minimum(one, other) - around), 0, limit + 1).astype(np.intp)
    high = np.clip(np.floor(np.maximum(one, other) + around), -1, limit).astype(np.intp)
    return segment, low, np.maximum(high - low + 1, 0)


def _measured(
    starts: NDArray[np.float64],
    ends: NDArray[np.float64],
    owners: NDArray[np.intp],
    low: NDArray[np.intp],
    boxes: NDArray[np.intp],
    columns: int,
    radius: float,
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pixels of the pieces' boxes that are near enough to the pieces' segments."""
    areas = boxes.prod(axis=1)
    segment = np.repeat(np.arange(len(areas)), areas)
    inner = np.arange(len(segment)) - np.repeat(np.cumsum(areas) - areas, areas)
    down, right = np.divmod(inner, boxes[segment, 0])
    column, row = low[segment, 0] + right, low[segment, 1] + down
    x, y = column - starts[segment, 0], row - starts[segment, 1]
    step = ends - starts
    length = (step * step).sum(axis=1)
    scale = np.divide(1.0, length, out=np.zeros_like(length), where=length > 0)
    dx, dy = step[segment].T
    # nearest point of the segment, as a fraction of its length
    along = np.clip((x * dx + y * dy) * scale[segment], 0.0, 1.0)
    near = (x - along * dx) ** 2 + (y - along * dy) ** 2 <= radius * radius + _TOLERANCE
    return (row * columns + column)[near], owners[segment][near]


def _checked(stroke: Stroke, offset: float) -> tuple[int, NDArray[np.float64]]:
    points = np.asarray(stroke.points, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"points must have shape (n, 2) with n >= 1, got {points.shape}")
    if not np.isfinite(points).all():
        raise ValueError("points must be finite; a coordinate is NaN or infinite")
    if not 0 <= stroke.label < IGNORE_INDEX:
        raise ValueError(f"label must be in 0..254, got {stroke.label}")
    return int(stroke.label), points - offset


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


@dataclass(frozen=True)
class ScribbleStyle:
    """How scribbles are drawn.

    Args:
        width: Stroke width in pixels.
        length_ratio: Share in (0, 1] of each region's longest path that is drawn.
        erosion: Distance in pixels that strokes keep from boundaries where there is room.
        min_area: Regions of fewer pixels get nothing.
        jitter: How far a hand strays from the middle, as a share in [0, 1] of the room there.
        max_strokes: Strokes per class, the largest parts first; by default no limit.
        skip: Classes that get none, such as the background.

    Raises:
        ConfigError: If an option is out of range.
    """

    width: float = 3.0
    length_ratio: float = 0.7
    erosion: float = 3.0
    min_area: int = 100
    jitter: float = 0.3
    max_strokes: int | None = None
    skip: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_number(
            width=self.width,
            length_ratio=self.length_ratio,
            erosion=self.erosion,
            jitter=self.jitter,
        )
        check_whole(0, min_area=self.min_area)
        if self.max_strokes is not None:
            check_whole(1, max_strokes=self.max_strokes)
        if self.width <= 0:
            raise ConfigError(f"width={self.width}: expected a positive number of pixels")
        if not 0 < self.length_ratio <= 1:
            raise ConfigError(f"length_ratio={self.length_ratio}: expected a share in (0, 1]")
        if self.erosion < 0:
            raise ConfigError(f"erosion={self.erosion}: expected at least 0 pixels")
        if not 0 <= self.jitter <= 1:
            raise ConfigError(
                f"jitter={self.jitter}: expected a share in [0, 1]; 0 draws without wobble"
            )


@dataclass(frozen=True)
class PointStyle:
    """How points are placed.

    Args:
        count: Points per class or region, at different pixels.
        radius: Radius of the discs in pixels, at least 0; 0 labels one pixel.
        per: Whether each class or each connected region gets ``count`` points.
        min_area: Regions of fewer pixels get none.
        skip: Classes that get none.

    Raises:
        ConfigError: If an option is out of range.
    """

    count: int = 1
    radius: float = 3.0
    per: PointsPer = "class"
    min_area: int = 100
    skip: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_whole(1, count=self.count)
        check_whole(0, min_area=self.min_area)
        check_number(radius=self.radius)
        check_choice("per", self.per, get_args(PointsPer))
        if self.radius < 0:
            raise ConfigError(f"radius={self.radius}: expected at least 0 pixels")
