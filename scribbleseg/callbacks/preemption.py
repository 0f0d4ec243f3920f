"""SIGTERM: write a checkpoint at once, so that a pre-empted job loses nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["PreemptionCheckpoint"]

logger = logging.getLogger(__name__)


class PreemptionCheckpoint(Callback):
    """Saves ``last.ckpt`` after the batch during which SIGTERM arrived, then ends the run.

    Args:
        folder: Where checkpoints are.

    Attributes:
        path: Checkpoint written on SIGTERM, ``None`` so far.
        last_written: The same for the newest instance of the process; outlives the trainer.
    """

    last_written: ClassVar[Path | None] = None

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.path: Path | None = None

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Before validation could delay it."""
        # with several ranks Lightning agrees on the signal first and raises; see on_exception
        # accumulated gradients are in no checkpoint: wait for the optimiser step
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        stepped = stepped or trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if trainer.received_sigterm and trainer.world_size == 1 and stepped:
            self._save(trainer)
            raise SIGTERMException

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """SIGTERM noticed elsewhere, such as during validation."""
        if isinstance(exception, SIGTERMException) and self.path is None and trainer.global_step:
            self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self.path = self.folder / "last.ckpt"
        trainer.save_checkpoint(self.path)
        PreemptionCheckpoint.last_written = self.path
        logger.warning("SIGTERM: saved %s at step %d", self.path, trainer.global_step)
