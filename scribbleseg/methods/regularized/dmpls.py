"""Dynamically mixed pseudo-labels of two decoders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from scribbleseg.errors import ConfigError
from scribbleseg.methods.regularized.losses import (
    dynamic_mixed_pseudo_label,
    mixed_dice_loss,
    soft_mixed_loss,
)
from scribbleseg.methods.regularized.module import RegularizedModule
from scribbleseg.nn.network import build_network
from scribbleseg.options import check_flag, check_number
from scribbleseg.types import SegOutput

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.types import SegBatch

__all__ = ["DMPLSModule"]


class DMPLSModule(RegularizedModule):
    """Two decoders teach each other by mixed pseudo-labels (Luo et al., MICCAI 2022).

    The auxiliary decoder sees encoder features with channel dropout. Prediction uses the main
    decoder only.

    Args:
        num_classes: Number of classes, background included.
        pseudo_weight: Weight of the pseudo-label term.
        soft: Cross-entropy with the mixture itself (DMSPS) instead of Dice with its arg max.
        keep_scribbles: Drawn pixels keep their class in the pseudo-label; the paper relabels them.
        dropout: Probability of dropping a channel in front of the auxiliary decoder.
        kwargs: See :class:`~scribbleseg.methods.regularized.RegularizedModule`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        pseudo_weight: float = 0.5,
        soft: bool = False,
        keep_scribbles: bool = False,
        dropout: float = 0.5,
        **kwargs: Any,
    ) -> None:
        check_number(pseudo_weight=pseudo_weight, dropout=dropout)
        check_flag(soft=soft, keep_scribbles=keep_scribbles)
        if pseudo_weight < 0 or not 0 <= dropout < 1:
            raise ConfigError(
                f"pseudo_weight={pseudo_weight}, dropout={dropout}: expected a weight that is not "
                "negative and a probability below 1"
            )
        super().__init__(num_classes, **kwargs)
        self.save_hyperparameters(ignore=["inference"])
        twin = build_network(
            self.hparams["arch"],
            self.hparams["encoder"],
            num_classes=num_classes,
            encoder_weights=None,
            in_channels=self.hparams["in_channels"],
            output_stride=self.hparams["output_stride"],
            channels_last=self.hparams["channels_last"],
        )
        self.aux_decoder, self.aux_classifier = twin.decoder, twin.classifier
        self.aux_dropout = nn.Dropout2d(dropout)

    def training_step(self, batch: SegBatch, batch_idx: int) -> Tensor:
        """Partial cross-entropy of both branches, the mixed pseudo-label, the regularisers."""
        scribble = batch["scribble"]
        size = (scribble.shape[1], scribble.shape[2])
        encoded = self.network.encode(batch["image"])
        features = self.network.decoder(encoded)
        output = SegOutput(self.network.classifier(features), features)
        dropped = self.aux_decoder([self.aux_dropout(level) for level in encoded])
        logits = self.upsample_logits(output.logits, size)
        logits_aux = self.upsample_logits(self.aux_classifier(dropped), size)
        pce = self.partial_cross_entropy(logits, scribble)
        pce_aux = self.partial_cross_entropy(logits_aux, scribble)
        mixed = dynamic_mixed_pseudo_label(
            logits,
            logits_aux,
            torch.rand((), device=logits.device),
            scribble=scribble if self.hparams["keep_scribbles"] else None,
        )
        if self.hparams["soft"]:
            pseudo = soft_mixed_loss(logits, logits_aux, mixed.probs, mask=batch["valid"])
        else:
            labels = mixed.labels.masked_fill(~batch["valid"], self.ignore_index)
            pseudo = mixed_dice_loss(logits, logits_aux, labels)
        terms = {
            "pce": (0.5, pce),
            "pce_aux": (0.5, pce_aux),
            "pseudo": (float(self.hparams["pseudo_weight"]), pseudo),
        }
        terms |= self.unsupervised_terms(batch, output, logits)
        self.log_labelled_fraction(batch)
        return self.log_losses(terms, batch_size=len(scribble))
