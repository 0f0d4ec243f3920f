"""A uniform sample of features per set, of fixed size, that does not depend on the order seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist

from scribbleseg.functional.distributed import (
    all_gather_rows,
    communication_device,
    get_rank,
    get_world_size,
)
from scribbleseg.functional.sampling import (
    BottomKSlots,
    SlotRows,
    bottom_k_per_set,
    priority_keys,
    sample_keys,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

__all__ = ["BottomKFeatureStore", "StoredFeatures"]

_ROWS = 4096  # rows moved or sent at a time


class StoredFeatures(NamedTuple):
    """Sample of one set, ordered by key, so equal for equal samples.

    Attributes:
        features: Shape ``(n, D)``, in the type of the store.
        weights: float32, shape ``(n,)``.
        uid: Image of each row, int64, shape ``(n,)``.
        cell: Cell of each row, int64, shape ``(n,)``.
    """

    features: Tensor
    weights: Tensor
    uid: Tensor
    cell: Tensor


class BottomKFeatureStore:
    """For each of several sets, the features with the smallest random keys, in fixed memory.

    What is kept depends only on which (image, cell) pairs were offered, not on their order, on how
    they were split over shards and ranks, or on offering some twice: it is a uniform sample without
    replacement (see :func:`~scribbleseg.functional.sampling.priority_keys`). Memory
    ``(S + 1)·N·(D·bytes + 20)`` bytes on the host; with ``path`` the share of S is in that file.

    Args:
        num_sets: Number of sets S, for instance two per class.
        capacity: Features kept per set, N.
        dim: Channels D.
        seed: Another seed draws another sample.
        dtype: In which features are kept; float16 halves the memory.
        path: File to hold the features; created, or overwritten.

    Raises:
        ValueError: If a size is below 1.

    Example:
        >>> store, cell = BottomKFeatureStore(2, capacity=2, dim=4), torch.arange(5)
        >>> store.add(torch.randn(5, 4), sets=cell % 2, uid=cell * 0, cell=cell)
        >>> store.count.tolist()
        [2, 2]
    """

    def __init__(
        self,
        num_sets: int,
        *,
        capacity: int,
        dim: int,
        seed: int = 0,
        dtype: torch.dtype = torch.float16,
        path: Path | None = None,
    ) -> None:
        for name, value in (("num_sets", num_sets), ("capacity", capacity), ("dim", dim)):
            if value < 1:
                raise ValueError(f"{name}={value}, expected at least 1")
        self.seed, self.capacity = seed, capacity
        if path is None:
            self._features = torch.zeros(num_sets, capacity, dim, dtype=dtype)
        else:
            path.unlink(missing_ok=True)
            size = num_sets * capacity * dim
            flat = torch.from_file(str(path), shared=True, size=size, dtype=dtype)
            self._features = flat.view(num_sets, capacity, dim)
        self._slots = BottomKSlots(num_sets, capacity)
        # accepted rows wait here, so that keys are sorted once per N of them and not per image
        self._waiting = torch.zeros(capacity, dim, dtype=dtype)
        self._waiting_meta: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._waiting_rows = 0

    @property
    def count(self) -> Tensor:
        """Number of kept features per set, int64, shape ``(S,)``."""
        self._flush()
        return (self._slots.ids >= 0).sum(1)

    def get(self, index: int) -> StoredFeatures:
        """Sample of one set as a copy. Time O(N·log N + n·D).

        Args:
            index: Number of the set, 0 to S-1.

        Returns:
            n ≤ N rows ordered by key; none for a set that was offered nothing.
        """
        self._flush()
        ids, keys = self._slots.ids[index], self._slots.keys[index]
        (filled,) = (ids >= 0).nonzero(as_tuple=True)
        order = bottom_k_per_set(filled * 0, keys[filled], ids[filled], self.capacity)
        rows = filled[order]
        kept = ids[rows]
        return StoredFeatures(
            self._features[index, rows],
            self._slots.weights[index, rows],
            kept >> 32,
            kept & 0xFFFFFFFF,
        )

    @torch.no_grad()
    def add(
        self,
        features: Tensor,
        *,
        sets: Tensor,
        uid: Tensor,
        cell: Tensor,
        weights: Tensor | None = None,
        always: Tensor | None = None,
        per_image: int | None = None,
    ) -> None:
        """Offer features; each set keeps its ``capacity`` smallest keys.

        Rows that cannot stay are dismissed by their key, without reading their features. Time
        O(m·log m) for m rows, and O(S·N·log(S·N) + N·D) once per N accepted rows; of a stream of n
        features for a set about ``N·(1 + ln(n/N))`` are accepted. Memory O(m).

        Args:
            features: Rows on any device, shape ``(m, D)``.
            sets: Set of each row, 0 to S-1, int64, shape ``(m,)``.
            uid: Number of its image, 0 to 2³¹ - 1, int64, shape ``(m,)``.
            cell: Number of its cell within the image, 0 to 2³² - 1, int64, shape ``(m,)``.
            weights: Weight to keep with each row, shape ``(m,)``; one by default.
            always: Rows to prefer over all others, such as drawn ones, bool, shape ``(m,)``. More
                of them than ``capacity`` are sampled uniformly, and others fill what they leave.
            per_image: Rows that one image may add to one set (the preferred first, drawn
                uniformly), so that neighbours do not crowd the sample. All rows of an image must
                then come in one call, or the result depends on the split.

        Raises:
            ValueError: If shapes disagree, a number is out of range, or an accepted feature is not
                finite in the type of the store.
        """
        sets, uid, cell = (t.detach().to("cpu", torch.int64) for t in (sets, uid, cell))
        self._check(features, sets=sets, uid=uid, cell=cell, weights=weights, always=always)
        first = None if always is None else always.cpu().bool()
        keys = priority_keys(sample_keys(uid, cell, seed=self.seed), first)
        ids = (uid << 32) | cell
        rows = torch.arange(len(keys))
        if per_image is not None:
            rows = bottom_k_per_set(sets * (1 << 31) + uid, keys, ids, per_image)
        rows = rows[keys[rows] <= self._slots.limit()[sets[rows]]]
        share = torch.ones(len(keys)) if weights is None else weights.detach().cpu().float()
        for part in torch.split(rows, self.capacity) if len(rows) else ():
            if self._waiting_rows + len(part) > self.capacity:
                self._flush()
            stop = self._waiting_rows + len(part)
            accepted = features.detach()[part.to(features.device)].to(self._features)
            if not bool(torch.isfinite(accepted).all()):
                raise ValueError(
                    f"features hold values that are not finite in {self._features.dtype}; extract "
                    "them in float32 and normalise them, or use a store with dtype=torch.float32"
                )
            self._waiting[self._waiting_rows : stop] = accepted
            self._waiting_meta.append((sets[part], keys[part], ids[part], share[part]))
            self._waiting_rows = stop

    @torch.no_grad()
    def merge(self, other: BottomKFeatureStore) -> None:
        """Keep the smallest keys of both, as if everything had been offered to this store.

        Time O(S·N·(log(S·N) + D)), memory O(S·N) besides the stores.

        Args:
            other: Store of equal shape and seed, for instance of another shard; not changed.

        Raises:
            ValueError: If the stores do not match.
        """
        mine, theirs = (*self._features.shape, self.seed), (*other._features.shape, other.seed)
        if mine != theirs:
            raise ValueError(
                f"the stores differ: (sets, capacity, dim, seed) is {mine} here and {theirs} in "
                "the other; collect all shards with the same options"
            )
        self._flush()
        other._flush()
        rows = other._slots.rows()
        self._take(lambda i: other._features[rows.sets[i], rows.slots[i]], rows)

    @torch.no_grad()
    def synchronize(self, group: Any | None = None) -> None:
        """Merge the stores of all ranks; afterwards every rank holds the same one.

        First the keys travel, then only the features that stay: O(S·N·D) per rank in blocks, for
        any number of ranks. Time O(R·S·N·log(R·S·N) + S·N·D) for R ranks, memory O(R·S·N) besides
        the store. Nothing happens without a process group.

        Args:
            group: Process group; the default one if ``None``. Every rank of it must call this.
        """
        self._flush()
        if get_world_size(group) == 1:
            return
        device = communication_device(group)
        local = self._slots.rows()
        numbers, sizes, start = all_gather_rows(
            torch.stack([local.sets, local.slots, local.keys, local.ids], 1).to(device),
            with_grad=False,
            group=group,
        )
        weights = all_gather_rows(local.weights.to(device), with_grad=False, group=group).values
        sets, slots, keys, ids = numbers.cpu().unbind(1)
        position = torch.arange(len(sets))
        own = (position >= start) & (position < start + sizes[get_rank(group)])
        rows = SlotRows(sets, keys, ids, weights.cpu(), torch.where(own, slots, -1))
        kept, places = self._slots.assign(rows)
        if not len(kept):
            return
        for part, place in zip(torch.split(kept, _ROWS), torch.split(places, _ROWS), strict=True):
            block = self._features.new_zeros(len(part), self._features.shape[2])
            mine = own[part]
            block[mine] = self._features[sets[part[mine]], slots[part[mine]]]
            # each row comes from one rank and is 0 elsewhere: summing the bytes copies it exactly
            packed = block.view(torch.uint8).to(device)
            dist.all_reduce(packed, group=group)
            self._features[sets[part], place] = packed.cpu().view(block.dtype)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed pass needs; tensors are not copied."""
        self._flush()
        return {
            "features": self._features,
            "keys": self._slots.keys,
            "ids": self._slots.ids,
            "weights": self._slots.weights,
            "seed": self.seed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict` of a store of equal shape.

        Args:
            state: The saved state; copied.

        Raises:
            ValueError: If the shape differs.
        """
        if state["features"].shape != self._features.shape:
            raise ValueError(
                f"the saved store has shape {tuple(state['features'].shape)}, this one "
                f"{tuple(self._features.shape)}; create it with the saved sizes"
            )
        self._features.copy_(state["features"])
        for name in ("keys", "ids", "weights"):
            getattr(self._slots, name).copy_(state[name])
        self.seed = int(state["seed"])
        self._waiting_meta, self._waiting_rows = [], 0

    def _check(self, features: Tensor, **columns: Tensor | None) -> None:
        shape = (len(features), self._features.shape[2])
        if features.shape != shape:
            raise ValueError(
                f"features {tuple(features.shape)} do not fit: expected (m, {shape[1]}), as many "
                "channels as the store"
            )
        stops = {"sets": len(self._features), "uid": 1 << 31, "cell": 1 << 32}
        for name, value in columns.items():
            if value is not None and value.shape != shape[:1]:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}, expected ({shape[0]},): one entry per "
                    "row of features"
                )
            if value is not None and name in stops and value.numel():
                low, high = int(value.min()), int(value.max())
                if low < 0 or high >= stops[name]:
                    raise ValueError(
                        f"{name} ranges from {low} to {high}, expected 0 to {stops[name] - 1}"
                    )

    def _flush(self) -> None:
        if self._waiting_rows:
            columns = zip(*self._waiting_meta, strict=True)
            sets, keys, ids, weights = (torch.cat(column) for column in columns)
            self._waiting_meta, self._waiting_rows = [], 0
            rows = SlotRows(sets, keys, ids, weights, torch.full_like(ids, -1))
            self._take(lambda i: self._waiting[i], rows)

    def _take(self, fetch: Callable[[Tensor], Tensor], rows: SlotRows) -> None:
        """Add the rows whose keys are small enough; ``fetch`` returns features by position."""
        own = self._slots.rows()
        foreign = rows._replace(slots=torch.full_like(rows.slots, -1))
        both = SlotRows(*(torch.cat(pair) for pair in zip(own, foreign, strict=True)))
        kept, places = self._slots.assign(both)
        new = kept >= len(own.sets)
        kept, places = kept[new], places[new]
        for part, place in zip(torch.split(kept, _ROWS), torch.split(places, _ROWS), strict=True):
            self._features[both.sets[part], place] = fetch(part - len(own.sets))
