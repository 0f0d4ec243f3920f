"""Shortened and dropped scribbles: how much a method depends on their amount.

Both protocols are a pure function of (seed, image, stroke) and nested: whatever is labelled at some
ratio is labelled, with the same class, at every smaller one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.errors import ConfigError
from scribbleseg.functional.skeletons import label_regions, longest_paths, pixel_graph, region_depth
from scribbleseg.functional.strokes import Renderer, Stroke, rasterize
from scribbleseg.functional.synthesis import image_seed
from scribbleseg.options import check_choice, check_number, check_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scribbleseg.functional.skeletons import PixelGraph

__all__ = ["Anchor", "Degradation", "StrokeDrawing", "degrade_drawing", "degrade_scribble"]

Anchor = Literal["random", "center"]
"""What a shortened stroke shrinks towards: a random place on it, or its middle."""

_BORDER_COST = 2.0  # more at the border of a stroke than in it: its path keeps to the middle
_CAP = 0.5  # pixels: half-width of a stroke whose pixels are all at its border
_GROUP = IGNORE_INDEX  # strokes that one map of 8-bit numbers can hold
_PILLOW_MARGIN = 2.0  # pixels by which Pillow's lines may be wider than asked for


@dataclass(frozen=True)
class Degradation:
    """How scribbles are degraded.

    Args:
        shrink: Share r in [0, 1] of each stroke's length that is taken away; 1 leaves a dot.
        drop: Probability r in [0, 1] that a stroke is left out.
        seed: Seed of the whole data set.
        anchor: What strokes shrink towards.

    Raises:
        ConfigError: If an option is out of range.
    """

    shrink: float = 0.0
    drop: float = 0.0
    seed: int = 0
    anchor: Anchor = "random"

    def __post_init__(self) -> None:
        check_number(shrink=self.shrink, drop=self.drop)
        check_whole(0, seed=self.seed)
        check_choice("anchor", self.anchor, get_args(Anchor))
        for name in ("shrink", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name}={getattr(self, name)}: expected a share in [0, 1]; percentages are "
                    "divided by 100"
                )

    @property
    def active(self) -> bool:
        """Whether anything changes."""
        return self.shrink > 0 or self.drop > 0

    def plan(self, image_id: str, strokes: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Which strokes of an image are dropped, and what the others shrink towards.

        The numbers of a stroke do not depend on the ratios, nor on later strokes.

        Args:
            image_id: Stem of the image.
            strokes: Number of strokes N.

        Returns:
            Bool, shape ``(N,)``, and position on the stroke as a share in [0, 1] of its length,
            shape ``(N,)``.
        """
        drawn = np.random.default_rng(image_seed(self.seed, image_id)).random((strokes, 2))
        anchors = drawn[:, 1] if self.anchor == "random" else np.full(strokes, 0.5)
        return drawn[:, 0] < self.drop, anchors


class StrokeDrawing(NamedTuple):
    """Strokes of one image and how they become pixels.

    Attributes:
        strokes: Polylines in drawing order.
        size: Height and width of the image in pixels.
        width: Stroke width in pixels.
        renderer: See :func:`~scribbleseg.functional.strokes.rasterize`.
        coordinate_offset: See :func:`~scribbleseg.functional.strokes.rasterize`.
    """

    strokes: Sequence[Stroke]
    size: tuple[int, int]
    width: float = 3.0
    renderer: Renderer = "distance"
    coordinate_offset: float = 0.0

    def rasterize(self) -> NDArray[np.uint8]:
        """Class ids, uint8, shape ``(H, W)``; 255 = not drawn."""
        return rasterize(
            self.strokes,
            self.size,
            width=self.width,
            renderer=self.renderer,
            coordinate_offset=self.coordinate_offset,
        )


def _sub_polyline(points: NDArray[np.float64], start: float, end: float) -> NDArray[np.float64]:
    """The part of a polyline between two distances from its start; a point if they are equal."""
    if len(points) == 1:
        return points
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
    ends = np.array([start, end]) if end > start else np.array([start])
    cuts = np.stack([np.interp(ends, arc, line) for line in points.T], axis=1)
    inside = points[(arc > start) & (arc < end)]
    return np.concatenate([cuts[:1], inside, cuts[1:]])


def degrade_drawing(
    drawing: StrokeDrawing, degradation: Degradation, *, image_id: str
) -> NDArray[np.uint8]:
    """Pixels of degraded strokes.

    A stroke of length L keeps the part from ``u r L`` to ``L - (1 - u) r L``, with ``r`` the share
    that is taken away and ``u`` its own random number (1/2 for the anchor ``"center"``): a stretch
    of ``(1 - r) L``, which lies within that of every smaller ``r``.

    A pixel on which strokes cross belongs to the last of them in the whole drawing; it is not
    labelled by what lies below when that one is gone, so that no label ever changes.

    Args:
        drawing: The whole drawing.
        degradation: What is taken away.
        image_id: Stem of the image.

    Returns:
        Class ids, uint8, shape ``(H, W)``; 255 = not drawn. Without degradation exactly the
        drawing.
    """
    if not degradation.active:
        return drawing.rasterize()
    remaining = _remaining(drawing.strokes, degradation, image_id)
    result = np.full(drawing.size, IGNORE_INDEX, dtype=np.uint8)
    pillow = drawing.renderer == "pillow"
    # which pixels Pillow paints depends on where a line ends: a wider exact line, cut to what was
    # painted, keeps the sets nested; one stroke at a time, for these overlap where strokes do not
    size = 1 if pillow else _GROUP
    for first in range(0, len(remaining), size):
        group = drawing.strokes[first : first + size]
        # numbers instead of classes: whose stroke is seen at every pixel
        owner = drawing._replace(
            strokes=[Stroke(number, stroke.points) for number, stroke in enumerate(group)]
        ).rasterize()
        left = [
            Stroke(number, stroke.points)
            for number, stroke in enumerate(remaining[first : first + size])
            if stroke is not None
        ]
        kept = drawing._replace(
            strokes=left,
            renderer="distance",
            width=drawing.width + (_PILLOW_MARGIN if pillow else 0.0),
        ).rasterize()
        labels = np.array([*(stroke.label for stroke in group), IGNORE_INDEX], dtype=np.uint8)
        number = np.where(owner == kept, np.minimum(owner, len(group)), len(group))
        np.copyto(result, labels[number], where=owner != IGNORE_INDEX)
    return result


def degrade_scribble(
    scribble: NDArray[np.uint8], degradation: Degradation, *, image_id: str
) -> NDArray[np.uint8]:
    """Degraded label map, where strokes are known as pixels only.

    A stroke is a connected part of one class, pixels that touch at a corner included; strokes are
    numbered by class, then in row order. Its curve is the longest way through its pixels along the
    middle, a stretch of it is kept as :func:`degrade_drawing` says, and so are the pixels of the
    stroke that are no farther from the stretch than half of the stroke's greatest width. Crossing
    strokes of one class are one stroke here: of the branches off its curve little remains. Takes
    O(N log N) for N labelled pixels.

    Args:
        scribble: Class ids, uint8, shape ``(H, W)``; 255 = not drawn.
        degradation: What is taken away.
        image_id: Stem of the image.

    Returns:
        Class ids, uint8, shape ``(H, W)``, a subset of the scribble; the same without degradation.

    Example:
        >>> line = np.full((3, 9), 255, np.uint8)
        >>> line[1] = 0
        >>> int((degrade_scribble(line, Degradation(shrink=1.0), image_id="a") == 0).sum())
        1
    """
    if not degradation.active:
        return scribble
    strokes = label_regions(scribble, connectivity=8)
    dropped, anchors = degradation.plan(image_id, len(strokes.classes) - 1)
    alive = np.concatenate([[False], ~dropped])
    kept = alive[strokes.ids]
    if degradation.shrink > 0 and kept.any():
        kept = _shrink(kept, strokes.ids, degradation.shrink, anchors)
    return np.where(kept, scribble, np.uint8(IGNORE_INDEX))


def _remaining(
    strokes: Sequence[Stroke], degradation: Degradation, image_id: str
) -> list[Stroke | None]:
    dropped, anchors = degradation.plan(image_id, len(strokes))
    remaining: list[Stroke | None] = []
    for stroke, gone, anchor in zip(strokes, dropped, anchors, strict=True):
        points = np.asarray(stroke.points, dtype=np.float64)
        if gone:
            remaining.append(None)
        elif degradation.shrink == 0 or len(points) < 2:
            remaining.append(stroke)
        else:
            length = float(np.hypot(*np.diff(points, axis=0).T).sum())
            start, end = _stretch(length, degradation.shrink, float(anchor))
            remaining.append(Stroke(stroke.label, _sub_polyline(points, start, end)))
    return remaining


def _stretch(length: float, shrink: float, anchor: float) -> tuple[float, float]:
    """Where the kept part begins and ends; exactly the anchor for both if all is taken away."""
    start = anchor * length * shrink
    return start, max(start, length - (1.0 - anchor) * length * shrink) if shrink < 1 else start


def _shrink(
    selected: NDArray[np.bool_],
    ids: NDArray[np.int32],
    shrink: float,
    anchors: NDArray[np.float64],
) -> NDArray[np.bool_]:
    graph = pixel_graph(selected, ids)
    depth = region_depth(ids)[graph.rows, graph.columns]
    radius = np.full(graph.num_parts, _CAP)
    np.maximum.at(radius, graph.parts, depth + _CAP)
    paths = longest_paths(graph.priced(1 + _BORDER_COST * (1 - depth / radius[graph.parts])))
    stretches = []
    for path in paths:
        stroke = ids[graph.rows[path[0]], graph.columns[path[0]]]
        stretches.append(_stretch_nodes(graph, path, shrink, anchors[stroke - 1]))
    far, _ = graph.walk(np.concatenate(stretches), limit=float(radius.max()))
    near = far <= radius[graph.parts]
    kept = np.zeros_like(selected)
    kept[graph.rows[near], graph.columns[near]] = True
    return kept


def _stretch_nodes(
    graph: PixelGraph, path: NDArray[np.int64], shrink: float, anchor: float
) -> NDArray[np.int64]:
    """Nodes of a path that are kept: at least the one nearest to the anchor."""
    steps = np.hypot(np.diff(graph.rows[path]), np.diff(graph.columns[path]))
    arc = np.concatenate([[0.0], np.cumsum(steps)])
    start, end = _stretch(float(arc[-1]), shrink, anchor)
    kept = (arc >= start) & (arc <= end)
    kept[np.argmin(np.abs(arc - anchor * arc[-1]))] = True
    return path[kept]
