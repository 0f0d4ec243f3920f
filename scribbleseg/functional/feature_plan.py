"""Which cells of which images the feature sets need, and their features in one file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from scribbleseg.functional.distributed import (
    all_reduce_sum,
    communication_device,
    is_distributed,
)
from scribbleseg.functional.feature_store import BottomKFeatureStore
from scribbleseg.functional.image_files import write_arrays
from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = ["FeatureFile", "FeaturePlan", "FeaturePlanner"]


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


class FeaturePlanner:
    """Chooses cells by their labels alone, before any network has run.

    A set keeps its ``capacity`` smallest keys (see
    :class:`~scribbleseg.functional.feature_store.BottomKFeatureStore`), which depend on the numbers
    of image and cell only: the plan is the same for any order, split over ranks or interruption.
    Memory 20·S·N bytes.

    Args:
        num_sets: S.
        capacity: Cells per set N.
        per_image: Cells that one image may add to one set, so that neighbours do not crowd it.
        seed: Another seed draws other cells.

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
        self.num_sets, self.per_image = num_sets, per_image
        self._store = BottomKFeatureStore(num_sets, capacity=capacity, dim=1, seed=seed)
        self.offered = torch.zeros(num_sets, dtype=torch.int64)

    def add(
        self,
        sets: Tensor,
        *,
        uid: int,
        drawn: Tensor | None = None,
        drawn_weight: float = 1.0,
    ) -> None:
        """Offer the cells of one image, all in one call.

        Args:
            sets: Which cells belong to which set, bool, shape ``(…, h, w)`` with S leading entries.
            uid: Number of the image, 0 to 2³¹ - 1.
            drawn: Cells to take before all others, such as drawn ones, bool, shape ``(h, w)``.
            drawn_weight: Weight of these in the clustering; others have 1.
        """
        flat = sets.detach().cpu().flatten(0, -3).flatten(1)
        number, cell = flat.nonzero(as_tuple=True)
        self.offered += flat.sum(dim=1)
        first = None if drawn is None else drawn.detach().cpu().flatten()[cell]
        weights = torch.ones(len(cell))
        if first is not None:
            weights = torch.where(first, drawn_weight, weights)
        self._store.add(
            torch.zeros(len(cell), 1),
            sets=number,
            uid=torch.full_like(cell, uid),
            cell=cell,
            weights=weights,
            always=first,
            per_image=self.per_image,
        )

    def synchronize(self) -> None:
        """Merge the choices of all ranks; every rank must call."""
        self._store.synchronize()
        here = self.offered.to(communication_device()) if is_distributed() else self.offered
        self.offered = all_reduce_sum(here).cpu()

    def plan(self) -> FeaturePlan:
        """The chosen cells. Time O(S·N·log(S·N))."""
        parts = [self._store.get(index) for index in range(self.num_sets)]
        ids = torch.cat([(part.uid << 32) | part.cell for part in parts])
        unique, rows = torch.unique(ids, return_inverse=True)  # sorted: by image, then by cell
        sizes = torch.tensor([0, *(len(part.uid) for part in parts)])
        return FeaturePlan(
            unique >> 32,
            unique & 0xFFFFFFFF,
            rows,
            torch.cat([part.weights for part in parts]),
            sizes.cumsum(0),
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
        unit = F.normalize(flat[:, cells], dim=0, eps=1e-12).T
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
