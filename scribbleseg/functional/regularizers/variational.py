"""Variational regularisers: total variation, contour length, Mumford-Shah, intensity variance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "contour_length_loss",
    "intensity_variance",
    "level_set_loss",
    "mumford_shah_loss",
    "total_variation_loss",
]

Reduction = Literal["mean", "sum"]


def total_variation_loss(
    probs: Tensor, *, norm: Literal["l1", "l2"] = "l1", reduction: Reduction = "mean"
) -> Tensor:
    r"""Total variation of the probability maps, forward differences (Mumford & Shah, 1989).

    .. math:: L = \sum_{i,c} |\partial_x p_{ic}|^q + |\partial_y p_{ic}|^q,\quad q = 1, 2

    Time and memory O(B·C·H·W).

    Args:
        probs: Probabilities, float, shape ``(B, C, H, W)``.
        norm: ``"l1"`` (q = 1) or ``"l2"`` (q = 2).
        reduction: ``"sum"``, or ``"mean"`` to divide by B·H·W.

    Returns:
        Scalar, not negative.

    Example:
        >>> total_variation_loss(torch.full((1, 2, 3, 3), 0.5)).item()
        0.0
    """
    probs = full_precision(probs)
    steps = [probs[..., 1:, :] - probs[..., :-1, :], probs[..., 1:] - probs[..., :-1]]
    total = sum((d.abs() if norm == "l1" else d.square()).sum() for d in steps)
    return _reduced(torch.as_tensor(total), probs, reduction)


def contour_length_loss(probs: Tensor, *, include_background: bool = False) -> Tensor:
    r"""Length of soft object contours (the "total variation" baseline of WSL4MIS and WORD).

    .. math:: L = \operatorname{mean}(\operatorname{ReLU}(\operatorname{max}_{3\times3} e - e)),
        \quad e = \operatorname{min}_{3\times3} p

    Time and memory O(B·C·H·W).

    Args:
        probs: Probabilities, float, shape ``(B, C, H, W)``.
        include_background: Whether class 0 counts too.

    Returns:
        Scalar in [0, 1].

    Example:
        >>> contour_length_loss(torch.full((1, 2, 5, 5), 0.5)).item()
        0.0
    """
    probs = full_precision(probs)
    if not include_background:
        probs = probs[:, 1:]
    eroded = -F.max_pool2d(-probs, 3, stride=1, padding=1)
    opened = F.max_pool2d(eroded, 3, stride=1, padding=1)
    return F.relu(opened - eroded).mean()


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


def mumford_shah_loss(
    probs: Tensor,
    image: Tensor,
    *,
    mask: Tensor | None = None,
    reduction: Reduction = "mean",
    length_weight: float = 1.0,
) -> Tensor:
    r"""Piecewise constant Mumford-Shah energy (Kim & Ye, IEEE TIP 2020).

    .. math:: L = L_{\text{level set}} + \lambda L_{\text{TV}}

    see :func:`level_set_loss` and :func:`total_variation_loss`. The published code swaps image and
    prediction in the first term; this one does not. Time and memory O(B·C·H·W).

    Args:
        probs: Probabilities, float, shape ``(B, C, H, W)``.
        image: Intensities, shape ``(B, K, H, W)``.
        mask: Pixels that count in the first term, bool, shape ``(B, H, W)``; ``None`` = all.
        reduction: ``"sum"`` as published (weight 1e-6), or ``"mean"`` to divide by B·H·W.
        length_weight: :math:`\lambda`.

    Returns:
        Scalar, not negative.

    Example:
        >>> mumford_shah_loss(torch.full((1, 2, 3, 3), 0.5), torch.ones(1, 1, 3, 3)).item()
        0.0
    """
    region = level_set_loss(probs, image, mask=mask, reduction=reduction)
    return region + length_weight * total_variation_loss(probs, reduction=reduction)


def intensity_variance(probs: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    r"""Spread of intensities within and between the classes (WSL4MIS's "inter and intra").

    .. math:: \text{intra} = \operatorname{mean}_{b,c} \operatorname{std}_i(I_i p_{ic}), \quad
        \text{inter} = \operatorname{mean}_b \operatorname{std}_c(\operatorname{mean}_i(I_i
        p_{ic}))

    with unbiased standard deviations. The published loss is inter - intra; grouping asks for intra
    - inter. Time and memory O(B·C·H·W).

    Args:
        probs: Probabilities, float, shape ``(B, C, H, W)``.
        image: One intensity per pixel, shape ``(B, 1, H, W)``.

    Returns:
        ``(intra, inter)``, two scalars in intensity units.

    Raises:
        ValueError: If the image has several channels.

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
    products = (full_precision(probs) * image.detach()).flatten(2)
    return products.std(dim=2).mean(), products.mean(dim=2).std(dim=1).mean()


def _reduced(total: Tensor, probs: Tensor, reduction: str) -> Tensor:
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}, expected 'mean' or 'sum'")
    pixels = probs.shape[0] * probs.shape[2] * probs.shape[3]
    return total if reduction == "sum" else total / pixels
