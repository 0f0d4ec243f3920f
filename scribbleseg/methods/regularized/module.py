"""Cross-entropy on whatever is labelled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from scribbleseg.errors import ConfigError
from scribbleseg.functional.losses import partial_cross_entropy
from scribbleseg.methods.base import ScribbleSegModule

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.types import SegBatch

__all__ = ["RegularizedModule"]


class RegularizedModule(ScribbleSegModule):
    """Cross-entropy over the labelled pixels (Tang et al., CVPR 2018: partial cross-entropy).

    On scribbles this is the lower bound of every comparison. With ``train_labels: mask`` in the
    source the same loss sees dense masks and is the upper bound.

    Args:
        num_classes: Number of classes, background included.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        reduction: ``pixel`` weighs all labelled pixels of a batch alike, ``image`` all images.
        kwargs: See :class:`~scribbleseg.methods.base.ScribbleSegModule`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        label_smoothing: float = 0.0,
        reduction: Literal["pixel", "image"] = "pixel",
        **kwargs: Any,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing={label_smoothing}: expected 0 to below 1")
        super().__init__(num_classes, **kwargs)
        self.save_hyperparameters(ignore=["inference"])

    def training_step(self, batch: SegBatch, batch_idx: int) -> Tensor:
        """Partial cross-entropy at label resolution."""
        scribble = batch["scribble"]
        loss = partial_cross_entropy(
            self(batch["image"]),
            scribble,
            label_smoothing=self.hparams["label_smoothing"],
            reduction=self.hparams["reduction"],
            ignore_index=self.ignore_index,
        )
        self.log_labelled_fraction(batch)
        return self.log_losses({"pce": (1.0, loss)}, batch_size=len(scribble))
