from __future__ import annotations

import pytest
import torch
from helpers.internals import internal

from scribbleseg.functional import (
    GridTree,
    grid_edge_weights,
    grid_mst,
    root_tree,
    tree_filter,
)

SWEEPS = [internal("tree filter")._LevelSweeps, internal("tree filter")._DoublingSweeps]


def tree_of(image: torch.Tensor) -> GridTree:
    size = tuple(image.shape[2:])
    return root_tree(grid_mst(grid_edge_weights(image), size=size), size=size)


def example(size, kind: str = "random") -> tuple[torch.Tensor, torch.Tensor, GridTree]:
    """Values, weights and trees of three small images."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(3, 2, *size, generator=generator, dtype=torch.float64)
    image = {"random": image, "ties": (2 * image).round(), "constant": 0 * image}[kind]
    values = torch.randn(3, 4, *size, generator=generator, dtype=torch.float64)
    weights = grid_edge_weights(image)
    return values.requires_grad_(), weights.requires_grad_(), tree_of(image)


def naive(values, weights, tree, sigma: float) -> torch.Tensor:
    """Distances of all pairs by adding one vertex after the other to the tree."""
    images, _, height, width = values.shape
    result = []
    for b in range(images):
        distance = torch.zeros(height * width, height * width, dtype=values.dtype)
        known: list[int] = []
        for i in tree.depth[b].argsort().tolist():
            if known:
                row = distance[tree.parent[b, i], known] + weights[b, tree.parent_edge[b, i]]
                distance = distance.index_put((torch.tensor(i), torch.tensor(known)), row)
                distance = distance.index_put((torch.tensor(known), torch.tensor(i)), row)
            known.append(i)
        affinity = torch.exp(-distance / sigma)
        average = values[b].flatten(1) @ affinity.T / affinity.sum(1)
        result.append(average.view_as(values[b]))
    return torch.stack(result)


@pytest.fixture(params=SWEEPS)
def sweeps(request, monkeypatch) -> type:
    monkeypatch.setattr(internal("tree filter"), "_sweeps_for", lambda _: request.param)
    return request.param


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (3, 4)])
@pytest.mark.parametrize("kind", ["random", "ties", "constant"])
def test_equals_brute_force(sweeps, size, kind) -> None:
    values, weights, tree = example(size, kind)
    expected = naive(values, weights, tree, 0.5)
    found = tree_filter(values, weights, tree, sigma=0.5)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    if size == (1, 1):
        torch.testing.assert_close(found, values)
        return
    up = torch.randn(found.shape, dtype=torch.float64)
    gradients = torch.autograd.grad(expected, (values, weights), up)
    for a, b in zip(torch.autograd.grad(found, (values, weights), up), gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    constant = tree_filter(values, weights.detach(), tree, sigma=0.5)  # takes a shorter way back
    torch.testing.assert_close(torch.autograd.grad(constant, values, up)[0], gradients[0])


@pytest.mark.parametrize("which", ["values", "weights", "both"])
def test_gradient(sweeps, which) -> None:
    values, weights, tree = example((3, 3))
    values, weights = values[:, :2].detach(), weights.detach()
    values.requires_grad_(which != "weights")
    weights.requires_grad_(which != "values")
    assert torch.autograd.gradcheck(
        lambda v, w: tree_filter(v, w, tree, sigma=0.5), (values, weights)
    )


def test_paths_agree_on_deep_trees() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 40, 33, generator=generator)
    weights, tree = grid_edge_weights(image), tree_of(image)
    assert tree.depth.max() > 64
    found = {}
    for sweeps in SWEEPS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(internal("tree filter"), "_sweeps_for", lambda _, sweeps=sweeps: sweeps)
            values = torch.rand(
                2, 5, 40, 33, generator=torch.Generator().manual_seed(1), requires_grad=True
            )
            w = weights.clone().requires_grad_()
            out = tree_filter(values, w, tree, sigma=0.02)
            found[sweeps] = (out, *torch.autograd.grad(out.square().sum(), (values, w)))
    for a, b in zip(*found.values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_result_does_not_depend_on_the_root(sweeps) -> None:
    generator = torch.Generator().manual_seed(1)
    image, values, up = (torch.randn(2, 3, 5, 6, generator=generator).double() for _ in range(3))
    found = []
    for turned in (False, True):  # the first pixel, the root, is the last one of the turned image
        x, v, u = (m.flip(2, 3) if turned else m for m in (image, values, up))
        x, v = x.requires_grad_(), v.requires_grad_()
        out = tree_filter(v, grid_edge_weights(x), tree_of(x.detach()), sigma=0.3)
        every = (out, *torch.autograd.grad(out, (v, x), u))
        found.append([m.flip(2, 3) if turned else m for m in every])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_limits_and_invariances(sweeps) -> None:
    values, weights, tree = example((5, 6))
    mean = values.mean((2, 3), keepdim=True).expand_as(values)
    torch.testing.assert_close(tree_filter(values, weights, tree, sigma=1e15), mean)
    torch.testing.assert_close(tree_filter(values, weights, tree, sigma=1e-9), values)
    filtered = tree_filter(values, weights, tree)
    torch.testing.assert_close(tree_filter(3 * values + 2, weights, tree), 3 * filtered + 2)
    torch.testing.assert_close(tree_filter(values, 4 * weights, tree, sigma=4.0), filtered)
    unused = ~grid_mst(weights, size=(5, 6))
    torch.testing.assert_close(tree_filter(values, weights + unused, tree), filtered)
    image = 1
    single = GridTree(*(field[image : image + 1] for field in tree))
    torch.testing.assert_close(
        tree_filter(values[image : image + 1], weights[image : image + 1], single),
        filtered[image : image + 1],
    )


def test_half_precision_and_autocast(sweeps) -> None:
    values, weights, tree = example((5, 6))
    half, single = values.detach().to(torch.bfloat16), weights.detach().float()
    expected = tree_filter(half.float(), single, tree)
    assert torch.equal(tree_filter(half, single, tree), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(tree_filter(half, single, tree), expected)
    assert expected.dtype == torch.float32


def test_empty_batch_and_no_channels(sweeps) -> None:
    values, weights, tree = example((3, 4))
    assert tree_filter(values[:, :0], weights, tree).shape == (3, 0, 3, 4)
    nothing = GridTree(*(field[:0] for field in tree))
    assert tree_filter(values[:0], weights[:0], nothing).shape == (0, 4, 3, 4)


def test_bad_input_is_named() -> None:
    values, weights, tree = example((3, 4))
    with pytest.raises(ValueError, match=r"build all three at one resolution"):
        tree_filter(values[..., :3], weights, tree)
    with pytest.raises(ValueError, match=r"build all three at one resolution"):
        tree_filter(values[0], weights, tree)
    with pytest.raises(ValueError, match=r"build all three at one resolution"):
        tree_filter(values, weights[:, 1:], tree)
    with pytest.raises(ValueError, match=r"positive bandwidth"):
        tree_filter(values, weights, tree, sigma=0.0)
