"""Feature sets: uniform samples that depend only on what is sampled, and their prototypes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from scribbleseg.functional.clustering import lloyd_accumulate, spherical_kmeans
from scribbleseg.functional.distributed import all_reduce_sum, communication_device, is_distributed

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "SetPrototypes",
    "StreamingLloyd",
    "bottom_k_per_set",
    "cluster_set",
    "priority_keys",
    "sample_keys",
    "sortable_keys",
]

_LOWEST = -(1 << 63)


def _signed(value: int) -> int:
    """The same 64 bits as torch's int64."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)  # >> of a negative int64 drags the sign along


def sample_keys(uid: Tensor, cell: Tensor, *, seed: int = 0) -> Tensor:
    r"""Reproducible 64-bit random key of each feature cell of each image.

    .. math:: z = (uid \cdot 2^{32} + cell) + (seed + 1) \cdot \mathtt{9E3779B97F4A7C15}_{16}, \\
        z \mathrel{\oplus}= z \gg 30,\; z \mathrel{\times}= \mathtt{BF58476D1CE4E5B9}_{16},\;
        z \mathrel{\oplus}= z \gg 27,\; z \mathrel{\times}= \mathtt{94D049BB133111EB}_{16},\;
        z \mathrel{\oplus}= z \gg 31 \pmod{2^{64}}

    (the SplitMix64 finaliser; Steele et al., OOPSLA 2014). It depends on the ids alone, so the
    sample it defines is the same for any loader order, number of ranks, device or interruption.
    Time and memory O(n); no synchronisation.

    Args:
        uid: Number of the image in the sorted list of ids, 0 to 2³² - 1, any shape.
        cell: Number of the cell in its image, 0 to 2³² - 1, same or broadcastable shape.
        seed: Another seed gives an independent sample.

    Returns:
        The key's 64 bits as int64 (``keys.numpy().view("uint64")`` is the unsigned value, by which
        :func:`sortable_keys` orders), shape of the inputs.

    Example:
        >>> a, b = sample_keys(torch.tensor([7, 8]), torch.tensor([0, 0])).tolist()
        >>> a != b
        True
    """
    z = ((uid.long() << 32) | cell.long()) + _signed((seed + 1) * 0x9E3779B97F4A7C15)
    z = (z ^ _shift(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shift(z, 31)


def sortable_keys(keys: Tensor) -> Tensor:
    """Keys mapped so that comparing them as int64 orders them as unsigned numbers. O(n).

    Args:
        keys: From :func:`sample_keys`, int64, any shape.

    Returns:
        int64, same shape; the map is its own inverse.

    Example:
        >>> sortable_keys(torch.tensor([0, -1])).diff().item() == -1  # 2⁶⁴ - 1 is the largest
        True
    """
    return keys ^ _LOWEST


def priority_keys(keys: Tensor, first: Tensor | None = None) -> Tensor:
    r"""Sortable keys that put some items before all others, both in random order.

    .. math:: 2^{63} \, [\text{not first}] + \lfloor key / 2 \rfloor

    So the smallest keys of a union are a uniform sample of the items that come first and, where
    these do not fill it, a uniform sample of the rest. 63 bits are left of a key. Time and memory
    O(n); no synchronisation.

    Args:
        keys: From :func:`sample_keys`, int64, any shape.
        first: Which items come first, bool, same shape; none by default.

    Returns:
        int64, same shape, to be compared as int64: below 0 for items that come first.

    Example:
        >>> priority_keys(torch.tensor([9, -1]), torch.tensor([False, True])).argsort().tolist()
        [1, 0]
    """
    halves = _shift(keys, 1)
    return halves if first is None else torch.where(first, sortable_keys(halves), halves)


def bottom_k_per_set(sets: Tensor, keys: Tensor, ids: Tensor, k: int) -> Tensor:
    """Positions of the k smallest keys of every set, each id of a set at most once.

    Of several rows with the same set and id the one with the smallest key counts, and of those the
    first; equal keys are ordered by id. Time O(n·log n), memory O(n); no loop over sets. On a GPU
    the size of the result is read by the host (a synchronisation).

    Args:
        sets: Set of each row, int64, shape ``(n,)``.
        keys: From :func:`priority_keys` or :func:`sortable_keys`, shape ``(n,)``.
        ids: What each row is, int64, shape ``(n,)``.
        k: Rows per set, ≥ 0.

    Returns:
        int64, ordered by set, key and id; empty for ``n = 0``.

    Raises:
        ValueError: If k is negative.

    Example:
        >>> sets, keys = torch.tensor([0, 0, 1, 0]), torch.tensor([5, 4, 3, 2])
        >>> bottom_k_per_set(sets, keys, torch.tensor([7, 8, 7, 7]), 2).tolist()
        [3, 1, 2]
    """
    if k < 0:
        raise ValueError(f"k={k}, expected at least 0")
    order = _lexicographic(sets, ids, keys)
    once = order[_starts(sets[order]) | _starts(ids[order])]
    once = once[_lexicographic(sets[once], keys[once], ids[once])]
    return once[_rank_in_run(sets[once]) < k]


def _rank_in_run(x: Tensor) -> Tensor:
    """Position of each element, from 0, within its run of equal neighbours."""
    position = torch.arange(len(x), device=x.device)
    return position - torch.where(_starts(x), position, 0).cummax(0).values


def _lexicographic(*columns: Tensor) -> Tensor:
    order = torch.arange(len(columns[0]), device=columns[0].device)
    for column in reversed(columns):
        order = order[torch.argsort(column[order], stable=True)]
    return order


def _starts(x: Tensor) -> Tensor:
    first = torch.ones(min(1, len(x)), dtype=torch.bool, device=x.device)
    return torch.cat([first, x[1:] != x[:-1]])


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

    Args:
        x: Features, shape ``(n, D)``.
        k: K.
        weights: See :func:`spherical_kmeans`, also for the next three.
        iters: Steps.
        redo: Runs from different rows, of which the best stays.
        seed: Chooses these rows.
        shards: Parts that are clustered one after the other first, which takes less memory.

    Returns:
        Prototypes; none for ``n = 0``.

    Example:
        >>> found = cluster_set(torch.eye(3)[:2], 4)
        >>> found.number, found.sizes.tolist()
        (2, [1.0, 1.0, 0.0, 0.0])
    """
    if shards > 1 and len(x) > k:
        centroids = _of_shards(x, k, weights, shards, iters=iters, seed=seed)
    else:
        centroids, _ = spherical_kmeans(x, k, weights=weights, iters=iters, redo=redo, seed=seed)
    count = len(centroids)
    padded = F.pad(centroids, (0, 0, 0, k - count))
    sizes = x.new_zeros(k)
    if count:
        sizes[:count] = lloyd_accumulate(x, centroids, weights=weights).counts
    return SetPrototypes(padded, count, sizes)


def _of_shards(
    x: Tensor, k: int, weights: Tensor | None, shards: int, *, iters: int, seed: int
) -> Tensor:
    """Ten times K clusters of each part, then K clusters of these, weighted by their sizes."""
    weights = torch.ones(len(x)) if weights is None else weights
    centroids, sizes = [], []
    for part, w in zip(x.tensor_split(shards), weights.tensor_split(shards), strict=True):
        own, _ = spherical_kmeans(part, 10 * k, iters=iters, seed=seed, weights=w)
        counts = lloyd_accumulate(part, own, weights=w).counts
        centroids.append(own[counts > 0])
        sizes.append(counts[counts > 0])
    weight = torch.cat(sizes)
    return spherical_kmeans(
        torch.cat(centroids), k, iters=iters, redo=10, seed=seed, weights=weight
    )[0]


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
