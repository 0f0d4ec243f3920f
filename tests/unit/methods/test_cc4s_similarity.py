from __future__ import annotations

import pytest
import torch

from scribbleseg.methods import SimilarityMeasurement


def block(**options) -> SimilarityMeasurement:
    torch.manual_seed(0)
    module = SimilarityMeasurement(16, **options)
    torch.nn.init.constant_(module.gamma, 0.5)
    return module


def test_closed_gate_is_the_identity() -> None:
    x = torch.randn(2, 16, 5, 6, generator=torch.Generator().manual_seed(1))
    module = SimilarityMeasurement(16)
    out = module(x)
    assert torch.equal(out.features, x)
    assert out.query.shape == out.key.shape == (2, 2, 5, 6)
    assert out.energy().shape == (2, 30, 30)
    out.features.sum().backward()
    assert module.gamma.grad.abs() > 0


def test_every_parameter_learns_and_chunks_do_not_matter() -> None:
    x = torch.randn(2, 16, 5, 6, generator=torch.Generator().manual_seed(1))
    found = []
    for chunk_size in (None, 7):
        module = block(chunk_size=chunk_size)
        out = module(x)
        ((out.features**2).sum() + out.energy().sum() * 0.01).backward()
        gradients = [p.grad for p in module.parameters()]
        assert all(g.isfinite().all() and g.abs().sum() > 0 for g in gradients)
        found.append([out.features, *gradients])
    for whole, chunked in zip(*found, strict=True):
        torch.testing.assert_close(whole, chunked, rtol=1e-4, atol=1e-4)


def test_order_of_the_cells_does_not_matter() -> None:
    x = torch.randn(1, 16, 4, 5, generator=torch.Generator().manual_seed(2))
    module = block()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    shuffled = module(x.flatten(2)[..., order].reshape(x.shape)).features
    torch.testing.assert_close(shuffled.flatten(2), module(x).features.flatten(2)[..., order])


@pytest.mark.parametrize("size", [(7, 9), (8, 6), (1, 1)])
def test_shrunk_grid_keeps_the_size_of_the_features(size, recorded) -> None:
    x = torch.randn(1, 16, *size, generator=torch.Generator().manual_seed(1))
    out = block(shrink_factor=2)(x)
    assert out.features.shape[2:] == size
    assert out.query.shape[2:] == tuple((n - 1) // 2 + 1 for n in size)
    recorded({"features": out.features.norm().item(), "query": out.query.norm().item()})


def test_half_precision() -> None:
    x = torch.randn(1, 16, 5, 6, generator=torch.Generator().manual_seed(1))
    module = block()
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
        energy = out.energy()
    assert energy.dtype == torch.float32
    torch.testing.assert_close(out.features.float(), module(x).features, rtol=0.05, atol=0.05)


def test_state_round_trip() -> None:
    module, other = block(), SimilarityMeasurement(16)
    other.load_state_dict(module.state_dict())
    x = torch.randn(1, 16, 3, 3)
    assert torch.equal(other(x).features, module(x).features)


@pytest.mark.parametrize("options", [{"reduction": 0}, {"reduction": 17}, {"shrink_factor": 0}])
def test_bad_options(options) -> None:
    with pytest.raises(ValueError, match="reduction <= in_channels"):
        SimilarityMeasurement(16, **options)


def test_corner_cells_are_every_sth_one_whatever_the_size() -> None:
    x = torch.randn(1, 16, 8, 9, generator=torch.Generator().manual_seed(1))
    module = block(shrink_factor=2)
    query, key = module.factors(x)
    assert torch.equal(query, module(x).query)
    assert torch.equal(key, module(x[..., :7, :]).key), "the last row has no cell of its own"
    torch.testing.assert_close(query, block().factors(x)[0][..., ::2, ::2])
    walked = module(x).features - x
    torch.testing.assert_close(walked[..., 7, :], walked[..., 6, :])
    exact = module(x[..., :7, :])
    torch.testing.assert_close(exact.features, module(x).features[..., :7, :])


def test_mean_cells_average_what_lies_in_the_map() -> None:
    x = torch.randn(1, 16, 5, 4, generator=torch.Generator().manual_seed(1))
    module = block(shrink_factor=2, pooling="mean")
    query = module.factors(x)[0]
    mean = x[..., 4:, :2].mean((2, 3), keepdim=True)
    torch.testing.assert_close(query[..., 2:, :1], module.query(mean))
    out = module(x)
    assert out.features.shape == x.shape
    assert out.shrink_factor == 2


def test_the_grid_shrinks_until_it_has_few_enough_cells() -> None:
    module = block(max_cells=30)
    assert module.shrink_for(5, 6) == 1
    assert module.shrink_for(10, 12) == 2
    x = torch.randn(1, 16, 10, 12, generator=torch.Generator().manual_seed(1))
    assert module(x).query.shape[2:] == (5, 6)
    assert module(x, 3).shrink_factor == 3, "the caller knows better"
    assert block().shrink_for(1000, 1000) == 1


@pytest.mark.parametrize("options", [{"max_cells": 0}, {"pooling": "max"}])
def test_bad_grids(options) -> None:
    with pytest.raises(ValueError, match="max_cells"):
        SimilarityMeasurement(16, **options)
