"""CDSP: scribbles and pseudo-labels of their classes train one network together."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import torch

from scribbleseg.errors import ConfigError
from scribbleseg.functional.losses import partial_cross_entropy
from scribbleseg.methods.cdsp.lorm import (
    LocalizationRectification,
    RectificationVariant,
    foreground_cells,
    touched_cells,
)
from scribbleseg.methods.cdsp.losses import EntropyNormalization, distance_entropy_loss
from scribbleseg.methods.partial import PartiallySupervisedModule
from scribbleseg.options import check_choice, check_flag, check_number
from scribbleseg.types import SegOutput

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.functional.schedules import ScheduleName
    from scribbleseg.nn.network import Arch
    from scribbleseg.types import SegBatch

__all__ = ["CDSPModule"]

logger = logging.getLogger(__name__)


class CDSPModule(PartiallySupervisedModule):
    """Class-driven scribble promotion (Zhang et al., AAAI 2024), its second stage.

    Partial cross-entropy on the scribbles, smoothed cross-entropy on pseudo-labels that an earlier
    stage made from the classes of the scribbles, rectification of foreground features, and entropy
    minimised near scribbles and away from the boundaries of the pseudo-labels. Prediction is that
    of the plain network. The data module reads the pseudo-labels (``pseudo_label_dir``) and makes
    the distance maps (``distance_lambdas``). A weight of 0 takes a term and its data away; with all
    four at 0 this is the partial cross-entropy alone.

    Args:
        num_classes: Number of classes, background included.
        arch: ``aspp_v3plus`` and ``aspp_v2`` are the paper's; any other works.
        encoder: ``resnet101`` and ``resnet50`` in the paper; any other works.
        pseudo_weight: Weight of the cross-entropy on the pseudo-labels.
        pseudo_smoothing: Share of its target spread over all classes, in [0, 1); the scribbles'
            own is ``label_smoothing``.
        lorm_weight: Weight of the localisation rectification (LoRM). 1 is for encoders that end in
            a ReLU; the signed features of others (EfficientNet, MobileNet) make a loss many times
            as large: about 0.1.
        scribble_distance_weight: Weight of the entropy near foreground scribbles.
        pseudo_distance_weight: Weight of the entropy away from pseudo-label boundaries.
        lorm_variant: ``released``, or ``foreground_only``; see
            :class:`~scribbleseg.methods.cdsp.LocalizationRectification`.
        lorm_temperature: Temperature of its attention, above 0.
        lorm_chunk: Rows of its attention in memory; ``null`` = all.
        entropy_normalization: What both entropies are divided by; see
            :func:`~scribbleseg.methods.cdsp.distance_entropy_loss`.
        reference_quirks: Padding and pixels without pseudo-label count as the released code counts
            them: as background of the pseudo-label while LoRM is on, with weight 1 in the
            entropies, and as cells that LoRM shrinks. By default they count nowhere.
        kwargs: See :class:`~scribbleseg.methods.partial.PartiallySupervisedModule`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        arch: Arch = "aspp_v3plus",
        encoder: str = "resnet101",
        pseudo_weight: float = 1.0,
        pseudo_smoothing: float = 0.1,
        lorm_weight: float = 1.0,
        scribble_distance_weight: float = 1.0,
        pseudo_distance_weight: float = 1.0,
        lorm_variant: RectificationVariant = "released",
        lorm_temperature: float = 1.0,
        lorm_chunk: int | None = 512,
        entropy_normalization: EntropyNormalization = "nonzero",
        reference_quirks: bool = False,
        optimizer: Literal["adamw", "adam", "sgd"] = "sgd",
        lr: float = 1e-3,
        weight_decay: float = 5e-4,
        schedule: ScheduleName = "cosine",
        **kwargs: Any,
    ) -> None:
        weights = {
            "pseudo_weight": pseudo_weight,
            "lorm_weight": lorm_weight,
            "scribble_distance_weight": scribble_distance_weight,
            "pseudo_distance_weight": pseudo_distance_weight,
        }
        check_number(pseudo_smoothing=pseudo_smoothing, **weights)
        check_flag(reference_quirks=reference_quirks)
        check_choice("entropy_normalization", entropy_normalization, ("nonzero", "weight", "all"))
        for name, weight in weights.items():
            if weight < 0:
                raise ConfigError(f"{name}={weight}: expected 0 or more")
        if not 0 <= pseudo_smoothing < 1:
            raise ConfigError(f"pseudo_smoothing={pseudo_smoothing}: expected 0 to below 1")
        super().__init__(
            num_classes,
            arch=arch,
            encoder=encoder,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            schedule=schedule,
            **kwargs,
        )
        self.save_hyperparameters(ignore=["inference"])
        self.lorm: LocalizationRectification | None = None
        if lorm_weight:
            channels: Any = self.network.encoder.out_channels
            self.lorm = LocalizationRectification(
                int(channels[-1]),
                variant=lorm_variant,
                temperature=lorm_temperature,
                chunk=lorm_chunk,
            )
        self.register_load_state_dict_post_hook(_forgive_lorm)  # type: ignore[no-untyped-call]

    @property
    def train_inputs(self) -> frozenset[str]:
        """Pseudo-labels and distance maps, as far as a weight asks for them."""
        weights = self.hparams
        wanted = set(super().train_inputs)
        if weights["pseudo_weight"] or weights["lorm_weight"]:
            wanted.add("pseudo_label")
        if weights["scribble_distance_weight"] or weights["pseudo_distance_weight"]:
            wanted.add("distance_maps")
        return frozenset(wanted)

    def on_fit_start(self) -> None:
        """Refuse what the released code cannot mean.

        Raises:
            ConfigError: If ``reference_quirks`` meets data without a background class.
        """
        if self.hparams["reference_quirks"] and self.data_info.background is None:
            raise ConfigError(
                f"reference_quirks=True, but {self.data_info.source or 'the data set'} has no "
                "background class that padding could be trained as; leave it false"
            )

    def training_step(self, batch: SegBatch, batch_idx: int) -> Tensor:
        """Partial cross-entropy, the terms of the pseudo-label and the maps, the regularisers."""
        scribble = batch["scribble"]
        encoded = self.network.encode(batch["image"])
        features = self.network.decoder(encoded)
        output = SegOutput(self.network.classifier(features), features)
        logits = self.upsample_logits(output.logits, (scribble.shape[1], scribble.shape[2]))
        terms = {"pce": (1.0, self.partial_cross_entropy(logits, scribble))}
        terms |= self.pseudo_label_terms(batch, logits, encoded[-1])
        terms |= self.distance_terms(batch, logits)
        terms |= self.unsupervised_terms(batch, output, logits)
        self.log_labelled_fraction(batch)
        return self.log_losses(terms, batch_size=len(scribble))

    def pseudo_label_terms(
        self, batch: SegBatch, logits: Tensor, deepest: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """Loss terms on the pseudo-label: name to (weight, scalar).

        Args:
            batch: With ``pseudo_label``, if a weight asks for it.
            logits: At the size of the label, shape ``(B, C, H, W)``.
            deepest: Last map of the encoder, shape ``(B, D, h, w)``.
        """
        weights = self.hparams
        quirks = bool(weights["reference_quirks"])
        terms: dict[str, tuple[float, Tensor]] = {}
        if weights["pseudo_weight"]:
            labels, background = batch["pseudo_label"], self.data_info.background
            if quirks and self.lorm is not None and background is not None:
                labels = labels.masked_fill(labels == self.ignore_index, background)
            loss = partial_cross_entropy(
                logits,
                labels,
                label_smoothing=weights["pseudo_smoothing"],
                across_ranks=True,
                ignore_index=self.ignore_index,
            )
            terms["pseudo"] = (float(weights["pseudo_weight"]), loss)
        if self.lorm is not None:
            foreground, valid = self._cells(batch, (deepest.shape[2], deepest.shape[3]))
            loss = self.lorm(
                deepest, foreground, valid=None if quirks else valid, across_ranks=True
            )
            terms["lorm"] = (float(weights["lorm_weight"]), loss)
        return terms

    def _cells(self, batch: SegBatch, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Feature cells of foreground and of the image, on the canvas that the encoder saw."""
        network, corners = self.network, self.network.remainder == 1
        foreground = foreground_cells(
            network.on_canvas(batch["pseudo_label"], fill=self.ignore_index),
            size,
            align_corners=corners,
            background=self.data_info.background,
            ignore_index=self.ignore_index,
        )
        valid = network.on_canvas(batch["valid"], fill=0)
        return foreground, touched_cells(valid, size, align_corners=corners)

    def distance_terms(self, batch: SegBatch, logits: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Distance entropies: name to (weight, scalar). Both maps share one entropy.

        Args:
            batch: With ``scribble_distance`` and ``pseudo_distance``, if a weight asks for them.
            logits: At the size of the maps, shape ``(B, C, H, W)``.
        """
        weights = {
            name: float(self.hparams[f"{name}_distance_weight"])
            for name in ("scribble", "pseudo")
            if self.hparams[f"{name}_distance_weight"]
        }
        if not weights:
            return {}
        maps = [batch[f"{name}_distance"] for name in weights]  # type: ignore[literal-required]
        losses = distance_entropy_loss(
            logits,
            torch.stack(maps).float() / 255,
            normalization=self.hparams["entropy_normalization"],
            valid=None if self.hparams["reference_quirks"] else batch["valid"],
            across_ranks=True,
        )
        return {
            f"entropy_{name}": (weight, loss)
            for (name, weight), loss in zip(weights.items(), losses, strict=True)
        }


def _forgive_lorm(module: CDSPModule, incompatible: Any) -> None:
    """Prediction needs the network alone: LoRM may be missing from weights, or be too much."""
    for keys in (incompatible.missing_keys, incompatible.unexpected_keys):
        own = [key for key in keys if key.startswith("lorm.")]
        if own:
            logger.warning(
                "these weights %s of the localisation rectification: predictions are the same, "
                "training goes on with it as it is",
                "lack those" if keys is incompatible.missing_keys else "hold those",
            )
            keys[:] = [key for key in keys if key not in own]
