"""Cross-entropy on whatever is labelled, and regularisers on what is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from scribbleseg.errors import ConfigError
from scribbleseg.functional.losses import partial_dice_loss
from scribbleseg.methods.partial import PartiallySupervisedModule
from scribbleseg.options import check_flag, check_number

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.types import SegBatch

__all__ = ["RegularizedModule"]


class RegularizedModule(PartiallySupervisedModule):
    """Cross-entropy over the labelled pixels plus any set of regularisers on the others.

    Without regularisers this is partial cross-entropy (Tang et al., CVPR 2018), the lower bound of
    every comparison. With ``label_type: mask`` in the source the same loss sees dense masks and
    is the upper bound.

    Args:
        num_classes: Number of classes, background included.
        dice_weight: Weight of the soft Dice on the labelled pixels; for labels that cover the whole
            image, such as pseudo-labels.
        pseudo_labels: Train on ``pseudo_label_dir`` of the data in place of the scribbles, as the
            last stage of methods that make labels; ``paste_scribbles`` of the data joins both.
        kwargs: See :class:`~scribbleseg.methods.partial.PartiallySupervisedModule`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        dice_weight: float = 0.0,
        pseudo_labels: bool = False,
        **kwargs: Any,
    ) -> None:
        check_number(dice_weight=dice_weight)
        if dice_weight < 0:
            raise ConfigError(f"dice_weight={dice_weight}: expected 0 or more")
        check_flag(pseudo_labels=pseudo_labels)
        if pseudo_labels and type(self).training_step is not RegularizedModule.training_step:
            raise ConfigError(
                f"pseudo_labels=True with {type(self).__name__}, which makes its own: use "
                "RegularizedModule"
            )
        super().__init__(num_classes, **kwargs)
        self.save_hyperparameters(ignore=["inference"])

    @property
    def train_inputs(self) -> frozenset[str]:
        """What regularisers look at, and pseudo-labels if they are what trains."""
        labels = {"pseudo_label"} if self.hparams["pseudo_labels"] else set()
        return super().train_inputs | labels

    def training_step(self, batch: SegBatch, batch_idx: int) -> Tensor:
        """Partial cross-entropy at label resolution and the weighted regularisers."""
        if self.hparams["pseudo_labels"]:
            batch = cast("SegBatch", {**batch, "scribble": batch["pseudo_label"]})
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
