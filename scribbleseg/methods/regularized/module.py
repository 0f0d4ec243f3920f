"""Cross-entropy on whatever is labelled, and regularisers on what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from scribbleseg.errors import ConfigError
from scribbleseg.functional.losses import partial_cross_entropy, partial_dice_loss
from scribbleseg.methods.base import ScribbleSegModule
from scribbleseg.nn.regularizers import RegularizerInput, build_regularizers

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

    from scribbleseg.nn.regularizers import Regularizer
    from scribbleseg.types import SegBatch, SegOutput

__all__ = ["RegularizedModule"]


class RegularizedModule(ScribbleSegModule):
    """Cross-entropy over the labelled pixels plus any set of regularisers on the others.

    Without regularisers this is partial cross-entropy (Tang et al., CVPR 2018), the lower bound of
    every comparison. With ``label_type: mask`` in the source the same loss sees dense masks and
    is the upper bound.

    Args:
        num_classes: Number of classes, background included.
        regularizers: Name to weight, or to ``{weight: …, start: …, ramp: …, …}``; names and options
            are those of :data:`scribbleseg.nn.regularizers.REGULARIZERS`.
        dice_weight: Weight of the soft Dice on the labelled pixels; for labels that cover the whole
            image, such as pseudo-labels.
        class_weight: Weight of each class in the cross-entropy, C numbers; ``null`` = alike. See
            :func:`~scribbleseg.functional.losses.class_weights_from_histogram`.
        label_smoothing: Share of the target spread over all classes, in [0, 1).
        reduction: ``pixel`` weighs all labelled pixels of a batch alike, ``image`` all images.
        kwargs: See :class:`~scribbleseg.methods.base.ScribbleSegModule`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        regularizers: dict[str, float | dict[str, Any]] | None = None,
        dice_weight: float = 0.0,
        class_weight: list[float] | None = None,
        label_smoothing: float = 0.0,
        reduction: Literal["pixel", "image"] = "pixel",
        **kwargs: Any,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing={label_smoothing}: expected 0 to below 1")
        if dice_weight < 0:
            raise ConfigError(f"dice_weight={dice_weight}: expected 0 or more")
        super().__init__(num_classes, **kwargs)
        self.save_hyperparameters(ignore=["inference"])
        weights = None
        if class_weight is not None:
            if len(class_weight) != num_classes or min(class_weight) < 0:
                raise ConfigError(
                    f"class_weight={class_weight}: expected {num_classes} numbers, none negative"
                )
            weights = torch.tensor(class_weight)
        self.register_buffer("class_weight", weights, persistent=False)
        self.regularizers = build_regularizers(regularizers, feature_dim=self.feature_dim)

    @property
    def train_inputs(self) -> frozenset[str]:
        """Regularisers look at the image without colour changes."""
        return frozenset({"image_raw"} if self.regularizers else ())

    def training_step(self, batch: SegBatch, batch_idx: int) -> Tensor:
        """Partial cross-entropy at label resolution and the weighted regularisers."""
        output = self.forward_features(batch["image"])
        scribble = batch["scribble"]
        logits = self.upsample_logits(output.logits, (scribble.shape[1], scribble.shape[2]))
        terms = self.supervised_terms(batch, logits) | self.unsupervised_terms(
            batch, output, logits
        )
        self.log_labelled_fraction(batch)
        return self.log_losses(terms, batch_size=len(scribble))

    def supervised_terms(self, batch: SegBatch, logits: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Loss terms on the drawn pixels: name to (weight, scalar)."""
        scribble, weight = batch["scribble"], float(self.hparams["dice_weight"])
        terms = {"pce": (1.0, self.partial_cross_entropy(logits, scribble))}
        if weight > 0:
            dice = partial_dice_loss(
                logits, scribble, across_ranks=True, ignore_index=self.ignore_index
            )
            terms["dice"] = (weight, dice)
        return terms

    def partial_cross_entropy(self, logits: Tensor, scribble: Tensor) -> Tensor:
        """Partial cross-entropy with this module's options."""
        return partial_cross_entropy(
            logits,
            scribble,
            class_weight=cast("Tensor | None", self.class_weight),
            label_smoothing=self.hparams["label_smoothing"],
            reduction=self.hparams["reduction"],
            across_ranks=True,
            ignore_index=self.ignore_index,
        )

    def unsupervised_terms(
        self, batch: SegBatch, output: SegOutput, logits: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """Loss terms of the regularisers: name to (weight now, scalar)."""
        if not self.regularizers:
            return {}
        valid = batch["valid"]
        inputs = RegularizerInput(
            logits=logits,
            logits_low=output.logits,
            features=output.features,
            image=batch["image_raw"],
            valid=valid,
            unlabelled=valid & (batch["scribble"] == self.ignore_index),
            class_labels=batch["class_labels"],
            canvas=self.network.padded_size(logits.shape[-2], logits.shape[-1]),
        )
        progress, terms = self.training_progress(), {}
        for name, regularizer in self.regularizers.items():
            factor = cast("Regularizer", regularizer).factor(progress)
            # before its start a term costs nothing, but its parameters must still see a gradient
            loss = regularizer(inputs) if factor > 0 else _untouched(regularizer, logits)
            terms[name] = (factor, loss)
        return terms


def _untouched(regularizer: Module, logits: Tensor) -> Tensor:
    """A differentiable 0 that reaches every parameter, for distributed training."""
    zero = logits.sum() * 0
    for parameter in regularizer.parameters():
        zero = zero + parameter.sum() * 0
    return zero
