"""The order of samples: a pure function of seed and epoch, shared fairly, resumable mid-epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch.utils.data import DistributedSampler

from scribbleseg.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sized

    from lightning.pytorch import Trainer

__all__ = ["EpochSampler", "SampleKey", "check_step_size", "training_position"]


class SampleKey(NamedTuple):
    """What the sampler hands to the data set.

    Attributes:
        item: Position in the split.
        epoch: Epoch for which the sample is drawn; seeds its augmentation in any worker.
        duplicate: True for samples repeated only to give every rank equally many.
    """

    item: int
    epoch: int = 0
    duplicate: bool = False


class EpochSampler(DistributedSampler[SampleKey]):
    """Index-level sampler whose order depends on (seed, epoch) only.

    It derives from torch's DistributedSampler because Lightning leaves samplers of that type alone;
    none of its state is used. The epoch travels with every index, so that persistent and
    prefetching workers never augment with a stale epoch.

    Args:
        data_source: Anything with a length.
        seed: Seed of the order.
        shuffle: Whether to permute.
        num_replicas: Ranks; taken from the process group by default.
        rank: This rank; likewise.
    """

    def __init__(
        self,
        data_source: Sized,
        *,
        seed: int = 0,
        shuffle: bool = True,
        num_replicas: int | None = None,
        rank: int | None = None,
    ) -> None:
        distributed = dist.is_available() and dist.is_initialized()
        replicas = num_replicas or (dist.get_world_size() if distributed else 1)
        own_rank = rank if rank is not None else (dist.get_rank() if distributed else 0)
        super().__init__(
            data_source,  # type: ignore[arg-type]
            num_replicas=replicas,
            rank=own_rank,
            shuffle=shuffle,
            seed=seed,
        )
        self._resume_epoch, self._resume_skip = -1, 0

    def set_resume(self, epoch: int, samples_done: int) -> None:
        """Continue in the middle of an epoch.

        Must be called before the first iterator exists: Lightning creates that one, and lets
        workers prefetch from it, before it announces the epoch. The skip applies whenever that
        epoch is iterated, however often.

        Args:
            epoch: Epoch to continue.
            samples_done: Samples of that epoch already used, over all ranks.
        """
        self.set_epoch(epoch)
        self._resume_epoch, self._resume_skip = epoch, samples_done // self.num_replicas

    def __iter__(self) -> Iterator[SampleKey]:
        """Keys of this rank for the current epoch, without those done before a resume."""
        length = len(self.dataset)  # type: ignore[arg-type]
        if self.shuffle:
            generator = torch.Generator()
            generator.manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
            order = torch.randperm(length, generator=generator).tolist()
        else:
            order = list(range(length))
        total = self.num_samples * self.num_replicas
        keys = [
            SampleKey(order[position % length], self.epoch, duplicate=position >= length)
            for position in range(self.rank, total, self.num_replicas)
        ]
        skip = self._resume_skip if self.epoch == self._resume_epoch else 0
        return iter(keys[skip:])

    def __len__(self) -> int:
        """Samples of this rank per epoch; a resumed epoch counts its skipped part too."""
        return self.num_samples


def training_position(trainer: Trainer, step_size: int) -> dict[str, int]:
    """Epoch and samples that are done, as a checkpoint stores them.

    Args:
        trainer: Trainer of the run, between two steps.
        step_size: Images per step over all processes.

    Returns:
        ``epoch``, ``samples_done`` of that epoch over all processes, ``step_size``.
    """
    loop: Any = trainer.fit_loop
    epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress
    inside = epochs.ready > epochs.processed  # else the epoch is over: its end, or after fit
    middle = inside and not batches.is_last_batch
    return {
        "epoch": epochs.processed + (1 if inside and batches.is_last_batch else 0),
        "samples_done": batches.current.ready * step_size if middle else 0,
        "step_size": step_size,
    }


def check_step_size(position: Mapping[str, int], step_size: int) -> None:
    """Refuse to continue the middle of an epoch with steps of another size.

    Args:
        position: From :func:`training_position`.
        step_size: Images per step over all processes now.

    Raises:
        CheckpointError: If they differ.
    """
    if position["samples_done"] and position["step_size"] != step_size:
        raise CheckpointError(
            f"the checkpoint was written in the middle of an epoch with {position['step_size']} "
            f"images per step over all processes, now {step_size}: the rest of that epoch cannot "
            "be continued. Resume with the same batch_size and devices, or from a checkpoint at "
            "the end of an epoch"
        )
