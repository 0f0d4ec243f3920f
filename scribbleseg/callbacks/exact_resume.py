"""Resuming at any step gives the weights of the uninterrupted run, bit for bit on the CPU."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.distributed as dist
from lightning.pytorch import Callback

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from numpy.typing import NDArray

__all__ = ["ExactResume", "get_rng_state", "set_rng_state"]


def get_rng_state() -> dict[str, Any]:
    """States of the Python, NumPy and torch generators as plain values and tensors."""
    legacy = cast("tuple[str, NDArray[np.uint32], int, int, float]", np.random.get_state())  # noqa: NPY002
    name, keys, position, has_gauss, cached = legacy
    return {
        "python": random.getstate(),
        "numpy": [str(name), torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore what :func:`get_rng_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        for device, value in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(value.cpu(), device)


class ExactResume(Callback):
    """Stores every generator's state in checkpoints, and keeps validation from moving them.

    A resumed run restores the state right before its first batch, since building loaders and the
    sanity check draw numbers too. The order of samples is the sampler's part. Without this callback
    Lightning resumes with fresh random numbers.
    """

    def __init__(self) -> None:
        self._pending: list[dict[str, Any]] | None = None
        self._before_validation: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """Training generators of every rank."""
        own = self._before_validation or get_rng_state()
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            states: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(states, own)
            return {"ranks": states}
        return {"ranks": [own]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until the first resumed batch."""
        self._pending = state_dict["ranks"]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Restore the states before the first resumed batch."""
        if self._pending is not None:
            # another number of ranks cannot be exact; rank 0's state is then as good as any
            states = self._pending
            set_rng_state(states[trainer.global_rank if len(states) == trainer.world_size else 0])
            self._pending = None

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the training generators."""
        self._before_validation = get_rng_state()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the training generators."""
        if self._before_validation is not None:
            set_rng_state(self._before_validation)
            self._before_validation = None
