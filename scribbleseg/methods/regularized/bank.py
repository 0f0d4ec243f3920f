"""Averaged predictions of every training image, kept on disk."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from scribbleseg.errors import CheckpointError
from scribbleseg.methods.regularized.losses import update_probability_bank

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = ["ProbabilityBank"]


class ProbabilityBank:
    r"""Exponential averages :math:`e` of class probabilities, one file per image.

    Files are float16 arrays ``(C, h, w)`` in the coordinates of the network-size image, divided by
    ``stride``; a data set of N images of H×W takes ``2·N·C·H·W / stride²`` bytes. Each refresh
    writes a new generation beside the old one, so that a run that resumes from a checkpoint finds
    the bank as it was then; generations that no checkpoint needs are deleted.

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
        self._kept = {0}

    def path(self, index: int, generation: int | None = None) -> Path:
        """File of one image, by its position in the training list."""
        number = self.generation if generation is None else generation
        return self.folder / f"generation_{number:06d}" / f"{index:07d}.npy"

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
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        with partial.open("wb") as file:
            np.save(file, updated.numpy().astype(np.float16))
        partial.replace(target)

    def advance(self, *, tidy: bool = True) -> None:
        """Make the generation just written the current one; ``tidy`` on one rank only."""
        self.generation += 1
        if tidy:
            for old in self.folder.glob("generation_*"):
                number = int(old.name.rsplit("_", 1)[1])
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

    # ------------------------------------------------------------ checkpoints

    def state(self) -> dict[str, int]:
        """What a checkpoint stores; the current generation is then kept for it."""
        self._kept = {self.generation}
        return {"generation": self.generation}

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a checkpoint.

        Raises:
            CheckpointError: If its generation is no longer on disk.
        """
        generation = int(state["generation"])
        if generation and not self.path(0, generation).parent.is_dir():
            there = sorted(path.name for path in self.folder.glob("generation_*"))
            raise CheckpointError(
                f"the checkpoint was written with {self.path(0, generation).parent}, which is not "
                f"there (found: {', '.join(there) or 'nothing'}). Resume from a later checkpoint "
                "of this run, or keep its run directory where it was"
            )
        self.generation = generation
        self._kept = {generation}
