"""``propagate``: scribbles to dense pseudo-labels by the random walker."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.jobs.job import (
    ImageJob,
    draw_labels,
    earlier_label,
    most_frequent,
    picture_of,
    require_scribbles,
    some_ids,
)
from scribbleseg.data.jobs.settings import source_settings
from scribbleseg.data.labels import read_label
from scribbleseg.data.lists import safe_id
from scribbleseg.errors import ConfigError, LabelFormatError
from scribbleseg.functional.images import write_label
from scribbleseg.functional.random_walker import random_walker_labels
from scribbleseg.options import check_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record, Split

__all__ = ["propagate_scribbles"]


def propagate_scribbles(
    source: ScribbleSource,
    output: str | Path,
    *,
    split: Split = "train",
    beta: float = 100.0,
    min_confidence: float | None = None,
    workers: int = 0,
    progress: bool = True,
) -> ImageJob:
    """Propagate the scribbles of a split into a folder of pseudo-labels.

    Writes one palette PNG per image (255 = undecided), ``manifest.json`` and ``overview.png``. No
    dense mask is read. See :func:`~scribbleseg.functional.random_walker_labels` for the equation
    and for large images, :class:`~scribbleseg.data.ImageJob` for failures and interruptions.

    Args:
        source: Data set; must train on scribbles.
        output: Folder of the labels.
        split: Split to label.
        beta: How strongly edges stop the labels, at least 0, for intensities in [0, 1] as in
            scikit-image; grey images count as one channel. WSL4MIS (Luo et al., 2022) applies 100
            to intensities stretched by 2/1.7, which is 118 here.
        min_confidence: Probability in [0, 1] that a pixel needs to be labelled; by default all
            pixels of images with a scribble are.
        workers: Processes; 0 = this one.
        progress: Show a progress bar on stderr.

    Returns:
        What was done; look at ``failed``. ``found``: pixels per id of the ``scribbles`` and the
        ``labels``, int64, shape ``(256,)``, and the ids of images that are ``empty``.

    Raises:
        ConfigError: If an option is out of range, or ``output`` holds anything else.
        ScribbleNotFoundError: If images, lists or scribbles are missing (D301).
        ScribbleSegError: If a worker process was killed.
    """
    check_whole(0, workers=workers)
    if not 0 <= beta < float("inf"):
        raise ConfigError(f"beta={beta}: expected a number of at least 0, such as 100")
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise ConfigError(
            f"min_confidence={min_confidence}: expected a probability in [0, 1]; percentages are "
            "divided by 100"
        )
    records = require_scribbles(source, split, "propagated")
    least = None if min_confidence is None else float(min_confidence)
    settings: dict[str, Any] = {"data": source_settings(source), "split": split}
    settings |= {"beta": float(beta), "min_confidence": least}
    output, names = Path(output).expanduser(), source.class_names
    job = ImageJob(output, "propagate", settings, names)
    pixels = np.zeros((2, 256), dtype=np.int64)
    empty: list[str] = []
    instructive: list[Record] = []

    def count(record: Record, found: NDArray[np.int64]) -> None:
        np.add(pixels, found, out=pixels)
        classes = np.count_nonzero(found[0, :IGNORE_INDEX])
        if not classes:
            empty.append(record.image_id)
        elif classes > 1:  # of one class, nothing can be seen but that class
            instructive.append(record)

    def tiles(record: Record) -> dict[str, NDArray[np.uint8]]:
        image, scribble = picture_of(source, record), source.read_scribble(record)
        labels = read_label(output / f"{record.image_id}.png", source.num_classes)
        return {
            "image": image,
            "scribbles": draw_labels(image, scribble, source, strokes=True),
            "propagated labels": draw_labels(image, labels, source),
        }

    make = partial(_propagate, source, output, beta, least)
    done = job.run(make, records, count, workers=workers, progress=progress)
    job.finish(done, tiles, chosen=instructive)
    job.found |= {"scribbles": pixels[0], "labels": pixels[1], "empty": empty}
    before, after = 100 * pixels / np.maximum(pixels.sum(axis=1, keepdims=True), 1)
    rows = [(names[c][:22], before[c], after[c]) for c in most_frequent(pixels[1], names)]
    rows.append(("labelled", before[:IGNORE_INDEX].sum(), after[:IGNORE_INDEX].sum()))
    job.summary += [
        job.headline("images labelled in"),
        f"{'share of pixels':<24} {'scribbles':>11} {'labels':>11}",
        *(f"  {name:<22} {old:>9.2f} % {new:>9.2f} %" for name, old, new in rows),
    ]
    if empty:
        job.summary.append(
            f"{len(empty):,} images have no scribble, so nothing is labelled on them "
            f"({some_ids(empty)})"
        )
    if job.overview is not None:
        job.summary.append(f"look at {job.overview} before you train on these labels")
    return job


def _propagate(
    source: ScribbleSource, output: Path, beta: float, least: float | None, record: Record
) -> tuple[bool, NDArray[np.int64]]:
    """Write the labels of one image if need be; pixels per id before and after."""
    target = output / f"{safe_id(record.image_id)}.png"
    scribble = source.read_scribble(record)
    labels = earlier_label(source, target, record, "image", "scribble")
    kept = labels is not None and labels.shape == scribble.shape
    if labels is None or not kept:
        image = source.read_image(record)
        if image.shape[:2] != scribble.shape:
            raise LabelFormatError(
                f"D201 {record.scribble}: scribble is {scribble.shape[1]}x{scribble.shape[0]} "
                f"(width x height), image {record.image} is {image.shape[1]}x{image.shape[0]}; "
                "export it again at the image's size, or set `resize_labels: true`"
            )
        if (image == image[..., :1]).all():
            image = image[..., 0]
        labels = random_walker_labels(image, scribble, beta=beta, min_confidence=least)
        write_label(target, labels, source.palette)
    counts = [np.bincount(ids.ravel(), minlength=256) for ids in (scribble, labels)]
    return not kept, np.stack(counts)
