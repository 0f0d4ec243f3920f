"""Pseudo-labels from averaged predictions of the whole training images."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities import rank_zero_info

from scribbleseg.errors import ConfigError
from scribbleseg.functional.losses import masked_mean
from scribbleseg.methods.regularized.bank import ProbabilityBank
from scribbleseg.methods.regularized.losses import bank_pseudo_label
from scribbleseg.methods.regularized.module import RegularizedModule
from scribbleseg.nn.modes import evaluation_mode
from scribbleseg.options import check_flag, check_number, check_whole

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.types import SegBatch, SegOutput

__all__ = ["Scribble2LabelModule"]

logger = logging.getLogger(__name__)


class Scribble2LabelModule(RegularizedModule):
    r"""Confident averaged predictions become labels (Scribble2Label, Lee & Jeong, MICCAI 2020).

    Every ``bank_interval`` steps the network predicts the unaugmented training images, in
    evaluation mode, and the predictions enter an exponential average on disk
    (:class:`~scribbleseg.methods.regularized.bank.ProbabilityBank`). From ``pseudo_start`` on,
    unlabelled pixels whose average exceeds ``threshold`` are trained on.

    Args:
        num_classes: Number of classes, background included.
        pseudo_weight: Weight of the cross-entropy on pseudo-labels.
        pseudo_start: Share of the training before which there are none.
        threshold: Smallest averaged probability of a label, in (0, 1).
        alpha: Share of the newest prediction in the average, in (0, 1].
        bank_interval: Optimiser steps between two refreshes; 0 = once per epoch.
        bank_stride: Pixels per side of a cell of the bank; 4 suits data sets that do not fit on
            the disk at full size.
        bank_dir: Folder of the bank; by default ``bank`` in the run directory.
        bias_correction: Correct the average for its start at zero; without it the first label
            appears after 8 refreshes at the default rates.
        kwargs: See :class:`~scribbleseg.methods.regularized.RegularizedModule`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        pseudo_weight: float = 0.5,
        pseudo_start: float = 0.1,
        threshold: float = 0.8,
        alpha: float = 0.2,
        bank_interval: int = 100,
        bank_stride: int = 1,
        bank_dir: str | None = None,
        bias_correction: bool = False,
        **kwargs: Any,
    ) -> None:
        check_number(
            pseudo_weight=pseudo_weight,
            pseudo_start=pseudo_start,
            threshold=threshold,
            alpha=alpha,
        )
        check_whole(0, bank_interval=bank_interval)
        check_whole(1, bank_stride=bank_stride)
        check_flag(bias_correction=bias_correction)
        checked = {
            "pseudo_weight": (pseudo_weight, pseudo_weight >= 0),
            "pseudo_start": (pseudo_start, 0 <= pseudo_start < 1),
            "threshold": (threshold, 0 < threshold < 1),
            "alpha": (alpha, 0 < alpha <= 1),
        }
        wrong = [f"{name}={value}" for name, (value, fine) in checked.items() if not fine]
        if wrong:
            raise ConfigError(
                f"{', '.join(wrong)}: expected pseudo_weight and bank_interval of at least 0, "
                "pseudo_start in [0, 1), threshold in (0, 1), alpha in (0, 1], bank_stride of at "
                "least 1"
            )
        super().__init__(num_classes, **kwargs)
        self.save_hyperparameters(ignore=["inference"])
        self.bank: ProbabilityBank | None = None
        self._bank_state: dict[str, Any] | None = None
        self._refreshed_step = 0

    @property
    def train_inputs(self) -> frozenset[str]:
        """Where each pixel comes from, and the unaugmented images themselves."""
        return super().train_inputs | {"source_index", "unaugmented_images"}

    def on_train_start(self) -> None:
        """Open the bank."""
        super().on_train_start()
        folder = self.hparams["bank_dir"]
        root = Path(folder) if folder else Path(self.trainer.default_root_dir) / "bank"
        self.bank = ProbabilityBank(
            root,
            alpha=self.hparams["alpha"],
            stride=self.hparams["bank_stride"],
            bias_correction=self.hparams["bias_correction"],
        )
        if self.unaugmented_images is None:
            raise ConfigError(
                "this method predicts the unaugmented training images, but no ScribbleDataModule "
                "provides them; train with a ScribbleDataModule, or set "
                "module.unaugmented_images to a function that returns a loader of them"
            )
        loader: Any = self.trainer.train_dataloader
        facts = {"classes": self.num_classes, "images": len(loader.dataset)}
        state, self._bank_state = self._bank_state, None
        if self.trainer.is_global_zero:
            self.bank.open(facts, state)
        shared = (self.bank.generation, self.bank.run)
        self.bank.generation, self.bank.run = self.trainer.strategy.broadcast(shared)
        self._refreshed_step = state["step"] if state is not None else 0

    def unsupervised_terms(
        self, batch: SegBatch, output: SegOutput, logits: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """The regularisers and the cross-entropy on the bank's labels."""
        terms = super().unsupervised_terms(batch, output, logits)
        early = self.training_progress() < self.hparams["pseudo_start"]
        if self.bank is None or early or self.bank.generation == 0:
            return terms | {"pseudo": (0.0, logits.sum() * 0)}
        classes, confidence = self.bank.labels(batch["index"].tolist(), batch["source_index"].cpu())
        scribble = batch["scribble"]
        classes, confidence = classes.to(scribble.device), confidence.to(scribble.device)
        labels = bank_pseudo_label(
            classes, confidence, scribble, threshold=self.hparams["threshold"]
        )
        share = masked_mean((labels != self.ignore_index).float(), batch["valid"])
        self.log("train/pseudo_label_fraction", share, batch_size=len(scribble))
        loss = self.partial_cross_entropy(logits, labels)
        return terms | {"pseudo": (float(self.hparams["pseudo_weight"]), loss)}

    def on_train_batch_start(self, batch: SegBatch, batch_idx: int) -> None:
        """Refresh the bank when it is due: after the checkpoints of the step before."""
        step = self.trainer.global_step
        epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        if step >= self._refreshed_step + (self.hparams["bank_interval"] or epoch):
            self._refreshed_step = step
            self.refresh_bank()

    @torch.no_grad()
    def refresh_bank(self) -> None:
        """Predict every unaugmented training image in evaluation mode and average it in."""
        bank, images = self.bank, self.unaugmented_images
        if bank is None or images is None:
            raise RuntimeError("the bank is opened when training starts; call trainer.fit")
        with evaluation_mode(self):
            for batch in images():
                batch = self.trainer.strategy.batch_to_device(batch, self.device)
                repeated = batch["duplicate"].tolist()
                for index, probs, again in zip(
                    batch["index"].tolist(), self._whole_images(batch), repeated, strict=True
                ):
                    if not again:  # another rank writes it
                        bank.write(index, probs)
        self.trainer.strategy.barrier()
        bank.advance(tidy=self.trainer.is_global_zero)
        rank_zero_info("pseudo-label bank: refresh %d", bank.generation)

    def _whole_images(self, batch: SegBatch) -> list[Tensor]:
        """Probabilities ``(C, H, W)`` of each image, on the host, in the trainer's precision."""
        plugin = self.trainer.precision_plugin
        image, sizes = plugin.convert_input(batch)["image"], batch["input_size"].tolist()
        if all(size == sizes[0] for size in sizes):
            parts = [image[..., : sizes[0][0], : sizes[0][1]]]
        else:
            # one by one: the canvas around a smaller image must not change its prediction
            parts = [image[i : i + 1, :, :h, :w] for i, (h, w) in enumerate(sizes)]
        with plugin.forward_context():
            return [own for part in parts for own in self(part).float().softmax(dim=1).cpu()]

    # ------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add which generation of the bank belongs to these weights."""
        super().on_save_checkpoint(checkpoint)
        if self.bank is not None:
            state = {**self.bank.state(), "step": self._refreshed_step}
            checkpoint["scribbleseg"]["bank"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Remember the generation; the bank opens when training starts."""
        super().on_load_checkpoint(checkpoint)
        self._bank_state = (checkpoint.get("scribbleseg") or {}).get("bank")
