"""Counts of the data check by split and by class, as numbers and as tables of text."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.check.findings import printable
from scribbleseg.errors import ScribbleSegError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scribbleseg.data.check.inspection import Sample
    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__: list[str] = []

_COVERAGE = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0)
_SIDES = (0, 128, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 1 << 30)


def split_statistics(group: Sequence[Sample]) -> dict[str, Any]:
    """Counts, shares in percent, moments of the channels / 255, strokes in pixels.

    ``labelled_percent`` is the mean over images, strokes are of the images on which they were
    measured; ``None`` where nothing could be measured.
    """
    drawn = [item for item in group if item.scribble.any()]
    compared = [item for item in drawn if item.compared]
    known = sum(item.labelled for item in compared) / 100
    coverage = [100 * float(item.labelled / item.scribble.sum()) for item in drawn]
    sizes = [item.size for item in group if item.size is not None]
    sides = list(_histogram([max(size) for size in sizes], _SIDES).items())
    while sides and not sides[-1][1]:  # empty bins at both ends are left out
        sides.pop()
    first = next((place for place, (_, images) in enumerate(sides) if images), 0)
    strokes, width, length = _strokes(group).sum(axis=1)
    measured = sum(item.strokes is not None for item in group)
    mean, std = _moments(group)
    return {
        "checked": len(group),
        "sizes": dict(Counter(f"{width}x{height}" for height, width in sizes).most_common()),
        "longer_side_histogram": dict(sides[first:]),
        "labelled_percent": float(np.mean(coverage)) if drawn else None,
        "coverage_histogram": _histogram(coverage, _COVERAGE),
        "disagreement_percent": _ratio(sum(item.contradicting for item in compared), known),
        "on_void_percent": _ratio(sum(int(item.on_void.sum()) for item in compared), known),
        "without_scribble": len(group) - len(drawn),
        "empty_scribbles": coverage.count(0),
        "images_with_unscribbled_class": sum(bool(_unscribbled(item).any()) for item in compared)
        if compared
        else None,
        "mean": mean,
        "std": std,
        "strokes_per_image": _ratio(strokes, measured if length else 0),
        "stroke_width": _ratio(width, length),
    }


def class_statistics(names: Sequence[str], group: Sequence[Sample]) -> list[dict[str, Any]]:
    """Pixels and images of every class in scribbles and masks, and its strokes."""
    columns: dict[str, list[NDArray[Any]]] = {
        "scribble_px": [item.scribble for item in group],
        "images_scribbled": [item.scribble > 0 for item in group],
        "mask_px": [item.mask for item in group],
        "images_present": [item.mask > 0 for item in group],
        "images_unscribbled": [_unscribbled(item) for item in group],
    }
    totals = {key: sum(counts, np.zeros(256, np.int64)) for key, counts in columns.items()}
    strokes, width, length = _strokes(group)
    measured = sum(item.strokes is not None for item in group)
    return [
        {
            "id": label,
            "name": name,
            **{key: int(total[label]) for key, total in totals.items()},
            "strokes_per_image": _ratio(strokes[label], measured),
            "stroke_width": _ratio(width[label], length[label]),
        }
        for label, name in enumerate(names)
    ]


def _strokes(group: Sequence[Sample]) -> NDArray[np.float64]:
    """Strokes, summed width and length by id, float64, shape ``(3, 256)``."""
    return sum((i.strokes for i in group if i.strokes is not None), np.zeros((3, 256)))


def _unscribbled(item: Sample) -> NDArray[np.bool_]:
    """Which ids are in the mask but not in the scribble, bool, shape ``(256,)``."""
    absent: NDArray[np.bool_] = (item.mask > 0) & (item.scribble == 0) & item.compared
    absent[IGNORE_INDEX] = False
    return absent


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole else None


def _histogram(values: Sequence[float], edges: Sequence[float]) -> dict[str, int]:
    """Number of images by a range of values."""
    counts = np.histogram(values, bins=edges)[0].tolist()
    if edges is _COVERAGE:
        names = [f"{low:g}-{high:g}" for low, high in pairwise(edges)]
    else:
        names = [*(f"{a}-{b - 1}" for a, b in pairwise(edges[:-1])), f"{edges[-2]} and more"]
    return dict(zip(names, counts, strict=True))


def _moments(group: Sequence[Sample]) -> tuple[list[float] | None, list[float] | None]:
    """Mean and standard deviation of each channel / 255 over all pixels."""
    seen = [(i.size[0] * i.size[1], i.moments) for i in group if i.size and i.moments is not None]
    if len({moments.shape for _, moments in seen}) != 1:
        return None, None
    weights, moments = zip(*seen, strict=True)
    mean, square = np.average(moments, axis=0, weights=weights)
    return mean.tolist(), np.sqrt(np.maximum(square - mean**2, 0)).tolist()


def tables(statistics: Mapping[str, Any]) -> list[list[list[str]]]:
    """Rows of text: what was counted, a column per split, and a row per class."""
    splits: dict[str, Any] = dict(statistics.get("splits", {}))
    if len(splits) > 1:
        splits["all"] = statistics["all"]
    rows = [["", *splits]]
    for key in next(iter(splits.values()), {}):
        values = [split[key] for split in splits.values()]
        if "histogram" not in key and values.count(None) < len(values):
            rows.append([key.replace("_", " "), *map(_cell, values)])
    classes = [dict(row) for row in statistics.get("classes", [])]
    names = [printable(f"{row.pop('id')} {row.pop('name')}") for row in classes]
    titles = [key.replace("_", " ") for key in (classes or [{}])[0]]
    body = [[name, *map(_cell, row.values())] for name, row in zip(names, classes, strict=True)]
    return [rows, [["class", *titles], *body]]


def _cell(value: Any) -> str:
    if isinstance(value, dict):  # sizes, the most frequent first
        return ", ".join([*value][:1]) + (f" and {len(value) - 1} more" if len(value) > 1 else "")
    if isinstance(value, list):
        return ", ".join(map(_cell, value))
    if isinstance(value, float):
        return f"{value:.3g}"
    return "–" if value is None else f"{value:,}"


def measure_loading(source: ScribbleSource, records: Sequence[Record]) -> dict[str, Any] | None:
    """What reading costs: up to 24 samples, read in this process and without augmentation.

    Returns:
        ``images``, ``measured``, ``ms_per_sample`` (median), ``epoch_seconds`` (of one worker),
        ``sample_mib`` (float32 image, int64 labels, bool mask of the largest one), ``worker_mib``
        (two batches of 8, and one decoded); ``None`` if no sample can be read.
    """
    times, sizes = [], []
    places = np.linspace(0, len(records) - 1, 24 if records else 0).round().astype(int)
    for record in (records[place] for place in np.unique(places)):
        with suppress(ScribbleSegError, OSError):  # broken files are findings of the check
            start = time.perf_counter()
            height, width, channels = source.read_image(record).shape
            source.read_scribble(record)
            times.append(time.perf_counter() - start)
            sizes.append(height * width * (4 * channels + 8 + 1) / 2**20)
    if not times:
        return None
    median = float(np.median(times))
    return {
        "images": len(records),
        "measured": len(times),
        "ms_per_sample": 1000 * median,
        "epoch_seconds": median * len(records),
        "sample_mib": max(sizes),
        "worker_mib": 17 * max(sizes),
    }


def loading_sentence(loading: Mapping[str, Any]) -> str:
    """What :func:`measure_loading` found, for the report."""
    return (
        "reading: {ms_per_sample:.1f} ms for an image and its scribble (median of {measured}), so "
        "{epoch_seconds:.1f} s of one worker for an epoch of {images:,} images, without "
        "augmentation; the largest sample is {sample_mib:.1f} MiB, so a worker holds about "
        "{worker_mib:.0f} MiB for two batches of 8, besides its libraries"
    ).format_map(loading)
