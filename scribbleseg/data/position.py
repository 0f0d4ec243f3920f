"""Where in an epoch a run stands, for checkpoints written between two samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scribbleseg.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lightning.pytorch import Trainer

__all__ = ["check_step_size", "training_position"]


def training_position(trainer: Trainer, step_size: int) -> dict[str, int]:
    """Epoch and samples that are done, as a checkpoint stores them.

    Args:
        trainer: Trainer of the run, between two steps.
        step_size: Images per step over all processes.

    Returns:
        ``epoch``, ``samples_done`` of that epoch over all processes, ``step_size``.
    """
    loop: Any = trainer.fit_loop
    epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress
    inside = epochs.ready > epochs.processed  # else the epoch is over: its end, or after fit
    middle = inside and not batches.is_last_batch
    return {
        "epoch": epochs.processed + (1 if inside and batches.is_last_batch else 0),
        "samples_done": batches.current.ready * step_size if middle else 0,
        "step_size": step_size,
    }


def check_step_size(position: Mapping[str, int], step_size: int) -> None:
    """Refuse to continue the middle of an epoch with steps of another size.

    Args:
        position: From :func:`training_position`.
        step_size: Images per step over all processes now.

    Raises:
        CheckpointError: If they differ.
    """
    if position["samples_done"] and position["step_size"] != step_size:
        raise CheckpointError(
            f"the checkpoint was written in the middle of an epoch with {position['step_size']} "
            f"images per step over all processes, now {step_size}: the rest of that epoch cannot "
            "be continued. Resume with the same batch_size and devices, or from a checkpoint at "
            "the end of an epoch"
        )
