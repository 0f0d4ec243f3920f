"""The order of samples, a pure function of seed and epoch, and how a loader is made of it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import cv2
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler

from scribbleseg.constants import IMAGENET_MEAN, IMAGENET_STD
from scribbleseg.data.dataset import SampleKey, collate
from scribbleseg.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence, Sized

    from lightning.pytorch import Trainer

__all__ = ["EpochSampler"]


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
        super().__init__(
            data_source,  # type: ignore[arg-type]
            num_replicas=num_replicas or (dist.get_world_size() if distributed else 1),
            rank=rank if rank is not None else (dist.get_rank() if distributed else 0),
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
        order = list(range(length))
        if self.shuffle:
            generator = torch.Generator()
            generator.manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
            order = torch.randperm(length, generator=generator).tolist()
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


def make_loader(
    sampler: EpochSampler, batch_size: int, num_workers: int, *, drop_last: bool = False
) -> DataLoader[Any]:
    """Loader whose samples depend neither on the number of workers nor on the training RNG."""
    return DataLoader(
        dataset=sampler.dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        worker_init_fn=_one_thread,
        # iterators draw a base seed: from here, not from the training RNG
        generator=torch.Generator().manual_seed(sampler.seed),
    )


def _one_thread(worker: int) -> None:
    """Loader processes share the cores: OpenCV threads inside each only get in the way."""
    cv2.setNumThreads(0)


# ------------------------------------------------------------------------- resume


def training_position(trainer: Trainer, step_size: int) -> dict[str, int]:
    """Epoch, samples of it that are done, and images per step, over all processes.

    As a checkpoint stores them; the trainer must be between two steps.
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
    """Refuse to continue the middle of an epoch with steps of another size (CheckpointError)."""
    if position["samples_done"] and position["step_size"] != step_size:
        raise CheckpointError(
            f"the checkpoint was written in the middle of an epoch with {position['step_size']} "
            f"images per step over all processes, now {step_size}: the rest of that epoch cannot "
            "be continued. Resume with the same batch_size and devices, or from a checkpoint at "
            "the end of an epoch"
        )


# ------------------------------------------------------------------------ options


def default_workers() -> int:
    """Loader processes where none are asked for: one per usable core, at most 4."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(4, usable or 1)


def side_pair(name: str, value: int | Sequence[int] | None) -> int | tuple[int, int] | None:
    """A side, or height and width, which YAML gives as a list; else a ConfigError.

    Example:
        >>> side_pair("resize", [128, 160])
        (128, 160)
    """
    if value is None:
        return None
    sides: Any = value if isinstance(value, (list, tuple)) else (value, value)
    if len(sides) != 2 or not all(isinstance(side, int) and side >= 1 for side in sides):
        raise ConfigError(
            f"{name}={value!r}: expected a whole number of at least 1, or two: height and width"
        )
    return value if isinstance(value, int) else (sides[0], sides[1])


def channel_moments(
    channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Given or default mean and standard deviation of image/255, one number per channel.

    They are plain numbers: NumPy scalars would make a checkpoint unreadable. A wrong number of
    them, or a deviation that is not positive, is a ConfigError.

    Example:
        >>> channel_moments(1, None, None)
        ((0.449,), (0.226,))
    """
    usual: list[tuple[float, ...]] = [IMAGENET_MEAN, IMAGENET_STD]
    if channels != 3:
        usual = [(round(sum(values) / 3, 3),) * channels for values in usual]
    mean, std = mean or usual[0], std or usual[1]
    if len(mean) != channels or len(std) != channels:
        raise ConfigError(
            f"mean={list(mean)}, std={list(std)}: the images have {channels} channels, expected "
            f"{channels} numbers each"
        )
    if min(std) <= 0:
        raise ConfigError(f"std={tuple(std)}: expected positive numbers")
    return tuple(map(float, mean)), tuple(map(float, std))
