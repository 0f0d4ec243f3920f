"""Predictions as files that a later stage, or a person, can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from lightning.pytorch.callbacks import BasePredictionWriter

from scribbleseg.functional.images import write_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning.pytorch import LightningModule, Trainer

__all__ = ["PseudoLabelWriter"]


class PseudoLabelWriter(BasePredictionWriter):
    """Streams predicted labels to palette PNGs at original size, plus a ``manifest.json``.

    Args:
        folder: Target folder; ids with sub-folders keep them.
    """

    def __init__(self, folder: str) -> None:
        super().__init__(write_interval="batch")
        self.folder = Path(folder)
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
            self._written += 1

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Describe the folder, so that a later stage can refuse what does not fit."""
        from scribbleseg import __version__

        if not trainer.is_global_zero:
            return
        info: Any = pl_module.data_info
        manifest = {
            "module": f"{type(pl_module).__module__}.{type(pl_module).__qualname__}",
            "version": __version__,
            "source": info.source,
            "class_names": list(info.class_names),
            "files": self._written,
            "ranks": trainer.world_size,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
