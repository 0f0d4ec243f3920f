"""Connected regions of label maps, their medial axes, and longest paths through pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from scipy.sparse import coo_matrix, csgraph

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.functional.distance import differs_from_neighbours

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

__all__ = [
    "PixelGraph",
    "Regions",
    "label_regions",
    "longest_paths",
    "medial_axis",
    "pixel_graph",
    "region_depth",
    "region_distance",
]

# Border pixels this far apart, in pixels and in distances to the border, make an axis; less is due
# to the grid, or a branch into a blunt corner. A line of three pixels has 2 at a distance of 1.
_SPREAD, _SPREAD_PER_DISTANCE = 1.0, 0.8
_STEPS = ((0, 1), (1, -1), (1, 0), (1, 1))  # every pair of neighbours once


def medial_axis(
    index: NDArray[np.int32], distance: NDArray[np.float32], nearest: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """Pixels between two borders of their region: lines about one pixel wide.

    A pair of neighbours lies on the axis if their nearest border pixels are farther apart than the
    grid alone explains; the one closer to the bisector is taken (integer medial axis, Hesselink &
    Roerdink, 2008). Every pixel is a border pixel where a region is one or two pixels wide: there
    the axis may be empty. Linear in the number of pixels, for all regions at once.

    Args:
        index: Region of every pixel, int32, shape ``(H, W)``.
        distance: See :func:`~scribbleseg.functional.skeletons.region_distance`.
        nearest: See :func:`~scribbleseg.functional.skeletons.region_distance`.

    Returns:
        Bool, shape ``(H, W)``.

    Example:
        >>> index = np.ones((5, 9), np.int32)
        >>> np.flatnonzero(medial_axis(index, *region_distance(index))[:, 4]).tolist()
        [2]
    """
    axis = np.zeros(index.size, dtype=bool)
    reach = (_SPREAD + _SPREAD_PER_DISTANCE * distance) ** 2
    width = index.shape[1]
    for one, other, step in (
        (np.s_[:-1], np.s_[1:], (1, 0)),
        (np.s_[:, :-1], np.s_[:, 1:], (0, 1)),
    ):
        down, right = (line[one] - line[other] for line in nearest)
        found = down * down + right * right > np.maximum(reach[one], reach[other])
        found &= index[one] == index[other]
        # few pixels are left: positions in a flat array are gathered in a tenth of the time
        rows, columns = np.divmod(np.flatnonzero(found), found.shape[1])
        here = rows * width + columns
        there = here + step[0] * width + step[1]
        side = np.zeros(len(here), dtype=np.int64)
        for line, place, shift in zip(nearest, (rows, columns), step, strict=True):
            first, second = line.ravel()[here], line.ravel()[there]
            side += (first - second) * (first + second - 2 * place - shift)
        # positive: the first of the two is at least as close to the bisector
        axis[np.where(side < 0, there, here)] = True
    return axis.reshape(index.shape)


class PixelGraph(NamedTuple):
    """Pixels as nodes, neighbours of the same region (also at a corner) as edges.

    Attributes:
        rows: Row of every node, shape ``(N,)``.
        columns: Column of every node, shape ``(N,)``.
        edges: Cost of every edge, shape ``(N, N)``; each edge is stored once.
        parts: Connected part of every node, 0..P-1, shape ``(N,)``.
        num_parts: Number of parts P.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    edges: csr_matrix
    parts: NDArray[np.int32]
    num_parts: int

    def priced(self, prices: NDArray[np.floating]) -> PixelGraph:
        """The same graph with another cost.

        Args:
            prices: Cost per pixel of length at every node, positive, shape ``(N,)``; the mean of
                two nodes counts for the way between them.
        """
        starts = np.repeat(np.arange(len(self.rows)), np.diff(self.edges.indptr))
        edges = self.edges.copy()
        edges.data *= (prices[starts] + prices[edges.indices]) / 2
        return self._replace(edges=edges)

    def walk(
        self, starts: NDArray[np.integer], *, limit: float = np.inf
    ) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        """Cost of the cheapest way from any of the nodes ``starts``, and the node before.

        Args:
            starts: Nodes, at least one.
            limit: Nodes that cost more count as out of reach: infinite cost.

        Returns:
            Cost, shape ``(N,)``, and the previous node on the way, negative at the start.
        """
        cost, before, _ = csgraph.dijkstra(
            self.edges,
            directed=False,
            indices=starts,
            min_only=True,
            return_predecessors=True,
            limit=limit,
        )
        return cost, before


def pixel_graph(selected: NDArray[np.bool_], index: NDArray[np.int32]) -> PixelGraph:
    """Graph of the selected pixels.

    Args:
        selected: Which pixels are nodes, bool, shape ``(H, W)``.
        index: Region of every pixel; regions are not connected with each other.

    Returns:
        The graph; nodes are in row order, and the cost of an edge is its length in pixels.
    """
    rows, columns = np.nonzero(selected)
    nodes = len(rows)
    # a margin spares the tests for the edge of the image
    number = np.full((index.shape[0] + 1, index.shape[1] + 2), -1, dtype=np.int32)
    number[rows, columns + 1] = np.arange(nodes, dtype=np.int32)
    region = index[rows, columns]
    starts, ends, weights = [], [], []
    for down, right in _STEPS:
        neighbour = number[rows + down, columns + 1 + right]
        start = np.flatnonzero(neighbour >= 0)
        end = neighbour[start]
        same = region[start] == region[end]
        start, end = start[same], end[same]
        starts.append(start)
        ends.append(end)
        length = 1.0 if 0 in (down, right) else np.sqrt(2.0)
        weights.append(np.full(len(start), length))
    edges = coo_matrix(
        (np.concatenate(weights), (np.concatenate(starts), np.concatenate(ends))),
        shape=(nodes, nodes),
    ).tocsr()
    count, parts = csgraph.connected_components(edges, directed=False)
    return PixelGraph(rows, columns, edges, parts, count)


def longest_paths(graph: PixelGraph) -> list[NDArray[np.int64]]:
    """One path through every connected part, between two nodes that are far from each other.

    The far ends are found by two sweeps: exact where a part has no loops, nearly so elsewhere.
    Takes O(N log N) for all parts together.

    Args:
        graph: Pixels and costs.

    Returns:
        Nodes of each part's path in their order, at least one each.

    Example:
        >>> selected = np.array([[1, 1, 1, 1], [0, 1, 0, 0]], dtype=bool)
        >>> graph = pixel_graph(selected, selected.astype(np.int32))
        >>> graph.columns[longest_paths(graph)[0]].tolist()
        [3, 2, 1, 0]
    """
    if graph.num_parts == 0:
        return []
    cost, _ = graph.walk(_farthest(graph, np.zeros(len(graph.rows))))
    cost, before = graph.walk(_farthest(graph, cost))
    ends = _farthest(graph, cost)
    # all nodes before the ends: every round doubles the number of steps that are taken back
    on_path = np.zeros(len(cost), dtype=bool)
    on_path[ends] = True
    back = np.where(before < 0, np.arange(len(cost)), before)
    while True:
        reached = back[on_path]
        if on_path[reached].all():
            break
        on_path[reached] = True
        back = back[back]
    nodes = np.flatnonzero(on_path)
    nodes = nodes[np.lexsort((cost[nodes], graph.parts[nodes]))]
    stops = np.cumsum(np.bincount(graph.parts[nodes], minlength=graph.num_parts))[:-1]
    return np.split(nodes, stops)


def _farthest(graph: PixelGraph, cost: NDArray[np.float64]) -> NDArray[np.int64]:
    """The node of highest cost in every part; the first of equals."""
    order = np.lexsort((-np.arange(len(cost)), cost, graph.parts))
    stops = np.cumsum(np.bincount(graph.parts, minlength=graph.num_parts))
    return order[stops - 1]


class Regions(NamedTuple):
    """Connected parts of a label map.

    Attributes:
        ids: Region of every pixel, 1..R, 0 = none; int32, shape ``(H, W)``.
        classes: Class of every region, uint8, shape ``(R + 1,)``; 255 for region 0.
        areas: Pixels of every region, int64, shape ``(R + 1,)``.
        first_pixels: Position of every region's first pixel in row order, int64, shape
            ``(R + 1,)``; 0 for region 0 if every pixel has a region.
    """

    ids: NDArray[np.int32]
    classes: NDArray[np.uint8]
    areas: NDArray[np.int64]
    first_pixels: NDArray[np.int64]


def label_regions(labels: NDArray[np.uint8], *, connectivity: int = 4) -> Regions:
    """Number the connected parts of every class, all classes at once.

    Runs of equal labels within a row are the nodes of a graph, those that touch in neighbouring
    rows its edges. Takes O(N) for N pixels.

    Args:
        labels: Ids, uint8, shape ``(H, W)``; 255 belongs to no region.
        connectivity: 4, or 8 to connect pixels that touch at a corner.

    Returns:
        Regions, ordered by class and then by their first pixel.

    Example:
        >>> label_regions(np.array([[1, 0, 1]], dtype=np.uint8)).ids.tolist()
        [[2, 1, 3]]
    """
    begins = np.ones(labels.shape, dtype=bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=begins[:, 1:])
    run = np.cumsum(begins, dtype=np.int32).reshape(labels.shape) - 1
    first = np.flatnonzero(begins)
    lengths = np.diff(first, append=labels.size)
    upper, lower = [], []
    pairs: list[tuple[tuple[slice, slice], tuple[slice, slice]]]
    pairs = [(np.s_[:-1, :], np.s_[1:, :])]
    if connectivity == 8:
        pairs += [(np.s_[:-1, :-1], np.s_[1:, 1:]), (np.s_[:-1, 1:], np.s_[1:, :-1])]
    for above, below in pairs:
        # two runs meet first where one of them begins: one edge instead of one per pixel
        met = (labels[above] == labels[below]) & (begins[above] | begins[below])
        upper.append(run[above][met])
        lower.append(run[below][met])
    ends = (np.concatenate(upper), np.concatenate(lower))
    touching = coo_matrix((np.ones(len(ends[0]), np.int8), ends), shape=(len(first), len(first)))
    count, part = csgraph.connected_components(touching, directed=False)
    leader = np.zeros(count, dtype=np.int64)
    leader[part[::-1]] = np.arange(len(first))[::-1]  # the last assignment stays: the first run
    classes = labels.ravel()[first[leader]]
    order = np.lexsort((leader, classes))
    order = order[classes[order] != IGNORE_INDEX]
    number = np.zeros(count, dtype=np.int32)
    number[order] = np.arange(1, len(order) + 1, dtype=np.int32)
    owner = number[part]
    nowhere = np.flatnonzero(owner == 0)[:1]
    return Regions(
        np.repeat(owner, lengths).reshape(labels.shape),
        np.concatenate([[IGNORE_INDEX], classes[order]]).astype(np.uint8),
        np.bincount(owner, lengths, minlength=len(order) + 1).astype(np.int64),
        np.concatenate([first[nowhere] if len(nowhere) else [0], first[leader[order]]]),
    )


def region_distance(
    index: NDArray[np.int32],
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Distance of every pixel to the border pixels of its region, and which of them is nearest.

    Border pixels have a neighbour of another region at a side, or lie at the edge of the image;
    their distance is 0. The nearest one is at most 2 % farther than the true one.

    Args:
        index: Region of every pixel, int32, shape ``(H, W)``.

    Returns:
        Distance in pixels, float32, shape ``(H, W)``, and row and column of the nearest border
        pixel, int32, shape ``(2, H, W)``.

    Example:
        >>> region_distance(np.ones((3, 5), np.int32))[0].tolist()[1]
        [0.0, 1.0, 1.0, 1.0, 0.0]
    """
    border = differs_from_neighbours(index, frame=True)
    _, nearest = cv2.distanceTransformWithLabels(
        (~border).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    # two flat tables: gathering pairs of coordinates takes ten times as long
    places = np.nonzero(border)
    tables = np.zeros((2, len(places[0]) + 1), dtype=np.int32)
    tables[:, nearest[places]] = places
    rows, columns = tables[0].take(nearest), tables[1].take(nearest)
    down = (rows - np.arange(index.shape[0], dtype=np.int32)[:, None]).astype(np.float32)
    right = (columns - np.arange(index.shape[1], dtype=np.int32)).astype(np.float32)
    return cv2.magnitude(down, right), np.stack([rows, columns])


def region_depth(index: NDArray[np.int32]) -> NDArray[np.float32]:
    """Distance alone, exact, in a fraction of the time; see :func:`region_distance`."""
    inner = (~differs_from_neighbours(index, frame=True)).view(np.uint8)
    depth = cv2.distanceTransform(inner, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(depth, dtype=np.float32)
