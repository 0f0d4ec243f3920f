"""Pseudo-labels of the training images where a trained method is sure of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F

from scribbleseg.callbacks.training_image_writer import TrainingImageWriter
from scribbleseg.errors import ConfigError
from scribbleseg.functional.manifest import parent_facts
from scribbleseg.functional.pseudo_labels import filter_pseudo_labels
from scribbleseg.inference import InferenceConfig, refine_logits
from scribbleseg.options import check_flag, check_number

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from scribbleseg.callbacks.training_image import TrainingImage

__all__ = ["ConfidentLabelWriter"]

logger = logging.getLogger(__name__)


class ConfidentLabelWriter(TrainingImageWriter):
    """Writes a pseudo-label of every training image: its likeliest class, where it is sure.

    At the end of training, with the last weights, and at the end of ``scribbleseg predict``, with
    those of the checkpoint. Works with every method. No mask is read. An interrupted run goes on
    where it stopped.

    The folder holds ``<id>.png`` with ids at image size, 255 = rejected, and ``manifest.json``; it
    is a ``pseudo_label_dir`` for methods and sources.

    Args:
        folder: Where to; ``null`` = ``pseudo_labels`` in the folder of the run.
        threshold: Least probability in [0, 1] of the class of a pixel; equal is kept, 0 keeps all.
        paste_scribbles: Drawn pixels keep their class, as they are trained on.
        present_only: Only classes that the training scribble names, or that the source knows of the
            image, and the background.
        inference: Test-time options of these predictions; ``null`` = those of the method.
    """

    def __init__(
        self,
        folder: str | None = None,
        *,
        threshold: float = 0.9,
        paste_scribbles: bool = True,
        present_only: bool = False,
        inference: InferenceConfig | None = None,
    ) -> None:
        check_number(threshold=threshold)
        check_flag(paste_scribbles=paste_scribbles, present_only=present_only)
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold={threshold}: expected a probability; 90 % is 0.9")
        super().__init__(folder, inference)
        self.threshold, self.paste_scribbles = threshold, paste_scribbles
        self.present_only = present_only
        self._labelled = self._pixels = 0

    def folders(self, run: Path) -> list[Path]:
        """The one folder."""
        return [self.folder or run / "pseudo_labels"]

    def options(self) -> dict[str, Any]:
        """Threshold, and what is done with scribbles and tags."""
        flags = {"present_only": True} if self.present_only else {}
        given = {"threshold": self.threshold, "paste_scribbles": self.paste_scribbles, **flags}
        return {**given, **self.facts}

    def write(self, trainer: Trainer, pl_module: LightningModule) -> Path:
        """See :meth:`TrainingImageWriter.write`; also says how many pixels are labelled."""
        self._labelled = self._pixels = 0
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        trained_on = None if data is None else data.extra_options.pseudo_label_dir
        self.facts = parent_facts(labels=trained_on)
        folder = super().write(trainer, pl_module)
        if trainer.is_global_zero and self._pixels:
            share = 100 * self._labelled / self._pixels
            logger.info("%.1f %% of their pixels are labelled", share)
        return folder

    def write_image(self, sample: TrainingImage, module: Any, folders: list[Path]) -> None:
        """Write one label."""
        labels = filter_pseudo_labels(
            _probabilities(sample, module),
            confidence=self.threshold,
            labels=sample.scribble if self.paste_scribbles else None,
            present=sample.tags if self.present_only else None,
            background=sample.data.source.background,
        )
        if self.present_only:
            labels = sample.where_known(labels)
        sample.write_label(folders[0], labels)
        self._labelled += int((labels != module.ignore_index).sum())
        self._pixels += labels.numel()


def _probabilities(sample: TrainingImage, module: Any) -> Tensor:
    """Of one image at its original size, ``(C, H, W)``; probabilities are resized, not logits."""
    logits, size = module.predict_logits(sample.image), sample.raw.shape[1:]
    if module.inference.crf is not None:
        logits = refine_logits(logits, sample.raw[None].to(module.device), module.inference)
    probs: Tensor = logits.float().softmax(dim=1)
    if probs.shape[2:] != size:
        probs = F.interpolate(probs, tuple(size), mode="bilinear", align_corners=False)
    return probs[0]
