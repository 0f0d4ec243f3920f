"""PFA: prototypes of confident pixels enrich the features, and both predictions must agree."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from scribbleseg.errors import ConfigError
from scribbleseg.functional.distributed import all_reduce_sum
from scribbleseg.functional.geometry import class_labels_from_scribble
from scribbleseg.methods.pfa.heads import AugmentedModule
from scribbleseg.methods.pfa.prototypes import ClassPrototypes, confident_prototypes
from scribbleseg.methods.pfa.weights import (
    ConsistencyForm,
    LossPreset,
    Phase,
    consistency_loss,
    phase_weights,
)
from scribbleseg.options import check_choice, check_flag, check_number
from scribbleseg.types import SegOutput

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.nn.network import Arch
    from scribbleseg.types import SegBatch

__all__ = ["PFAModule"]

logger = logging.getLogger(__name__)


class PFAModule(AugmentedModule):
    """Prototype-based feature augmentation (Chan et al., ICML 2024).

    Three phases: a warm-up with partial cross-entropy; then the most confident pixels of every
    class of an image give local prototypes, which fill a bank of global ones; once the bank of
    every class seen in training is full, both kinds enrich the features, and the predictions with
    and without them are tied.

    Args:
        num_classes: Number of classes, background included.
        arch: Decoder architecture; ``segformer`` in the paper.
        encoder: ``mit_b1`` and ``mit_b5`` in the paper (their weights are for research only); any
            other encoder works.
        output_stride: ``null`` = 16 for ``segformer`` on ``mit_b*`` as in the paper, else the
            architecture's own.
        warmup: Share of the training, in [0, 1), before prototypes are used (30 of 200 epochs).
        loss_preset: ``joint``, ``reference`` (released code) or ``paper``; see
            :data:`~scribbleseg.methods.pfa.weights.PRESETS`.
        loss_weights: ``{phase: {term: weight}}`` changes single weights of the preset.
        consistency: ``prob_ce`` (released code, nearly without effect) or ``soft_ce``; ``null`` =
            ``soft_ce`` with the preset ``paper``, whose augmenter learns from it alone.
        detach_target: Whether the augmented prediction is a constant in the consistency.
        class_labels: Classes of an ``image`` are those drawn in all of it, or in its ``crop``.
        prototype_features: Prototypes from features after (``dropout``) or before (``clean``) the
            channel dropout.
        freeze_encoder_norm: Keep the affine parameters of the encoder's normalisation layers.
        kwargs: See :class:`~scribbleseg.methods.pfa.heads.AugmentedModule`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        arch: Arch = "segformer",
        encoder: str = "mit_b1",
        output_stride: int | None = None,
        warmup: float = 0.15,
        loss_preset: LossPreset = "joint",
        loss_weights: dict[str, dict[str, float]] | None = None,
        consistency: Literal["prob_ce", "soft_ce"] | None = None,
        detach_target: bool = False,
        class_labels: Literal["image", "crop"] = "image",
        prototype_features: Literal["dropout", "clean"] = "dropout",
        freeze_encoder_norm: bool = True,
        lr: float = 6e-5,
        head_lr_mult: float = 10.0,
        schedule: Literal["constant", "linear", "poly", "cosine", "onecycle"] = "linear",
        **kwargs: Any,
    ) -> None:
        check_number(warmup=warmup)
        check_flag(detach_target=detach_target, freeze_encoder_norm=freeze_encoder_norm)
        check_choice("consistency", consistency, ("prob_ce", "soft_ce", None))
        check_choice("class_labels", class_labels, ("image", "crop"))
        check_choice("prototype_features", prototype_features, ("dropout", "clean"))
        if not 0 <= warmup < 1:
            raise ConfigError(
                f"warmup={warmup}: expected a share of the training in [0, 1); from 1 on "
                "prototypes would never be used. 30 of 200 epochs are 0.15"
            )
        mit = arch == "segformer" and encoder.startswith("mit_b")
        super().__init__(
            num_classes,
            arch=arch,
            encoder=encoder,
            output_stride=16 if mit and output_stride is None else output_stride,
            lr=lr,
            head_lr_mult=head_lr_mult,
            schedule=schedule,
            **kwargs,
        )
        self.save_hyperparameters(ignore=["inference"])
        self.weights = phase_weights(loss_preset, loss_weights)
        _check_augmenter_learns(self.weights, detach_target)
        default: ConsistencyForm = "soft_ce" if loss_preset == "paper" else "prob_ce"
        self.consistency: ConsistencyForm = default if consistency is None else consistency
        self.register_buffer("seen_classes", torch.zeros(num_classes, dtype=torch.bool))
        self.register_buffer("bank_ready", torch.tensor(False))
        self.seen_classes: Tensor
        self.bank_ready: Tensor
        self.register_buffer("waived_classes", torch.zeros(num_classes, dtype=torch.bool))
        self.register_buffer("prototype_steps", torch.tensor(0))
        self.waived_classes: Tensor
        self.prototype_steps: Tensor
        self._ready: bool | None = None  # what the host knows of `bank_ready`
        self.register_load_state_dict_post_hook(_forget_ready)  # type: ignore[no-untyped-call]
        self._warned = False
        if freeze_encoder_norm:
            _freeze_norm(self.network.encoder)

    def training_step(self, batch: SegBatch, batch_idx: int) -> Tensor:
        """Terms of the phase, and the regularisers on the plain prediction."""
        found, scribble = self.plain_prediction(batch["image"]), batch["scribble"]
        present = self._present_classes(batch)
        prototypes = None
        if self._uses_prototypes():
            dropped = self.hparams["prototype_features"] == "dropout"
            prototypes = confident_prototypes(
                found.features if dropped else found.clean,
                self.confidence(found.logits),
                present,
                ratio=self.hparams["topk_ratio"],
            )
            self.bank.update(prototypes.prototypes, prototypes.valid)
            self.prototype_steps += 1
        phase = self._phase(prototypes)
        output = SegOutput(found.logits, found.features)
        terms = self.phase_terms(output, scribble, present, prototypes, phase)
        if self.regularizers:
            size = (scribble.shape[1], scribble.shape[2])
            full = self.upsample_logits(output.logits, size)
            terms |= self.unsupervised_terms(batch, output, full)
        used = any(name.endswith(("_local", "_global")) for name in terms)
        rest = 0.0 if used else self.idle(self.augmenter, output.logits)
        self.log("train/phase", float(("warmup", "local", "global").index(phase)))
        self.log("train/bank_filled", self.bank.filled.float().mean())
        self.log_labelled_fraction(batch)
        return self.log_losses(terms, batch_size=len(scribble)) + rest

    def _uses_prototypes(self) -> bool:
        """From the end of the warm-up on; a longer run that goes on does not fall back."""
        if self._ready is None:  # of a checkpoint, or the beginning
            self._ready = bool(self.bank_ready)
        return self._ready or self.training_progress() >= self.hparams["warmup"]

    def _present_classes(self, batch: SegBatch) -> Tensor:
        present = batch["class_labels"]
        if self.hparams["class_labels"] == "crop":
            background = self.data_info.background
            present = class_labels_from_scribble(
                batch["scribble"],
                self.num_classes,
                always=() if background is None else (background,),
            )
        if not self._ready:
            here = (present > 0).any(dim=0).float()
            self.seen_classes |= all_reduce_sum(here) > 0
        return present

    def _phase(self, prototypes: ClassPrototypes | None) -> Phase:
        """Warm-up, or whether the bank of every class of the data is full; once full, for ever."""
        if prototypes is None:
            return "warmup"
        # after an epoch every class that occurs has been seen
        if not self._ready and (self._trainer is None or self.current_epoch > 0):
            awaited = self.seen_classes & ~self.waived_classes
            self._ready = bool((self.bank.filled.all(dim=1) | ~awaited).all())
            self.bank_ready.fill_(self._ready)
        return "global" if self._ready else "local"

    def phase_terms(
        self,
        output: SegOutput,
        scribble: Tensor,
        present: Tensor,
        prototypes: ClassPrototypes | None,
        phase: Phase,
    ) -> dict[str, tuple[float, Tensor]]:
        """Loss terms whose weight in this phase is not 0.

        Args:
            output: Plain prediction.
            scribble: Ids, int64, shape ``(B, H, W)``.
            present: Classes of each image, multi-hot, shape ``(B, C)``.
            prototypes: Local prototypes; ``None`` in the warm-up.
            phase: Row of the weight table.

        Returns:
            Name to (weight, scalar).
        """
        weights, points = self.weights[phase], self.drawn_points(scribble)
        terms: dict[str, tuple[float, Tensor]] = {}
        if weights["plain"]:
            pce = self.partial_cross_entropy_at(output.logits, scribble, points)
            terms["pce"] = (weights["plain"], pce)
        heads = {} if prototypes is None else {"local": prototypes, "global": None}
        used = [head for head in heads if weights[f"pce_{head}"] or weights[f"con_{head}"]]
        read = self.augmenter.read(output.features) if used else None
        for head in used:
            assert read is not None
            augmented = self.augmented_logits(read, present, heads[head])
            if weights[f"pce_{head}"]:
                pce = self.partial_cross_entropy_at(augmented, scribble, points)
                terms[f"pce_{head}"] = (weights[f"pce_{head}"], pce)
            if weights[f"con_{head}"]:
                consistency = consistency_loss(
                    output.logits,
                    augmented,
                    form=self.consistency,
                    detach_target=self.hparams["detach_target"],
                    across_ranks=True,
                )
                terms[f"con_{head}"] = (weights[f"con_{head}"], consistency)
        return terms

    def on_train_epoch_end(self) -> None:
        """After an epoch with prototypes: do not wait for classes that gave none; say so once."""
        steps = self._trainer.num_training_batches if self._trainer is not None else 1
        if self._ready or int(self.prototype_steps) < steps:
            return
        self.waived_classes |= self.seen_classes & (self.bank.count == 0)
        missing = ~self.bank.filled.all(dim=1)
        if self._warned or self.global_rank != 0 or not missing.any():
            return
        self._warned = True
        names, counts = self.data_info.class_names, self.bank.count.tolist()
        listed = ", ".join(
            f"{names[c]} ({counts[c]} of {self.hparams['num_prototypes']}"
            f"{'' if self.seen_classes[c] else ', not drawn in any training image'})"
            for c in missing.nonzero().flatten().tolist()
        )
        logger.warning(
            "the prototype bank is not full after an epoch with prototypes: %s. Classes without "
            "any are not waited for; they are never predicted with a positive logit: try "
            "`confidence: centred`. For the others train longer, or lower num_prototypes",
            listed,
        )

    def on_fit_start(self) -> None:
        """Say what a data set without background means."""
        if self.data_info.background is None and self.global_rank == 0:
            logger.warning(
                "%s has no background class: an image may attend only to classes that are drawn "
                "in it",
                self.data_info.source or "the data set",
            )


def _forget_ready(module: PFAModule, _: object) -> None:
    """After loading weights, ask the buffer again whether the bank is full."""
    module._ready = None


def _check_augmenter_learns(weights: dict[Phase, dict[str, float]], detach_target: bool) -> None:
    phases: tuple[Phase, ...] = ("local", "global")
    for phase in phases:
        own = weights[phase]
        consistent = own["con_local"] or own["con_global"]
        if detach_target and consistent and not (own["pce_local"] or own["pce_global"]):
            raise ConfigError(
                f"detach_target=True, but in the phase {phase!r} only the consistency reaches the "
                "feature augmenter: it would never learn; set detach_target: false, or give "
                "pce_local or pce_global a weight"
            )


def _freeze_norm(encoder: nn.Module) -> None:
    kinds = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)
    for layer in encoder.modules():
        if isinstance(layer, kinds):
            for parameter in layer.parameters():
                parameter.requires_grad_(False)
