from __future__ import annotations

import pytest
import torch

from scribbleseg.functional import leading_eigenvectors


@pytest.fixture
def affinity() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(2, 40, 3, generator=generator, dtype=torch.float64)
    return torch.exp(-20 * torch.cdist(points, points) ** 2)


@pytest.mark.parametrize("method", ["exact", "subspace"])
def test_vectors_are_those_of_the_walk(affinity, method) -> None:
    values, vectors = leading_eigenvectors(affinity, 5, method=method, num_steps=400)
    transition = affinity / affinity.sum(2, keepdim=True)
    torch.testing.assert_close(transition @ vectors, vectors * values[:, None], atol=1e-8, rtol=0)
    every = torch.linalg.eigvals(transition).real.sort(dim=1, descending=True).values
    torch.testing.assert_close(values, every[:, :5])
    torch.testing.assert_close(vectors[:, :, 0], torch.full_like(vectors[:, :, 0], 40**-0.5))


def test_order_and_scale_of_the_cells_do_not_matter(affinity) -> None:
    values, vectors = leading_eigenvectors(affinity, 4)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    same_values, same = leading_eigenvectors(3 * affinity[:, order][:, :, order], 4)
    torch.testing.assert_close(same_values, values)
    torch.testing.assert_close(same, vectors[:, order])


def test_separate_regions_have_eigenvalue_one() -> None:
    blocks = torch.block_diag(torch.ones(3, 3), torch.zeros(1, 1), torch.ones(4, 4))[None]
    values, vectors = leading_eigenvectors(blocks, 3)
    torch.testing.assert_close(values, torch.tensor([[1.0, 1.0, 0.0]]))
    assert vectors[0, 3, :2].abs().max() == 0
    for part in (vectors[0, :3, :2], vectors[0, 4:, :2]):
        torch.testing.assert_close(part, part[:1].expand_as(part))


def test_repeats_and_takes_half_precision(affinity) -> None:
    first = leading_eigenvectors(affinity, 3, method="subspace", num_steps=5)
    second = leading_eigenvectors(affinity, 3, method="subspace", num_steps=5)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    values, vectors = leading_eigenvectors(affinity.bfloat16(), 3)
    assert values.dtype == vectors.dtype == torch.float32


def test_bad_input(affinity) -> None:
    with pytest.raises(ValueError, match="one matrix is"):
        leading_eigenvectors(affinity[0], 2)
    with pytest.raises(ValueError, match="num_vectors"):
        leading_eigenvectors(affinity, 41)
    with pytest.raises(ValueError, match="method"):
        leading_eigenvectors(affinity, 2, method="power")
