"""A uniform sample of cells per feature set, and their features in one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from scribbleseg.functional.distributed import (
    all_gather_rows,
    all_reduce_sum,
    communication_device,
    is_distributed,
)
from scribbleseg.functional.feature_sets import bottom_k_per_set, priority_keys, sample_keys
from scribbleseg.functional.image_files import write_arrays
from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = ["FeatureFile", "FeaturePlan", "FeaturePlanner"]

_LAST = (1 << 63) - 1


class FeaturePlan(NamedTuple):
    """Cells to keep, each once, and the sets that they belong to.

    Attributes:
        uid: Image of each row, ascending, int64, shape ``(R,)``.
        cell: Cell of each row, row-major in the grid of its image, int64, shape ``(R,)``.
        rows: Rows of all sets, one set after the other, int64, shape ``(n_0 + n_1 + …,)``.
        weights: Weight of each of these, float32, same shape.
        bounds: Where each set begins and ends in ``rows``, int64, shape ``(S + 1,)``.
        offered: Cells that each set was chosen from, int64, shape ``(S,)``.
    """

    uid: Tensor
    cell: Tensor
    rows: Tensor
    weights: Tensor
    bounds: Tensor
    offered: Tensor

    def save(self, path: Path) -> None:
        """Write to an ``.npz`` file; atomic."""
        write_arrays(path, **{name: value.numpy() for name, value in self._asdict().items()})

    @classmethod
    def load(cls, path: Path) -> FeaturePlan:
        """Read what :meth:`save` wrote."""
        with np.load(path, allow_pickle=False) as archive:
            return cls(**{name: torch.from_numpy(archive[name]) for name in cls._fields})

    def rows_of(self, uid: int) -> slice:
        """Rows of one image, which lie together."""
        start, stop = torch.searchsorted(self.uid, torch.tensor([uid, uid + 1])).tolist()
        return slice(start, stop)


class _Rows(NamedTuple):
    """Cells that were offered to sets: columns of equal length.

    Attributes:
        sets: Set of each row, int64, shape ``(n,)``.
        keys: From :func:`~scribbleseg.functional.feature_sets.priority_keys`, shape ``(n,)``.
        ids: Number of its image in the upper and of its cell in the lower half, shape ``(n,)``.
        weights: float32, shape ``(n,)``.
        features: float16, shape ``(n, D)``; D = 0 if the planner is not to keep them.
    """

    sets: Tensor
    keys: Tensor
    ids: Tensor
    weights: Tensor
    features: Tensor


class FeaturePlanner:
    """Chooses cells by their labels alone, so that no network need have run.

    A set keeps the cells with its ``capacity`` smallest keys (see
    :func:`~scribbleseg.functional.feature_sets.priority_keys`), a uniform sample. They
    depend on the numbers of image and cell only: the plan is the same for any order, any split over
    ranks, after interruptions, and if cells are offered twice. Memory 42·S·N bytes.

    Args:
        num_sets: S.
        capacity: Cells per set N.
        per_image: Cells that one image may add to one set, so that neighbours do not crowd it.
        seed: Another seed draws other cells.

    Raises:
        ValueError: If a size is below 1.

    Example:
        >>> planner = FeaturePlanner(2, capacity=3, per_image=2)
        >>> planner.add(torch.ones(1, 2, 2, 2, dtype=torch.bool), uid=0)
        >>> plan = planner.plan()
        >>> plan.bounds.tolist(), plan.offered.tolist()
        ([0, 2, 4], [4, 4])
    """

    def __init__(
        self, num_sets: int, *, capacity: int, per_image: int | None = 128, seed: int = 0
    ) -> None:
        if num_sets < 1 or capacity < 1:
            raise ValueError(f"num_sets={num_sets}, capacity={capacity}: expected at least 1")
        self.num_sets, self.capacity = num_sets, capacity
        self.per_image, self.seed = per_image, seed
        self.offered = torch.zeros(num_sets, dtype=torch.int64)
        none = torch.zeros(0, dtype=torch.int64)
        self._kept = _Rows(none, none, none, torch.zeros(0), torch.zeros(0, 0).half())
        self._waiting: list[_Rows] = []  # sorted into the kept ones once there are many
        self._limit = torch.full((num_sets,), _LAST)  # largest key that may still enter a set

    @torch.no_grad()
    def add(
        self,
        sets: Tensor,
        *,
        uid: int,
        drawn: Tensor | None = None,
        drawn_weight: float = 1.0,
        features: Tensor | None = None,
    ) -> None:
        """Offer the cells of one image, all in one call.

        Args:
            sets: Which cells belong to which set, bool, shape ``(…, h, w)`` with S leading entries.
            uid: Number of the image, 0 to 2³¹ - 1.
            drawn: Cells to take before all others, such as drawn ones, bool, shape ``(h, w)``.
                More of them than ``capacity`` are sampled uniformly.
            drawn_weight: Weight of these in the clustering; others have 1.
            features: To be kept for :meth:`get`, shape ``(D, h, w)``; for all images or none.

        Raises:
            ValueError: If a feature that is kept is not finite in 16 bits.
        """
        flat = sets.detach().cpu().flatten(0, -3).flatten(1)
        number, cell = flat.nonzero(as_tuple=True)
        self.offered += flat.sum(dim=1)
        first = None if drawn is None else drawn.detach().cpu().flatten()[cell]
        weights = torch.ones(len(cell))
        if first is not None:
            weights = torch.where(first, drawn_weight, weights)
        keys = priority_keys(sample_keys(torch.full_like(cell, uid), cell, seed=self.seed), first)
        ids = (uid << 32) | cell
        rows = torch.arange(len(cell))
        if self.per_image is not None:
            rows = bottom_k_per_set(number, keys, ids, self.per_image)
        rows = rows[keys[rows] <= self._limit[number[rows]]]
        vectors = torch.empty(len(rows), 0, dtype=torch.float16)
        if features is not None:
            vectors = features.detach().flatten(1)[:, cell[rows].to(features.device)].T.cpu().half()
            if not bool(torch.isfinite(vectors).all()):
                raise ValueError(f"features of image {uid} are not finite in 16 bits")
        self._waiting.append(_Rows(number[rows], keys[rows], ids[rows], weights[rows], vectors))
        if sum(len(part.sets) for part in self._waiting) > self.num_sets * self.capacity // 2:
            self._sort()

    def _sort(self) -> _Rows:
        """What every set keeps of all that was offered, by set and key."""
        if self._waiting:
            parts = [part for part in (self._kept, *self._waiting) if len(part.sets)]
            parts = parts or self._waiting[:1]
            rows = _Rows(*(torch.cat(column) for column in zip(*parts, strict=True)))
            best = bottom_k_per_set(rows.sets, rows.keys, rows.ids, self.capacity)
            self._kept, self._waiting = _Rows(*(column[best] for column in rows)), []
            sizes = torch.bincount(self._kept.sets, minlength=self.num_sets)
            full = sizes == self.capacity
            self._limit[full] = self._kept.keys[sizes.cumsum(0)[full] - 1]
        return self._kept

    def synchronize(self) -> None:
        """Merge the choices of all ranks, made without features; every rank must call."""
        if not is_distributed():
            return
        device = communication_device()
        sets, keys, ids, weights = (
            all_gather_rows(column.to(device), with_grad=False).values.cpu()
            for column in self._sort()[:4]
        )
        # its own rows are there twice, and count once
        self._waiting.append(_Rows(sets, keys, ids, weights, torch.empty(len(sets), 0).half()))
        self.offered = all_reduce_sum(self.offered.to(device)).cpu()

    def get(self, index: int) -> tuple[Tensor, Tensor]:
        """Features, float32, shape ``(n, D)``, and weights ``(n,)`` of one set, by key; copies."""
        rows = self._sort()
        own = rows.sets == index
        return rows.features[own].float(), rows.weights[own]

    def plan(self) -> FeaturePlan:
        """The chosen cells. Time O(S·N·log(S·N))."""
        kept = self._sort()
        unique, rows = torch.unique(kept.ids, return_inverse=True)  # by image, then by cell
        sizes = torch.bincount(kept.sets, minlength=self.num_sets)
        return FeaturePlan(
            unique >> 32,
            unique & 0xFFFFFFFF,
            rows,
            kept.weights,
            F.pad(sizes.cumsum(0), (1, 0)),
            self.offered.clone(),
        )


class FeatureFile:
    """Unit features of the cells of a plan, in a memory-mapped file that survives a killed run.

    Which images are done is noted in a second file, after their rows: a run that is killed loses
    the image that it was at. ``R·D`` numbers of 16 bits; several ranks may share the files.

    Args:
        folder: Holds ``features.bin`` and ``done.bin``; kept if they fit the plan.
        plan: What to keep.
        dim: Channels D.
        images: Number of images.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> planner = FeaturePlanner(1, capacity=9)
        >>> planner.add(torch.tensor([[[True, False]]]), uid=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = FeatureFile(Path(folder), planner.plan(), dim=2, images=1)
        ...     file.write(0, torch.tensor([[[3.0, 1.0]], [[4.0, 1.0]]]))
        ...     file.get(0)[0].round(decimals=2).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """

    def __init__(self, folder: Path, plan: FeaturePlan, *, dim: int, images: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.plan, self.dim = plan, dim
        size = max(len(plan.uid), 1) * dim
        self._features: Any = _mapped(folder / "features.bin", (size,), np.float16)
        self._done: Any = _mapped(folder / "done.bin", (max(images, 1),), np.uint8)

    def is_done(self, uid: int) -> bool:
        """Whether nothing of an image is missing."""
        rows = self.plan.rows_of(uid)
        return bool(self._done[uid]) or rows.start == rows.stop

    def write(self, uid: int, features: Tensor) -> None:
        """Keep the cells of one image that the plan asks for.

        Args:
            uid: Number of the image.
            features: Of all its cells, shape ``(D, h, w)``; normalised here.

        Raises:
            ValueError: If the grid is another than the plan's, or a value is not finite.
        """
        rows = self.plan.rows_of(uid)
        cells = self.plan.cell[rows].to(features.device)
        flat = full_precision(features).flatten(1)
        last = int(cells.max()) if len(cells) else -1
        if len(flat) != self.dim or last >= flat.shape[1]:
            raise ValueError(
                f"features {tuple(features.shape)} of image {uid} do not fit the plan: expected "
                f"{self.dim} channels and more than {last} cells"
            )
        unit = F.normalize(flat[:, cells], dim=0).T
        if not bool(torch.isfinite(unit).all()):
            raise ValueError(f"features of image {uid} are not finite; extract them in float32")
        start, stop = rows.start * self.dim, rows.stop * self.dim
        self._features[start:stop] = unit.reshape(-1).cpu().numpy().astype(np.float16)
        self._done[uid] = 1

    def get(self, index: int) -> tuple[Tensor, Tensor]:
        """Features, float32, shape ``(n, D)``, and weights ``(n,)`` of one set; copies."""
        start, stop = self.plan.bounds[index : index + 2].tolist()
        rows = self.plan.rows[start:stop].numpy()
        stored = self._features.reshape(-1, self.dim)[rows].astype(np.float32)
        return torch.from_numpy(stored), self.plan.weights[start:stop]


def _mapped(path: Path, shape: tuple[int, ...], dtype: Any) -> Any:
    expected = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not path.is_file() or path.stat().st_size != expected:
        with path.open("wb") as file:
            file.truncate(expected)
    return np.memmap(path, dtype=dtype, mode="r+", shape=shape)
