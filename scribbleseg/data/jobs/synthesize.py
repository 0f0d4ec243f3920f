"""``synthesize``: scribbles or points from masks, or degraded copies of scribbles."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.degraded import read_degraded
from scribbleseg.data.jobs.job import (
    ImageJob,
    draw_labels,
    earlier_label,
    picture_of,
    require_scribbles,
    some_ids,
)
from scribbleseg.data.jobs.settings import source_settings
from scribbleseg.data.labels import read_label
from scribbleseg.data.lists import safe_id
from scribbleseg.errors import ConfigError
from scribbleseg.functional.degrade import Degradation
from scribbleseg.functional.images import write_label
from scribbleseg.functional.strokes import PointStyle, ScribbleStyle
from scribbleseg.functional.synthesis import image_seed, synthesize_points, synthesize_scribbles
from scribbleseg.options import check_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record, Split

__all__ = ["Recipe", "synthesize_folder"]

Recipe = ScribbleStyle | PointStyle | Degradation
"""What to make: scribbles or points from masks, or degraded copies of scribbles."""

MODES: dict[str, type[Recipe]]
MODES = {"scribbles": ScribbleStyle, "points": PointStyle, "degrade": Degradation}

_CLASS_ROWS = 25


def synthesize_folder(
    source: ScribbleSource,
    output: str | Path,
    recipe: Recipe | None = None,
    *,
    split: Split = "train",
    seed: int = 0,
    background: bool = True,
    workers: int = 0,
    progress: bool = True,
) -> ImageJob:
    """Make scribbles or points from the masks of a split, or degrade its scribbles.

    Writes one palette PNG per image (255 = unlabelled), ``manifest.json`` with all options, and
    ``overview.png``. The labels of an image depend on the recipe, the seed and its id alone. See
    :class:`~scribbleseg.data.ImageJob` for failures and interruptions.

    Args:
        source: Data set with masks, or with scribbles to degrade.
        output: Folder of the labels.
        recipe: What to make; scribbles by default. A degradation has a seed of its own.
        split: Split to make labels for.
        seed: Seed of the whole data set.
        background: Whether the background class gets scribbles or points.
        workers: Processes; 0 = this one.
        progress: Show a progress bar on stderr.

    Returns:
        What was done; look at ``failed``. ``found``: ``pixels`` per id and ``images`` that show an
        id, int64, shape ``(256,)``, and the ids of images that are ``empty``.

    Raises:
        ConfigError: If an option is out of range, ``output`` holds anything else, or a degradation
            takes nothing away or meets labels that are no scribbles.
        ScribbleNotFoundError: If images, lists, masks or scribbles are missing (D301).
        ScribbleSegError: If a worker process was killed.
    """
    check_whole(0, workers=workers, seed=seed)
    recipe = ScribbleStyle() if recipe is None else recipe
    if isinstance(recipe, Degradation):
        if not recipe.active:
            raise ConfigError("shrink=0, drop=0: nothing to take away; set one of them above 0")
        records = require_scribbles(source, split, "degraded")
    else:
        if not background and source.background is None:
            raise ConfigError(
                "background=False: these classes have no background class to leave out; leave it "
                "at True"
            )
        if not background and source.background is not None:
            recipe = replace(recipe, skip=(*recipe.skip, source.background))
        # training records never carry a mask: it is asked for by name, and scribbles need not exist
        records = list(getattr(source, "records_with_masks", source.records)(split))
    (mode,) = (name for name, kind in MODES.items() if isinstance(recipe, kind))
    settings = {"synthetic": True, "mode": mode, "data": source_settings(source), "split": split}
    settings |= {"seed": seed}
    settings |= {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(recipe).items()}
    output, names = Path(output).expanduser(), source.class_names
    job = ImageJob(output, "synthesize", settings, names)
    pixels, images = np.zeros((2, 256), dtype=np.int64)
    empty: list[str] = []

    def count(record: Record, found: NDArray[np.int64]) -> None:
        np.add(pixels, found, out=pixels)
        np.add(images, found > 0, out=images)
        if not found[:IGNORE_INDEX].any():
            empty.append(record.image_id)

    def tiles(record: Record) -> dict[str, NDArray[np.uint8]]:
        image, strokes = picture_of(source, record), mode == "degrade"
        given = source.read_scribble(record) if strokes else source.read_mask(record)
        labels = read_label(output / f"{record.image_id}.png", source.num_classes)
        return {
            "image": image,
            "scribble" if strokes else "mask": draw_labels(image, given, source, strokes=strokes),
            mode: draw_labels(image, labels, source, strokes=True),
        }

    start, make = time.perf_counter(), partial(_synthesize, source, output, recipe, seed)
    done = job.run(make, records, count, workers=workers, progress=progress)
    rate = job.written / (time.perf_counter() - start)
    job.draw_overview(done, tiles)
    job.describe(len(done), complete=not job.failed)
    job.found |= {"pixels": pixels, "images": images, "empty": empty}
    shares = 100 * pixels / max(int(pixels.sum()), 1)
    shown = sorted(range(len(names)), key=lambda label: -pixels[label])[:_CLASS_ROWS]
    job.summary += [
        job.headline("label files in"),
        f"coverage {shares[:IGNORE_INDEX].sum():.2f} % of the pixels, {rate:.1f} images/s",
        *(
            f"  {names[label][:22]:<22} {shares[label]:>8.3f} %  in {images[label]:,} images"
            for label in sorted(shown)
        ),
    ]
    if empty:
        job.summary.append(f"{len(empty):,} images have no label ({some_ids(empty)})")
    if job.overview is not None:
        job.summary.append(f"look at {job.overview} before you train on these labels")
    return job


def _synthesize(
    source: ScribbleSource, output: Path, recipe: Recipe, seed: int, record: Record
) -> tuple[bool, NDArray[np.int64]]:
    """Write the labels of one image if need be; their pixels per id."""
    degrade = isinstance(recipe, Degradation)
    target = output / f"{safe_id(record.image_id)}.png"
    labels = earlier_label(source, target, record, "scribble" if degrade else "mask")
    written = labels is None
    if labels is None:
        own = image_seed(seed, record.image_id)
        if isinstance(recipe, Degradation):
            labels = read_degraded(source, record, recipe)
        elif isinstance(recipe, PointStyle):
            labels = synthesize_points(source.read_mask(record), recipe, seed=own)
        else:
            labels = synthesize_scribbles(source.read_mask(record), recipe, seed=own)
        write_label(target, labels, source.palette)
    return written, np.bincount(labels.ravel(), minlength=256)
