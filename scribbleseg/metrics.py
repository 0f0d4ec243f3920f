"""Dataset-level segmentation metrics: one confusion matrix, and Dice per volume."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import torch
from torchmetrics import Metric

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.functional.geometry import one_hot_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["SegmentationMetrics", "VolumeDice"]


class SegmentationMetrics(Metric):
    """mIoU, IoU per class and pixel accuracy from the confusion matrix of the whole set.

    Mean IoU averages the classes that occur in the prediction or the labels (VOC's definition); it
    is not a mean over images. Reductions over ranks add the matrices.

    Args:
        num_classes: C.
        ignore_index: Label value that is not scored.
        sync_on_compute: Add the matrices of all ranks, which must then all call ``compute()``.
    """

    full_state_update = False
    higher_is_better = True
    confusion: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int = IGNORE_INDEX,
        sync_on_compute: bool = True,
    ) -> None:
        super().__init__(sync_on_compute=sync_on_compute)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.add_state(
            "confusion",
            torch.zeros(num_classes, num_classes, dtype=torch.int64),
            dist_reduce_fx="sum",
        )

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count one image or batch.

        Args:
            prediction: Ids 0..C-1, integer, any shape.
            target: Ids 0..C-1 or ``ignore_index``, integer, same shape.

        Raises:
            ValueError: If the shapes disagree or a label is out of range.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and mask {tuple(target.shape)} "
                "differ in shape"
            )
        scored = target != self.ignore_index
        target, prediction = target[scored].long(), prediction[scored].long()
        # one look at the largest label instead of bincount's opaque reshape error
        if target.numel() and int(target.max()) >= self.num_classes:
            raise ValueError(
                f"mask holds class {int(target.max())} but num_classes={self.num_classes} (valid: "
                f"0..{self.num_classes - 1}, {self.ignore_index}); is the ignore label of this "
                f"data set {int(target.max())}?"
            )
        pairs = target * self.num_classes + prediction
        counts = torch.bincount(pairs, minlength=self.num_classes**2)
        self.confusion += counts.view(self.num_classes, self.num_classes)

    def compute(self) -> dict[str, Tensor]:
        """Scores as fractions.

        Returns:
            ``miou`` and ``acc`` scalars, ``iou`` of shape ``(C,)`` with NaN for classes that occur
            neither in the predictions nor in the labels, ``mean_acc`` over classes with labels.
        """
        confusion = self.confusion.double()
        hit, labelled = confusion.diagonal(), confusion.sum(1)
        union = labelled + confusion.sum(0) - hit
        iou = torch.where(union > 0, hit / union, torch.nan)
        recall = torch.where(labelled > 0, hit / labelled, torch.nan)
        return {
            "miou": iou.nanmean().float(),
            "iou": iou.float(),
            "acc": (hit.sum() / confusion.sum()).float(),
            "mean_acc": recall.nanmean().float(),
        }


class VolumeDice(Metric):
    """Dice per volume and class, averaged over volumes; slices of a volume are pooled first.

    Used for medical data, where one volume is one patient scan. A class that is absent from both
    the labels and the prediction of a volume scores 1; absent from one of them only, 0.

    Args:
        num_classes: C.
        background: Class left out of the mean; ``None`` keeps all.
        ignore_index: Label value that is not scored.
    """

    full_state_update = False
    higher_is_better = True
    counts: list[Tensor]

    def __init__(
        self, num_classes: int, *, background: int | None = 0, ignore_index: int = IGNORE_INDEX
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.foreground = [c for c in range(num_classes) if c != background]
        # rows of [volume hash, intersection (C), predicted (C), labelled (C)]
        self.add_state("counts", [], dist_reduce_fx="cat")

    def update(self, prediction: Tensor, target: Tensor, volumes: Sequence[str]) -> None:
        """Count slices.

        Args:
            prediction: Ids, integer, shape ``(B, H, W)``.
            target: Ids or ``ignore_index``, integer, same shape.
            volumes: Name of the volume of each slice, B of them.
        """
        scored = (target != self.ignore_index)[..., None]
        predicted = one_hot_labels(prediction.long(), self.num_classes) * scored
        labelled = one_hot_labels(target.long(), self.num_classes, ignore_index=self.ignore_index)
        rows = [(predicted * labelled).sum((1, 2)), predicted.sum((1, 2)), labelled.sum((1, 2))]
        keys = torch.tensor([_stable_hash(name) for name in volumes], device=target.device)
        self.counts.append(torch.cat([keys[:, None], *rows], dim=1))

    def compute(self) -> dict[str, Tensor]:
        """Scores as fractions.

        Returns:
            ``dice``: mean over volumes and foreground classes; ``dice_per_class``: shape ``(C,)``;
            ``dice_pooled``: foreground mean of Dice over all pixels of the set, for comparison with
            results that were not scored per volume; ``volumes``: how many.
        """
        counts = self.counts
        rows = torch.cat(list(counts)) if isinstance(counts, (list, tuple)) else counts
        volumes, inverse = torch.unique(rows[:, 0], return_inverse=True)
        sums = torch.zeros(
            len(volumes), 3 * self.num_classes, dtype=torch.int64, device=rows.device
        )
        sums.index_add_(0, inverse, rows[:, 1:])
        per_volume = self._dice(sums)
        pooled = self._dice(sums.sum(0, keepdim=True))[0]
        return {
            "dice": per_volume[:, self.foreground].mean().float(),
            "dice_per_class": per_volume.mean(0).float(),
            "dice_pooled": pooled[self.foreground].mean().float(),
            "volumes": torch.tensor(len(volumes)),
        }

    def _dice(self, sums: Tensor) -> Tensor:
        hit, predicted, labelled = sums.double().view(-1, 3, self.num_classes).unbind(1)
        size = predicted + labelled
        return torch.where(size > 0, 2 * hit / size.clamp_min(1), 1.0)


def _stable_hash(name: str) -> int:
    """63-bit hash that is the same in every process, unlike Python's own."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1
