"""Counts of the data check: sizes, labelled shares, pixels and images per class."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.constants import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from scribbleseg.data.inspection import Sample
    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__ = ["summarise"]

_COVERAGE_EDGES = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0)
_SIDE_EDGES = (0, 128, 256, 384, 512, 768, 1024, 1536, 2048, 4096, 1 << 30)


def summarise(
    source: ScribbleSource,
    listed: Mapping[str, Sequence[Record]],
    samples: Mapping[str, Sequence[Sample]],
) -> dict[str, Any]:
    """Statistics of checked samples.

    Args:
        source: Data set, for class names.
        listed: All records by split.
        samples: What was looked at, by split.

    Returns:
        ``{"splits": {name: …}, "all": …, "classes": [...]}`` of plain Python values; shares in
        percent; ``labelled_percent`` is the mean over images, ``mean`` and ``std`` are of each
        channel divided by 255, strokes are of the images on which they were measured. ``None``
        where nothing could be measured.
    """
    everything = [item for group in samples.values() for item in group]
    return {
        "splits": {
            split: {"images": len(listed[split]), **_shares(group)}
            for split, group in samples.items()
        },
        "all": {"images": sum(len(records) for records in listed.values()), **_shares(everything)},
        "classes": _classes(source.class_names, everything),
    }


def _shares(group: Sequence[Sample]) -> dict[str, Any]:
    drawn = [item for item in group if item.scribble is not None]
    compared = [item for item in drawn if item.contradicting is not None]
    drawn_and_known = sum(item.labelled for item in compared)
    sizes = Counter(f"{item.size[1]}x{item.size[0]}" for item in group if item.size is not None)
    mean, std = _moments(group)
    return {
        "checked": len(group),
        "sizes": dict(sizes.most_common()),
        "longer_side_histogram": _sides(group),
        "labelled_percent": float(np.mean(_coverage(drawn))) if drawn else None,
        "coverage_histogram": _histogram(_coverage(drawn)),
        "disagreement_percent": _percent(
            sum(item.contradicting or 0 for item in compared), drawn_and_known
        ),
        "on_void_percent": _percent(sum(item.on_void or 0 for item in compared), drawn_and_known),
        "without_scribble": len(group) - len(drawn),
        "empty_scribbles": sum(item.labelled == 0 for item in drawn),
        "images_with_unscribbled_class": sum(bool(_unscribbled(item).any()) for item in compared)
        if compared
        else None,
        "mean": mean,
        "std": std,
        **_strokes(group),
    }


def _strokes(group: Iterable[Sample]) -> dict[str, float | None]:
    """Mean number of strokes per image, and their mean width in pixels."""
    shapes = [item.shape for item in group if item.shape is not None]
    length = sum(int(shape.length.sum()) for shape in shapes)
    if not length:
        return {"strokes_per_image": None, "stroke_width": None}
    return {
        "strokes_per_image": sum(int(shape.strokes.sum()) for shape in shapes) / len(shapes),
        "stroke_width": sum(float(shape.thickness.sum()) for shape in shapes) / length,
    }


def _sides(group: Iterable[Sample]) -> dict[str, int]:
    """Number of images by their longer side in pixels; empty bins at both ends are left out."""
    sides = [max(item.size) for item in group if item.size is not None]
    counts, _ = np.histogram(sides, bins=_SIDE_EDGES)
    used = np.flatnonzero(counts)
    if not used.size:
        return {}
    return {
        f"{low}-{high - 1}" if high < _SIDE_EDGES[-1] else f"{low} and more": int(counts[index])
        for index, (low, high) in enumerate(pairwise(_SIDE_EDGES))
        if used[0] <= index <= used[-1]
    }


def _percent(part: int, whole: int) -> float | None:
    return 100 * part / whole if whole else None


def _coverage(drawn: Iterable[Sample]) -> list[float]:
    """Labelled share of every image in percent."""
    return [
        100 * item.labelled / max(1, int(item.scribble.sum()))
        for item in drawn
        if item.scribble is not None
    ]


def _histogram(shares: Sequence[float]) -> dict[str, int]:
    """Number of images by labelled share in percent."""
    counts, _ = np.histogram(shares, bins=_COVERAGE_EDGES)
    edges = pairwise(_COVERAGE_EDGES)
    return {f"{low:g}-{high:g}": int(n) for (low, high), n in zip(edges, counts, strict=True)}


def _moments(group: Sequence[Sample]) -> tuple[list[float] | None, list[float] | None]:
    """Mean and standard deviation of each channel / 255 over all pixels."""
    seen = [item for item in group if item.mean is not None and item.size is not None]
    if len({len(item.mean) for item in seen if item.mean is not None}) != 1:
        return None, None
    weights = np.array([item.size[0] * item.size[1] for item in seen if item.size is not None])
    mean = np.average([item.mean for item in seen if item.mean is not None], 0, weights)
    square = np.average([item.square for item in seen if item.square is not None], 0, weights)
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return [float(v) for v in mean], [float(v) for v in std]


def _unscribbled(item: Sample) -> NDArray[np.bool_]:
    """Which ids are in the mask but not in the scribble, bool, shape ``(255,)``."""
    if item.mask is None or item.scribble is None:
        return np.zeros(IGNORE_INDEX, dtype=np.bool_)
    absent: NDArray[np.bool_] = item.mask[:IGNORE_INDEX] > 0
    absent &= item.scribble[:IGNORE_INDEX] == 0
    return absent


def _classes(names: Sequence[str], group: Sequence[Sample]) -> list[dict[str, Any]]:
    zeros = np.zeros((1, 256), dtype=np.int64)
    drawn = np.array([i.scribble for i in group if i.scribble is not None] or zeros)
    dense = np.array([i.mask for i in group if i.mask is not None] or zeros)
    absent = np.array([_unscribbled(item) for item in group] or zeros[:, :IGNORE_INDEX] > 0)
    shapes = [item.shape for item in group if item.shape is not None]
    strokes = sum((s.strokes for s in shapes), np.zeros(256, dtype=np.int64))
    width = sum((s.thickness for s in shapes), np.zeros(256))
    length = sum((s.length for s in shapes), np.zeros(256, dtype=np.int64))
    return [
        {
            "id": label,
            "name": name,
            "scribble_px": int(drawn[:, label].sum()),
            "images_scribbled": int((drawn[:, label] > 0).sum()),
            "mask_px": int(dense[:, label].sum()),
            "images_present": int((dense[:, label] > 0).sum()),
            "images_unscribbled": int(absent[:, label].sum()),
            "strokes_per_image": float(strokes[label] / len(shapes)) if shapes else None,
            "stroke_width": float(width[label] / length[label]) if length[label] else None,
        }
        for label, name in enumerate(names)
    ]
