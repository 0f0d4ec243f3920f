"""Agreement of two predictions of the same pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from scribbleseg.functional.losses import full_precision, masked_mean

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ConsistencyForm", "consistency_loss", "mean_teacher_consistency"]

ConsistencyForm = Literal["l1", "l2", "kl", "cosine", "soft_ce", "prob_ce"]


def consistency_loss(
    logits: Tensor,
    target_logits: Tensor,
    *,
    form: ConsistencyForm = "l2",
    mask: Tensor | None = None,
    detach_target: bool = False,
    across_ranks: bool = False,
) -> Tensor:
    r"""Disagreement of a prediction p with a target q of the same pixels, mean over the pixels.

    ========= ==========================================================================
    l1        :math:`\sum_c |p_c - q_c|`
    l2        :math:`\sum_c (p_c - q_c)^2`
    kl        :math:`\sum_c q_c (\log q_c - \log p_c)`
    cosine    :math:`1 - \cos(p, q)`
    soft_ce   :math:`-\sum_c q_c \log p_c`
    prob_ce   :math:`-\sum_c q_c \log \mathrm{softmax}_c(p)`: probabilities taken for logits,
              as PFA's code does (ICML 2024); its gradient is about 1000 times smaller
    ========= ==========================================================================

    Time and memory O(B·C·H·W).

    Args:
        logits: Scores whose softmax is p, float, shape ``(B, C, H, W)``.
        target_logits: Scores whose softmax is q, same shape.
        form: Row of the table.
        mask: Pixels that count, bool, shape ``(B, H, W)``; ``None`` = all.
        detach_target: Whether q is a constant.
        across_ranks: In a distributed run, divide by the count of all ranks, so that the ranks'
            average is the loss of one process on all images. Every rank must then call.

    Returns:
        Scalar (nats for the last four but cosine); an exact differentiable 0 for an empty mask.

    Raises:
        ValueError: If the form is unknown or the shapes differ.

    Example:
        >>> logits = torch.randn(1, 3, 2, 2)
        >>> consistency_loss(logits, logits, form="kl").item()
        0.0
    """
    if logits.shape != target_logits.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and target_logits {tuple(target_logits.shape)} differ; "
            "bring both views to one geometry first"
        )
    log_p = full_precision(logits).log_softmax(dim=1)
    log_q = full_precision(target_logits).log_softmax(dim=1)
    if detach_target:
        log_q = log_q.detach()
    p, q = log_p.exp(), log_q.exp()
    if form == "l1":
        per_pixel = (p - q).abs().sum(dim=1)
    elif form == "l2":
        per_pixel = (p - q).square().sum(dim=1)
    elif form == "kl":
        per_pixel = (q * (log_q - log_p)).sum(dim=1)
    elif form == "cosine":
        per_pixel = 1 - F.cosine_similarity(p, q, dim=1)
    elif form == "soft_ce":
        per_pixel = -(q * log_p).sum(dim=1)
    elif form == "prob_ce":
        per_pixel = -(q * p.log_softmax(dim=1)).sum(dim=1)
    else:
        raise ValueError(f"form is {form!r}, expected l1, l2, kl, cosine, soft_ce or prob_ce")
    return masked_mean(per_pixel, mask, across_ranks=across_ranks)


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
        across_ranks: In a distributed run, divide by the count of all ranks, so that the ranks'
            average is the loss of one process on all images. Every rank must then call.

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
