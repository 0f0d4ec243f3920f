"""Class activation maps: from the features of a classifier to seeds and pseudo-labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = [
    "assemble_cam",
    "cam_background_score",
    "cam_labels",
    "cam_probabilities",
    "normalize_class_scores",
    "normalize_in_boxes",
]


def assemble_cam(
    maps: Sequence[Tensor],
    size: tuple[int, int],
    *,
    canvas: tuple[int, int] | None = None,
    eps: float = 1e-5,
) -> Tensor:
    r"""Maps of several scales as one, each class divided by its maximum.

    .. math:: \frac{x_c}{\max_p x_c(p) + \epsilon}, \quad x = \sum_s \mathrm{resize}(M_s)

    bilinear without aligned corners (Ahn et al., CVPR 2019, as released). Time O(S·C·H·W).

    Args:
        maps: Non-negative maps of each scale, shape ``(…, C, h_s, w_s)``, leading axes alike.
        size: ``(H, W)`` of the result.
        canvas: Size to which the maps are enlarged before they are cut to ``size``: what the
            network saw with its padding, such as the next multiples of its stride; ``None`` =
            ``size``.
        eps: Keeps a map of zeros finite, above 0.

    Returns:
        In [0, 1), shape ``(…, C, H, W)``.

    Raises:
        ValueError: If there is no map or the canvas is smaller than the result.

    Example:
        >>> assemble_cam([torch.tensor([[[1.0, 2.0]]])], (1, 2)).round(decimals=3).tolist()
        [[[0.5, 1.0]]]
    """
    canvas = size if canvas is None else canvas
    if not maps or canvas[0] < size[0] or canvas[1] < size[1]:
        raise ValueError(
            f"{len(maps)} maps, size={size}, canvas={canvas}: expected at least one map and a "
            "canvas that holds the result"
        )
    total = torch.zeros((), device=maps[0].device)
    for scale in maps:
        flat = full_precision(scale).reshape(1, -1, *scale.shape[-2:])
        enlarged = F.interpolate(flat, canvas, mode="bilinear", align_corners=False)
        total = total + enlarged[..., : size[0], : size[1]]
    total = total.reshape(*maps[0].shape[:-2], *size)
    return total / (total.amax(dim=(-2, -1), keepdim=True) + eps)


def normalize_in_boxes(
    maps: Tensor, labels: Sequence[int], regions: Sequence[tuple[slice, slice]]
) -> Tensor:
    """Activation maps stretched to [0, 1] inside each box of their class, 0 outside of all.

    The weak label of SPML from boxes: every object has its own maximum, however weakly it
    activates beside others. Where boxes of one class overlap, the larger value counts. A map
    that is constant in a box is 1 there.

    Args:
        maps: Indexed by class id, float, shape ``(C, H, W)``.
        labels: Class id of each box.
        regions: Rows and columns of each box.

    Returns:
        In [0, 1], shape ``(C, H, W)``.

    Example:
        >>> maps = torch.tensor([[[0.2, 0.4, 0.1, 0.9]]])
        >>> normalize_in_boxes(maps, [0], [(slice(0, 1), slice(0, 2))]).tolist()
        [[[0.0, 1.0, 0.0, 0.0]]]
    """
    found = torch.zeros_like(maps)
    for label, (rows, columns) in zip(labels, regions, strict=True):
        inside = maps[label, rows, columns]
        if not inside.numel():
            continue  # the box lies outside the image
        low, high = inside.amin(), inside.amax()
        span = high - low
        own = torch.where(span > 0, (inside - low) / torch.where(span > 0, span, 1), 1)
        found[label, rows, columns] = torch.maximum(found[label, rows, columns], own)
    return found


def cam_labels(
    maps: Tensor,
    present: Tensor,
    *,
    threshold: float = 0.25,
    background: int | None = 0,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    r"""Pseudo-label: the most active class of the image, or background.

    .. math:: y_i = \arg\max_c\, [\theta, s_c(i)]_{c \in Y}

    (Ahn et al., CVPR 2019, as released; ties go to the background). Time O(C·H·W).

    Args:
        maps: s in [0, 1], indexed by class id, shape ``(…, C, H, W)``; the map of the background is
            not read.
        present: Classes Y of the image, multi-hot, shape ``(…, C)``.
        threshold: θ in [0, 1).
        background: Id of the background; ``None`` = there is none, and what no class exceeds θ on
            is undecided.
        ignore_index: Id of undecided pixels.

    Returns:
        Ids, int64, shape ``(…, H, W)``.

    Example:
        >>> maps = torch.tensor([[[0.0, 0.0]], [[0.2, 0.7]], [[0.9, 0.9]]])
        >>> cam_labels(maps, torch.tensor([1, 1, 0])).tolist()
        [[0, 1]]
    """
    best, label = _of_present(maps, present, background).max(dim=-3)
    rest = ignore_index if background is None else background
    return label.masked_fill(best <= threshold, rest)


def cam_probabilities(
    maps: Tensor, present: Tensor, *, threshold: float = 0.25, background: int | None = 0
) -> Tensor:
    """Activation maps as class probabilities whose most likely class is :func:`cam_labels`.

    Scores of the classes of the image, and ``threshold`` as that of the background, divided by
    their sum. Without a background class, all classes of the image are alike where none exceeds
    the threshold. Time O(C·H·W).

    Args:
        maps: In [0, 1], indexed by class id, shape ``(…, C, H, W)``.
        present: Classes of the image, multi-hot, shape ``(…, C)``.
        threshold: Score of the background, above 0.
        background: Its id, or ``None``.

    Returns:
        Shape ``(…, C, H, W)``; sums to 1 over the classes. Without background and without classes
        all classes are alike.

    Example:
        >>> maps = torch.tensor([[[0.0]], [[0.75]], [[0.9]]])
        >>> cam_probabilities(maps, torch.tensor([1, 1, 0])).flatten().tolist()
        [0.25, 0.75, 0.0]
    """
    scores = _of_present(maps, present, background)
    if background is None:
        unsure = scores.amax(dim=-3, keepdim=True) <= threshold
        scores = torch.where(unsure, (present > 0)[..., None, None].to(scores.dtype), scores)
        nothing = (present > 0).any(dim=-1)[..., None, None, None]
        scores = torch.where(nothing, scores, 1)
    else:
        here = torch.arange(maps.shape[-3], device=maps.device) == background
        scores = torch.where(here[:, None, None], threshold, scores)
    scores = scores.clamp_min(0)
    return scores / scores.sum(dim=-3, keepdim=True)


def _of_present(maps: Tensor, present: Tensor, background: int | None) -> Tensor:
    """Scores of the classes of the image; -1 for others and for the background."""
    if maps.ndim < 3 or present.shape != maps.shape[:-2]:
        raise ValueError(
            f"maps {tuple(maps.shape)} and present {tuple(present.shape)} disagree: expected "
            "(…, C, H, W) and (…, C)"
        )
    shown = present > 0
    if background is not None:
        shown = shown & (torch.arange(maps.shape[-3], device=maps.device) != background)
    return full_precision(maps).masked_fill(~shown[..., None, None], -1)


def normalize_class_scores(
    scores: Tensor,
    class_labels: Tensor,
    *,
    floor: float = 0.0,
    absent: Literal["zero", "keep"] = "zero",
) -> Tensor:
    r"""Class maps divided by their own maximum, for the classes of the image.

    .. math:: s'_c(p) = \frac{s_c(p)}{\max(\max_q s_c(q), \phi)}

    (Ke et al., ICLR 2021, appendix). Time and memory O(C·h·w).

    Args:
        scores: Non-negative scores, float, shape ``(…, C, h, w)``.
        class_labels: Multi-hot classes of the image, shape ``(…, C)``.
        floor: Smallest divisor :math:`\phi`, so that a hardly visible class is not blown up.
        absent: What happens to other classes: set to zero, or kept as they are.

    Returns:
        Scores of the same shape, at most 1 for the classes of the image; float32 for 16-bit input.
        A map that is zero everywhere stays so.

    Raises:
        ValueError: If the shapes disagree or ``absent`` is unknown.

    Example:
        >>> scores = torch.tensor([[[0.2, 0.4]], [[0.1, 0.3]]])
        >>> normalize_class_scores(scores, torch.tensor([1, 0])).tolist()
        [[[0.5, 1.0]], [[0.0, 0.0]]]
    """
    if scores.ndim < 3 or class_labels.shape != scores.shape[:-2]:
        raise ValueError(
            f"scores {tuple(scores.shape)} and class_labels {tuple(class_labels.shape)} disagree: "
            "expected (…, C, h, w) and (…, C)"
        )
    if absent not in ("zero", "keep"):
        raise ValueError(f'absent must be "zero" or "keep", got {absent!r}')
    scores = full_precision(scores)
    divisor = scores.amax(dim=(-2, -1), keepdim=True).clamp_min(floor)
    divided = scores / torch.where(divisor > 0, divisor, 1)
    others = torch.zeros_like(scores) if absent == "zero" else scores
    return torch.where(class_labels[..., None, None] > 0, divided, others)


def cam_background_score(cam: Tensor, *, alpha: float = 6.0) -> Tensor:
    r"""Background score of activation maps: high where no class is active.

    .. math:: s_0(p) = (1 - \max_c s_c(p))^\alpha

    (Ahn and Kwak, CVPR 2018, eq. 2). Time and memory O(C·h·w).

    Args:
        cam: Foreground activations in [0, 1], float, shape ``(…, C, h, w)`` without background.
        alpha: Larger leaves less to the background, positive.

    Returns:
        Score in [0, 1], shape ``(…, 1, h, w)``, to be put before the foreground; float32 for
        16-bit input.

    Raises:
        ValueError: If there is no class or ``alpha`` is not positive.

    Example:
        >>> cam_background_score(torch.full((2, 1, 1), 0.5), alpha=2).item()
        0.25
    """
    if cam.ndim < 3 or cam.shape[-3] == 0:
        raise ValueError(
            f"cam must have shape (…, C, h, w) with C > 0, got {tuple(cam.shape)}; an image "
            "without classes is all background"
        )
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    peak = full_precision(cam).amax(dim=-3, keepdim=True)
    return (1 - peak) ** alpha
