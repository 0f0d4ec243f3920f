"""Entropy that is minimised where a distance map trusts the prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from scribbleseg.functional.losses import full_precision, weighted_mean

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EntropyNormalization", "distance_entropy_loss"]

EntropyNormalization = Literal["nonzero", "weight", "all"]


def distance_entropy_loss(
    logits: Tensor,
    weight: Tensor,
    *,
    normalization: EntropyNormalization = "nonzero",
    valid: Tensor | None = None,
    across_ranks: bool = False,
) -> Tensor:
    r"""Entropy of the predictions, weighted by a distance map.

    .. math:: L = -\frac{1}{N_+} \sum_i w_i \sum_c p_{ic} \log p_{ic}, \quad
        N_+ = \#\{i : w_i \textstyle\sum_c p_{ic} \log p_{ic} \ne 0\}

    (CDSP, AAAI 2024, distance entropy loss as released). It looks at no label: it sharpens whatever
    is predicted. :math:`N_+` is counted in float32, in which a pixel of a margin above about 104
    has entropy 0; no gradient flows through it. Time and memory O(B·C·H·W); several maps share one
    entropy.

    Args:
        logits: Unnormalised scores, float, shape ``(B, C, H, W)``.
        weight: w in [0, 1], shape ``(B, H, W)``, or ``(M, B, H, W)`` for M maps at once.
        normalization: Divide by :math:`N_+` (``"nonzero"``), by the sum of the weights
            (``"weight"``) or by the number of pixels (``"all"``).
        valid: Pixels that exist, bool, shape ``(B, H, W)``: the others count nothing.
        across_ranks: See :func:`~scribbleseg.functional.losses.weighted_mean`.

    Returns:
        Scalar in nats, or M of them; an exact differentiable 0 where nothing counts.

    Raises:
        ValueError: If the shapes disagree or the normalisation is unknown.

    Example:
        >>> near, far = torch.ones(1, 2, 2), torch.zeros(1, 2, 2)
        >>> distance_entropy_loss(torch.zeros(1, 4, 2, 2), torch.stack([near, far])).tolist()
        [1.3862943649291992, 0.0]
    """
    shape = (logits.shape[0], *logits.shape[2:])
    if logits.ndim != 4 or weight.ndim not in (3, 4) or weight.shape[-3:] != shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and weight {tuple(weight.shape)} disagree: expected "
            "(B, C, H, W) and (B, H, W) or (M, B, H, W); resize the logits to the size of the map"
        )
    if valid is not None and valid.shape != shape:
        raise ValueError(f"valid has shape {tuple(valid.shape)}, expected {shape} like the weight")
    log_probs = full_precision(logits).log_softmax(dim=1)
    entropy = -(log_probs.exp() * log_probs).sum(dim=1)
    weight = weight.to(entropy.dtype)
    if valid is not None:
        weight = weight * valid
    terms = (weight * entropy).flatten(-3)
    if normalization == "nonzero":
        count = terms.count_nonzero(dim=-1).to(terms.dtype)
    elif normalization == "weight":
        count = weight.flatten(-3).sum(dim=-1)
    elif normalization == "all":
        pixels = torch.ones_like(entropy) if valid is None else valid.to(terms.dtype)
        count = pixels.sum().expand(terms.shape[:-1])
    else:
        raise ValueError(f"normalization={normalization!r}: expected 'nonzero', 'weight' or 'all'")
    return weighted_mean(terms.sum(dim=-1), count, across_ranks=across_ranks)
