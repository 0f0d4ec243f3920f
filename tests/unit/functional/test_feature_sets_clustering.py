from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scribbleseg.functional import (
    StreamingLloyd,
    cluster_set,
    lloyd_accumulate,
    spherical_kmeans,
)


def blobs(count: int = 600, k: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(k, 12, generator=generator), dim=1)
    own = torch.randint(0, k, (count,), generator=generator)
    x = centres[own] + 0.1 * torch.randn(count, 12, generator=generator)
    return F.normalize(x, dim=1), centres


class TestClusters:
    def test_fewer_features_than_prototypes(self) -> None:
        x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
        found = cluster_set(x, 5)
        assert found.number == 3
        torch.testing.assert_close(found.centroids[:3], F.normalize(x, dim=1))
        assert (found.centroids[3:] == 0).all()
        empty = cluster_set(x[:0], 5)
        assert empty.number == 0
        assert empty.centroids.shape == (5, 4)

    @pytest.mark.parametrize("shards", [1, 3])
    def test_clusters_are_found_in_one_piece_and_in_shards(self, shards: int) -> None:
        x, centres = blobs()
        found = cluster_set(x, 5, shards=shards)
        nearest = (found.centroids @ centres.T).amax(dim=0)
        assert (nearest > 0.98).all()
        assert found.sizes.sum() == len(x)


class TestStream:
    def test_a_pass_over_parts_is_a_step_over_everything(self) -> None:
        x, _ = blobs()
        start, _ = spherical_kmeans(x[:50], 5, iters=1)
        whole = lloyd_accumulate(x, start)
        expected = F.normalize(whole.sums, dim=1)
        for parts in (1, 3):
            lloyd = StreamingLloyd(torch.stack([start, start]), torch.tensor([5, 0]))
            for part in x.split(len(x) // parts + 1):
                lloyd.add(0, part)
                lloyd.add(1, part)
            sizes = lloyd.step()
            torch.testing.assert_close(lloyd.centroids[0], expected, atol=1e-5, rtol=0)
            assert torch.equal(lloyd.centroids[1], start), "a set without prototypes stays"
            assert torch.equal(sizes[0], whole.counts)
