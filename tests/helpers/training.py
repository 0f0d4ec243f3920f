"""Trainers of the tests: on the CPU, silent, writing nothing unless asked to."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def quiet_trainer(**options: Any) -> Trainer:
    """A trainer with the given options on top of :data:`QUIET`."""
    return Trainer(**{**QUIET, **options})
