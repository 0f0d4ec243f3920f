from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.internals import internal

from scribbleseg.functional import (
    GridTree,
    edge_counts,
    grid_edge_weights,
    grid_mst,
    packed_argsort,
    root_tree,
)

edge_ends = internal("grid tree")._edge_ends

SIZES = [(1, 1), (1, 6), (6, 1), (2, 2), (5, 7), (16, 17)]


def image(size, kind: str) -> torch.Tensor:
    x = torch.rand(3, 2, *size, generator=torch.Generator().manual_seed(0))
    return {"random": x, "ties": (2 * x).round(), "constant": torch.zeros_like(x)}[kind]


def tree_of(image: torch.Tensor) -> GridTree:
    size = tuple(image.shape[2:])
    return root_tree(grid_mst(grid_edge_weights(image), size=size), size=size)


def naive_kruskal(weights: torch.Tensor, size) -> list[bool]:
    first, second = edge_ends(size)
    component = list(range(size[0] * size[1]))
    chosen = [False] * len(weights)
    for _, e in sorted((w, e) for e, w in enumerate(weights.tolist())):
        a, b = component[first[e]], component[second[e]]
        if a != b:
            chosen[e] = True
            component = [a if c == b else c for c in component]
    return chosen


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["random", "ties", "constant"])
def test_both_algorithms_equal_kruskal_on_weight_and_index(size, kind) -> None:
    weights = grid_edge_weights(image(size, kind))
    expected = torch.tensor([naive_kruskal(w, size) for w in weights]).view(weights.shape)
    assert torch.equal(grid_mst(weights, size=size), expected)
    order = torch.argsort(weights, dim=1, stable=True)
    assert torch.equal(internal("grid tree")._boruvka(order, size), expected)


def test_constant_image_is_a_comb_of_columns() -> None:
    mask = grid_mst(torch.zeros(2, 31), size=(4, 5))
    assert mask[:, :15].all()  # all vertical edges come first
    assert mask[:, 15:19].all()  # then the first row joins the columns
    assert not mask[:, 19:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_order_is_stable_for_any_float(dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-3, 4, (4, 200), generator=generator).to(dtype) / 3
    weights[0, ::7] = -0.0  # equal to 0.0
    weights[1, ::9] = float("inf")
    expected = torch.argsort(weights.double(), dim=1, stable=True)
    assert torch.equal(internal("grid tree")._stable_order(weights), expected)


def test_small_weights_are_told_apart() -> None:
    weights = torch.tensor([[3e-12, -1e-12, 2e-12, 1e-12, 0.0, -2e-12]])
    order = internal("grid tree")._stable_order(weights)
    assert order.tolist() == [[5, 1, 4, 3, 2, 0]]


def test_packed_argsort_takes_32_bits() -> None:
    keys = np.array([[2**31 - 1, -(2**31), 0, 0], [3, 2, 1, 1]])
    assert packed_argsort(keys).tolist() == [[1, 2, 3, 0], [2, 3, 1, 0]]


@pytest.mark.parametrize("size", SIZES)
def test_both_rootings_describe_the_tree(size) -> None:
    mask = grid_mst(grid_edge_weights(image(size, "random")), size=size)
    first, second = edge_ends(size)
    edges = sum(edge_counts(size))
    tree = root_tree(mask, size=size)
    parent, depth = internal("grid tree")._euler_tour(mask, size)
    assert torch.equal(parent, tree.parent)
    assert torch.equal(depth, tree.depth)
    for b in range(len(mask)):
        assert (tree.parent[b, 0], tree.depth[b, 0], tree.parent_edge[b, 0]) == (0, 0, edges)
        used = tree.parent_edge[b, 1:]
        assert sorted(used.tolist()) == mask[b].nonzero()[:, 0].tolist()
        for i, e in enumerate(used.tolist(), 1):
            assert {int(first[e]), int(second[e])} == {i, int(tree.parent[b, i])}
            assert tree.depth[b, i] == tree.depth[b, tree.parent[b, i]] + 1


def test_long_paths_are_followed_to_the_end() -> None:
    height, width = 15, 16
    mask = torch.zeros(1, sum(edge_counts((height, width))), dtype=torch.bool)
    mask[:, edge_counts((height, width))[0] :] = True  # a snake: all rows, joined at their ends
    for y in range(height - 1):
        mask[0, y * width + (width - 1 if y % 2 == 0 else 0)] = True
    tree = root_tree(mask, size=(height, width))
    assert tree.depth.max() == height * width - 1
    parent, depth = internal("grid tree")._euler_tour(mask, (height, width))
    assert torch.equal(parent, tree.parent)
    assert torch.equal(depth, tree.depth)
    weights = 1 - mask.float()
    assert torch.equal(grid_mst(weights, size=(height, width)), mask)
    order = torch.argsort(weights, dim=1, stable=True)
    assert torch.equal(internal("grid tree")._boruvka(order, (height, width)), mask)


def test_images_do_not_influence_each_other_and_no_gradient() -> None:
    x = image((5, 7), "random").requires_grad_()
    together = tree_of(x)
    for b in range(len(x)):
        for whole, single in zip(together, tree_of(x[b : b + 1]), strict=True):
            assert torch.equal(whole[b : b + 1], single)
            assert not whole.requires_grad
    assert tree_of(x[:0]).parent.shape == (0, 35)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 24\)"):
        grid_mst(torch.zeros(1, 23), size=(4, 4))
    mask = grid_mst(torch.zeros(1, 24), size=(4, 4))
    with pytest.raises(ValueError, match=r"15 edges each, without cycles"):
        root_tree(~mask, size=(4, 4))
    cycle = mask.clone()
    cycle[0, :12] = True
    cycle[0, [1, 2, 12, 13, 15, 16]] = torch.tensor([True, True, True, True, True, False])
    cycle[0, 9] = False
    with pytest.raises(ValueError, match=r"without cycles"):
        root_tree(cycle, size=(4, 4))
    with pytest.raises(ValueError, match=r"grid of \(0, 4\) pixels"):
        grid_mst(torch.zeros(1, 0), size=(0, 4))
