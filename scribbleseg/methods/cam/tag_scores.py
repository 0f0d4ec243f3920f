"""How well a classifier finds the classes of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TagScores"]


class TagScores(Metric):
    """Average precision and F1 of each class over the images of a set.

    Classes that no image shows have no precision (torchmetrics counts them as 0), and no F1 unless
    they are found somewhere. Reductions over ranks join the images.

    Args:
        threshold: Probability from which a class counts as found, in (0, 1).
    """

    full_state_update = False
    higher_is_better = True
    scores: list[Tensor]
    tags: list[Tensor]

    def __init__(self, *, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = threshold
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("tags", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, tags: Tensor) -> None:
        """Count some images.

        Args:
            scores: Logits, float, shape ``(B, C)``.
            tags: Multi-hot, shape ``(B, C)``.
        """
        self.scores.append(scores.detach().float())
        self.tags.append(tags.detach() > 0)

    def compute(self) -> dict[str, Tensor]:
        """``average_precision`` and ``f1`` of each class, shape ``(C,)``; NaN as said above."""
        scores, tags = dim_zero_cat(self.scores), dim_zero_cat(self.tags)
        found = scores.sigmoid() > self.threshold
        both, either = (found & tags).sum(dim=0), found.sum(dim=0) + tags.sum(dim=0)
        return {"average_precision": _average_precision(scores, tags), "f1": 2 * both / either}


def _average_precision(scores: Tensor, tags: Tensor) -> Tensor:
    """Mean, over the images of a class, of the precision among all that score at least as high."""
    ordered, order = scores.T.contiguous().sort(dim=1)
    shown = tags.T.gather(1, order).to(scores.dtype)
    # equal scores share a threshold: the first place of the score, not the image's own
    first = torch.searchsorted(ordered, ordered)
    from_here = shown.flip(1).cumsum(dim=1).flip(1)
    precision = from_here.gather(1, first) / (scores.shape[0] - first)
    return (precision * shown).sum(dim=1) / shown.sum(dim=1)
