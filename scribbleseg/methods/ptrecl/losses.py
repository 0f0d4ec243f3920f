"""Cross-entropy that knows which classes an image shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.functional.losses import full_precision, weighted_mean

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["conditioned_cross_entropy", "label_conditioning_mask", "label_gate"]


def label_conditioning_mask(class_labels: Tensor, *, background: int | None = 0) -> Tensor:
    """Classes that a pixel of the image may have: its own, and the background.

    Args:
        class_labels: Multi-hot by class id, shape ``(B, C)``.
        background: Class that is always allowed; ``None`` = there is none.

    Returns:
        Bool, shape ``(B, C)``.

    Example:
        >>> label_conditioning_mask(torch.tensor([[0, 1, 0]])).tolist()
        [[True, True, False]]
    """
    allowed = class_labels > 0
    if background is not None:
        here = torch.arange(class_labels.shape[1], device=class_labels.device) == background
        allowed = allowed | here
    return allowed


def conditioned_cross_entropy(
    logits: Tensor,
    target: Tensor,
    allowed: Tensor,
    *,
    balance: bool = True,
    label_smoothing: float = 0.0,
    background: int | None = 0,
    across_ranks: bool = False,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    r"""Cross-entropy over the classes that the image may show; others take no part.

    .. math:: L = \frac{-1}{|V|} \sum_{p \in V} \log \operatorname{softmax}_{allowed}(z)_{l(p)},
        \qquad V = \{p : l(p) \ne \text{ignore}, \; l(p) \in allowed\}

    (after PtReCl; this exact form is our definition). With ``balance`` it is the mean of the means
    over background and over foreground pixels (Lee et al., CVPR 2022), of which an empty one is 0.
    In float32 also under autocast. Time and memory O(B·C·H·W).

    Args:
        logits: z, float, shape ``(B, C, H, W)``.
        target: l, int64, shape ``(B, H, W)``.
        allowed: See :func:`label_conditioning_mask`, bool, shape ``(B, C)``.
        balance: Background and foreground count alike; without a background class of no effect.
        label_smoothing: Share of the target spread over the allowed classes, in [0, 1).
        background: Id of the background, or ``None``.
        across_ranks: In a distributed run, divide by the pixels of all ranks, so that the ranks'
            average is the loss of one process on all images. Every rank must then call.
        ignore_index: Id of pixels without label.

    Returns:
        Scalar in nats; an exact differentiable 0 without valid pixels.

    Raises:
        ValueError: If the shapes disagree.

    Example:
        >>> logits, allowed = torch.zeros(1, 3, 1, 2), torch.tensor([[True, True, False]])
        >>> loss = conditioned_cross_entropy(logits, torch.tensor([[[1, 2]]]), allowed)
        >>> round(loss.item(), 4)  # log 2, halved for want of background; class 2 is not allowed
        0.3466
    """
    if logits.shape[:1] + logits.shape[2:] != target.shape or allowed.shape != logits.shape[:2]:
        raise ValueError(
            f"logits {tuple(logits.shape)}, target {tuple(target.shape)} and allowed "
            f"{tuple(allowed.shape)} disagree: expected (B, C, H, W), (B, H, W) and (B, C)"
        )
    known = (target != ignore_index) & (target < logits.shape[1])
    filled = target.masked_fill(~known, 0)
    valid = known & allowed.gather(1, filled.flatten(1)).view_as(filled)
    # an image that may show nothing has no valid pixel: any softmax will do
    choice = allowed | ~allowed.any(dim=1, keepdim=True)
    fallback = choice.to(torch.uint8).argmax(dim=1)[:, None, None]
    with torch.autocast(logits.device.type, enabled=False):
        masked = full_precision(logits).masked_fill(~choice[..., None, None], -torch.inf)
        log_probs = masked.log_softmax(dim=1)
        picked = torch.where(valid, filled, fallback)
        losses = -log_probs.gather(1, picked[:, None])[:, 0]
        if label_smoothing:
            spread = log_probs.masked_fill(~choice[..., None, None], 0).sum(dim=1)
            uniform = -spread / choice.sum(dim=1)[:, None, None]
            losses = (1 - label_smoothing) * losses + label_smoothing * uniform

        def mean(pixels: Tensor) -> Tensor:
            total = losses.masked_fill(~pixels, 0).sum()
            return weighted_mean(total, pixels.sum().to(losses.dtype), across_ranks=across_ranks)

        if not balance or background is None:
            return mean(valid)
        empty = valid & (target == background)
        return (mean(empty) + mean(valid & ~empty)) / 2


def label_gate(features: Tensor, class_labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    r"""Features weighted channel by channel by the classes of the image.

    .. math:: f'_k = f_k \, (A y + a)_k

    (Lee et al., CVPR 2022, label conditioning). Time O(B·D·(C + h·w)).

    Args:
        features: f, shape ``(B, D, h, w)``.
        class_labels: y, multi-hot, shape ``(B, C)``.
        weight: A, shape ``(D, C)``.
        bias: a, shape ``(D,)``.

    Returns:
        Shape ``(B, D, h, w)``.

    Example:
        >>> one = torch.ones(1, 1, 1, 1)
        >>> label_gate(one, torch.tensor([[1.0]]), torch.tensor([[2.0]]), torch.ones(1)).item()
        3.0
    """
    gate = torch.nn.functional.linear(class_labels.to(weight.dtype), weight, bias)
    return features * gate[..., None, None]
