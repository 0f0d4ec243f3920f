"""Pixel losses that several methods share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.functional.distributed import all_reduce_sum, mean_over_ranks

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "absent_class_loss",
    "check_reduction",
    "class_weights_from_histogram",
    "entropy_loss",
    "full_precision",
    "image_means",
    "masked_mean",
    "partial_cross_entropy",
    "partial_dice_loss",
    "weighted_mean",
]


def full_precision(x: Tensor) -> Tensor:
    """Half-precision tensors as float32; float32 and float64 unchanged.

    Softmax, log and exp lose everything in 16 bits, so each loss starts with this.
    """
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def masked_mean(values: Tensor, mask: Tensor | None, *, across_ranks: bool = False) -> Tensor:
    """Weighted mean over the pixels of a mask; an exact differentiable 0 if it is empty.

    Args:
        values: Shape ``(B, H, W)``, finite.
        mask: Which pixels count: bool, or weights in [0, 1], shape ``(B, H, W)``; ``None`` = all.
        across_ranks: See :func:`weighted_mean`.

    Returns:
        Scalar.

    Example:
        >>> masked_mean(torch.ones(1, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool)).item()
        0.0
    """
    if mask is None and not across_ranks:
        return values.mean()
    counted = torch.ones_like(values) if mask is None else mask.to(values.dtype)
    return weighted_mean((values * counted).sum(), counted.sum(), across_ranks=across_ranks)


def partial_cross_entropy(
    logits: Tensor,
    scribble: Tensor,
    *,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: Literal["pixel", "image"] = "pixel",
    across_ranks: bool = False,
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
        across_ranks: See :func:`weighted_mean`.
        ignore_index: Value of ``scribble`` that carries no supervision.

    Returns:
        Scalar in nats; an exact differentiable 0 if nothing is drawn.

    Raises:
        ValueError: If the shapes disagree.

    Example:
        >>> partial_cross_entropy(torch.zeros(1, 3, 4, 4), torch.full((1, 4, 4), 255)).item()
        0.0
    """
    _check_shapes(logits, scribble)
    check_reduction(reduction)
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
        per_pixel, share = image_means(per_pixel.flatten(1).sum(1), share.flatten(1).sum(1))
    return weighted_mean(per_pixel.sum(), share.sum(), across_ranks=across_ranks)


def image_means(total: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean of each image, and whether the image counts.

    Args:
        total: Sum of the weighted values of each image, shape ``(B,)``.
        weight: Sum of the weights of each image, shape ``(B,)``.

    Returns:
        Means, 0 for images without weight, and 1 or 0 for images with or without, shape ``(B,)``.
    """
    counts = weight > 0
    return total / torch.where(counts, weight, 1), counts.to(total.dtype)


def weighted_mean(total: Tensor, weight: Tensor, *, across_ranks: bool = False) -> Tensor:
    """Quotient of two sums; an exact differentiable 0 without weight.

    Args:
        total: Sum of weighted values, a scalar; 0 if ``weight`` is.
        weight: Sum of the weights, a scalar.
        across_ranks: In a distributed run, divide by the weight of all ranks, so that the ranks'
            average is the mean of one process over everything. Every rank must then call.

    Returns:
        Scalar.
    """
    if across_ranks:
        weight = mean_over_ranks(weight)
    return total / torch.where(weight > 0, weight, 1)


def partial_dice_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    smooth: float = 1e-5,
    across_ranks: bool = False,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    r"""Soft Dice over the labelled pixels of the batch, mean over all classes.

    .. math:: L = \frac1C \sum_c 1 - \frac{2 \sum_i m_i p_{ic} t_{ic} + \epsilon}
        {\sum_i m_i p_{ic}^2 + \sum_i m_i t_{ic}^2 + \epsilon}

    with :math:`t` the one-hot labels and :math:`m` the labelled pixels (Luo et al., MICCAI 2022,
    with the mask applied per image). A class that is nowhere labelled adds nearly 1 until its
    probability vanishes. Time and memory O(B·C·H·W).

    Args:
        logits: Unnormalised scores, float, shape ``(B, C, H, W)``.
        labels: Ids, int64, shape ``(B, H, W)``; ``ignore_index`` = not labelled.
        smooth: :math:`\epsilon`, above 0.
        across_ranks: In a distributed run, sum over the images of all ranks, as one process would.
            Every rank must then call and differentiate.
        ignore_index: Value of ``labels`` that carries no supervision.

    Returns:
        Scalar in [0, 1]; an exact differentiable 0 if nothing is labelled.

    Example:
        >>> sure = torch.tensor([[[[20.0]], [[0.0]]]])
        >>> round(partial_dice_loss(sure, torch.tensor([[[0]]])).item(), 3)
        0.0
    """
    _check_shapes(logits, labels)
    probs = full_precision(logits).softmax(dim=1)
    labelled = (labels != ignore_index)[:, None]
    target = labels[:, None].masked_fill(~labelled, 0)
    counted = labelled.to(probs.dtype)
    # per class by gathering and scattering: a one-hot target of int64 would be twice the logits
    hit = probs.gather(1, target) * counted
    classes = probs.shape[1]
    overlap = hit.new_zeros(classes).scatter_add(0, target.flatten(), hit.flatten())
    number = hit.new_zeros(classes).scatter_add(0, target.flatten(), counted.flatten())
    # one-hot targets equal their squares
    sizes = (counted * probs.square()).sum((0, 2, 3)) + number
    count = number.sum()
    if across_ranks:
        overlap, sizes = all_reduce_sum(torch.stack([overlap, sizes])).unbind()
        count = mean_over_ranks(count)
    loss = 1 - ((2 * overlap + smooth) / (sizes + smooth)).mean()
    return loss * (count > 0)


def entropy_loss(
    logits: Tensor,
    *,
    mask: Tensor | None = None,
    base: Literal["nat", "classes"] = "nat",
    eps: float = 1e-6,
    across_ranks: bool = False,
) -> Tensor:
    r"""Mean entropy of the predictions (Grandvalet & Bengio, NIPS 2004).

    .. math:: L = \frac{1}{|\Omega|} \sum_{i \in \Omega} -\sum_c p_{ic} \log(p_{ic} + \epsilon)

    Switched on early with a large weight it makes one class win everywhere: ramp it up. Time and
    memory O(B·C·H·W).

    Args:
        logits: Unnormalised scores, float, shape ``(B, C, H, W)``.
        mask: :math:`\Omega`, bool or weights in [0, 1], shape ``(B, H, W)``, usually unlabelled
            and not padding; ``None`` = all pixels.
        base: Unit of the result: ``"nat"``, or ``"classes"`` to divide by log C.
        eps: :math:`\epsilon`; 0 = exact, by log-softmax.
        across_ranks: See :func:`weighted_mean`.

    Returns:
        Scalar in nats, or in [0, 1] with ``base="classes"``; an exact differentiable 0 for an empty
        mask.

    Example:
        >>> round(entropy_loss(torch.zeros(1, 4, 2, 2), base="classes").item(), 4)
        1.0
    """
    if base not in ("nat", "classes") or (base == "classes" and logits.shape[1] < 2):
        raise ValueError(
            f"base is {base!r} with {logits.shape[1]} classes, expected 'nat', or 'classes' with "
            "at least 2"
        )
    log_probs = full_precision(logits).log_softmax(dim=1)
    probs = log_probs.exp()
    entropy = -(probs * ((probs + eps).log() if eps else log_probs)).sum(dim=1)
    if base == "classes":
        entropy = entropy / math.log(logits.shape[1])
    return masked_mean(entropy, mask, across_ranks=across_ranks)


def absent_class_loss(
    logits: Tensor,
    class_labels: Tensor,
    *,
    mask: Tensor | None = None,
    eps: float = 1e-6,
    across_ranks: bool = False,
) -> Tensor:
    r"""Push down the probability of classes that are not in the image (AGMM, CVPR 2023).

    .. math:: L = -\frac{1}{|\Omega|} \sum_{i \in \Omega} \sum_c (1 - z_c)
        \log(1 - p_{ic} + \epsilon)

    with :math:`z` the classes of the whole image. Only for data in which every object of an image
    is scribbled: an object without a stroke makes its class look absent. Time and memory
    O(B·C·H·W).

    Args:
        logits: Unnormalised scores, float, shape ``(B, C, H, W)``.
        class_labels: Classes of the *uncropped* image, multi-hot, shape ``(B, C)``.
        mask: :math:`\Omega`, bool, shape ``(B, H, W)``; ``None`` = all pixels. The reference
            averages over the scribbled pixels.
        eps: Keeps the logarithm finite.
        across_ranks: See :func:`weighted_mean`.

    Returns:
        Scalar in nats; an exact differentiable 0 for an empty mask or if all classes are present.

    Example:
        >>> round(absent_class_loss(torch.zeros(1, 2, 1, 1), torch.tensor([[1.0, 0.0]])).item(), 3)
        0.693
    """
    probs = full_precision(logits).softmax(dim=1)
    absent = (1 - class_labels.to(probs.dtype))[:, :, None, None]
    surprise = -(absent * (1 - probs + eps).log()).sum(dim=1)
    return masked_mean(surprise, mask, across_ranks=across_ranks)


def class_weights_from_histogram(counts: Tensor) -> Tensor:
    r"""Class weights from how often classes are drawn (Obukhov et al., arXiv 1906.04651).

    .. math:: w_c = \frac{1 / \log(1.1 + h_c)}{\sum_k 1 / \log(1.1 + h_k)}, \quad
        h_c = n_c / \textstyle\sum_k n_k

    Args:
        counts: Drawn pixels :math:`n_c` of each class over the data set, shape ``(C,)``.

    Returns:
        Float32 weights that sum to 1, shape ``(C,)``; alike if nothing is drawn.

    Example:
        >>> class_weights_from_histogram(torch.tensor([1, 1])).tolist()
        [0.5, 0.5]
    """
    share = counts.float() / counts.sum().clamp_min(1)
    inverse = 1 / (1.1 + share).log()
    return inverse / inverse.sum()


def check_reduction(reduction: str) -> None:
    """Refuse an unknown reduction of a pixel loss.

    Raises:
        ValueError: If it is neither ``"pixel"`` nor ``"image"``.
    """
    if reduction not in ("pixel", "image"):
        raise ValueError(f"reduction={reduction!r}, expected 'pixel' or 'image'")


def _check_shapes(logits: Tensor, labels: Tensor) -> None:
    if (
        logits.ndim != 4
        or logits.shape[0] != labels.shape[0]
        or logits.shape[2:] != labels.shape[1:]
    ):
        raise ValueError(
            f"logits {tuple(logits.shape)} and labels {tuple(labels.shape)} disagree: "
            "expected (B, C, H, W) and (B, H, W); resize the logits to the label size first"
        )
