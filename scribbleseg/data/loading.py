"""What reading a data set costs: time per sample and memory per worker, from a few samples."""

from __future__ import annotations

import statistics
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.errors import ScribbleSegError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__ = ["measure_loading"]

_SAMPLES = 24
_HELD = 2 * 8  # samples that a worker holds: two batches of eight, as loaders prefetch
_PIXEL_BYTES = 8 + 1  # int64 labels and a bool mask; four more for each channel


def measure_loading(source: ScribbleSource, records: Sequence[Record]) -> dict[str, Any] | None:
    """Read some samples as a loader worker does, in this process and without augmentation.

    Args:
        source: Reads images and scribbles.
        records: Samples of the training split.

    Returns:
        ``images``, ``measured``, ``ms_per_sample`` (median), ``epoch_seconds`` (of one worker),
        ``sample_mib`` (float32 image and int64 labels of the largest sample), ``worker_mib`` (16
        of them, and one decoded); ``None`` if no sample can be read.
    """
    if not records:
        return None
    chosen = np.unique(np.linspace(0, len(records) - 1, _SAMPLES).round().astype(int))
    times, sizes = [], []
    for record in (records[index] for index in chosen):
        # broken files are findings of the check
        with suppress(ScribbleSegError, OSError):
            start = time.perf_counter()
            image = source.read_image(record)
            source.read_scribble(record)
            times.append(time.perf_counter() - start)
            height, width, channels = image.shape
            sizes.append(height * width * (4 * channels + _PIXEL_BYTES))
    if not times:
        return None
    median, largest = statistics.median(times), max(sizes) / 2**20
    return {
        "images": len(records),
        "measured": len(times),
        "ms_per_sample": 1000 * median,
        "epoch_seconds": median * len(records),
        "sample_mib": largest,
        "worker_mib": (_HELD + 1) * largest,
    }
