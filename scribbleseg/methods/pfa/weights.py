"""Consistency of two predictions, and which loss terms count in which phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import torch.nn.functional as F

from scribbleseg.errors import ConfigError
from scribbleseg.functional.losses import full_precision, masked_mean
from scribbleseg.options import check_choice, check_number

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = [
    "PRESETS",
    "TERMS",
    "ConsistencyForm",
    "LossPreset",
    "Phase",
    "consistency_loss",
    "phase_weights",
]

Phase = Literal["warmup", "local", "global"]
LossPreset = Literal["joint", "reference", "paper"]

TERMS = ("plain", "pce_local", "pce_global", "con_local", "con_global")
"""Partial cross-entropies of the three predictions, and consistency with the plain one."""

PRESETS: dict[LossPreset, dict[Phase, dict[str, float]]] = {
    # the plain classifier stays supervised, because it is what predicts without labels
    "joint": {
        "warmup": {"plain": 1.0},
        "local": {"plain": 1.0, "pce_local": 1.0, "con_local": 0.02},
        "global": {"plain": 1.0, "pce_global": 1.0, "con_local": 0.01, "con_global": 0.01},
    },
    "reference": {  # the released code
        "warmup": {"plain": 1.0},
        "local": {"pce_local": 1.0, "con_local": 0.02},
        "global": {"pce_global": 1.0, "con_local": 0.01, "con_global": 0.01},
    },
    "paper": {  # as described; meant for the consistency `soft_ce`
        "warmup": {"plain": 1.0},
        "local": {"plain": 1.0, "con_local": 0.02},
        "global": {"plain": 1.0, "con_local": 0.02, "con_global": 0.05},
    },
}
"""Weights of the terms per phase; a term that is not named has weight 0."""


def phase_weights(
    preset: LossPreset, changes: Mapping[str, Mapping[str, float]] | None = None
) -> dict[Phase, dict[str, float]]:
    """The weight table of a preset with single values changed.

    Args:
        preset: Name of :data:`PRESETS`.
        changes: ``{phase: {term: weight}}``.

    Returns:
        Weight of every term in every phase.

    Raises:
        ConfigError: If a phase or term is unknown, or a weight is negative or no number.

    Example:
        >>> phase_weights("paper", {"global": {"pce_global": 0.5}})["global"]["pce_global"]
        0.5
    """
    check_choice("loss_preset", preset, tuple(PRESETS))
    table = {
        phase: {term: weights.get(term, 0.0) for term in TERMS}
        for phase, weights in PRESETS[preset].items()
    }
    for phase, weights in (changes or {}).items():
        check_choice("loss_weights: phase", phase, get_args(Phase))
        for term, weight in weights.items():
            check_choice(f"loss_weights.{phase}: term", term, TERMS)
            check_number(**{f"loss_weights.{phase}.{term}": weight})
            if weight < 0:
                raise ConfigError(f"loss_weights.{phase}.{term}={weight}: expected 0 or more")
            table[phase][term] = float(weight)  # type: ignore[index]
    if any(table["warmup"][term] for term in TERMS[1:]):
        raise ConfigError(
            "loss_weights.warmup: there are no prototypes before the end of the warm-up, so only "
            "`plain` may have a weight there; set `warmup: 0` to use them from the start"
        )
    return table


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
        across_ranks: See :func:`~scribbleseg.functional.losses.weighted_mean`.

    Returns:
        Scalar (nats for the last four but cosine); an exact differentiable 0 for an empty mask.

    Raises:
        ValueError: If the form is unknown or the shapes differ.

    Example:
        >>> import torch
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
