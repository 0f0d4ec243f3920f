"""Pseudo-labels that the network makes for itself while it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.functional.losses import full_precision, masked_mean, partial_dice_loss

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "MixedPseudoLabel",
    "bank_pseudo_label",
    "dynamic_mixed_pseudo_label",
    "mean_teacher_consistency",
    "mixed_dice_loss",
    "soft_mixed_loss",
    "update_probability_bank",
]


class MixedPseudoLabel(NamedTuple):
    """What :func:`dynamic_mixed_pseudo_label` returns.

    Attributes:
        labels: Most likely class of the mixture, int64, shape ``(B, H, W)``.
        probs: The mixture, float, shape ``(B, C, H, W)``.
    """

    labels: Tensor
    probs: Tensor


@torch.no_grad()
def dynamic_mixed_pseudo_label(
    logits: Tensor,
    logits_aux: Tensor,
    beta: Tensor | float,
    *,
    scribble: Tensor | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> MixedPseudoLabel:
    r"""Pseudo-label from a random mixture of two branches (Luo et al., MICCAI 2022, eq. 3).

    .. math:: \hat y = \arg\max_c \; \beta p^1_c + (1 - \beta) p^2_c

    Args:
        logits: Scores of the main branch, shape ``(B, C, H, W)``.
        logits_aux: Scores of the auxiliary branch, same shape.
        beta: :math:`\beta` in [0, 1], one number for the batch.
        scribble: If given, drawn pixels keep their drawn class (the paper relabels them too),
            int64, shape ``(B, H, W)``.
        ignore_index: Value of ``scribble`` that is no class.

    Example:
        >>> a, b = torch.tensor([[[[2.0]], [[0.0]]]]), torch.tensor([[[[0.0]], [[2.0]]]])
        >>> dynamic_mixed_pseudo_label(a, b, 0.9).labels.item()
        0
    """
    probs = full_precision(logits).softmax(1) * beta
    probs = probs + full_precision(logits_aux).softmax(1) * (1 - beta)
    labels = probs.argmax(dim=1)
    if scribble is not None:
        labels = torch.where(scribble != ignore_index, scribble, labels)
    return MixedPseudoLabel(labels, probs)


def mixed_dice_loss(logits: Tensor, logits_aux: Tensor, labels: Tensor) -> Tensor:
    """Mean soft Dice of both branches with the mixed pseudo-label (Luo et al., eq. 4).

    Args:
        logits: Scores of the main branch, shape ``(B, C, H, W)``.
        logits_aux: Scores of the auxiliary branch, same shape.
        labels: Pseudo-label, int64, shape ``(B, H, W)``; 255 where there is none.

    Returns:
        Scalar in [0, 1].
    """
    terms = [partial_dice_loss(x, labels, across_ranks=True) for x in (logits, logits_aux)]
    return (terms[0] + terms[1]) / 2


def soft_mixed_loss(
    logits: Tensor, logits_aux: Tensor, probs: Tensor, *, mask: Tensor | None = None
) -> Tensor:
    r"""Mean cross-entropy of both branches with the mixture itself (DMSPS, MedIA 2024).

    .. math:: L = \tfrac12 \sum_{n} \operatorname{mean}_i \sum_c -q_{ic} \log p^n_{ic}

    Args:
        logits: Scores of the main branch, shape ``(B, C, H, W)``.
        logits_aux: Scores of the auxiliary branch, same shape.
        probs: Mixture :math:`q`, a constant, same shape.
        mask: Pixels that count, bool, shape ``(B, H, W)``; ``None`` = all.

    Returns:
        Scalar in nats.
    """
    terms = [
        masked_mean(
            -(probs.detach() * full_precision(x).log_softmax(1)).sum(1), mask, across_ranks=True
        )
        for x in (logits, logits_aux)
    ]
    return (terms[0] + terms[1]) / 2


def update_probability_bank(bank: Tensor, probs: Tensor, *, alpha: float = 0.2) -> Tensor:
    r"""Exponential average of predictions (Lee & Jeong, MICCAI 2020, eq. 2).

    .. math:: e \leftarrow \alpha p + (1 - \alpha) e, \quad e_0 = 0

    Args:
        bank: :math:`e`, any shape; changed in place.
        probs: :math:`p`, same shape.
        alpha: :math:`\alpha` in (0, 1].

    Returns:
        ``bank``.
    """
    return bank.mul_(1 - alpha).add_(probs, alpha=alpha)


def bank_pseudo_label(
    classes: Tensor,
    confidence: Tensor,
    scribble: Tensor,
    *,
    threshold: float = 0.8,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Confident classes of the bank on the pixels nobody drew (Lee & Jeong, eq. 3).

    Args:
        classes: Most likely class of the average, int64, shape ``(B, H, W)``.
        confidence: Its averaged probability, shape ``(B, H, W)``.
        scribble: Drawn classes, int64, shape ``(B, H, W)``.
        threshold: Smallest probability that makes a label (exclusive).
        ignore_index: Marks pixels without a class, in ``scribble`` and in the result.

    Returns:
        int64, shape ``(B, H, W)``; drawn pixels are ``ignore_index`` too.
    """
    keep = (confidence > threshold) & (scribble == ignore_index)
    return torch.where(keep, classes, ignore_index)


def mean_teacher_consistency(
    logits: Tensor,
    teacher_logits: Tensor,
    teacher_samples: Tensor,
    *,
    threshold: float,
    mask: Tensor | None = None,
    across_ranks: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Squared difference to a teacher where the teacher is certain (USTM, Liu et al., PR 2022).

    .. math:: L = \frac{\sum_i m_i \sum_c (p_{ic} - q_{ic})^2}{2 \sum_i m_i},\quad
        m_i = [-\sum_c \bar p_{ic} \log(\bar p_{ic} + 10^{-6}) < \tau]

    with :math:`\bar p` the mean over T noisy passes of the teacher. Gradient reaches ``logits``
    only. Time and memory O(T·B·C·H·W).

    Args:
        logits: Student's scores, shape ``(B, C, H, W)``.
        teacher_logits: Teacher's scores of the same pixels, same shape.
        teacher_samples: Scores of the noisy passes, shape ``(T, B, C, H, W)``.
        threshold: :math:`\tau` in nats, below log C to exclude anything.
        mask: Pixels that may count, bool, shape ``(B, H, W)``; ``None`` = all.
        across_ranks: See :func:`~scribbleseg.functional.losses.weighted_mean`.

    Returns:
        The loss, a scalar (an exact differentiable 0 if no pixel is certain), and the uncertainty
        in nats, shape ``(B, H, W)``.

    Example:
        >>> same = torch.zeros(1, 2, 1, 1)
        >>> mean_teacher_consistency(same, same, same[None], threshold=1.0)[0].item()
        0.0
    """
    with torch.no_grad():
        mean = full_precision(teacher_samples).softmax(dim=2).mean(dim=0)
        uncertainty = -(mean * (mean + 1e-6).log()).sum(dim=1)
        certain = uncertainty < threshold
        if mask is not None:
            certain &= mask
        target = full_precision(teacher_logits).softmax(dim=1)
    squared = (full_precision(logits).softmax(dim=1) - target).square().sum(dim=1)
    return masked_mean(squared, certain, across_ranks=across_ranks) / 2, uncertainty
