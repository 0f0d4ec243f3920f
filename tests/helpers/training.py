"""Trainers of the tests: on the CPU, silent, writing nothing unless asked to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from lightning.pytorch import Trainer
from numpy.typing import NDArray

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


# of what a few steps of training lead to: sums in another order tell after some digits
TRAINED: dict[str, float] = {"rtol": 5e-3, "atol": 1e-4}
LABELLED: dict[str, float] = {"atol": 0.02}


def class_shares(labels: Iterable[NDArray[np.uint8]]) -> dict[str, float]:
    """Share of each id among the pixels of label images; a digest for :data:`LABELLED`."""
    pixels = np.concatenate([label.ravel() for label in labels])
    ids, counts = np.unique(pixels, return_counts=True)
    return {str(i): float(n / len(pixels)) for i, n in zip(ids, counts, strict=True)}
