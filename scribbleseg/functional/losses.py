"""Pixel losses that several methods share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from scribbleseg.constants import IGNORE_INDEX

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["full_precision", "partial_cross_entropy"]


def full_precision(x: Tensor) -> Tensor:
    """Half-precision tensors as float32; float32 and float64 unchanged.

    Softmax, log and exp lose everything in 16 bits, so each loss starts with this.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def partial_cross_entropy(
    logits: Tensor,
    scribble: Tensor,
    *,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: Literal["pixel", "image"] = "pixel",
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    r"""Cross-entropy over the annotated pixels only; on dense masks, the ordinary one.

    .. math:: L = \frac{\sum_{i \in \Omega_s} -w_{y_i} \log p_{i, y_i}}{\sum_{i \in \Omega_s}
    w_{y_i}}

    with :math:`\Omega_s` the drawn pixels of the whole batch on this process (Tang et al., CVPR
    2018, first term of eq. 1). Time and memory O(B·C·H·W).

    Args:
        logits: Unnormalised scores at label resolution, float, shape ``(B, C, H, W)``.
        scribble: Class index per pixel, int64, shape ``(B, H, W)``; ``ignore_index`` = not drawn.
        class_weight: Weight :math:`w_c` per class, shape ``(C,)``; all one by default.
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1).
        reduction: ``"pixel"`` weighs every drawn pixel of the batch alike; ``"image"`` averages the
            per-image means over the images that have drawn pixels, for scribbles whose length
            varies much.
        ignore_index: Value of ``scribble`` that carries no supervision.

    Returns:
        Scalar in nats; an exact differentiable 0 if nothing is drawn.

    Raises:
        ValueError: If the shapes disagree.

    Example:
        >>> partial_cross_entropy(torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), 255)).item()
        0.0
    """
    if (
        logits.ndim != 4
        or logits.shape[0] != scribble.shape[0]
        or logits.shape[2:] != scribble.shape[1:]
    ):
        raise ValueError(
            f"logits {tuple(logits.shape)} and scribble {tuple(scribble.shape)} disagree: "
            "expected (B, C, H, W) and (B, H, W); resize the logits to the label size first"
        )
    logits = full_precision(logits)
    per_pixel = F.cross_entropy(
        logits,
        scribble,
        weight=class_weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction="none",
    )
    drawn = scribble != ignore_index
    if class_weight is None:
        share = drawn.to(per_pixel.dtype)
    else:
        share = class_weight.to(per_pixel.dtype)[scribble.masked_fill(~drawn, 0)] * drawn
    if reduction == "image":
        total, weight = per_pixel.flatten(1).sum(1), share.flatten(1).sum(1)
        means = total / torch.where(weight > 0, weight, 1)
        return means.sum() / (weight > 0).sum().clamp_min(1)
    weight = share.sum()
    return per_pixel.sum() / torch.where(weight > 0, weight, 1)
