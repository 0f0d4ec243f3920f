"""Spanning trees of grids, the filter along them and the tree energy loss."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree

from ops_cases import Setup, Way, case
from ops_cases.grid_losses import with_gradient
from ops_cases.inputs import photos, rng, soft_masks
from scribbleseg.functional import (
    GridTree,
    grid_edge_weights,
    grid_mst,
    root_tree,
    tree_energy_loss,
    tree_filter,
)
from scribbleseg.functional.grid_tree import _edge_ends as edge_ends

FULL = {"batch": 4, "side": 128}
QUICK = {"batch": 2, "side": 12}


def _edges(setup: Setup, batch: int, side: int) -> torch.Tensor:
    # a little noise, for scipy takes an edge of weight 0 for none
    images = photos(batch, side, side).float() / 255
    images += 1e-3 * torch.randn(images.shape, generator=rng())
    return grid_edge_weights(images.to(setup.device))


def kruskal(weights: torch.Tensor, side: int) -> torch.Tensor:
    """Kruskal's algorithm in Python, one edge after the other."""
    first, second = (ends.tolist() for ends in edge_ends((side, side)))
    mask = torch.zeros(weights.shape, dtype=torch.bool)
    for image, row in enumerate(weights.cpu()):
        leader = list(range(side * side))

        def find(vertex: int, leader: list[int] = leader) -> int:
            while leader[vertex] != vertex:
                leader[vertex] = vertex = leader[leader[vertex]]
            return vertex

        chosen = []
        for edge in row.argsort(stable=True).tolist():
            a, b = find(first[edge]), find(second[edge])
            if a != b:
                leader[a] = b
                chosen.append(edge)
        mask[image, chosen] = True
    return mask


@case("tree_mst", "minimum spanning trees of squared colour distances", full=FULL, quick=QUICK)
def mst(setup: Setup, *, batch: int, side: int) -> list[Way]:
    weights = _edges(setup, batch, side)
    ends = [e.numpy() for e in edge_ends((side, side))]

    def scipy_trees() -> None:
        for row in weights.cpu().numpy():
            minimum_spanning_tree(csr_matrix((row, ends), shape=(side * side, side * side)))

    return [
        Way("ours", "grid_mst", lambda: grid_mst(weights, size=(side, side))),
        Way("naive", "Kruskal in Python", lambda: kruskal(weights, side), on_host=True),
        Way("peer", "scipy minimum_spanning_tree", scipy_trees, on_host=True),
    ]


def breadth_first(mask: torch.Tensor, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Parents and depths by a queue in Python."""
    first, second = (ends.numpy() for ends in edge_ends((side, side)))
    parents = np.zeros((len(mask), side * side), dtype=np.int64)
    depths = np.zeros_like(parents)
    for image, row in enumerate(mask.cpu().numpy()):
        neighbours: list[list[int]] = [[] for _ in range(side * side)]
        for a, b in zip(first[row].tolist(), second[row].tolist(), strict=True):
            neighbours[a].append(b)
            neighbours[b].append(a)
        queue, seen = deque([0]), {0}
        while queue:
            vertex = queue.popleft()
            for other in neighbours[vertex]:
                if other not in seen:
                    seen.add(other)
                    parents[image, other] = vertex
                    depths[image, other] = depths[image, vertex] + 1
                    queue.append(other)
    return parents, depths


@case("tree_root", "parents and depths of spanning trees", full=FULL, quick=QUICK)
def rooting(setup: Setup, *, batch: int, side: int) -> list[Way]:
    mask = grid_mst(_edges(setup, batch, side), size=(side, side))
    first, second = (ends.numpy() for ends in edge_ends((side, side)))

    def ours() -> tuple[torch.Tensor, torch.Tensor]:
        tree = root_tree(mask, size=(side, side))
        return tree.parent, tree.depth

    def scipy_orders() -> None:
        for row in mask.cpu().numpy():
            pairs = (np.ones(row.sum()), (first[row], second[row]))
            graph = csr_matrix(pairs, shape=(side * side, side * side))
            breadth_first_order(graph, 0, directed=False)

    return [
        Way("ours", "root_tree", ours),
        Way("naive", "queue in Python", lambda: breadth_first(mask, side), on_host=True),
        Way("peer", "scipy breadth_first_order (no depths)", scipy_orders, on_host=True),
    ]


def filter_by_levels(
    values: torch.Tensor, weights: torch.Tensor, tree: GridTree, sigma: float
) -> torch.Tensor:
    """Both sweeps as a Python loop over the levels of the trees, with autograd."""
    batch, channels, height, width = values.shape
    total = batch * height * width
    above = tree.parent + torch.arange(batch, device=values.device)[:, None] * height * width
    depth = tree.depth.flatten()
    order = depth.argsort()
    position = torch.empty_like(order)
    position[order] = torch.arange(total, device=order.device)
    sizes = torch.bincount(depth).tolist()
    length = F.pad(weights, (0, 1), value=float("inf")).gather(1, tree.parent_edge)
    affinity = torch.exp(-length / sigma).flatten()[order, None].split(sizes)
    rows = torch.cat((values, torch.ones_like(values[:, :1])), dim=1)
    rows = rows.flatten(2).transpose(1, 2).reshape(total, channels + 1)[order].split(sizes)
    parents = position[above.flatten()[order]].split(sizes)
    starts = np.cumsum([0, *sizes]).tolist()
    ups = [rows[-1]]
    for level in range(len(sizes) - 1, 0, -1):
        to = parents[level] - starts[level - 1]
        ups.append(rows[level - 1].index_add(0, to, affinity[level] * ups[-1]))
    ups.reverse()
    downs = [ups[0]]
    for level in range(1, len(sizes)):
        a, to = affinity[level], parents[level] - starts[level - 1]
        downs.append((1 - a.square()) * ups[level] + a * downs[-1][to])
    sums = torch.cat(downs)[position]
    means = (sums[:, :-1] / sums[:, -1:]).view(batch, height, width, channels)
    return means.permute(0, 3, 1, 2)


@case(
    "tree_filter",
    "filter along given trees, forward and backward to values and edges",
    full={**FULL, "classes": 21},
    quick={**QUICK, "classes": 3},
)
def filtering(setup: Setup, *, batch: int, side: int, classes: int) -> list[Way]:
    weights = _edges(setup, batch, side)
    tree = root_tree(grid_mst(weights, size=(side, side)), size=(side, side))
    weights.requires_grad_()
    values = soft_masks(batch, classes, side, side).to(setup.device).requires_grad_()
    slope = torch.randn(values.shape, generator=rng()).to(setup.device)

    def ours(v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (tree_filter(v, w, tree, sigma=0.02) * slope).sum()

    def levels(v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return (filter_by_levels(v, w, tree, 0.02) * slope).sum()

    return [
        Way("ours", "tree_filter", with_gradient(ours, values, weights)),
        Way("naive", "level by level, autograd", with_gradient(levels, values, weights)),
    ]


def energy_by_levels(
    logits: torch.Tensor, embedding: torch.Tensor, image: torch.Tensor, unlabelled: torch.Tensor
) -> torch.Tensor:
    side = logits.shape[-1]
    probs = target = logits.softmax(1)
    colours = F.interpolate(image, (side, side), mode="bilinear", align_corners=False)
    for features, sigma in ((colours, 0.02), (embedding, 1.0)):
        down = (features[:, :, 1:] - features[:, :, :-1]).square().sum(1).flatten(1)
        across = (features[..., 1:] - features[..., :-1]).square().sum(1).flatten(1)
        weights = torch.cat((down, across), dim=1)
        tree = root_tree(grid_mst(weights.detach(), size=(side, side)), size=(side, side))
        target = filter_by_levels(target, weights, tree, sigma)
    mask = F.interpolate(unlabelled[:, None].float(), (side, side), mode="nearest")[:, 0]
    return ((probs - target).abs().sum(1) * mask).sum() / mask.sum()


@case(
    "tree_energy",
    "tree energy loss with both trees, forward and backward",
    full={**FULL, "classes": 21, "embedding": 256},
    quick={**QUICK, "classes": 3, "embedding": 8},
)
def energy(setup: Setup, *, batch: int, side: int, classes: int, embedding: int) -> list[Way]:
    image = photos(batch, 4 * side, 4 * side).to(setup.device) / 255
    unlabelled = torch.rand(batch, 4 * side, 4 * side, generator=rng()) > 0.03
    unlabelled = unlabelled.to(setup.device)
    logits = soft_masks(batch, classes, side, side).log().to(setup.device).requires_grad_()
    features = torch.randn(batch, embedding, side, side, generator=rng()) / embedding**0.5
    features = features.to(setup.device).requires_grad_()

    def ours(x: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        return tree_energy_loss(x, image, unlabelled, embedding=e)

    def levels(x: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        return energy_by_levels(x, e, image, unlabelled)

    return [
        Way("ours", "tree_energy_loss", with_gradient(ours, logits, features)),
        Way("naive", "level by level, autograd", with_gradient(levels, logits, features)),
    ]
