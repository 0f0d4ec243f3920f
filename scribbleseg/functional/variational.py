"""Variational regularisers: total variation, contour length, Mumford-Shah, intensity variance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from scribbleseg.functional.losses import full_precision, masked_mean

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["contour_length_loss", "intensity_variance", "level_set_loss", "total_variation_loss"]

Reduction = Literal["mean", "sum"]


def total_variation_loss(
    probs: Tensor,
    *,
    mask: Tensor | None = None,
    norm: Literal["l1", "l2"] = "l1",
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Total variation of the probability maps, forward differences (Mumford & Shah, 1989).

    .. math:: L = \sum_{i,c} |\partial_x p_{ic}|^q + |\partial_y p_{ic}|^q,\quad q = 1, 2

    Time and memory O(B·C·H·W).

    Args:
        probs: Probabilities, float, shape ``(B, C, H, W)``.
        mask: Pixels that count, bool, shape ``(B, H, W)``: differences to others are left out;
            ``None`` = all.
        norm: ``"l1"`` (q = 1) or ``"l2"`` (q = 2).
        reduction: ``"sum"``, or ``"mean"`` to divide by B·H·W.

    Returns:
        Scalar, not negative.

    Example:
        >>> total_variation_loss(torch.full((1, 2, 3, 3), 0.5)).item()
        0.0
    """
    if norm not in ("l1", "l2"):
        raise ValueError(f"norm is {norm!r}, expected 'l1' or 'l2'")
    probs = full_precision(probs)
    steps = [probs[..., 1:, :] - probs[..., :-1, :], probs[..., 1:] - probs[..., :-1]]
    if mask is not None:
        inside = mask[:, None].to(probs.dtype)
        steps[0] = steps[0] * (inside[..., 1:, :] * inside[..., :-1, :])
        steps[1] = steps[1] * (inside[..., 1:] * inside[..., :-1])
    total = sum((d.abs() if norm == "l1" else d.square()).sum() for d in steps)
    return _reduced(torch.as_tensor(total), probs, reduction)


def contour_length_loss(
    probs: Tensor,
    *,
    mask: Tensor | None = None,
    include_background: bool = False,
    across_ranks: bool = False,
) -> Tensor:
    r"""Length of soft object contours (the "total variation" baseline of WSL4MIS and WORD).

    .. math:: L = \operatorname{mean}(\operatorname{ReLU}(\operatorname{max}_{3\times3} e - e)),
        \quad e = \operatorname{min}_{3\times3} p

    Time and memory O(B·C·H·W).

    Args:
        probs: Probabilities, float, shape ``(B, C, H, W)``.
        mask: Pixels that count, bool, shape ``(B, H, W)``: others are neither averaged over nor
            looked at; ``None`` = all.
        include_background: Whether class 0 counts too.
        across_ranks: See :func:`~scribbleseg.functional.losses.weighted_mean`.

    Returns:
        Scalar in [0, 1]; an exact differentiable 0 for an empty mask.

    Raises:
        ValueError: If there is no class to look at.

    Example:
        >>> contour_length_loss(torch.full((1, 2, 5, 5), 0.5)).item()
        0.0
    """
    probs = full_precision(probs)
    if not include_background:
        probs = probs[:, 1:]
    if not probs.shape[1]:
        raise ValueError("one class without the background leaves none; expected at least 2")
    # beyond the image, and in padding, a pixel is neither a minimum nor a maximum
    outside = None if mask is None else ~mask.bool()[:, None]
    raised = probs if outside is None else probs.masked_fill(outside, math.inf)
    eroded = -F.max_pool2d(-raised, 3, stride=1, padding=1)
    lowered = eroded if outside is None else eroded.masked_fill(outside, -math.inf)
    opened = F.max_pool2d(lowered, 3, stride=1, padding=1)
    if outside is not None:
        opened, eroded = opened.masked_fill(outside, 0), eroded.masked_fill(outside, 0)
    return masked_mean(F.relu(opened - eroded).mean(dim=1), mask, across_ranks=across_ranks)


def level_set_loss(
    probs: Tensor,
    image: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared deviation of intensities from the mean of their class (Chan & Vese, 2001).

    .. math:: L = \sum_{b,k,c,i} p_{bic} (I_{bik} - \mu_{bck})^2,\quad
        \mu_{bck} = \frac{\sum_i p_{bic} I_{bik}}{\sum_i p_{bic}}

    with k the image channels. Evaluated as the weighted variance, which costs one product of
    ``(C, N)`` and ``(N, K)`` and O(B·C·H·W) memory instead of O(B·C·K·H·W).

    Args:
        probs: Probabilities, float, shape ``(B, C, H, W)``.
        image: Intensities, shape ``(B, K, H, W)``; no gradient reaches them.
        mask: Pixels that count, bool, shape ``(B, H, W)``; ``None`` = all.
        reduction: ``"sum"``, or ``"mean"`` to divide by B·H·W.

    Returns:
        Scalar in squared intensity units, not negative.

    Example:
        >>> level_set_loss(torch.full((1, 2, 3, 3), 0.5), torch.ones(1, 1, 3, 3)).item()
        0.0
    """
    probs = full_precision(probs)
    if mask is not None:
        probs = probs * mask[:, None].to(probs.dtype)
    with torch.autocast(probs.device.type, enabled=False):
        values = image.detach().to(probs.dtype).flatten(2)  # (B, K, N)
        # a shift changes no deviation, but keeps the difference of squares accurate
        values = values - values.mean(dim=2, keepdim=True)
        weights = probs.flatten(2)  # (B, C, N)
        mass = weights.sum(dim=2)
        first = torch.einsum("bcn,bkn->bck", weights, values)
        second = torch.einsum("bcn,bn->bc", weights, values.square().sum(dim=1))
        explained = first.square().sum(dim=2) / mass.clamp_min(1e-8)
    return _reduced((second - explained).sum(), probs, reduction)


def intensity_variance(
    probs: Tensor, image: Tensor, *, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Spread of intensities within and between the classes (WSL4MIS's "inter and intra").

    .. math:: \text{intra} = \operatorname{mean}_{b,c} \operatorname{std}_i(I_i p_{ic}), \quad
        \text{inter} = \operatorname{mean}_b \operatorname{std}_c(\operatorname{mean}_i(I_i
        p_{ic}))

    with unbiased standard deviations. The published loss is inter - intra; grouping asks for intra
    - inter. Time and memory O(B·C·H·W).

    Args:
        probs: Probabilities, float, shape ``(B, C, H, W)`` with C ≥ 2.
        image: One intensity per pixel, shape ``(B, 1, H, W)``.
        mask: Pixels that count, bool, shape ``(B, H, W)``; ``None`` = all.

    Returns:
        ``(intra, inter)``, two scalars in intensity units; exact differentiable zeros for images
        with fewer than two pixels that count.

    Raises:
        ValueError: If the image has several channels, or there is only one class.

    Example:
        >>> intra, inter = intensity_variance(torch.full((1, 2, 3, 3), 0.5), torch.ones(1, 1, 3, 3))
        >>> intra.item(), inter.item()
        (0.0, 0.0)
    """
    if image.ndim != 4 or image.shape[1] != 1:
        raise ValueError(
            f"image has shape {tuple(image.shape)}, expected one channel (B, 1, H, W); "
            "give image.mean(1, keepdim=True)"
        )
    if probs.shape[1] < 2:
        raise ValueError("one class has no spread between classes; expected at least 2")
    probs = full_precision(probs)
    counted = torch.ones_like(probs[:, :1]) if mask is None else mask[:, None].to(probs.dtype)
    products, weight = (probs * image.detach()).flatten(2), counted.flatten(2)
    pixels = weight.sum(dim=2)
    mean = (products * weight).sum(dim=2) / pixels.clamp_min(1)
    variance = ((products - mean[..., None]).square() * weight).sum(dim=2)
    # the root has no slope at 0: where all values agree, the deviation is 0 without gradient
    spread = variance > 0
    deviation = torch.where(spread, variance, 1).div((pixels - 1).clamp_min(1)).sqrt() * spread
    return deviation.mean(), mean.std(dim=1).mean()


def _reduced(total: Tensor, probs: Tensor, reduction: str) -> Tensor:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}, expected 'mean' or 'sum'")
    pixels = probs.shape[0] * probs.shape[2] * probs.shape[3]
    return total if reduction == "sum" else total / pixels
