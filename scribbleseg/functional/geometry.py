"""Label maps on other grids, without labels that nobody drew; labels of feature cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from scribbleseg.constants import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = [
    "BackgroundScope",
    "area_pool",
    "cell_purity",
    "class_labels_from_scribble",
    "downsample_label",
    "foreground_background_cells",
    "label_canvas",
    "one_hot_labels",
    "resize_labels",
    "whole_cells",
]

BackgroundScope = Literal["present", "all"]


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


def downsample_label(
    labels: Tensor,
    size: tuple[int, int],
    *,
    mode: Literal["center", "majority"] = "center",
    num_classes: int | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    r"""Label of each cell of a coarser grid.

    ``center``
        The pixel in the middle of the cell, row :math:`\lfloor (i + \tfrac12) H / h \rfloor`, which
        is where half-pixel bilinear enlargement puts the cell.
    ``majority``
        The most frequent label among the labelled pixels of the cell, the lower id if several are;
        thin strokes survive. Sides that are no multiple of the grid are padded with
        ``ignore_index`` at the right and bottom, to cells of equal size.

    Time and memory O(B·H·W), for ``majority`` times C.

    Args:
        labels: Ids of any integer type, shape ``(B, H, W)``.
        size: ``(h, w)``, at most ``(H, W)``.
        mode: Which of the two.
        num_classes: C, for ``majority``.
        ignore_index: Id of pixels without label; cells without labelled pixels get it.

    Returns:
        int64, shape ``(B, h, w)``.

    Raises:
        ValueError: If the grid is finer than the labels, or C is missing.

    Example:
        >>> labels = torch.tensor([[[0, 0, 255, 2]]])
        >>> downsample_label(labels, (1, 2)).tolist()
        [[[0, 2]]]
        >>> downsample_label(labels, (1, 1), mode="majority", num_classes=3).tolist()
        [[[0]]]
    """
    height, width = labels.shape[-2:]
    if labels.ndim != 3 or not (0 < size[0] <= height and 0 < size[1] <= width):
        raise ValueError(
            f"labels {tuple(labels.shape)} to size={size}: expected (B, H, W) and a grid that is "
            "not finer"
        )
    if mode == "center":
        rows, columns = (
            ((2 * torch.arange(cells, device=labels.device) + 1) * pixels) // (2 * cells)
            for pixels, cells in zip((height, width), size, strict=True)
        )
        return labels[:, rows[:, None], columns].long()
    if num_classes is None:
        raise ValueError("mode='majority' counts the pixels of every class: pass num_classes")
    padded = F.pad(labels.long(), (0, -width % size[1], 0, -height % size[0]), value=ignore_index)
    best, label = _class_shares(padded, size, num_classes, ignore_index).max(dim=1)
    return torch.where(best > 0, label, ignore_index)


def label_canvas(
    labels: Tensor,
    size: tuple[int, int],
    cells: tuple[int, int],
    *,
    stride: int,
) -> Tensor:
    """Labels of original size on the padded canvas of which a network made its cells.

    Enlarged to the least whole multiple of the network's input that loses no pixel, then padded
    with 255 at the right and bottom. Time and memory O(size of the result).

    Args:
        labels: Ids of any integer type, shape ``(B, H0, W0)``.
        size: ``(H, W)`` of the network's input.
        cells: ``(h, w)`` of its cells; ``h·stride`` is at least H.
        stride: Pixels of the input per cell.

    Returns:
        int64, shape ``(B, m·h·stride, m·w·stride)`` for ``downsample_label(…, cells)``; m = 1 for
        images that were not made smaller.

    Example:
        >>> label_canvas(torch.tensor([[[1, 2, 3]]]), (1, 3), (1, 2), stride=2).tolist()
        [[[1, 2, 3, 255], [255, 255, 255, 255]]]
    """
    rows, columns = labels.shape[-2:]
    factor = max(-(-rows // size[0]), -(-columns // size[1]), 1)
    target = (size[0] * factor, size[1] * factor)
    if (rows, columns) != target:
        grown = F.interpolate(labels[:, None].float(), target, mode="nearest-exact")
        labels = grown[:, 0]
    full = (cells[0] * stride * factor, cells[1] * stride * factor)
    padding = (0, full[1] - target[1], 0, full[0] - target[0])
    return F.pad(labels.long(), padding, value=IGNORE_INDEX)


def cell_purity(labels: Tensor, cells: Tensor, *, num_classes: int) -> Tensor:
    """Share of the pixels of each cell that have the label of the cell.

    Time and memory O(B·C·H·W).

    Args:
        labels: Ids, integer, 255 = without class, shape ``(B, H, W)``; H and W multiples of the
            grid's.
        cells: Label of each cell, int64, shape ``(B, h, w)``.
        num_classes: C.

    Returns:
        In [0, 1], float32, shape ``(B, h, w)``; 0 for cells without label.

    Raises:
        ValueError: If the sizes are no multiples.

    Example:
        >>> labels, cells = torch.tensor([[[0, 0, 0, 1]]]), torch.tensor([[[0]]])
        >>> cell_purity(labels, cells, num_classes=2).item()
        0.75
    """
    (height, width), (rows, columns) = labels.shape[-2:], cells.shape[-2:]
    if height % rows or width % columns:
        raise ValueError(
            f"labels of {height} by {width} pixels on {rows} by {columns} cells: expected whole "
            "cells; pad the labels first"
        )
    shares = _class_shares(labels, (rows, columns), num_classes, IGNORE_INDEX)
    known = cells != IGNORE_INDEX
    return shares.gather(1, cells.masked_fill(~known, 0)[:, None])[:, 0] * known


def _class_shares(
    labels: Tensor, cells: tuple[int, int], num_classes: int, ignore_index: int
) -> Tensor:
    """Share of every class in the pixels of each of equal cells, shape ``(B, C, h, w)``."""
    one_hot = one_hot_labels(labels.long(), num_classes, ignore_index=ignore_index)
    size = (labels.shape[1] // cells[0], labels.shape[2] // cells[1])
    return F.avg_pool2d(one_hot.permute(0, 3, 1, 2).float(), size)


def foreground_background_cells(
    cells: Tensor,
    class_labels: Tensor,
    *,
    scope: BackgroundScope = "present",
    ignore_index: int = IGNORE_INDEX,
) -> tuple[Tensor, Tensor]:
    r"""Which cells belong to the foreground and to the background set of each class.

    .. math:: F_c = \{p : y_c = 1, l(p) = c\}, \qquad
        B_c = \{p : y_c = 1, l(p) \notin \{c, \text{ignore}\}\}

    (after PtReCl; that :math:`B_c` is taken from images that show the class is our definition,
    ``scope="all"`` takes it from all images). Time and memory O(B·C·h·w).

    Args:
        cells: l, int64, shape ``(B, h, w)``.
        class_labels: y, multi-hot, indexed by class id, shape ``(B, C)``; classes that are not to
            have sets, such as the background, are 0.
        scope: Images whose cells are background of a class.
        ignore_index: Id of cells without label.

    Returns:
        Two masks, bool, shape ``(B, C, h, w)``.

    Raises:
        ValueError: If the shapes disagree.

    Example:
        >>> cells, tags = torch.tensor([[[0, 1, 255]]]), torch.tensor([[0, 1]])
        >>> fg, bg = foreground_background_cells(cells, tags)
        >>> fg[0, 1].tolist(), bg[0, 1].tolist()
        ([[False, True, False]], [[True, False, False]])
    """
    if cells.ndim != 3 or class_labels.ndim != 2 or len(cells) != len(class_labels):
        raise ValueError(
            f"cells {tuple(cells.shape)} and class_labels {tuple(class_labels.shape)} disagree: "
            "expected (B, h, w) and (B, C)"
        )
    present = (class_labels > 0)[..., None, None]
    ids = torch.arange(class_labels.shape[1], device=cells.device)[:, None, None]
    own, known = cells[:, None] == ids, (cells != ignore_index)[:, None]
    around = present if scope == "present" else torch.ones_like(present)
    return present & own, around & ~own & known
