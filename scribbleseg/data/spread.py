"""Scribbles spread into pseudo-labels by the random walker, image by image, in many processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data import io
from scribbleseg.data.image_work import failure, work_through
from scribbleseg.data.prepared import check_settings, is_fresh
from scribbleseg.data.settings import source_settings
from scribbleseg.data.spread_report import SpreadReport, write_overview
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.images import write_label
from scribbleseg.functional.manifest import write_manifest
from scribbleseg.functional.random_walker import random_walker_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record, Split

__all__ = ["SpreadReport", "spread_scribbles"]

_COMMAND = "scribbleseg.data spread"
_NAMES = 3  # of many, in messages


class _Result(NamedTuple):
    """What became of one image; ``reason`` is empty if all went well."""

    image_id: str
    drawn: NDArray[np.int64]
    labelled: NDArray[np.int64]
    written: bool
    reason: str = ""


@dataclass(frozen=True)
class _Spreader:
    """All that a worker needs to label one image."""

    source: ScribbleSource
    output: Path
    beta: float
    min_confidence: float | None

    def __call__(self, record: Record) -> _Result:
        try:
            return self._spread(record)
        except Exception as error:  # noqa: BLE001 - one broken file must not stop the others
            return _Result(record.image_id, _count(None), _count(None), False, failure(error))

    def _spread(self, record: Record) -> _Result:
        scribble = self.source.read_scribble(record)
        target = _target(self.output, record)
        labels = self._earlier(record, target, scribble.shape)
        written = labels is None
        if labels is None:
            image = self.source.read_image(record)
            _check_size(image, scribble, record)
            if (image == image[..., :1]).all():
                image = image[..., 0]
            labels = random_walker_labels(
                image, scribble, beta=self.beta, min_confidence=self.min_confidence
            )
            write_label(target, labels, self.source.palette)
        return _Result(record.image_id, _count(scribble), _count(labels), written)

    def _earlier(
        self, record: Record, target: Path, shape: tuple[int, ...]
    ) -> NDArray[np.uint8] | None:
        """Labels of an earlier call, unless they are damaged or older than their inputs."""
        made_of = (*self.source.inputs(record, "image"), *self.source.inputs(record, "scribble"))
        if not is_fresh(target, *made_of):
            return None
        try:
            labels = io.read_label(target, self.source.num_classes)
        except (OSError, LabelFormatError):
            return None
        return labels if labels.shape == shape else None


def spread_scribbles(
    source: ScribbleSource,
    output: str | Path,
    *,
    split: Split = "train",
    beta: float = 100.0,
    min_confidence: float | None = None,
    workers: int = 0,
    progress: bool = True,
) -> SpreadReport:
    """Spread the scribbles of a split into a folder of pseudo-labels.

    Writes one palette PNG per image (255 = undecided), ``manifest.json`` and ``overview.png``. No
    dense mask is read. Files appear atomically, so an interrupted call continues where it stopped;
    labels older than their image or scribble are made anew. An image that fails is reported and
    does not stop the others. See :func:`~scribbleseg.functional.random_walker.random_walker_labels`
    for the equation, its time and its memory, which every worker needs once.

    Args:
        source: Data set; must train on scribbles.
        output: Folder of the labels: new, empty, or of an earlier call with the same settings.
        split: Split to spread.
        beta: How strongly intensity differences stop the walker, at least 0, for intensities in
            [0, 1] (8-bit values are divided by 255) in the scaling of scikit-image. Grey images
            count as one channel. WSL4MIS (Luo et al., 2022) applies 100 to intensities stretched
            by 2/1.7, which is 118 here.
        min_confidence: Probability in [0, 1] that a pixel needs to be labelled; by default all
            pixels of images with a scribble are.
        workers: Processes, see :func:`~scribbleseg.data.processes.map_in_processes`; 0 = this one.
        progress: Show a progress bar on stderr.

    Returns:
        What was done; look at ``failed``.

    Raises:
        ConfigError: If an option is out of range, or ``output`` holds anything else.
        ScribbleNotFoundError: If images, lists or scribbles are missing (D301).
        ScribbleSegError: If a worker process was killed.
    """
    output = Path(output).expanduser()
    _check_options(source, beta=beta, min_confidence=min_confidence, workers=workers)
    records = source.records(split)
    _require_scribbles(source, records, split)
    facts: dict[str, Any] = {
        "command": _COMMAND,
        "data": source_settings(source),
        "split": split,
        "beta": float(beta),
        "min_confidence": None if min_confidence is None else float(min_confidence),
    }
    names = list(source.class_names)
    check_settings(output, {**facts, "class_names": names})
    # before the first label: a call that is interrupted must know its settings when it goes on
    write_manifest(output, class_names=names, files=0, complete=False, **facts)

    report = SpreadReport(output, tuple(names))
    instructive: list[str] = []
    spreader = _Spreader(source, output, beta, min_confidence)

    def count(result: _Result) -> None:
        report.drawn += result.drawn
        report.labelled += result.labelled
        classes = int(np.count_nonzero(result.drawn[:IGNORE_INDEX]))
        if not classes:
            report.empty.append(result.image_id)
        elif classes > 1:  # of one class, nothing can be seen but that class
            instructive.append(result.image_id)

    work_through(
        spreader, records, report, title="spread", workers=workers, progress=progress, each=count
    )
    done = {record.image_id: record for record in records if record.image_id not in report.failed}
    shown = [done[image_id] for image_id in instructive or done]
    if shown:
        report.overview = write_overview(source, output, shown, taken=set(done))
    write_manifest(output, class_names=names, files=len(done), complete=not report.failed, **facts)
    return report


def _check_options(
    source: ScribbleSource, *, beta: float, min_confidence: float | None, workers: int
) -> None:
    kind = getattr(source, "label_type", "scribble")
    if kind != "scribble":
        raise ConfigError(
            f"label_type={kind!r}: only scribbles are spread; leave the option at 'scribble'"
        )
    if not 0 <= beta < float("inf"):
        raise ConfigError(f"beta={beta}: expected a number of at least 0, such as 100")
    if min_confidence is not None and not 0 <= min_confidence <= 1:
        raise ConfigError(
            f"min_confidence={min_confidence}: expected a probability in [0, 1]; percentages are "
            "divided by 100"
        )
    if workers < 0:
        raise ConfigError(f"workers={workers}: expected at least 0 (0 = in this process)")


def _require_scribbles(source: ScribbleSource, records: list[Record], split: str) -> None:
    """Training records are checked by their source; other splits may have masks only."""
    if getattr(source, "on_missing", "unlabelled") == "unlabelled":
        return
    missing = [record.image_id for record in records if record.scribble is None]
    if missing:
        raise ScribbleNotFoundError(
            f"D301 {len(missing)} of {len(records)} images of split {split!r} have no scribble "
            f"({_some(missing)}); draw them, or remove the names from the list"
        )


def _target(output: Path, record: Record) -> Path:
    return output / f"{record.image_id}.png"


def _check_size(image: NDArray[np.uint8], scribble: NDArray[np.uint8], record: Record) -> None:
    if image.shape[:2] != scribble.shape:
        raise LabelFormatError(
            f"D201 {record.scribble}: scribble is {scribble.shape[1]}x{scribble.shape[0]} (width x "
            f"height), image {record.image} is {image.shape[1]}x{image.shape[0]}; export it again "
            "at the image's size, or set `resize_labels: true`"
        )


def _count(labels: NDArray[np.uint8] | None) -> NDArray[np.int64]:
    """Pixels per id; zeros without labels."""
    values = np.zeros(0, dtype=np.uint8) if labels is None else labels.ravel()
    return np.bincount(values, minlength=256).astype(np.int64)


def _some(names: list[str]) -> str:
    return f"e.g. {', '.join(names[:_NAMES])}"
