"""Prototypes of many feature sets: in memory, in shards, or by passes over a stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from scribbleseg.functional.clustering import lloyd_accumulate, spherical_kmeans
from scribbleseg.functional.distributed import all_reduce_sum, communication_device, is_distributed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

__all__ = ["SetPrototypes", "StreamingLloyd", "cluster_set", "sharded_kmeans"]


class SetPrototypes(NamedTuple):
    """Clusters of one set.

    Attributes:
        centroids: Unit vectors, the first ``number`` are filled, shape ``(K, D)``.
        number: How many there are: K, or the number of features if that is less.
        sizes: Weight of each cluster, shape ``(K,)``.
    """

    centroids: Tensor
    number: int
    sizes: Tensor


def cluster_set(
    x: Tensor,
    k: int,
    *,
    weights: Tensor | None = None,
    iters: int = 25,
    redo: int = 3,
    seed: int = 0,
    shards: int = 1,
) -> SetPrototypes:
    """Spherical k-means of one set, padded to K prototypes.

    See :func:`~scribbleseg.functional.clustering.spherical_kmeans` for time and memory.

    Args:
        x: Features, shape ``(n, D)``.
        k: K.
        weights: Weight per row, shape ``(n,)``.
        iters: Steps.
        redo: Runs from different rows, of which the best stays.
        seed: Chooses these rows.
        shards: Parts that are clustered one after the other first, see :func:`sharded_kmeans`.

    Returns:
        Prototypes; none for ``n = 0``.

    Example:
        >>> found = cluster_set(torch.eye(3)[:2], 4)
        >>> found.number, found.sizes.tolist()
        (2, [1.0, 1.0, 0.0, 0.0])
    """
    if shards > 1 and len(x) > k:
        w = torch.ones(len(x)) if weights is None else weights
        parts = zip(x.tensor_split(shards), w.tensor_split(shards), strict=True)
        centroids = sharded_kmeans(parts, k, iters=iters, seed=seed)
    else:
        centroids, _ = spherical_kmeans(x, k, weights=weights, iters=iters, redo=redo, seed=seed)
    count = len(centroids)
    padded = F.pad(centroids, (0, 0, 0, k - count))
    sizes = x.new_zeros(k)
    if count:
        sizes[:count] = lloyd_accumulate(x, centroids, weights=weights).counts
    return SetPrototypes(padded, count, sizes)


def sharded_kmeans(
    shards: Iterable[tuple[Tensor, Tensor]],
    k: int,
    *,
    oversample: int = 10,
    iters: int = 25,
    redo: int = 10,
    seed: int = 0,
) -> Tensor:
    """Clusters of each part, then clusters of these, weighted by their sizes.

    Only one part is in memory at a time; the result is near that of all rows at once.

    Args:
        shards: Features ``(n, D)`` and weights ``(n,)`` of each part.
        k: K.
        oversample: Each part gives this times K clusters.
        iters: Steps.
        redo: Runs of the last clustering, which is small.
        seed: Chooses the initial rows.

    Returns:
        Unit vectors, shape ``(min(K, n), D)``.
    """
    centroids, sizes = [], []
    for x, weights in shards:
        own, _ = spherical_kmeans(x, oversample * k, iters=iters, seed=seed, weights=weights)
        sums = lloyd_accumulate(x, own, weights=weights)
        kept = sums.counts > 0
        centroids.append(own[kept])
        sizes.append(sums.counts[kept])
    found, weight = torch.cat(centroids), torch.cat(sizes)
    if not len(found):
        return found
    joined, _ = spherical_kmeans(found, k, iters=iters, redo=redo, seed=seed, weights=weight)
    return joined


class StreamingLloyd:
    """K-means of many sets at once by passes over all data, of which nothing is stored.

    Memory O(S·K·D). Add parts in any order, on any rank; a pass ends with :meth:`step`.

    Args:
        centroids: Where to start from, such as those of a sample, shape ``(S, K, D)``.
        counts: How many of each set are filled, shape ``(S,)``.

    Example:
        >>> lloyd = StreamingLloyd(torch.eye(2)[None], torch.tensor([2]))
        >>> lloyd.add(0, torch.tensor([[1.0, 1.0], [1.0, 0.0]]))
        >>> lloyd.step().tolist()
        [[2.0, 0.0]]
        >>> lloyd.centroids[0, 1].tolist()  # nothing was near the second one
        [0.0, 1.0]
    """

    def __init__(self, centroids: Tensor, counts: Tensor) -> None:
        self.centroids, self.counts = centroids.clone(), counts
        self.sums = torch.zeros_like(self.centroids)
        self.sizes = torch.zeros(self.centroids.shape[:2])

    def add(self, index: int, x: Tensor, *, weights: Tensor | None = None) -> None:
        """Count a part of one set.

        Args:
            index: Number of the set.
            x: Features, shape ``(n, D)``.
            weights: Weight per row.
        """
        count = int(self.counts[index])
        if not count or not len(x):
            return
        part = lloyd_accumulate(x, self.centroids[index, :count], weights=weights)
        self.sums[index, :count] += part.sums
        self.sizes[index, :count] += part.counts

    def step(self) -> Tensor:
        """Move every centroid to the mean direction of what is nearest to it; on all ranks.

        Returns:
            Weight of each cluster before the move, shape ``(S, K)``.
        """
        home, sent = self.sums.device, communication_device()  # NCCL takes no tensor of the host
        if is_distributed():
            self.sums = all_reduce_sum(self.sums.to(sent)).to(home)
            self.sizes = all_reduce_sum(self.sizes.to(sent)).to(home)
        moved = F.normalize(self.sums, dim=2)
        self.centroids = torch.where(self.sizes[..., None] > 0, moved, self.centroids)
        sizes, self.sizes = self.sizes, torch.zeros_like(self.sizes)
        self.sums = torch.zeros_like(self.sums)
        return sizes
