"""Methods that learn from labelled pixels: cross-entropy there, regularisers elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from scribbleseg.errors import ConfigError
from scribbleseg.functional.losses import partial_cross_entropy
from scribbleseg.functional.point_loss import drawn_points, partial_cross_entropy_at_points
from scribbleseg.methods.base import ScribbleSegModule
from scribbleseg.nn.regularizers import RegularizerInput, build_regularizers
from scribbleseg.options import check_choice, check_number

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
    from torch.optim import Optimizer

    from scribbleseg.nn.regularizers import Regularizer
    from scribbleseg.types import SegBatch, SegOutput

__all__ = ["PartiallySupervisedModule"]


class PartiallySupervisedModule(ScribbleSegModule):
    """Base of methods with a partial cross-entropy, on top of which any regulariser may be set.

    Args:
        num_classes: Number of classes, background included.
        regularizers: Name to weight, or to ``{weight: …, start: …, ramp: …, …}``; names and options
            are those of :data:`scribbleseg.nn.regularizers.REGULARIZERS`.
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
        class_weight: list[float] | None = None,
        label_smoothing: float = 0.0,
        reduction: Literal["pixel", "image"] = "pixel",
        **kwargs: Any,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise ConfigError(f"label_smoothing={label_smoothing}: expected 0 to below 1")
        check_choice("reduction", reduction, ("pixel", "image"))
        super().__init__(num_classes, **kwargs)
        self.save_hyperparameters(ignore=["inference"])
        weights = None
        if class_weight is not None:
            check_number(**{f"class_weight[{c}]": w for c, w in enumerate(class_weight)})
            fits = len(class_weight) == num_classes and min(class_weight) >= 0
            if not fits or not any(class_weight):
                raise ConfigError(
                    f"class_weight={class_weight}: expected {num_classes} numbers, none negative "
                    "and not all 0"
                )
            weights = torch.tensor(class_weight)
        self.register_buffer("class_weight", weights, persistent=False)
        self.regularizers = build_regularizers(regularizers, feature_dim=self.feature_dim)
        self._idle: list[Module] = []

    @property
    def train_inputs(self) -> frozenset[str]:
        """Regularisers look at the image without colour changes."""
        return frozenset({"image_raw"} if self.regularizers else ())

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

    def partial_cross_entropy_at(
        self, logits: Tensor, scribble: Tensor, points: Tensor | None = None
    ) -> Tensor:
        """The same of logits at decoder resolution, which are enlarged at drawn pixels only.

        Args:
            logits: Shape ``(B, C, h, w)``, as :meth:`forward_features` returns them.
            scribble: Shape ``(B, H, W)``; see :meth:`drawn_points`.
            points: Result of :meth:`drawn_points`, to share it between losses.
        """
        return partial_cross_entropy_at_points(
            logits,
            self.network.on_canvas(scribble, fill=self.ignore_index),
            align_corners=self.network.align_corners,
            points=points,
            class_weight=cast("Tensor | None", self.class_weight),
            label_smoothing=self.hparams["label_smoothing"],
            reduction=self.hparams["reduction"],
            across_ranks=True,
            ignore_index=self.ignore_index,
        )

    def drawn_points(self, scribble: Tensor) -> Tensor:
        """Positions of the drawn pixels on the canvas that the network saw."""
        canvas = self.network.on_canvas(scribble, fill=self.ignore_index)
        return drawn_points(canvas, ignore_index=self.ignore_index)

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
            loss = regularizer(inputs) if factor > 0 else self.idle(regularizer, logits)
            terms[name] = (factor, loss)
        return terms

    def idle(self, part: Module, logits: Tensor) -> Tensor:
        """A differentiable 0 for a part that takes no part in this step.

        Distributed training needs a gradient for every parameter. The optimiser must not see it:
        zeros would decay the weights and use up Adam's correction for its first steps.

        Args:
            part: What this step does without.
            logits: Any tensor of the step.

        Returns:
            Scalar; add it to the loss.
        """
        self._idle.append(part)
        zero = logits.sum() * 0
        for parameter in part.parameters():
            zero = zero + parameter.sum() * 0
        return zero

    def on_train_batch_start(self, batch: SegBatch, batch_idx: int) -> None:
        """Forget the idle parts of a step that was skipped: they may take part in this one."""
        self._idle.clear()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Take the zeros of idle parts away again."""
        for part in self._idle:
            for parameter in part.parameters():
                parameter.grad = None
        self._idle.clear()
