"""Operations on label maps that must not invent labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from scribbleseg.constants import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["class_labels_from_scribble", "one_hot_labels", "resize_labels"]


def one_hot_labels(labels: Tensor, num_classes: int, *, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """One-hot coding in which ignored pixels are all zero.

    Args:
        labels: Ids, int64, shape ``(…)``.
        num_classes: C.
        ignore_index: Value that belongs to no class.

    Returns:
        int64, shape ``(…, C)``.
    """
    filled = labels.masked_fill(labels == ignore_index, num_classes)
    return F.one_hot(filled, num_classes + 1)[..., :num_classes]


def class_labels_from_scribble(
    scribble: Tensor,
    num_classes: int,
    *,
    always: Sequence[int] = (),
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Which classes are drawn in each image. Time O(B·H·W), no Python loop over classes.

    Args:
        scribble: Ids of the *uncropped* scribbles, int64, shape ``(…, H, W)``.
        num_classes: C.
        always: Classes that are set whether drawn or not, such as the background.
        ignore_index: Value that is not a class.

    Returns:
        Multi-hot float32, shape ``(…, C)``.

    Example:
        >>> scribble = torch.tensor([[[255, 2], [2, 255]]])
        >>> class_labels_from_scribble(scribble, 3, always=(0,)).tolist()
        [[1.0, 0.0, 1.0]]
    """
    flat = scribble.reshape(*scribble.shape[:-2], -1).long()
    filled = flat.masked_fill(flat == ignore_index, num_classes)
    present = torch.zeros(*filled.shape[:-1], num_classes + 1, device=scribble.device)
    present.scatter_(-1, filled, 1.0)
    present = present[..., :num_classes]
    if always:
        present[..., list(always)] = 1.0
    return present


def resize_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest-neighbour resize of ids (source pixel = floor of the scaled coordinate).

    Args:
        labels: Ids of any integer type, shape ``(B, H, W)``.
        size: Target ``(h, w)`` in pixels.

    Returns:
        Same type, shape ``(B, h, w)``.
    """
    resized = F.interpolate(labels[:, None].to(torch.float32), size=size, mode="nearest")
    return resized[:, 0].to(labels.dtype)
