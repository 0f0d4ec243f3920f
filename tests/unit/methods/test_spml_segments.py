from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scribbleseg.methods import segment_index, segment_prototypes


@pytest.fixture
def maps() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    clusters = torch.randint(-1, 4, (2, 6, 7), generator=g)
    labels = torch.randint(0, 3, (2, 6, 7), generator=g) + 253
    return clusters, labels, torch.randint(0, 5, (2, 6, 7), generator=g)


def test_segments_are_the_sorted_distinct_tuples(maps) -> None:
    clusters, labels, regions = maps
    found = segment_index(clusters, labels, regions)
    rows = [
        (b, *(int(m[b, y, x]) for m in maps))
        for b in range(2)
        for y in range(6)
        for x in range(7)
        if clusters[b, y, x] >= 0
    ]
    distinct = sorted(set(rows))
    assert found.pixel_segment.tolist() == [distinct.index(r) for r in rows]
    assert found.image.tolist() == [r[0] for r in distinct]
    assert found.label.tolist() == [r[2] for r in distinct]
    assert found.region.tolist() == [r[3] for r in distinct]
    assert torch.equal(found.pixel_index, (clusters.flatten() >= 0).nonzero()[:, 0])


def test_renaming_clusters_in_order_changes_nothing(maps) -> None:
    clusters, labels, regions = maps
    expected = segment_index(clusters, labels, regions)
    renamed = segment_index(torch.where(clusters >= 0, clusters * 7 + 3, -1), labels, regions)
    assert all(torch.equal(a, b) for a, b in zip(expected, renamed, strict=True))


def test_no_valid_pixel_gives_no_segment(maps) -> None:
    clusters, labels, _ = maps
    found = segment_index(torch.full_like(clusters, -1), labels)
    assert all(len(t) == 0 for t in found)
    assert len(segment_index(clusters[:0], labels[:0]).label) == 0


def test_values_that_would_corrupt_the_key_are_refused(maps) -> None:
    clusters, labels, regions = maps
    with pytest.raises(ValueError, match="out of range"):
        segment_index(clusters, labels, regions - 3)
    with pytest.raises(ValueError, match="out of range"):
        segment_index(clusters, labels + 400, regions)
    with pytest.raises(ValueError, match="disagree"):
        segment_index(clusters, labels[:1], regions)
    segment_index(clusters, labels, torch.where(clusters < 0, -1, regions))  # -1 in padding is fine


def test_prototypes_are_mean_directions() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(20, 3, generator=g, dtype=torch.float64, requires_grad=True)
    own = torch.randint(0, 4, (20,), generator=g)
    found = segment_prototypes(z, own, 6)
    for s in range(4):
        torch.testing.assert_close(found[s], F.normalize(z[own == s].sum(0), dim=0))
    assert found[4:].abs().max() == 0
    order = torch.randperm(20, generator=g)
    torch.testing.assert_close(segment_prototypes(z[order], own[order], 6), found)
    assert torch.autograd.gradcheck(lambda x: segment_prototypes(x, own, 4), z)
    empty = segment_prototypes(z[:0], own[:0], 2)
    assert torch.equal(empty, torch.zeros(2, 3, dtype=torch.float64))
    half = segment_prototypes(z.detach().half(), own, 6)
    assert half.dtype == torch.float32
    with pytest.raises(ValueError, match="disagree"):
        segment_prototypes(z, own[:3], 2)
