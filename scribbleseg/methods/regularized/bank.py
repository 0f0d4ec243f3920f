"""Averaged predictions of every training image, kept on disk."""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from scribbleseg.errors import ConfigError
from scribbleseg.methods.regularized.losses import update_probability_bank

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = ["ProbabilityBank"]

logger = logging.getLogger(__name__)
_PREFIX = "generation_"
_FACTS = "bank.json"
_KEPT = 3  # the last checkpoint, the best one, and one that is being replaced


class ProbabilityBank:
    r"""Exponential averages :math:`e` of class probabilities, one file per image.

    Files are float16 arrays ``(C, h, w)`` in the coordinates of the network-size image, divided by
    ``stride``; a data set of N images of H×W takes ``2·N·C·H·W / stride²`` bytes. Each refresh
    writes a new generation beside the old one, so that a run that resumes from a checkpoint finds
    the bank as it was then. Those of the last three checkpoints are kept, older ones are deleted.

    Ranks share the folder: each refreshes its own images, so it must be visible to all of them.

    Args:
        folder: Where the files are.
        alpha: Share of the newest prediction, in (0, 1].
        stride: Pixels per side of one cell, at least 1.
        bias_correction: Divide by :math:`1 - (1-\alpha)^t`, so that the zero start does not hold
            back the first labels.
    """

    def __init__(
        self, folder: Path, *, alpha: float = 0.2, stride: int = 1, bias_correction: bool = False
    ) -> None:
        self.folder, self.alpha, self.stride = folder, alpha, stride
        self.bias_correction = bias_correction
        self.generation = 0
        self.run = ""
        self._kept: list[int] = []

    def open(self, facts: dict[str, Any], state: dict[str, Any] | None = None) -> None:
        """Create the folder for a new run, or find it again for a resumed one.

        Args:
            facts: What must agree between the bank and the data, such as the number of classes.
            state: What :meth:`state` gave to the checkpoint; ``None`` = a new run.

        Raises:
            ConfigError: If the folder belongs to another run, or cannot be written.
        """
        path = self.folder / _FACTS
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            stored = json.loads(path.read_text()) if path.is_file() else None
            if state is not None and stored is not None:
                if stored != {"run": state["run"], **facts}:
                    raise self._foreign(stored)
                self.run = state["run"]
                self._restore(int(state["generation"]))
                return
            if stored is not None and any(self.folder.glob(f"{_PREFIX}*")):
                raise self._foreign(stored)
            self.run = str(state["run"]) if state is not None else uuid.uuid4().hex
            if state is not None:
                self._restore(int(state["generation"]))
            path.write_text(json.dumps({"run": self.run, **facts}) + "\n")
        except (OSError, ValueError) as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(
                f"the pseudo-label bank cannot be kept in {self.folder} ({error}); set `bank_dir` "
                "to a folder that can be written"
            ) from error

    def _foreign(self, stored: dict[str, Any]) -> ConfigError:
        return ConfigError(
            f"{self.folder} holds the pseudo-label bank of another run or of other data "
            f"({stored}); set `bank_dir` to another folder, or delete this one"
        )

    def _restore(self, generation: int) -> None:
        there = sorted(int(path.name.removeprefix(_PREFIX)) for path in self._folders())
        if generation and generation not in there:
            older = [number for number in there if number < generation]
            found = max(older, default=0)
            logger.warning(
                "the pseudo-label bank of this checkpoint (%s) is no longer there; training goes "
                "on with generation %d, so it will differ from an uninterrupted run",
                self.path(0, generation).parent,
                found,
            )
            generation = found
        self.generation, self._kept = generation, [generation]

    def _folders(self) -> list[Path]:
        return list(self.folder.glob(f"{_PREFIX}*"))

    def path(self, index: int, generation: int | None = None) -> Path:
        """File of one image, by its position in the training list."""
        number = self.generation if generation is None else generation
        return self.folder / f"{_PREFIX}{number:06d}" / f"{index:07d}.npy"

    def write(self, index: int, probs: Tensor) -> None:
        """Average the prediction of one image into the next generation.

        Args:
            index: Position in the training list.
            probs: Probabilities, shape ``(C, H, W)``.
        """
        cells = -(-probs.shape[1] // self.stride), -(-probs.shape[2] // self.stride)
        pooled = F.adaptive_avg_pool2d(probs.float(), cells).cpu() if self.stride > 1 else probs
        old = torch.zeros_like(pooled, dtype=torch.float32, device="cpu")
        if self.generation and self.path(index).is_file():
            old = torch.from_numpy(np.load(self.path(index)).astype(np.float32))
        updated = update_probability_bank(old, pooled.float().cpu(), alpha=self.alpha)
        target = self.path(index, self.generation + 1)
        partial = target.with_suffix(f".partial{os.getpid()}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                np.save(file, updated.numpy().astype(np.float16))
            partial.replace(target)
        except OSError as error:
            raise ConfigError(
                f"{target} cannot be written ({error}; {updated.numel() * 2} bytes per image and "
                "generation); make room, set `bank_dir` to another disk, or raise `bank_stride`"
            ) from error

    def advance(self, *, tidy: bool = True) -> None:
        """Make the generation just written the current one; ``tidy`` on one rank only."""
        self.generation += 1
        if tidy:
            for old in self._folders():
                number = int(old.name.removeprefix(_PREFIX))
                if number != self.generation and number not in self._kept:
                    shutil.rmtree(old, ignore_errors=True)

    def labels(self, indices: list[int], source_index: Tensor) -> tuple[Tensor, Tensor]:
        """Most likely class and its averaged probability for the pixels of a training batch.

        A Python loop over the B images of the batch reads their files.

        Args:
            indices: Positions in the training list, B of them.
            source_index: Row and column of the network-size image that each pixel shows, -1 where
                it shows none, int, shape ``(B, 2, H, W)``.

        Returns:
            Class, int64, and probability, float32, both ``(B, H, W)``; probability 0 where there is
            no source or no entry yet.
        """
        rows, columns = source_index.unbind(1)
        classes = torch.zeros(rows.shape, dtype=torch.int64)
        confidence = torch.zeros(rows.shape, dtype=torch.float32)
        scale = 1.0
        if self.bias_correction and self.generation:
            scale = 1 / (1 - (1 - self.alpha) ** self.generation)
        for position, index in enumerate(indices):
            if not self.generation or not self.path(index).is_file():
                continue
            entry = torch.from_numpy(np.load(self.path(index)).astype(np.float32))
            best, label = entry.max(dim=0)
            inside = rows[position] >= 0
            y = rows[position].clamp_min(0).long() // self.stride
            x = columns[position].clamp_min(0).long() // self.stride
            classes[position] = label[y, x]
            confidence[position] = best[y, x] * inside * scale
        return classes, confidence

    def state(self) -> dict[str, Any]:
        """What a checkpoint stores; the current generation is then kept for it."""
        if self.generation not in self._kept:
            self._kept = [*self._kept, self.generation][-_KEPT:]
        return {"generation": self.generation, "run": self.run}
