"""Scribbles and points made from dense masks, as a person would draw them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from scipy import ndimage

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.functional.skeletons import (
    Regions,
    label_regions,
    longest_paths,
    medial_axis,
    pixel_graph,
    region_depth,
    region_distance,
)
from scribbleseg.functional.strokes import PointStyle, ScribbleStyle, Stroke, covered_pixels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["image_seed", "synthesize_points", "synthesize_scribbles"]

_CORE = 0.5  # of a region's greatest depth: a thin object is never eroded away
_MAX_SMOOTHING = 15.0  # pixels
_SIMPLIFY = 0.4  # pixels by which a drawn line may miss the planned one


class _Plan(NamedTuple):
    """A stroke and the region that it must not leave."""

    stroke: Stroke
    region: int


def image_seed(seed: int, image_id: str) -> list[int]:
    """Seed of one image: the same on every machine, in any order, with any number of workers.

    Example:
        >>> image_seed(0, "a") == image_seed(0, "a") != image_seed(0, "b")
        True
    """
    digest = hashlib.sha256(image_id.encode()).digest()
    return [seed, *np.frombuffer(digest[:16], dtype="<u4").tolist()]


def synthesize_scribbles(
    mask: NDArray[np.uint8],
    style: ScribbleStyle | None = None,
    *,
    seed: int | Sequence[int] = 0,
) -> NDArray[np.uint8]:
    """Scribbles of a dense mask; every drawn pixel has its class in the mask.

    Every connected region of every class gets a stroke. Regions are eroded, which may cut them into
    parts; regions with little room less so, so that thin objects remain. Each part's stroke follows
    the longest path along its medial axis, made smooth, and shifted by a slow random wobble as far
    as there is room; a random stretch of it is kept. A round part gets a line through its middle,
    one in which there is no way to go a dot. A stroke is cut off where it would leave its region,
    so that no boundary is crossed, not even within a class. It depends on the shape of its part,
    the place and the seed alone. Takes O(N log N) for N pixels.

    Args:
        mask: Class ids, uint8, shape ``(H, W)``; 255 = void, never drawn on.
        style: How to draw; by default :class:`ScribbleStyle` as it is.
        seed: Seed of this image, see :func:`image_seed`.

    Returns:
        Class ids, uint8, shape ``(H, W)``; 255 = not drawn.

    Example:
        >>> mask = np.zeros((32, 64), np.uint8)
        >>> mask[:, 40:] = 1
        >>> drawn = synthesize_scribbles(mask)
        >>> bool(((drawn == mask) | (drawn == 255)).all()), sorted(set(drawn[drawn < 255].tolist()))
        (True, [0, 1])
    """
    style = ScribbleStyle() if style is None else style
    regions, plans = _plan_strokes(mask, style, seed)
    return _draw(plans, regions, style.width)


def synthesize_points(
    mask: NDArray[np.uint8],
    style: PointStyle | None = None,
    *,
    seed: int | Sequence[int] = 0,
) -> NDArray[np.uint8]:
    """Discs at random places inside the regions of a dense mask.

    A disc lies inside its region as a whole where there is room, and is cut off where not.

    Args:
        mask: Class ids, uint8, shape ``(H, W)``; 255 = void.
        style: How many points and which; by default :class:`PointStyle` as it is.
        seed: Seed of this image, see :func:`image_seed`.

    Returns:
        Class ids, uint8, shape ``(H, W)``; 255 = not drawn.

    Example:
        >>> mask = np.repeat(np.array([[0, 1]], np.uint8), 10, axis=1).repeat(10, axis=0)
        >>> int((synthesize_points(mask, PointStyle(radius=0)) != 255).sum())
        2
    """
    style = PointStyle() if style is None else style
    regions = label_regions(mask)
    depth = region_depth(regions.ids)
    wanted = _wanted(regions, style.min_area, style.skip)
    least = np.minimum(np.float32(style.radius), _CORE * _deepest(regions, depth))
    limit = np.where(wanted, least, np.inf).astype(np.float32)
    places = np.flatnonzero(depth >= limit.take(regions.ids))
    owners = regions.ids.ravel()[places]
    groups = regions.classes[owners] if style.per == "class" else owners
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order].astype(np.int64), prepend=-1))
    firsts = regions.first_pixels
    plans = []
    for members in np.split(places[order], starts)[1:]:
        region = int(regions.ids.flat[members[0]])
        label = int(regions.classes[region])
        key = (label,) if style.per == "class" else (label, int(firsts[region]))
        rng = _generator(seed, *key)
        for place in rng.choice(members, size=min(style.count, len(members)), replace=False):
            row, column = divmod(int(place), mask.shape[1])
            dot = Stroke(label, [(column, row)])
            plans.append(_Plan(dot, int(regions.ids[row, column])))
    return _draw(plans, regions, max(2 * style.radius, 0.5))


def _plan_strokes(
    mask: NDArray[np.uint8], style: ScribbleStyle, seed: int | Sequence[int]
) -> tuple[Regions, list[_Plan]]:
    regions = label_regions(mask)
    depth, nearest = region_distance(regions.ids)
    wanted = _wanted(regions, style.min_area, style.skip)
    least = np.minimum(np.float32(style.erosion), _CORE * _deepest(regions, depth))
    kept = depth >= np.where(wanted, least, np.inf).astype(np.float32).take(regions.ids)
    parts = label_regions(np.where(kept, mask, np.uint8(IGNORE_INDEX)))
    firsts, areas = parts.first_pixels, parts.areas
    owners = regions.ids.ravel()[firsts]
    chosen = _choose(parts, owners, style)

    axis = medial_axis(regions.ids, depth, nearest) & (parts.ids > 0)
    drawable = np.zeros(len(areas), dtype=bool)
    drawable[chosen] = True
    # nowhere wider than two pixels: the part is its own axis
    without = drawable & (np.bincount(parts.ids[axis], minlength=len(areas)) == 0)
    selected = axis & drawable.take(parts.ids)
    if without.any():
        selected |= without.take(parts.ids)
    graph = pixel_graph(selected, parts.ids)
    paths: dict[int, NDArray[np.int64]] = {}
    for path in longest_paths(graph):
        part = int(parts.ids[graph.rows[path[0]], graph.columns[path[0]]])
        if part not in paths or len(path) > len(paths[part]):
            paths[part] = path
    plans = []
    for part in chosen:
        rows, columns = graph.rows[paths[part]], graph.columns[paths[part]]
        label = int(parts.classes[part])
        points = _hand_drawn(
            np.stack([columns, rows], axis=1).astype(np.float64),
            depth[rows, columns].astype(np.float64),
            _generator(seed, label, int(firsts[part])),
            style,
        )
        plans.append(_Plan(Stroke(label, points), int(owners[part])))
    return regions, plans


def _generator(seed: int | Sequence[int], *key: int) -> np.random.Generator:
    numbers = [seed] if isinstance(seed, int) else list(seed)
    return np.random.default_rng([*numbers, *key])


def _wanted(regions: Regions, min_area: int, skip: Sequence[int]) -> NDArray[np.bool_]:
    wanted = regions.areas >= max(min_area, 1)
    wanted[0] = False
    wanted &= ~np.isin(regions.classes, list(skip))
    return wanted


def _deepest(regions: Regions, depth: NDArray[np.float32]) -> NDArray[np.float32]:
    """Greatest depth of every region, shape ``(R + 1,)``."""
    deepest = np.zeros(len(regions.classes), dtype=np.float32)
    np.maximum.at(deepest, regions.ids.ravel(), depth.ravel())
    return deepest


def _choose(parts: Regions, owners: NDArray[np.int32], style: ScribbleStyle) -> list[int]:
    """Parts to draw: the largest of each region, and others that are large enough themselves."""
    areas = parts.areas
    order = np.lexsort((np.arange(len(areas)), -areas, parts.classes))
    order = order[order > 0]
    _, first = np.unique(owners[order], return_index=True)
    large = areas[order] >= style.min_area
    large[first] = True
    order = order[large]
    if style.max_strokes is not None and len(order):
        starts = np.searchsorted(parts.classes[order], parts.classes[order])
        order = order[np.arange(len(order)) - starts < style.max_strokes]
    return [int(part) for part in order]


def _draw(plans: list[_Plan], regions: Regions, width: float) -> NDArray[np.uint8]:
    """Every stroke within its own region: strokes can neither leave nor overwrite each other's."""
    drawn: NDArray[np.uint8] = np.full(regions.ids.shape, IGNORE_INDEX, dtype=np.uint8)
    labels = np.array([plan.stroke.label for plan in plans], dtype=np.uint8)
    own = np.array([plan.region for plan in plans], dtype=np.int32)
    lines = [np.asarray(plan.stroke.points, dtype=np.float64) for plan in plans]
    size = (regions.ids.shape[0], regions.ids.shape[1])
    for pixels, strokes in covered_pixels(lines, size, width=width):
        inside = regions.ids.ravel()[pixels] == own[strokes]
        drawn.flat[pixels[inside]] = labels[strokes[inside]]
    return drawn


def _hand_drawn(
    path: NDArray[np.float64],
    room: NDArray[np.float64],
    rng: np.random.Generator,
    style: ScribbleStyle,
) -> NDArray[np.float64]:
    """A random stretch of a path of pixels, made smooth and shifted by a slow wobble.

    In a round region, whose axis is little more than a point, a line through the largest disc in
    it takes the place of the path. Where there is no way to go, one point remains. ``path`` holds
    neighbouring pixels as (x, y), ``room`` their distances to the border of the region.
    """
    path, room = _chord_if_round(path, room, rng, style.width)
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    length = float(arc[-1])
    start = rng.random() * (1 - style.length_ratio) * length
    if length * style.length_ratio < style.width:
        return np.asarray(path[np.argmax(room)][None])
    typical = float(np.median(room))
    smooth = ndimage.gaussian_filter1d(
        path, float(np.clip(typical / 2, 1.0, _MAX_SMOOTHING)), axis=0, mode="nearest"
    )
    # one change of direction about every four half-widths of the region
    knots = max(4.0 * typical, 16.0)
    coarse = rng.normal(size=(int(length / knots) + 3, 2))
    positions = np.arange(len(coarse)) * knots
    wobble = np.stack([np.interp(arc, positions, line) for line in coarse.T], axis=1)
    wobble = ndimage.gaussian_filter1d(wobble, knots / 3, axis=0, mode="nearest")
    shift = smooth + wobble * style.jitter * room[:, None] - path
    # a stroke centred anywhere in this disc stays within the region
    limit = np.maximum(room - style.width / 2 + 0.5, 0.0)
    shift *= np.minimum(1.0, limit / np.maximum(np.hypot(*shift.T), 1e-9))[:, None]
    inside = (arc >= start) & (arc <= start + style.length_ratio * length)
    line = (path + shift)[inside].astype(np.float32)
    vertices = cv2.approxPolyDP(line[:, None], _SIMPLIFY, closed=False)[:, 0]
    return np.asarray(vertices, dtype=np.float64)


def _chord_if_round(
    path: NDArray[np.float64], room: NDArray[np.float64], rng: np.random.Generator, width: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The path and its room, or those of a line through the largest disc of a round region."""
    deepest = int(np.argmax(room))
    reach = room[deepest] - width / 2
    if len(path) > 2 * reach:
        return path, room
    angle = rng.uniform(0.0, np.pi)
    along = np.arange(-np.floor(reach), np.floor(reach) + 1)
    line = path[deepest] + along[:, None] * np.array([np.cos(angle), np.sin(angle)])
    return line, room[deepest] - np.abs(along)
