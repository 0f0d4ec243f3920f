"""Prototypes of what a class is and of what surrounds it, and pixels decided by them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.errors import CheckpointError
from scribbleseg.functional.image_files import write_arrays
from scribbleseg.methods.ptrecl.vote import (
    agreement_threshold,
    decode_margin,
    prototype_margin,
    prototype_statistics,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from scribbleseg.functional.feature_sets import SetPrototypes

__all__ = ["PrototypePairs", "Vote", "label_by_margin"]

Vote = Literal["per_set", "joint_vote"]
_NAMES = ("foreground", "background", "num_foreground", "num_background", "threshold")


class PrototypePairs(nn.Module):
    """Foreground and background prototypes of every class, and its threshold, in buffers.

    Args:
        num_classes: C.
        k: Prototypes per set, K.
        dim: Channels D.

    Attributes:
        foreground: Unit vectors, the first ``num_foreground`` of a class count, ``(C, K, D)``.
        background: The same of what surrounds the class.
        num_foreground: int64, shape ``(C,)``.
        num_background: int64, shape ``(C,)``.
        threshold: θ of each class, shape ``(C,)``.
    """

    foreground: Tensor
    background: Tensor
    num_foreground: Tensor
    num_background: Tensor
    threshold: Tensor

    def __init__(self, num_classes: int, *, k: int, dim: int) -> None:
        super().__init__()
        for name in ("foreground", "background"):
            self.register_buffer(name, torch.zeros(num_classes, k, dim))
            self.register_buffer(f"num_{name}", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(num_classes))

    @property
    def is_empty(self) -> bool:
        """Whether no class has a prototype yet; waits for the device."""
        return not bool((self.num_foreground > 0).any())

    def set_class(
        self, index: int, foreground: SetPrototypes, background: SetPrototypes
    ) -> dict[str, float]:
        """Adopt the clusters of a class.

        Args:
            index: Class id.
            foreground: Of the class; without any, the class has no prototypes at all.
            background: Of what surrounds it.

        Returns:
            See :func:`~scribbleseg.methods.ptrecl.vote.prototype_statistics`.
        """
        for name, found in (("foreground", foreground), ("background", background)):
            getattr(self, name)[index] = found.centroids.to(self.threshold.device)
            count = found.number if foreground.number else 0
            getattr(self, f"num_{name}")[index] = count
        return prototype_statistics(foreground, background)

    def margin(
        self,
        features: Tensor,
        present: Tensor,
        *,
        top_m: int | Sequence[int] = (10, 15, 20),
        vote: Vote = "per_set",
    ) -> Tensor:
        """See :func:`~scribbleseg.methods.ptrecl.vote.prototype_margin`.

        Args:
            features: Shape ``(B, D, h, w)``.
            present: Classes to compute, multi-hot by class id, shape ``(B, C)``.
            top_m: M.
            vote: Which form.

        Returns:
            Shape ``(B, C, h, w)``; 0 for absent classes and those without prototypes.
        """
        return prototype_margin(
            features,
            self.foreground,
            self.background,
            num_foreground=self.num_foreground,
            num_background=self.num_background,
            class_labels=present * (self.num_foreground > 0),
            top_m=top_m,
            mode=vote,
        )

    def fit_threshold(
        self,
        index: int,
        foreground: tuple[Tensor, Tensor],
        background: tuple[Tensor, Tensor],
        *,
        top_m: int | Sequence[int] = (10, 15, 20),
        vote: Vote = "per_set",
    ) -> float:
        """θ of a class: where the margins of its cells agree best with their labels.

        Args:
            index: Class id.
            foreground: Features ``(n, D)`` of cells labelled as the class, and weights ``(n,)``.
            background: The same of the other cells of its images.
            top_m: M.
            vote: Which form.

        Returns:
            The threshold, which is also kept.
        """
        x = torch.cat([foreground[0], background[0]]).to(self.foreground.device)
        is_class = torch.arange(len(x), device=x.device) < len(foreground[0])
        found = 0.0
        if len(x) and int(self.num_foreground[index]):
            one = torch.zeros(1, len(self.threshold), device=x.device)
            one[0, index] = 1
            parts = [
                self.margin(part.T[None, :, :, None], one, top_m=top_m, vote=vote)[0, index, :, 0]
                for part in torch.split(x, 4096)
            ]
            weights = torch.cat([foreground[1], background[1]]).to(x.device)
            found = agreement_threshold(torch.cat(parts), is_class, weights=weights)
        self.threshold[index] = found
        return found

    def save(self, path: Path) -> None:
        """Write to an ``.npz`` file; atomic."""
        write_arrays(path, **{name: getattr(self, name).cpu().numpy() for name in _NAMES})

    def load(self, path: Path) -> None:
        """Adopt what :meth:`save` wrote.

        Raises:
            CheckpointError: If the file is missing, damaged, or of other sizes.
        """
        try:
            with np.load(path, allow_pickle=False) as archive:
                stored = {name: torch.from_numpy(archive[name]) for name in _NAMES}
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(
                f"{path} cannot be read as prototypes ({error}): expected the prototypes.npz of a "
                "reclassification"
            ) from error
        for name, value in stored.items():
            own = getattr(self, name)
            if own.shape != value.shape:
                raise CheckpointError(
                    f"{path}: {name} is {tuple(value.shape)}, this module has {tuple(own.shape)} "
                    "(classes, prototypes, channels): use the same classes, num_prototypes and "
                    "encoder"
                )
            own.copy_(value)


def label_by_margin(
    margin: Tensor,
    present: Tensor,
    threshold: Tensor | float,
    *,
    background: int | None = 0,
    model_background: bool = False,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    r"""The present class of the largest margin, where it exceeds its threshold.

    .. math:: \hat y = \arg\max_{c: y_c = 1} S_c \text{ if its } S_c > \theta_c, \text{ else
        background}

    (after PtReCl). Time and memory O(B·C·h·w).

    Args:
        margin: By class id, shape ``(B, C, h, w)``.
        present: Multi-hot, shape ``(B, C)``; the background only if it has prototypes of its own.
        threshold: θ, one for all or shape ``(C,)``.
        background: Id of what exceeds no threshold; ``None`` = undecided.
        model_background: The background takes part with its own margin, so no threshold is needed.
        ignore_index: Id of undecided pixels.

    Returns:
        Ids, int64, shape ``(B, h, w)``.

    Example:
        >>> margin = torch.tensor([[[[0.0, 0.0]], [[0.3, -0.1]]]])
        >>> label_by_margin(margin, torch.tensor([[0, 1]]), 0.0).tolist()
        [[[1, 0]]]
    """
    limit: Tensor | float = -torch.inf if model_background else threshold
    found = decode_margin(margin, present, threshold=limit) - 1
    rest = ignore_index if background is None else background
    return torch.where(found < 0, rest, found)
