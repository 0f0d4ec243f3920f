"""Minimum spanning trees of images seen as 4-connected grids, and their parents.

A grid ``(H, W)`` has ``N = H·W`` vertices in row-major order and ``M = (H-1)·W + H·(W-1)`` edges:
first the vertical ones ``(y, x)-(y+1, x)`` in row-major order of their upper ends, then the
horizontal ones ``(y, x)-(y, x+1)`` in row-major order of their left ends. Every array over edges
has this order. Among equal weights the earlier edge wins,
so that flat regions give the same tree everywhere. On the CPU scipy finds the tree and its parents;
elsewhere plain torch does, with a fixed number of steps so that it never waits for the device. Both
give the same tree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["GridTree", "edge_counts", "grid_mst", "packed_argsort", "root_tree"]


class GridTree(NamedTuple):
    """Rooted spanning trees of a batch of grids, free of bandwidths and of channels.

    Built once per image, it serves any weights. All fields are int64 of shape ``(B, N)``.
    """

    parent: Tensor  #: next vertex towards the root; the root's is itself
    parent_edge: Tensor  #: edge to the parent, 0..M-1; M at the root
    depth: Tensor  #: number of edges to the root


def grid_mst(edge_weights: Tensor, *, size: tuple[int, int]) -> Tensor:
    r"""Edges of the minimum spanning tree of each grid.

    .. math:: T = \arg\min_{T \text{ spanning}} \sum_{e \in T} \omega_e

    with ties broken as by Kruskal's algorithm on the pairs (weight, edge index). On the CPU that
    algorithm, elsewhere Borůvka's on all images at once. Time O(B·N·log N) on the CPU, O(B·N·log²
    N) elsewhere; memory O(B·N).

    Args:
        edge_weights: :math:`\omega`, float without NaN, shape ``(B, M)``.
        size: Grid ``(H, W)`` in pixels.

    Returns:
        Bool, shape ``(B, M)``, with N-1 edges set in each row.

    Raises:
        ValueError: If ``edge_weights`` does not fit ``size``.

    Example:
        >>> grid_mst(torch.zeros(1, 4), size=(2, 2)).tolist()
        [[True, True, True, False]]
    """
    _check_edges("edge_weights", edge_weights, size)
    order = _stable_order(full_precision(edge_weights.detach()))
    return _kruskal(order, size) if order.device.type == "cpu" else _boruvka(order, size)


def root_tree(mask: Tensor, *, size: tuple[int, int]) -> GridTree:
    """Parent and depth of every vertex of each spanning tree.

    Time O(B·N) on the CPU, O(B·N·log N) elsewhere; memory O(B·N).

    Args:
        mask: Edges of the trees, bool, shape ``(B, M)``.
        size: Grid ``(H, W)`` in pixels.

    Returns:
        The trees, rooted at the first pixel.

    Raises:
        ValueError: If ``mask`` does not fit ``size``, or (noticed on the CPU alone) the edges are
            not a spanning tree.

    Example:
        >>> root_tree(torch.tensor([[True, True, True, False]]), size=(2, 2)).depth.tolist()
        [[0, 1, 1, 2]]
    """
    _check_edges("mask", mask, size)
    on_cpu = mask.device.type == "cpu"
    parent, depth = (_breadth_first if on_cpu else _euler_tour)(mask, size)
    return GridTree(parent, _parent_edge(parent, size), depth)


def _check_edges(name: str, edges: Tensor, size: tuple[int, int]) -> None:
    expected = sum(edge_counts(size))
    if min(size) < 1 or edges.ndim != 2 or edges.shape[1] != expected:
        raise ValueError(
            f"{name} {tuple(edges.shape)}: expected (B, {expected}), the edges of a grid of "
            f"{tuple(size)} pixels, vertical ones first (see grid_edge_weights)"
        )


def _stable_order(weights: Tensor) -> Tensor:
    """Edges by increasing weight, equal ones by index, ``(B, M)``."""
    if weights.device.type != "cpu" or weights.dtype != torch.float32:
        return torch.argsort(weights, dim=1, stable=True)
    # the bits of floats, read as integers with all but the sign flipped if negative, increase alike
    bits = (weights + 0.0).numpy().view(np.int32)  # + 0.0 turns -0.0 into 0.0
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    return torch.from_numpy(packed_argsort(bits))


def packed_argsort(keys: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Stable order of 32-bit integers along the last axis, as one sort of (key, index) pairs.

    In numpy and torch alike, a plain sort of 64-bit integers is several times as fast as a stable
    one with indices. Time O(n·log n), memory O(n).

    Args:
        keys: Integers that fit into 32 bits, shape ``(…, n)``, n < 2^32.

    Returns:
        Indices that sort them, equal keys by index; same shape.

    Example:
        >>> packed_argsort(np.array([5, -1, 5, 0])).tolist()
        [1, 3, 0, 2]
    """
    pairs = (keys.astype(np.int64) << 32) | np.arange(keys.shape[-1])
    pairs.sort(axis=-1)
    return pairs & 0xFFFFFFFF


def _kruskal(order: Tensor, size: tuple[int, int]) -> Tensor:
    """Kruskal's algorithm on the graph of all images side by side."""
    images, edges = order.shape
    vertices = size[0] * size[1]
    shift = np.arange(images)[:, None]
    first, second = (ends.numpy() + vertices * shift for ends in _edge_ends(size))
    ranks = np.empty(order.shape)
    # no two weights of a graph may be equal, and zero would mean "no edge" to scipy
    np.put_along_axis(ranks, order.numpy(), 1.0 + np.arange(edges) + edges * shift, axis=1)
    graph = csr_matrix(
        (ranks.ravel(), (first.ravel(), second.ravel())), shape=(images * vertices,) * 2
    )
    chosen = minimum_spanning_tree(graph).data.astype(np.int64) - 1
    mask = torch.zeros(order.shape, dtype=torch.bool)
    image = torch.from_numpy(chosen // max(1, edges))
    mask[image, order.flatten()[torch.from_numpy(chosen)]] = True
    return mask


def _boruvka(order: Tensor, size: tuple[int, int]) -> Tensor:
    """Borůvka's algorithm: each component takes its lightest way out, ``log2(N)`` times."""
    images, edges = order.shape
    vertices = size[0] * size[1]
    device = order.device
    ranks = torch.arange(edges, device=device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, ranks)
    # edge M stands for "none": the loop 0-0
    order = F.pad(order, (0, 1), value=edges)
    first, second = (F.pad(e, (0, 1)) for e in _edge_ends(size, device=device))
    mask = torch.zeros(images, edges + 1, dtype=torch.bool, device=device)
    vertex = torch.arange(vertices, device=device).expand(images, vertices)
    component = vertex
    rounds = _doublings(vertices)
    for done in range(rounds):
        sides = component[:, first[:-1]], component[:, second[:-1]]
        ways_out = rank.masked_fill(sides[0] == sides[1], edges)
        best = vertex.new_full((images, vertices), edges)
        for side in sides:
            best.scatter_reduce_(1, side, ways_out, "amin")
        edge = order.gather(1, best)
        mask.scatter_(1, edge, True)
        # a component points at the one at the other end of its edge, or at itself if it has none
        ends = component.gather(1, first[edge]) + component.gather(1, second[edge])
        target = torch.where(edge < edges, ends - vertex, vertex)
        # ranks differ, so the only cycles are two components that chose the same edge
        mutual = (target.gather(1, target) == vertex) & (vertex < target)
        target = torch.where(mutual, vertex, target)
        for _ in range(rounds - done):  # at most N / 2^done components are left
            target = target.gather(1, target)
        component = target.gather(1, component)
    return mask[:, :-1]


def _breadth_first(mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Breadth-first search from an extra vertex that is joined to the root of every image."""
    images, vertices = len(mask), size[0] * size[1]
    total = images * vertices
    edge_image, edge = (index.numpy() for index in mask.nonzero(as_tuple=True))
    first, second = (ends.numpy()[edge] + vertices * edge_image for ends in _edge_ends(size))
    roots = vertices * np.arange(images)
    first = np.concatenate([np.full(images, total), first])
    second = np.concatenate([roots, second])
    graph = csr_matrix((np.ones(len(first)), (first, second)), shape=(total + 1, total + 1))
    order, parent = breadth_first_order(graph, total, directed=False)
    if len(order) != total + 1 or len(first) != total:
        raise ValueError(
            f"mask sets {mask.sum(1).tolist()} edges: expected spanning trees of {vertices - 1} "
            "edges each, without cycles; take them from grid_mst"
        )
    position = np.empty(total + 1, dtype=np.int64)
    position[order] = np.arange(total + 1)
    # positions of parents increase along the order, so each level ends where they leave the last
    above = position[parent[order[1:]]]
    ends = [0, 1]
    while ends[-1] <= total:
        ends.append(1 + int(np.searchsorted(above, ends[-1])))
    depth = np.empty(total + 1, dtype=np.int64)
    depth[order] = np.repeat(np.arange(len(ends) - 1), np.diff(ends)) - 1
    parent = parent[:total].astype(np.int64)
    parent[roots] = roots
    shape = (images, vertices)
    local = parent.reshape(shape) - vertices * np.arange(images)[:, None]
    return torch.from_numpy(local), torch.from_numpy(depth[:total].reshape(shape))


def _euler_tour(mask: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Euler tour of each tree: of the two arcs of an edge, the first leads away from the root.

    Arc ``d·N + i`` leaves vertex ``i`` upwards, to the right, down or to the left (``d`` = 0..3).
    After the arc from i to j, the tour takes the next arc around j after the one back to i.
    """
    images, (height, width) = len(mask), size
    vertices, device = height * width, mask.device
    vertical, horizontal = mask.tensor_split(edge_counts(size)[:1], dim=1)
    grid = mask.new_zeros(images, 4, height, width)
    grid[:, 0, 1:] = grid[:, 2, :-1] = vertical.view(images, height - 1, width)
    grid[:, 3, :, 1:] = grid[:, 1, :, :-1] = horizontal.view(images, height, width - 1)
    exists = grid.flatten(2)
    vertex = torch.arange(vertices, device=device)
    direction = torch.arange(4, device=device)[:, None]
    # -width, 1, width, -1, computed since copying a list to the device would wait for it
    step = torch.where(direction % 2 == 0, (direction - 1) * width, 2 - direction)
    ahead = (vertex + step).clamp(0, vertices - 1)  # (4, N); meaningless where no arc exists
    # around each vertex, the next arc after each direction (itself at last)
    after = direction.expand(images, 4, vertices)
    for turn in (3, 2, 1):
        turned = ((direction + turn) % 4).expand_as(after)
        after = torch.where(exists.roll(-turn, 1), turned, after)
    back = ((direction ^ 2) * vertices + ahead).flatten()  # the same edge, other way
    following = after.flatten(1)[:, back] * vertices + ahead.flatten()
    # the tour is a circle: cut it before an arc that leaves the root; other arcs stand still
    start = exists[:, :, 0].to(torch.uint8).argmax(1, keepdim=True) * vertices
    stop = ~exists.flatten(1) | (following == start)
    following = torch.where(stop, torch.arange(4 * vertices, device=device), following)
    to_go = (~stop).long()
    for _ in range(_doublings(2 * vertices)):
        to_go = to_go + to_go.gather(1, following)
        following = following.gather(1, following)
    is_upward = exists & (to_go[:, back] > to_go).view_as(exists)
    parent = vertex + (is_upward * step).sum(1)
    depth, ancestor = (parent != vertex).long(), parent
    for _ in range(_doublings(vertices)):
        depth = depth + depth.gather(1, ancestor)
        ancestor = ancestor.gather(1, ancestor)
    return parent, depth


def _parent_edge(parent: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    vertex = torch.arange(height * width, device=parent.device)
    low = torch.minimum(parent, vertex)  # upper or left end of the edge
    row = torch.div(low, width, rounding_mode="floor")
    same_column = (parent - vertex) % width == 0
    vertical, horizontal = edge_counts(size)
    edge = torch.where(same_column, low, vertical + low - row)
    return torch.where(parent == vertex, vertical + horizontal, edge)


def _doublings(steps: int) -> int:
    """How often a step must be doubled to reach over ``steps`` elements."""
    return (steps - 1).bit_length()


def edge_counts(size: tuple[int, int]) -> tuple[int, int]:
    """Numbers of vertical and of horizontal edges; together M. Time and memory O(1).

    Args:
        size: Grid ``(H, W)`` in pixels.

    Returns:
        ``(H-1)·W`` and ``H·(W-1)``; 0 for a single row or column.

    Example:
        >>> edge_counts((3, 4))
        (8, 9)
    """
    height, width = size
    return (height - 1) * width, height * (width - 1)


def _edge_ends(
    size: tuple[int, int], *, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Both vertices of every edge: upper or left, and lower or right ones, each ``(M,)``."""
    index = torch.arange(size[0] * size[1], device=device).view(size)
    first = torch.cat([index[:-1].flatten(), index[:, :-1].flatten()])
    return first, torch.cat([index[1:].flatten(), index[:, 1:].flatten()])
