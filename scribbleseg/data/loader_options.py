"""Options that every loader shares, with their defaults, and how a loader is made from them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import cv2
import torch
from torch.utils.data import DataLoader

from scribbleseg.constants import IMAGENET_MEAN, IMAGENET_STD
from scribbleseg.data.dataset import collate
from scribbleseg.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.utils.data import Dataset

    from scribbleseg.data.sampler import EpochSampler

__all__ = ["channel_moments", "check_least", "default_workers", "make_loader", "side_pair"]


def check_least(**options: tuple[int | tuple[int, int] | None, int]) -> None:
    """Refuse sizes and numbers that are too small.

    Args:
        options: Name to value, or pair of values, and the smallest that is allowed.

    Raises:
        ConfigError: Naming the option and its value.
    """
    for name, (value, smallest) in options.items():
        parts = value if isinstance(value, tuple) else (value,)
        if any(part is not None and part < smallest for part in parts):
            raise ConfigError(f"{name}={value}: expected at least {smallest}")


def side_pair(name: str, value: int | Sequence[int] | None) -> int | tuple[int, int] | None:
    """One size, or height and width, from Python or YAML.

    Args:
        name: Name of the option, for errors.
        value: What was given; a list counts as a pair.

    Raises:
        ConfigError: If it is neither a whole number nor two.

    Example:
        >>> side_pair("resize", [128, 160])
        (128, 160)
    """
    if value is None or isinstance(value, int):
        return value
    sides = tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise ConfigError(f"{name}={value!r}: expected a whole number, or height and width")
    return sides[0], sides[1]


def default_workers() -> int:
    """Loader processes where none are asked for: one per usable core, at most 4."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(4, usable or 1)


def channel_moments(
    channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Given or default mean and standard deviation, one number per channel.

    Args:
        channels: Channels K of the images.
        mean: Option, in units of image/255.
        std: Option, likewise.

    Returns:
        Plain numbers: NumPy scalars would make a checkpoint unreadable.

    Raises:
        ConfigError: If there are not K numbers each, or a deviation is not positive.

    Example:
        >>> channel_moments(1, None, None)
        ((0.449,), (0.226,))
    """
    if channels == 3:
        mean, std = mean or IMAGENET_MEAN, std or IMAGENET_STD
    else:
        grey_mean, grey_std = (round(sum(v) / 3, 3) for v in (IMAGENET_MEAN, IMAGENET_STD))
        mean, std = mean or (grey_mean,) * channels, std or (grey_std,) * channels
    if len(mean) != channels or len(std) != channels:
        raise ConfigError(
            f"mean={list(mean)}, std={list(std)}: the images have {channels} channels, expected "
            f"{channels} numbers each"
        )
    if min(std) <= 0:
        raise ConfigError(f"std={tuple(std)}: expected positive numbers")
    return tuple(map(float, mean)), tuple(map(float, std))


def make_loader(
    dataset: Dataset[Any],
    sampler: EpochSampler,
    *,
    batch_size: int,
    num_workers: int,
    seed: int,
    drop_last: bool = False,
) -> DataLoader[Any]:
    """Loader whose samples do not depend on the number of workers, nor on the training RNG.

    Args:
        dataset: Samples, read by :class:`~scribbleseg.data.sampler.SampleKey`.
        sampler: Their order.
        batch_size: Images per batch.
        num_workers: Loader processes.
        seed: Seed of the iterators.
        drop_last: Drop a last incomplete batch.
    """
    return DataLoader(
        dataset=dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=collate,
        drop_last=drop_last,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        worker_init_fn=_one_thread,
        # iterators draw a base seed: from here, not from the training RNG
        generator=torch.Generator().manual_seed(seed),
    )


def _one_thread(worker: int) -> None:
    """Loader processes share the cores: OpenCV threads inside each only get in the way."""
    cv2.setNumThreads(0)
