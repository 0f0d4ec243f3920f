"""What a person wants to read while a run goes on: where, how long, how well."""

from __future__ import annotations

import logging
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback

from scribbleseg.options import check_whole

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["RunSummary"]

logger = logging.getLogger(__name__)


class RunSummary(Callback):
    """First lines, an estimate after 20 steps, and plain progress lines where there is no terminal.

    Args:
        folder: The run's folder, named in the first lines.
        every_n_steps: Distance of progress lines when the output is not a terminal.
    """

    def __init__(self, folder: str, *, every_n_steps: int = 50) -> None:
        self.folder = folder
        check_whole(1, every_n_steps=every_n_steps)
        self.every_n_steps = every_n_steps
        self._started, self._first_step = 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what is about to run."""
        self._started, self._first_step = time.monotonic(), trainer.global_step
        if not trainer.is_global_zero:
            return
        loader: Any = trainer.train_dataloader
        images = len(loader.dataset) if hasattr(loader, "dataset") else "?"
        parameters = sum(p.numel() for p in pl_module.parameters())
        logger.info(
            "%s, %.1f M parameters, %s ×%d, precision %s",
            type(pl_module).__name__,
            parameters / 1e6,
            trainer.strategy.root_device.type,
            trainer.world_size,
            trainer.precision,
        )
        logger.info(
            "%s training images, %d steps per epoch, %s steps in all; writing to %s",
            images,
            trainer.num_training_batches,
            _steps(trainer),
            self.folder,
        )

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Estimate after 20 steps; progress lines."""
        done = trainer.global_step - self._first_step
        if done > 0 and trainer.global_step % self._log_every(trainer) == 0:
            self._log_machine(trainer, pl_module, done)
        if not trainer.is_global_zero or done <= 0:
            return
        if done == 20:
            share = trainer.callback_metrics.get("train/labelled_fraction")
            logger.info(
                "after 20 steps: about %s left, peak memory %.1f GiB%s",
                self._left(trainer, done),
                _peak_memory(),
                f", {float(share):.1%} of the pixels labelled" if share is not None else "",
            )
        # reading a loss waits for the device: only every so many steps, never for a progress bar
        if done % self.every_n_steps == 0 and not sys.stderr.isatty():
            metrics = {
                name.removeprefix("train/"): float(value)
                for name, value in trainer.callback_metrics.items()
                if name.startswith("train/loss")
            }
            terms = " ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            logger.info(
                "epoch %d step %d/%s: %s lr %.2e, %s left",
                trainer.current_epoch,
                trainer.global_step,
                _steps(trainer),
                terms,
                rate,
                self._left(trainer, done),
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One line of scores."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        scores = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("val/") and name.count("/") == 1
        }
        if scores:
            text = ", ".join(f"{name.removeprefix('val/')} {v:.4f}" for name, v in scores.items())
            logger.info("epoch %d validation: %s", trainer.current_epoch, text)

    @staticmethod
    def _log_every(trainer: Trainer) -> int:
        # set by Lightning's logger connector; 0 = never
        return int(getattr(trainer, "log_every_n_steps", 50)) or sys.maxsize

    def _log_machine(self, trainer: Trainer, pl_module: LightningModule, done: int) -> None:
        """Learning rates, mean seconds per step since the start, and device memory in GiB."""
        values = {
            "lr" if number == 0 else f"lr/{group.get('name', number)}": float(group["lr"])
            for number, group in enumerate(trainer.optimizers[0].param_groups)
        }
        values["time/step"] = (time.monotonic() - self._started) / done
        if torch.cuda.is_available():
            values["gpu/mem"] = _peak_memory()
        pl_module.log_dict(values, batch_size=1)

    def _left(self, trainer: Trainer, done: int) -> str:
        total = _steps(trainer)
        if isinstance(total, str):
            return "an unknown time"
        seconds = (time.monotonic() - self._started) / done * (total - trainer.global_step)
        return str(timedelta(seconds=round(seconds)))


def _steps(trainer: Trainer) -> int | str:
    total = trainer.estimated_stepping_batches
    return int(total) if total != float("inf") and total > 0 else "?"


def _peak_memory() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20
