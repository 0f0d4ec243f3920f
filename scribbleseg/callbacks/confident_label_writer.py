"""Pseudo-labels of the training images where a trained method is sure of them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from scribbleseg.callbacks.seed_writer import scribble_and_tags
from scribbleseg.callbacks.training_image_writer import TrainingImageWriter, training_scribble
from scribbleseg.errors import ConfigError
from scribbleseg.functional.images import write_label
from scribbleseg.functional.pseudo_labels import filter_pseudo_labels
from scribbleseg.inference import InferenceConfig, refine_logits
from scribbleseg.options import check_flag, check_number

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from scribbleseg.types import Record

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
        return {"threshold": self.threshold, "paste_scribbles": self.paste_scribbles, **flags}

    def is_written(self, folders: list[Path], image_id: str) -> bool:
        """Whether the label is there."""
        return (folders[0] / f"{image_id}.png").is_file()

    def write(self, trainer: Trainer, pl_module: LightningModule) -> Path:
        """See :meth:`TrainingImageWriter.write`; also says how many pixels are labelled."""
        self._labelled = self._pixels = 0
        folder = super().write(trainer, pl_module)
        if trainer.is_global_zero and self._pixels:
            share = 100 * self._labelled / self._pixels
            logger.info("%.1f %% of their pixels are labelled", share)
        return folder

    def write_image(
        self,
        batch: Any,
        position: int,
        module: Any,
        data: Any,
        record: Record,
        folders: list[Path],
    ) -> None:
        """Write one label."""
        probs = _probabilities(batch, position, module)
        scribble, present = None, None
        if self.paste_scribbles:
            scribble = torch.from_numpy(training_scribble(data, record)).to(probs.device)
        if self.present_only:
            present = scribble_and_tags(data, record)[1].to(probs.device)
        labels = filter_pseudo_labels(
            probs,
            confidence=self.threshold,
            labels=scribble,
            present=present,
            background=data.source.background,
        )
        found = labels.cpu().numpy().astype(np.uint8)
        write_label(folders[0] / f"{record.image_id}.png", found, data.source.palette)
        self._labelled += int((found != module.ignore_index).sum())
        self._pixels += found.size


def _probabilities(batch: Any, position: int, module: Any) -> Tensor:
    """Of one image at its original size, ``(C, H, W)``; probabilities are resized, not logits."""
    height, width = batch["input_size"][position].tolist()
    rows, columns = batch["orig_size"][position].tolist()
    image = batch["image"][position, None, :, :height, :width].to(module.device)
    logits = module.predict_logits(image)
    if module.inference.crf is not None:
        raw = batch["image_raw"][position, None, :, :rows, :columns]
        logits = refine_logits(logits, raw.to(module.device), module.inference)
    probs: Tensor = logits.float().softmax(dim=1)
    if probs.shape[2:] != (rows, columns):
        probs = F.interpolate(probs, (rows, columns), mode="bilinear", align_corners=False)
    return probs[0]
