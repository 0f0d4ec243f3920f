"""NaN or infinite losses: skip the step, count, then stop with a useful message."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import Callback

from scribbleseg.errors import NonFiniteLossError
from scribbleseg.options import check_whole

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

__all__ = ["NonFiniteGuard"]

logger = logging.getLogger(__name__)


class _Verdict(NamedTuple):
    finite: Tensor  # one bool, on the CPU
    ready: torch.cuda.Event | None  # recorded behind the copy of `finite`
    terms: list[dict[str, Tensor]]
    image_ids: list[str]
    step: int


class NonFiniteGuard(Callback):
    """Skips optimiser steps whose loss or gradients are not finite; stops after several in a row.

    Lightning alone trains on with NaN weights to the end. A bad step leaves the weights and all
    buffers (BatchNorm statistics, prototype banks, queues) as they were before it. On CUDA the
    decision is taken on the device and its flag is read when it has arrived, so that no step waits;
    the count can lag by a few steps. With a gradient scaler (16-mixed) infinite gradients are the
    scaler's business and only the losses are judged.

    Args:
        max_consecutive: Bad steps in a row that stop the run.

    Attributes:
        skipped: Bad steps so far.
    """

    def __init__(self, max_consecutive: int = 3) -> None:
        check_whole(1, max_consecutive=max_consecutive)
        self.max_consecutive = max_consecutive
        self.skipped = 0
        self._consecutive = 0
        self._image_ids: list[str] = []
        self._terms: list[dict[str, Tensor]] = []
        self._buffers: list[Tensor] = []
        self._window_open = False
        self._pending: deque[_Verdict] = deque()

    def state_dict(self) -> dict[str, int]:
        """Counter."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Restore the counter."""
        self.skipped = int(state_dict["skipped"])

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Remember the images, and at the start of an accumulation window the buffers."""
        if not self._window_open:
            buffers = list(pl_module.buffers())
            if len(buffers) != len(self._buffers):
                self._buffers = [buffer.clone() for buffer in buffers]
            elif buffers:
                torch._foreach_copy_(self._buffers, buffers)
            self._window_open, self._image_ids, self._terms = True, [], []
        if isinstance(batch, dict):
            self._image_ids += batch.get("image_id", [])

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the loss terms of this batch."""
        self._terms.append(dict(getattr(pl_module, "loss_terms", {})))

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Judge losses and gradients before they reach the weights."""
        self._window_open = False
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        if not gradients:
            return
        checks = [torch.isfinite(v).all() for terms in self._terms for v in terms.values()]
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        if not scaled:
            checks.append(torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all())
        if not checks:
            return
        finite = torch.stack([check.to(gradients[0].device) for check in checks]).all()
        buffers = list(pl_module.buffers())
        if finite.device.type == "cuda":
            for value, saved in zip(buffers, self._buffers, strict=True):
                torch.where(finite, value, saved, out=value)
            for gradient in () if scaled else gradients:
                torch.where(finite, gradient, torch.zeros_like(gradient), out=gradient)
            flag = torch.empty((), dtype=torch.bool, pin_memory=True)
            flag.copy_(finite, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
        else:
            flag, event = finite.cpu(), None
            if not bool(flag):
                torch._foreach_copy_(buffers, self._buffers)
                for parameter in () if scaled else pl_module.parameters():
                    parameter.grad = None  # optimisers leave such parameters alone
        step = trainer.global_step
        self._pending.append(_Verdict(flag, event, self._terms, self._image_ids, step))
        self._judge(trainer, wait=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say how many steps were skipped."""
        self._judge(trainer, wait=True)
        if self.skipped:
            logger.warning("%d training steps were skipped for non-finite losses", self.skipped)

    def _judge(self, trainer: Trainer, *, wait: bool) -> None:
        while self._pending:
            finite, event, terms, image_ids, step = self._pending[0]
            if event is not None and not event.query():  # type: ignore[no-untyped-call]
                if not wait:
                    return
                event.synchronize()
            self._pending.popleft()
            if bool(finite):
                self._consecutive = 0
                continue
            self.skipped += 1
            self._consecutive += 1
            bad = {
                f"{name}={float(value):g}"
                for batch in terms
                for name, value in batch.items()
                if not torch.isfinite(value).all()
            }
            what = ", ".join(sorted(bad)) or "the gradients (all loss terms are finite)"
            images = ", ".join(image_ids[:8]) or "unknown"
            logger.warning("step %d skipped: non-finite %s; images: %s", step, what, images)
            if self._consecutive >= self.max_consecutive:
                paths = [getattr(c, "best_model_path", "") for c in trainer.checkpoint_callbacks]
                saved = next((path for path in reversed(paths) if path), "none yet")
                raise NonFiniteLossError(
                    f"{self._consecutive} steps in a row had non-finite losses, up to step {step}. "
                    f"Loss term: {what}. Images in the batch: {images}. The weights are still "
                    f"finite; last checkpoint: {saved}. Lower the learning rate, use precision 32, "
                    "or look at these images"
                )
