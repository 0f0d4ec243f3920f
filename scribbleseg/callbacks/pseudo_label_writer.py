"""Predictions as files that a later stage, or a person, can read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter

from scribbleseg.functional.images import write_label
from scribbleseg.functional.manifest import write_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import LightningModule, Trainer

__all__ = ["PseudoLabelWriter"]


class PseudoLabelWriter(BasePredictionWriter):
    """Streams predicted labels to palette PNGs at original size, plus a ``manifest.json``.

    A source trains on the folder with ``label_type: pseudo`` and ``pseudo_label_dir``.

    Args:
        folder: Target folder; ids with sub-folders keep them.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(write_interval="batch")
        self.folder = Path(folder)
        self._written = 0

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count the files of this run only."""
        self._written = 0

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the images of one batch."""
        info: Any = pl_module.data_info
        palette = np.asarray(info.palette, dtype=np.uint8)
        for image_id, labels in zip(prediction["image_id"], prediction["prediction"], strict=True):
            write_label(self.folder / f"{image_id}.png", labels.cpu().numpy(), palette)
        repeated = batch.get("duplicate")  # images that only even out the ranks
        self._written += len(prediction["image_id"]) - (
            0 if repeated is None else int(repeated.sum())
        )

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Describe the folder, so that a later stage can refuse what does not fit."""
        written = torch.tensor(self._written, device=pl_module.device)
        # also waits until every rank has written its files
        files = int(trainer.strategy.reduce(written, reduce_op="sum"))
        if not trainer.is_global_zero:
            return
        info: Any = pl_module.data_info
        write_manifest(
            self.folder,
            class_names=info.class_names,
            files=files,
            module=f"{type(pl_module).__module__}.{type(pl_module).__qualname__}",
            source=info.source,
            split="predict",
            ranks=trainer.world_size,
        )
