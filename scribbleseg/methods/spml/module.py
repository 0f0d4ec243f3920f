"""SPML: an embedding learned from weak labels, then a classifier on propagated labels."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import torch

from scribbleseg.checkpoint import load_start
from scribbleseg.errors import ConfigError
from scribbleseg.methods.spml.contrast import ContrastiveModule
from scribbleseg.methods.spml.segments import WeakBatch
from scribbleseg.options import check_choice, check_flag, check_number
from scribbleseg.types import SegOutput

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.functional.schedules import ScheduleName
    from scribbleseg.types import SegBatch

__all__ = ["SPMLModule"]

logger = logging.getLogger(__name__)


class SPMLModule(ContrastiveModule):
    """Pixel-to-segment contrastive learning (SPML; Ke et al., ICLR 2021).

    Stage ``embedding``: each image is split into segments by k-means of its embeddings, by an
    over-segmentation (``superpixels`` of the data) and by the weak labels; pixels are drawn to
    segments that are like them and away from others, by up to four relations, over the batch of all
    ranks and the last batches. A small classifier learns beside it on the labelled pixels, without
    changing the embedding. The callback :class:`~scribbleseg.callbacks.PropagatedLabelWriter` then
    spreads its predictions over the training images, and stage ``classifier`` trains a new
    classifier on these pseudo-labels, on the frozen embedding.

    Pixels without label take part in all relations but the annotation; only padding (``valid``)
    takes part in none. Regularisers act on the classifier alone.

    Args:
        num_classes: Number of classes, background included.
        weak_labels: What trains the embedding: ``scribble`` (whatever ``label_type`` of the source
            draws), or ``pseudo_label``, such as activation maps for tags and boxes.
        head_weight: Weight of the classifier's cross-entropy beside the relations, above 0;
            ``null`` = that of the annotation, as published, or 1 if that is 0.
        init_from: Checkpoint whose weights a fit starts from, such as that of the stage before.
        reset_classifier: Start the stage ``classifier`` with a new classifier, as published.
        kwargs: See :class:`~scribbleseg.methods.spml.contrast.ContrastiveModule`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        weak_labels: Literal["scribble", "pseudo_label"] = "scribble",
        head_weight: float | None = None,
        init_from: str | None = None,
        reset_classifier: bool = True,
        optimizer: Literal["adamw", "adam", "sgd"] = "sgd",
        lr: float = 3e-3,
        head_lr_mult: float = 10.0,
        weight_decay: float = 5e-4,
        schedule: ScheduleName = "poly",
        **kwargs: Any,
    ) -> None:
        check_choice("weak_labels", weak_labels, ("scribble", "pseudo_label"))
        check_flag(reset_classifier=reset_classifier)
        if head_weight is not None:
            check_number(head_weight=head_weight)
            if head_weight <= 0:
                raise ConfigError(f"head_weight={head_weight}: expected null or a number above 0")
        super().__init__(
            num_classes,
            optimizer=optimizer,
            lr=lr,
            head_lr_mult=head_lr_mult,
            weight_decay=weight_decay,
            schedule=schedule,
            **kwargs,
        )
        self.save_hyperparameters(ignore=["inference"])
        annotation = float(self.hparams["annotation_weight"]) or 1.0
        self.head_weight = annotation if head_weight is None else float(head_weight)

    @property
    def train_inputs(self) -> frozenset[str]:
        """Over-segmentation and pseudo-labels, as far as the stage and ``weak_labels`` ask."""
        wanted = set(super().train_inputs)
        if self.hparams["stage"] == "classifier":
            return frozenset(wanted | {"pseudo_label"})
        if self.hparams["weak_labels"] == "pseudo_label":
            wanted.add("pseudo_label")
        return frozenset(wanted | {"superpixel"})

    def on_fit_start(self) -> None:
        """Start from the weights of another stage, unless this run is resumed.

        Raises:
            CheckpointError: If they cannot be read or do not fit.
        """
        path = self.hparams["init_from"]
        if path is None and self.hparams["stage"] == "classifier" and not self.trainer.ckpt_path:
            logger.warning(
                "stage: classifier without init_from: the embedding is frozen as it is; name the "
                "checkpoint of the stage `embedding`, unless its weights were loaded otherwise"
            )
        if path is not None and self.trainer.ckpt_path is None:
            fresh = self.hparams["stage"] == "classifier" and self.hparams["reset_classifier"]
            load_start(self, path, without="network.classifier." if fresh else None)

    def training_step(self, batch: SegBatch, batch_idx: int) -> Tensor:
        """Cross-entropy of the classifier, the relations of the pixels, the regularisers."""
        frozen = self.hparams["stage"] == "classifier"
        drawn = not frozen and self.hparams["weak_labels"] == "scribble"
        labels = batch["scribble"] if drawn else batch["pseudo_label"]
        with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
            embedding = self.embed(batch["image"])
        read = embedding.detach()
        output = SegOutput(self.network.classifier(read), read)
        logits = self.upsample_logits(output.logits, (labels.shape[1], labels.shape[2]))
        weight = 1.0 if frozen else self.head_weight
        terms = {"head": (weight, self.partial_cross_entropy(logits, labels))}
        if not frozen:
            weak = WeakBatch(
                image=batch["image"],
                labels=labels,
                regions=batch["superpixel"],
                valid=batch["valid"],
                tags=batch["class_labels"],
            )
            terms |= self.relation_terms(weak, embedding)
        terms |= self.unsupervised_terms(batch, output, logits)
        self.log_labelled_fraction(batch)
        return self.log_losses(terms, batch_size=len(labels))
