"""NaN or infinite losses: skip the step, count, then stop with a useful message."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback

from scribbleseg.errors import ConfigError, NonFiniteLossError

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

__all__ = ["NonFiniteGuard"]

logger = logging.getLogger(__name__)


class NonFiniteGuard(Callback):
    """Skips optimiser steps whose loss or gradients are not finite; stops after several in a row.

    Lightning alone trains on with NaN weights to the end. On the CPU a bad step is skipped
    entirely. On accelerators its gradients are set to zero without waiting for the device,
    and the verdict is read one step later, when it costs nothing.

    Args:
        max_consecutive: Bad steps in a row that stop the run.

    Attributes:
        skipped: Bad steps so far.
    """

    def __init__(self, max_consecutive: int = 3) -> None:
        if max_consecutive < 1:
            raise ConfigError(f"max_consecutive={max_consecutive}: expected at least 1")
        self.max_consecutive = max_consecutive
        self.skipped = 0
        self._consecutive = 0
        self._image_ids: list[str] = []
        self._last: tuple[Tensor, dict[str, Tensor], list[str], int] | None = None

    def state_dict(self) -> dict[str, int]:
        """Counter."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the counter."""
        self.skipped = int(state_dict["skipped"])

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember which images are in the batch."""
        self._image_ids = list(batch.get("image_id", [])) if isinstance(batch, dict) else []

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Judge losses and gradients before they reach the weights."""
        terms: dict[str, Tensor] = dict(getattr(pl_module, "loss_terms", {}))
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if not gradients:
            return
        norms = torch.stack(torch._foreach_norm(gradients))
        finite = torch.isfinite(norms).all()
        for term in terms.values():
            finite = finite & torch.isfinite(term).all()
        current = (finite, terms, self._image_ids, trainer.global_step)
        if finite.device.type == "cpu":
            if not bool(finite):
                for parameter in pl_module.parameters():
                    parameter.grad = None  # optimisers leave such parameters alone
            self._judge(trainer, *current)
            return
        for gradient in gradients:
            torch.where(finite, gradient, torch.zeros_like(gradient), out=gradient)
        if self._last is not None:
            self._judge(trainer, *self._last)
        self._last = current

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how many steps were skipped."""
        if self.skipped:
            logger.warning("%d training steps were skipped for non-finite losses", self.skipped)

    def _judge(
        self,
        trainer: Trainer,
        finite: Tensor,
        terms: dict[str, Tensor],
        image_ids: list[str],
        step: int,
    ) -> None:
        if bool(finite):
            self._consecutive = 0
            return
        self.skipped += 1
        self._consecutive += 1
        bad = [f"{name}={float(v):g}" for name, v in terms.items() if not torch.isfinite(v).all()]
        what = ", ".join(bad) or "the gradients (all loss terms are finite)"
        images = ", ".join(image_ids[:8]) or "unknown"
        logger.warning("step %d skipped: non-finite %s; images: %s", step, what, images)
        if self._consecutive >= self.max_consecutive:
            paths = [getattr(c, "best_model_path", "") for c in trainer.checkpoint_callbacks]
            saved = next((path for path in reversed(paths) if path), "none yet")
            raise NonFiniteLossError(
                f"{self._consecutive} steps in a row had non-finite losses, up to step {step}. "
                f"Loss term: {what}. Images in the batch: {images}. The weights are still finite; "
                f"last checkpoint: {saved}. Lower the learning rate, use precision 32, or look at "
                "these images"
            )
