"""Scores of the heads that a run does not predict with, for comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from torch import nn

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.functional.geometry import class_labels_from_scribble
from scribbleseg.metrics import SegmentationMetrics
from scribbleseg.options import check_choice, check_flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scribbleseg.methods.pfa.heads import AugmentedModule
    from scribbleseg.types import SegBatch

__all__ = ["HeadScores"]


class HeadScores(nn.Module):
    """Counts the predictions of further heads over a validation or test set.

    Args:
        module: Whose heads; not registered as a part of this one.
        heads: ``local``, ``global`` or both, with classes that need no labels.
        oracle: Also both heads with the classes of the dense mask. The published evaluation does
            that; a user of the model cannot.
    """

    def __init__(self, module: AugmentedModule, heads: Sequence[str], *, oracle: bool) -> None:
        super().__init__()
        for head in heads:
            check_choice("extra_heads", head, ("local", "global"))
        check_flag(oracle=oracle)
        self._module = [module]  # in a list: a module must not contain itself
        names = [*heads, *(("oracle_local", "oracle_global") if oracle else ())]
        self.metrics = nn.ModuleDict({n: SegmentationMetrics(module.num_classes) for n in names})

    def reset(self) -> None:
        """Start counting afresh."""
        for metric in self.metrics.values():
            cast("SegmentationMetrics", metric).reset()

    def update(self, batch: SegBatch) -> None:
        """Count a batch; without dense masks nothing is counted."""
        if not self.metrics or "mask" not in batch:
            return
        module = self._module[0]
        # one by one: each image has its own classes
        for index in range(len(batch["image"])):
            one = _only(batch, index)
            height, width = one["orig_size"][0].tolist()
            target = one["mask"][0, :height, :width]
            if bool(one["duplicate"][0]) if "duplicate" in one else False:
                target = target.new_full(target.shape, IGNORE_INDEX)
            for name, metric in self.metrics.items():
                classes = self._true_classes(one["mask"]) if name.startswith("oracle") else None
                with module.using(name.removeprefix("oracle_"), classes):  # type: ignore[arg-type]
                    prediction = module.predict_labels(one)[0]
                cast("SegmentationMetrics", metric).update(prediction, target)

    def _true_classes(self, mask: Tensor) -> Tensor:
        module = self._module[0]
        background = module.data_info.background
        return class_labels_from_scribble(
            mask, module.num_classes, always=() if background is None else (background,)
        )

    def compute(self, stage: str) -> dict[str, Tensor]:
        """Scores by their logged name: ``<stage>/miou_<head>`` and ``oracle/miou_<head>``."""
        scores = {}
        for name, metric in self.metrics.items():
            own = cast("SegmentationMetrics", metric)
            if own.update_called:
                prefix = "oracle" if name.startswith("oracle_") else stage
                scores[f"{prefix}/miou_{name.removeprefix('oracle_')}"] = own.compute()["miou"]
        return scores


def _only(batch: SegBatch, index: int) -> SegBatch:
    """One image of a batch."""
    one: Any = {key: value[index : index + 1] for key, value in batch.items()}  # type: ignore[index]
    return cast("SegBatch", one)
