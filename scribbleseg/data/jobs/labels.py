"""``propagate`` and ``synthesize``: folders of labels made from scribbles or masks."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from scribbleseg.errors import ConfigError, LabelFormatError
from scribbleseg.functional.degrade import Degradation
from scribbleseg.functional.images import write_label
from scribbleseg.functional.random_walker import random_walker_labels
from scribbleseg.functional.strokes import PointStyle, ScribbleStyle
from scribbleseg.functional.synthesis import image_seed, synthesize_points, synthesize_scribbles
from scribbleseg.options import check_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record, Split

__all__ = ["Recipe", "propagate_scribbles", "synthesize_folder"]

Recipe = ScribbleStyle | PointStyle | Degradation
"""What to make: scribbles or points from masks, or degraded copies of scribbles."""

MODES: dict[str, type[Recipe]]
MODES = {"scribbles": ScribbleStyle, "points": PointStyle, "degrade": Degradation}

_CLASS_ROWS = 25  # of a table


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
    job, counts = ImageJob(output, "propagate", settings, names), _Counts()
    make = partial(_propagate, source, output, beta, least)
    done = job.run(make, records, counts.add, workers=workers, progress=progress)
    tiles = partial(_tiles, source, output, ("scribbles", True), ("propagated labels", False))
    job.finish(done, tiles, chosen=counts.several)
    job.found |= {"scribbles": counts.given, "labels": counts.made, "empty": counts.empty}
    before, after = (100 * pixels / max(pixels.sum(), 1) for pixels in (counts.given, counts.made))
    rows = [(names[label][:22], before[label], after[label]) for label in counts.shown(names)]
    rows.append(("labelled", before[:IGNORE_INDEX].sum(), after[:IGNORE_INDEX].sum()))
    job.summary += [
        job.headline("images labelled in"),
        f"{'share of pixels':<24} {'scribbles':>11} {'labels':>11}",
        *(f"  {name:<22} {old:>9.2f} % {new:>9.2f} %" for name, old, new in rows),
        *counts.hints(job, "have no scribble, so nothing is labelled on them"),
    ]
    return job


def _propagate(
    source: ScribbleSource, output: Path, beta: float, least: float | None, record: Record
) -> tuple[bool, list[NDArray[np.int64]]]:
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
    return not kept, _pixels(scribble, labels)


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
    job, counts = ImageJob(output, "synthesize", settings, names), _Counts()
    start, make = time.perf_counter(), partial(_synthesize, source, output, recipe, seed)
    done = job.run(make, records, counts.add, workers=workers, progress=progress)
    rate = job.written / (time.perf_counter() - start)
    given = ("scribble", True) if mode == "degrade" else ("mask", False)
    job.finish(done, partial(_tiles, source, output, given, (mode, True)))
    job.found |= {"pixels": counts.made, "images": counts.images, "empty": counts.empty}
    shares = 100 * counts.made / max(counts.made.sum(), 1)
    job.summary += [
        job.headline("label files in"),
        f"coverage {shares[:IGNORE_INDEX].sum():.2f} % of the pixels, {rate:.1f} images/s",
        *(
            f"  {names[label][:22]:<22} {shares[label]:>8.3f} %  in {counts.images[label]:,} images"
            for label in counts.shown(names)
        ),
        *counts.hints(job, "have no label"),
    ]
    return job


def _synthesize(
    source: ScribbleSource, output: Path, recipe: Recipe, seed: int, record: Record
) -> tuple[bool, list[NDArray[np.int64]]]:
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
    return written, _pixels(labels)


def _pixels(*maps: NDArray[np.uint8]) -> list[NDArray[np.int64]]:
    return [np.bincount(ids.ravel(), minlength=256) for ids in maps]


def _empty() -> NDArray[np.int64]:
    return np.zeros(256, dtype=np.int64)


@dataclass
class _Counts:
    """Pixels by id of the labels that were given and made, and what images show of them."""

    given: NDArray[np.int64] = field(default_factory=_empty)
    made: NDArray[np.int64] = field(default_factory=_empty)
    images: NDArray[np.int64] = field(default_factory=_empty)
    empty: list[str] = field(default_factory=list)
    several: list[Record] = field(default_factory=list)  # classes: of one, nothing can be seen

    def add(self, record: Record, found: list[NDArray[np.int64]]) -> None:
        self.given += found[0]
        self.made += found[-1]
        self.images += found[-1] > 0
        classes = np.count_nonzero(found[-1][:IGNORE_INDEX])
        if not classes:
            self.empty.append(record.image_id)
        elif classes > 1:
            self.several.append(record)

    def shown(self, class_names: Sequence[str]) -> list[int]:
        """Classes of a table that fits on the screen: those with most pixels."""
        return sorted(sorted(range(len(class_names)), key=lambda c: -self.made[c])[:_CLASS_ROWS])

    def hints(self, job: ImageJob, empty: str) -> list[str]:
        lines = [f"{len(self.empty):,} images {empty} ({some_ids(self.empty)})"]
        look = [f"look at {job.overview} before you train on these labels"]
        return (lines if self.empty else []) + (look if job.overview is not None else [])


def _tiles(
    source: ScribbleSource,
    output: Path,
    given: tuple[str, bool],
    made: tuple[str, bool],
    record: Record,
) -> dict[str, NDArray[np.uint8]]:
    """Image, labels that were given and labels that were made: titles, and whether strokes."""
    image = picture_of(source, record)
    read = source.read_mask if given[0] == "mask" else source.read_scribble
    labels = read_label(output / f"{record.image_id}.png", source.num_classes)
    return {
        "image": image,
        given[0]: draw_labels(image, read(record), source, strokes=given[1]),
        made[0]: draw_labels(image, labels, source, strokes=made[1]),
    }
