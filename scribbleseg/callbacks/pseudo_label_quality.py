"""How good pseudo-labels are, by masks that training never sees."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.labels import read_label
from scribbleseg.errors import ConfigError, ScribbleSegError
from scribbleseg.functional.image_files import write_text
from scribbleseg.metrics import SegmentationMetrics

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["PseudoLabelQuality", "score_pseudo_labels"]

logger = logging.getLogger(__name__)


def score_pseudo_labels(source: Any, folder: str | Path, *, split: str = "train") -> dict[str, Any]:
    """Score a folder of pseudo-labels against the masks of a split.

    For reports only: nothing here may choose thresholds or models for a fair comparison, since the
    masks of training images are no supervision.

    Args:
        source: Data set, a :class:`~scribbleseg.data.source.ScribbleSource`.
        folder: Label PNGs named by image id.
        split: Split whose images are scored; those without a mask or a label are left out.

    Returns:
        ``miou``, ``acc`` and ``iou`` (by class name, ``None`` = does not occur) over the decided
        pixels, ``decided`` (their share of the pixels with truth), ``images``.

    Raises:
        ScribbleSegError: If there is nothing to score.
    """
    folder = Path(folder)
    # one process scores all images, and the others do not ask
    metrics = SegmentationMetrics(source.num_classes, sync_on_compute=False)
    images, decided, known = 0, 0, 0
    for listed in source.records(split):
        path, record = folder / f"{listed.image_id}.png", source.with_mask(listed)
        if not path.is_file() or (record.image is not None and record.mask is None):
            continue
        truth = torch.from_numpy(source.read_mask(record).astype("int64"))
        labels = torch.from_numpy(read_label(path, source.num_classes).astype("int64"))
        given = (labels != IGNORE_INDEX) & (truth != IGNORE_INDEX)
        metrics.update(labels.masked_fill(~given, 0), truth.masked_fill(~given, IGNORE_INDEX))
        images, decided = images + 1, decided + int(given.sum())
        known += int((truth != IGNORE_INDEX).sum())
    if not images:
        raise ScribbleSegError(
            f"{folder}: no {split} image has both a pseudo-label there and a mask; nothing to score"
        )
    scores = metrics.compute()
    per_class = zip(source.class_names, scores["iou"].tolist(), strict=True)
    return {
        "miou": float(scores["miou"]),
        "acc": float(scores["acc"]),
        "decided": decided / max(known, 1),
        "images": images,
        "iou": {name: None if value != value else value for name, value in per_class},
    }


class PseudoLabelQuality(Callback):
    """Reports the mIoU of pseudo-labels on the masks of the training images, where there are any.

    At the end of training and of prediction, after the callback that writes them (list it behind).
    It writes ``pseudo_label_quality.json`` into the folder of the run. The masks are read by this
    callback alone: no loss, threshold or checkpoint depends on them.

    Args:
        folder: Folder of the pseudo-labels; ``null`` = ``pseudo_labels`` in the folder of the run.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = None if folder is None else Path(folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score and report."""
        self._report(trainer)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score and report."""
        self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise ConfigError("PseudoLabelQuality needs a ScribbleDataModule; train with one")
        root = Path(trainer.default_root_dir)
        folder = root / "pseudo_labels" if self.folder is None else self.folder
        try:
            scores = score_pseudo_labels(data.source, folder)
        except ScribbleSegError as error:
            logger.warning("pseudo-labels are not scored: %s", error)
            return
        write_text(root / "pseudo_label_quality.json", json.dumps(scores, indent=1) + "\n")
        logger.info(
            "pseudo-labels against the masks of %d training images, which nothing else uses: mIoU "
            "%.3f, %.1f %% of the pixels decided",
            scores["images"],
            scores["miou"],
            100 * scores["decided"],
        )
