"""Operations on label maps that must not invent labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from scribbleseg.constants import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = [
    "area_pool",
    "class_labels_from_scribble",
    "one_hot_labels",
    "resize_labels",
    "whole_cells",
]


def area_pool(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean over the cells of a coarser grid, weighted by the area that a pixel shares with a cell.

    Unlike ``adaptive_avg_pool2d`` its gradient is deterministic on a GPU, and cells do not overlap.
    Time and memory O(size of x).

    Args:
        x: Float, shape ``(B, C, H, W)``.
        size: ``(h, w)`` with h ≤ H and w ≤ W.

    Returns:
        Shape ``(B, C, h, w)``; ``x`` itself if the size is the same.

    Raises:
        ValueError: If the grid is finer than x.

    Example:
        >>> area_pool(torch.tensor([[[[1.0, 2.0, 6.0]]]]), (1, 2)).tolist()
        [[[[1.3333333730697632, 4.666666507720947]]]]
    """
    height, width = x.shape[-2:]
    if size == (height, width):
        return x
    if not (0 < size[0] <= height and 0 < size[1] <= width):
        raise ValueError(f"size={size}: expected at most the {height} by {width} pixels of x")
    if height % size[0] == 0 and width % size[1] == 0:
        return F.avg_pool2d(x, (height // size[0], width // size[1]))
    with torch.autocast(x.device.type, enabled=False):
        rows, columns = (
            _shares(full, cells, x) for full, cells in zip((height, width), size, strict=True)
        )
        return rows @ x @ columns.T


def whole_cells(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Cells of a coarser grid whose pixels are all set. Time and memory O(size of mask).

    A pixel that two cells share must be set for both of them.

    Args:
        mask: Bool or 0/1, shape ``(B, H, W)`` or ``(B, 1, H, W)``.
        size: ``(h, w)`` with h ≤ H and w ≤ W.

    Returns:
        Bool, shape ``(B, h, w)``.

    Example:
        >>> whole_cells(torch.tensor([[[1, 1, 0, 1]]]), (1, 2)).tolist()
        [[[True, False]]]
    """
    mask = mask[:, None] if mask.ndim == 3 else mask
    return F.adaptive_max_pool2d((~mask.bool()).float(), size)[:, 0] == 0


def _shares(pixels: int, cells: int, like: Tensor) -> Tensor:
    """Share of each pixel in each cell, rows sum to one, shape ``(cells, pixels)``."""
    pixel = torch.arange(pixels, device=like.device, dtype=torch.float64)
    edges = torch.arange(cells + 1, device=like.device, dtype=torch.float64) * (pixels / cells)
    overlap = torch.minimum(edges[1:, None], pixel + 1) - torch.maximum(edges[:-1, None], pixel)
    return (overlap.clamp_min(0) * (cells / pixels)).to(like.dtype)


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
