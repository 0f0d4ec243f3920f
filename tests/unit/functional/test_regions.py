from __future__ import annotations

import pytest
import torch
from helpers.internals import internal

from scribbleseg.functional import majority_labels, region_means, region_sizes, region_sums

region_votes = internal("regions")._region_votes

S, C = 7, 4


@pytest.fixture
def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 6, 8, generator=generator, dtype=torch.float64)
    regions = torch.randint(-1, S + 2, (2, 6, 8), generator=generator)
    regions[regions == 3] = 0  # 3 is nowhere; -1, 7 and 8 are no regions
    labels = torch.randint(0, C + 2, (2, 6, 8), generator=generator)
    labels[labels >= C] = 255
    return features, regions, labels


def test_sizes_sums_and_means_are_their_definitions(example) -> None:
    features, regions, _ = example
    sizes, sums = region_sizes(regions, S), region_sums(features, regions, S)
    means = region_means(features, regions, S)
    for b in range(2):
        for s in range(S):
            inside = features[b][:, regions[b] == s]
            assert sizes[b, s] == inside.shape[1]
            torch.testing.assert_close(sums[b, :, s], inside.sum(1))
            if s != 3:
                torch.testing.assert_close(means[b, :, s], inside.mean(1))
    assert sizes[:, 3].eq(0).all()
    assert means[..., 3].eq(0).all()


def test_votes_and_majorities_are_their_definitions(example) -> None:
    _, regions, labels = example
    labels[0][regions[0] == 1] = 255
    votes = region_votes(labels, regions, S, C)
    majority = majority_labels(labels, regions, S, C)
    for b in range(2):
        for s in range(S):
            counts = [int(((regions[b] == s) & (labels[b] == c)).sum()) for c in range(C)]
            assert votes[b, :, s].tolist() == counts
            expected = counts.index(max(counts)) if any(counts) else 255
            assert majority[b, s].item() == expected
    assert majority[0, 1].item() == 255


def test_gradients(example) -> None:
    features, regions, _ = example
    small, ids = features[:, :2, :3, :3].clone().requires_grad_(), regions[:, :3, :3]
    assert torch.autograd.gradcheck(lambda x: region_sums(x, ids, S), small)
    assert torch.autograd.gradcheck(lambda x: region_means(x, ids, S), small)


def test_order_of_pixels_and_names_of_regions_do_not_matter(example) -> None:
    features, regions, labels = example
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(48, generator=generator)
    shuffled = features.flatten(2)[..., order], regions.flatten(1)[:, order]
    means = region_means(features, regions, S)
    torch.testing.assert_close(region_means(*shuffled, S), means)
    rename = torch.randperm(S, generator=generator)
    renamed = torch.where((regions >= 0) & (regions < S), rename[regions.clamp(0, S - 1)], -1)
    torch.testing.assert_close(region_means(features, renamed, S)[..., rename], means)
    votes = region_votes(labels, regions, S, C)
    assert torch.equal(region_votes(labels, renamed, S, C)[..., rename], votes)


def test_images_do_not_mix(example) -> None:
    features, regions, _ = example
    means = region_means(features, regions, S)
    for b in range(2):
        one = slice(b, b + 1)
        torch.testing.assert_close(region_means(features[one], regions[one], S), means[one])


def test_nothing_belongs_to_a_region() -> None:
    features = torch.randn(1, 2, 3, 3, requires_grad=True)
    nowhere = torch.full((1, 3, 3), -1)
    means = region_means(features, nowhere, 2)
    assert means.eq(0).all()
    means.sum().backward()
    assert torch.equal(features.grad, torch.zeros_like(features))
    assert majority_labels(torch.zeros(1, 3, 3).long(), nowhere, 2, 2).eq(255).all()


def test_half_precision_is_summed_in_float32() -> None:
    ones = torch.ones(1, 1, 100, 100, dtype=torch.bfloat16)
    sums = region_sums(ones, torch.zeros(1, 100, 100, dtype=torch.int16), 1)
    assert sums.dtype == torch.float32
    assert sums.item() == 10_000


def test_errors(example) -> None:
    features, regions, labels = example
    with pytest.raises(ValueError, match="nearest neighbour"):
        region_sums(features, regions[:, :3], S)
    with pytest.raises(ValueError, match="read as float"):
        region_sizes(regions.float(), S)
    with pytest.raises(ValueError, match=r"expected \(B, …\) for both"):
        region_votes(labels[:1], regions, S, C)
