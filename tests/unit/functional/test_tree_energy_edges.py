from __future__ import annotations

import pytest
import torch
from helpers.internals import internal

from scribbleseg.functional import edge_counts, grid_edge_weights

edge_ends = internal("grid tree")._edge_ends

SIZES = [(1, 1), (1, 4), (4, 1), (2, 2), (3, 5)]


@pytest.mark.parametrize("size", SIZES)
def test_order_and_values(size) -> None:
    height, width = size
    vertical = [((y, x), (y + 1, x)) for y in range(height - 1) for x in range(width)]
    horizontal = [((y, x), (y, x + 1)) for y in range(height) for x in range(width - 1)]
    assert edge_counts(size) == (len(vertical), len(horizontal))
    features = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(2, len(vertical) + len(horizontal))
    first, second = edge_ends(size)
    for e, ((y, x), (v, u)) in enumerate(vertical + horizontal):
        assert (first[e], second[e]) == (y * width + x, v * width + u)
        expected[:, e] = ((features[:, :, y, x] - features[:, :, v, u]) ** 2).sum(1)
    torch.testing.assert_close(grid_edge_weights(features), expected)


def test_gradient_and_chunks(monkeypatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 3, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    whole = grid_edge_weights(x)
    (gradient,) = torch.autograd.grad(whole.sin().sum(), x)
    assert torch.autograd.gradcheck(grid_edge_weights, x)
    for chunk in (1, 24, 12 * 5 * 2):  # one channel, two channels, two images at a time
        monkeypatch.setattr(internal("grid edges"), "_CPU_CHUNK", chunk)
        parts = grid_edge_weights(x)
        torch.testing.assert_close(parts, whole)
        torch.testing.assert_close(torch.autograd.grad(parts.sin().sum(), x)[0], gradient)


def test_half_precision_is_summed_in_float32() -> None:
    half = (20 * torch.randn(1, 64, 4, 4)).to(torch.float16).requires_grad_()
    weights = grid_edge_weights(half)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, grid_edge_weights(half.float()))
    weights.sum().backward()
    assert half.grad is not None
    assert half.grad.dtype == torch.float16


def test_shift_invariant_and_no_channels() -> None:
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(grid_edge_weights(x + 7), grid_edge_weights(x))
    assert torch.equal(grid_edge_weights(x[:, :0]), torch.zeros(2, 24, dtype=torch.float64))
    assert grid_edge_weights(x[:0]).shape == (0, 24)


@pytest.mark.parametrize(
    "bad",
    [torch.zeros(3, 4, 4), torch.zeros(1, 3, 0, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)],
)
def test_bad_features_are_named(bad) -> None:
    with pytest.raises(ValueError, match=r"expected float \(B, E, H, W\)"):
        grid_edge_weights(bad)
