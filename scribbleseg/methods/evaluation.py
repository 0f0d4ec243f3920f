"""Validation, testing and prediction, the same for every method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import LightningModule

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.inference import InferenceConfig, argmax_at_size, refine_logits
from scribbleseg.metrics import SegmentationMetrics, VolumeDice
from scribbleseg.types import DataInfo

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.types import SegBatch

__all__ = ["EvaluatedModule"]


class EvaluatedModule(LightningModule):
    """Scores predictions at original size; a subclass says how logits come about.

    Args:
        num_classes: Number of classes, background included.
        inference: Test-time options; ``None`` = one scale, nothing else.
    """

    def __init__(self, num_classes: int, inference: InferenceConfig | None = None) -> None:
        super().__init__()
        self.num_classes = int(num_classes)
        self.ignore_index = IGNORE_INDEX
        self.inference = inference if inference is not None else InferenceConfig()
        self.data_info = DataInfo(tuple(f"class_{index}" for index in range(num_classes)))
        self.val_metrics = SegmentationMetrics(num_classes)
        self.volume_dice = VolumeDice(num_classes)
        self._metric_suffix = ""

    def predict_logits(self, image: Tensor) -> Tensor:
        """Test-time logits ``(B, C, H, W)`` of normalised images ``(B, 3, H, W)``."""
        raise NotImplementedError

    def predict_labels(self, batch: SegBatch) -> list[Tensor]:
        """Predicted ids of each image at its original size, uint8, shape ``(H0, W0)``."""
        image, sizes = batch["image"], batch["input_size"].tolist()
        if all(size == sizes[0] for size in sizes):
            height, width = sizes[0]
            logits = list(torch.split(self.predict_logits(image[..., :height, :width]), 1))
        else:
            # one by one: the canvas around a smaller image must not change its prediction
            logits = [
                self.predict_logits(image[index : index + 1, :, :height, :width])
                for index, (height, width) in enumerate(sizes)
            ]
        targets = batch["orig_size"].tolist()
        if self.inference.crf is not None:
            pixels = [
                raw[None, :, :height, :width]
                for raw, (height, width) in zip(batch["image_raw"], targets, strict=True)
            ]
            logits = [
                refine_logits(own, raw, self.inference)
                for own, raw in zip(logits, pixels, strict=True)
            ]
        return [
            argmax_at_size(own.float(), (target[0], target[1]))[0].to(torch.uint8)
            for own, target in zip(logits, targets, strict=True)
        ]

    def on_validation_epoch_start(self) -> None:
        """Start counting afresh."""
        self.val_metrics.reset()
        self.volume_dice.reset()
        self.volume_dice.foreground = [
            c for c in range(self.num_classes) if c != self.data_info.background
        ]

    def validation_step(self, batch: SegBatch, batch_idx: int) -> dict[str, Any]:
        """Count predictions against the masks, or against the scribbles where masks are missing."""
        labels = self.predict_labels(batch)
        key = "mask" if "mask" in batch else "scribble" if "scribble" in batch else None
        if key is None:
            return {"prediction": labels}
        self._metric_suffix = "" if key == "mask" else "_scribble"
        truth = cast("Tensor", batch[key])  # type: ignore[literal-required]
        repeated = batch["duplicate"].tolist() if "duplicate" in batch else [False] * len(labels)
        for index, (prediction, duplicate) in enumerate(zip(labels, repeated, strict=True)):
            height, width = prediction.shape
            target = truth[index, :height, :width]
            if duplicate:
                # counts nothing, but every rank must take part in the reduction
                target = torch.full_like(target, self.ignore_index)
            self.val_metrics.update(prediction, target)
            if "group" in batch and key == "mask":
                self.volume_dice.update(prediction[None], target[None], [batch["group"][index]])
        return {"prediction": labels}

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the whole set under ``val/``."""
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        """Start counting afresh."""
        self.on_validation_epoch_start()

    def test_step(self, batch: SegBatch, batch_idx: int) -> dict[str, Any]:
        """Same as validation, on the test split."""
        return self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        """Log the scores of the whole set under ``test/``."""
        self._log_scores("test")

    def predict_step(self, batch: SegBatch, batch_idx: int) -> dict[str, Any]:
        """Predicted ids at original size, with the image ids."""
        return {"prediction": self.predict_labels(batch), "image_id": batch["image_id"]}

    def _log_scores(self, stage: str) -> None:
        if self.val_metrics.update_called:
            scores, suffix = self.val_metrics.compute(), self._metric_suffix
            self.log(f"{stage}/miou{suffix}", scores["miou"], prog_bar=True, sync_dist=False)
            self.log(f"{stage}/acc{suffix}", scores["acc"])
            self.log(f"{stage}/mean_acc{suffix}", scores["mean_acc"])
            self._log_per_class(f"{stage}/iou{suffix}", scores["iou"])
        if self.volume_dice.update_called:
            dice = self.volume_dice.compute()
            self.log(f"{stage}/dice", dice["dice"], prog_bar=True)
            self.log(f"{stage}/dice_pooled", dice["dice_pooled"])
            self._log_per_class(f"{stage}/dice", dice["dice_per_class"])

    def _log_per_class(self, prefix: str, values: Tensor) -> None:
        names = self.data_info.class_names
        self.log_dict(
            {f"{prefix}/{name}": value for name, value in zip(names, values, strict=True)}
        )
