"""Folders of synthetic scribbles, points, or degraded scribbles, image by image, in processes."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data import io
from scribbleseg.data.degraded import read_degraded
from scribbleseg.data.image_work import failure, work_through
from scribbleseg.data.prepared import check_settings, is_fresh, safe_id
from scribbleseg.data.settings import source_settings
from scribbleseg.data.synthesis_report import SynthesisReport, write_overview
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.degrade import Degradation
from scribbleseg.functional.images import write_label
from scribbleseg.functional.manifest import write_manifest
from scribbleseg.functional.scribble_styles import PointStyle, ScribbleStyle
from scribbleseg.functional.synthesis import image_seed, synthesize_points, synthesize_scribbles
from scribbleseg.options import check_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scribbleseg.data.source import FileRole, ScribbleSource
    from scribbleseg.types import Record, Split

__all__ = ["Recipe", "SynthesisReport", "synthesize_folder"]

Recipe = ScribbleStyle | PointStyle | Degradation
"""What to make: scribbles or points from masks, or degraded copies of scribbles."""

_COMMAND = "scribbleseg.data synthesize"
_MODES = {ScribbleStyle: "scribbles", PointStyle: "points", Degradation: "degrade"}
_NAMES = 3  # of many, in messages


class _Result(NamedTuple):
    """What became of one image; ``reason`` is empty if all went well."""

    image_id: str
    drawn: NDArray[np.int64]
    written: bool
    reason: str = ""


@dataclass(frozen=True)
class _Maker:
    """All that a worker needs to make the labels of one image."""

    source: ScribbleSource
    output: Path
    recipe: Recipe
    seed: int

    def __call__(self, record: Record) -> _Result:
        try:
            return self._make(record)
        except Exception as error:  # noqa: BLE001 - one broken file must not stop the others
            nothing = np.zeros(256, dtype=np.int64)
            return _Result(record.image_id, nothing, False, failure(error))

    def _make(self, record: Record) -> _Result:
        target = self.output / f"{safe_id(record.image_id)}.png"
        labels = self._earlier(record, target)
        written = labels is None
        if labels is None:
            labels = self._labels(record)
            write_label(target, labels, self.source.palette)
        drawn = np.bincount(labels.ravel(), minlength=256).astype(np.int64)
        return _Result(record.image_id, drawn, written)

    def _labels(self, record: Record) -> NDArray[np.uint8]:
        if isinstance(self.recipe, Degradation):
            return read_degraded(self.source, record, self.recipe)
        mask, seed = self.source.read_mask(record), image_seed(self.seed, record.image_id)
        if isinstance(self.recipe, PointStyle):
            return synthesize_points(mask, self.recipe, seed=seed)
        return synthesize_scribbles(mask, self.recipe, seed=seed)

    def _earlier(self, record: Record, target: Path) -> NDArray[np.uint8] | None:
        """Labels of an earlier call, unless they are damaged or older than what they show."""
        role: FileRole = "scribble" if isinstance(self.recipe, Degradation) else "mask"
        if not is_fresh(target, *self.source.inputs(record, role)):
            return None
        try:
            return io.read_label(target, self.source.num_classes)
        except LabelFormatError:
            return None


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
) -> SynthesisReport:
    """Make scribbles or points from the masks of a split, or degrade its scribbles.

    Writes one palette PNG per image (255 = not drawn), ``manifest.json`` with all options, and
    ``overview.png``. The labels of an image depend on the recipe, the seed and its id alone. Files
    appear atomically, so an interrupted call continues where it stopped; labels older than their
    mask or scribble are made anew. An image that fails is reported and does not stop the others.

    Args:
        source: Data set with masks, or with scribbles to degrade.
        output: Folder of the labels: new, empty, or of an earlier call with the same settings.
        recipe: What to make; scribbles by default. A degradation has a seed of its own.
        split: Split to make labels for.
        seed: Seed of the whole data set.
        background: Whether the background class gets scribbles or points.
        workers: Processes, see :func:`~scribbleseg.data.processes.map_in_processes`; 0 = this one.
        progress: Show a progress bar on stderr.

    Returns:
        What was done; look at ``failed``.

    Raises:
        ConfigError: If an option is out of range, ``output`` holds anything else, or a degradation
            takes nothing away or meets labels that are no scribbles.
        ScribbleNotFoundError: If images, lists, masks or scribbles are missing (D301).
        ScribbleSegError: If a worker process was killed.
    """
    output = Path(output).expanduser()
    recipe = ScribbleStyle() if recipe is None else recipe
    check_whole(0, workers=workers, seed=seed)
    if not background and not isinstance(recipe, Degradation):
        recipe = _without_background(source, recipe)
    records = _records(source, recipe, split)
    facts = _facts(source, recipe, split, seed)
    names = list(source.class_names)
    check_settings(output, {**facts, "class_names": names})
    # before the first label: a call that is interrupted must know its settings when it goes on
    write_manifest(output, class_names=names, files=0, complete=False, **facts)

    report = SynthesisReport(output, tuple(names))
    maker, start = _Maker(source, output, recipe, seed), time.perf_counter()

    def count(result: _Result) -> None:
        report.drawn += result.drawn
        report.present += result.drawn > 0
        if not result.drawn[:IGNORE_INDEX].any():
            report.empty.append(result.image_id)

    work_through(
        maker, records, report, title="synthesize", workers=workers, progress=progress, each=count
    )
    report.seconds = time.perf_counter() - start
    done = [record for record in records if record.image_id not in report.failed]
    if done:
        report.overview = write_overview(source, output, done, mode=_MODES[type(recipe)])
    write_manifest(output, class_names=names, files=len(done), complete=not report.failed, **facts)
    return report


def _without_background(
    source: ScribbleSource, recipe: ScribbleStyle | PointStyle
) -> ScribbleStyle | PointStyle:
    if source.background is None:
        raise ConfigError(
            "background=False: these classes have no background class to leave out; leave it at "
            "True"
        )
    options = {**asdict(recipe), "skip": (*recipe.skip, source.background)}
    return type(recipe)(**options)


def _records(source: ScribbleSource, recipe: Recipe, split: Split) -> list[Record]:
    """Records with what the labels are made of."""
    if isinstance(recipe, Degradation):
        kind = getattr(source, "label_type", "scribble")
        if kind != "scribble":
            raise ConfigError(
                f"label_type={kind!r}: only scribbles are degraded; leave the option at 'scribble'"
            )
        if not recipe.active:
            raise ConfigError("shrink=0, drop=0: nothing to take away; set one of them above 0")
        records = source.records(split)
        missing = [r.image_id for r in records if r.image is not None and r.scribble is None]
        if missing and getattr(source, "on_missing", "error") != "unlabelled":
            raise ScribbleNotFoundError(
                f"D301 {len(missing)} of {len(records)} images of split {split!r} have no scribble "
                f"(e.g. {', '.join(missing[:_NAMES])}); draw them, or remove the names from the "
                "list"
            )
        return records
    # training records never carry a mask: it is asked for by name, and scribbles need not exist
    with_masks = getattr(source, "records_with_masks", source.records)
    records = with_masks(split)
    return list(records)


def _facts(source: ScribbleSource, recipe: Recipe, split: Split, seed: int) -> dict[str, Any]:
    options = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(recipe).items()}
    return {
        "command": _COMMAND,
        "synthetic": True,
        "mode": _MODES[type(recipe)],
        "data": source_settings(source),
        "split": split,
        "seed": seed,
        **options,
    }
