"""Edges of images seen as 4-connected grids: their order and their weights.

A grid ``(H, W)`` has ``N = H·W`` vertices in row-major order and ``M = (H-1)·W + H·(W-1)`` edges:
first the vertical ones ``(y, x)-(y+1, x)`` in row-major order of their upper ends, then the
horizontal ones ``(y, x)-(y, x+1)`` in row-major order of their left ends. Every array over edges
has this order, which also decides between equal weights (see :mod:`.grid_tree`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = ["edge_counts", "edge_ends", "grid_edge_weights"]

# elements of one temporary: fits the second-level cache of a core, or fills a GPU
_CPU_CHUNK = 2**17
_GPU_CHUNK = 2**24


def edge_counts(size: tuple[int, int]) -> tuple[int, int]:
    """Numbers of vertical and of horizontal edges; together M. Time and memory O(1).

    Args:
        size: Grid ``(H, W)`` in pixels.

    Returns:
        ``(H-1)·W`` and ``H·(W-1)``; 0 for a single row or column.

    Example:
        >>> edge_counts((3, 4))
        (8, 9)
    """
    height, width = size
    return (height - 1) * width, height * (width - 1)


def edge_ends(
    size: tuple[int, int], *, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Both vertices of every edge. Time and memory O(N).

    Args:
        size: Grid ``(H, W)`` in pixels.
        device: Where the result lives.

    Returns:
        Upper or left vertices, and lower or right vertices; int64, each of shape ``(M,)``.

    Example:
        >>> [ends.tolist() for ends in edge_ends((2, 2))]
        [[0, 1, 0, 2], [2, 3, 1, 3]]
    """
    index = torch.arange(size[0] * size[1], device=device).view(size)
    first = torch.cat([index[:-1].flatten(), index[:, :-1].flatten()])
    return first, torch.cat([index[1:].flatten(), index[:, 1:].flatten()])


class _GridEdgeWeights(torch.autograd.Function):
    """Keeps the features alone; plain autograd would keep every difference as well."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        b, _, h, w = features.shape
        dtype = full_precision(features[:0]).dtype
        vertical = features.new_zeros((b, h - 1, w), dtype=dtype)
        horizontal = features.new_zeros((b, h, w - 1), dtype=dtype)
        for part in _parts(features):
            x = full_precision(features[part])
            vertical[part[0]] += (x[:, :, 1:] - x[:, :, :-1]).square_().sum(1)
            horizontal[part[0]] += (x[..., 1:] - x[..., :-1]).square_().sum(1)
        return torch.cat([vertical.flatten(1), horizontal.flatten(1)], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        b, _, h, w = features.shape
        grad, count = 2 * grad, edge_counts((h, w))[0]
        vertical = grad[:, :count].view(b, 1, h - 1, w)
        horizontal = grad[:, count:].view(b, 1, h, w - 1)
        result = torch.empty_like(features)
        for part in _parts(features):
            x = full_precision(features[part])
            y = torch.zeros_like(x)
            pull = (x[:, :, 1:] - x[:, :, :-1]).mul_(vertical[part[0]])
            y[:, :, 1:] += pull
            y[:, :, :-1] -= pull
            pull = (x[..., 1:] - x[..., :-1]).mul_(horizontal[part[0]])
            y[..., 1:] += pull
            y[..., :-1] -= pull
            result[part] = y
        return result


def _parts(features: Tensor) -> Iterator[tuple[slice, slice]]:
    """Slices over images and channels of at most a chunk, where one channel allows it."""
    images, channels, height, width = features.shape
    chunk = _CPU_CHUNK if features.device.type == "cpu" else _GPU_CHUNK
    planes = max(1, chunk // (height * width))
    c_step = min(planes, max(1, channels))
    b_step = max(1, planes // c_step)
    for b in range(0, images, b_step):
        for c in range(0, channels, c_step):
            yield slice(b, b + b_step), slice(c, c + c_step)


def grid_edge_weights(features: Tensor) -> Tensor:
    r"""Squared feature distance across every edge of the grid.

    .. math:: \omega(i, j) = \lVert g_i - g_j \rVert^2

    (Liang et al., CVPR 2022, tree energy loss, the weights of both trees.) Time O(B·E·N); memory
    O(B·N) besides the features and their gradient. Can be differentiated once; 16-bit features are
    squared and summed in float32.

    Args:
        features: Image or embedding :math:`g`, float, shape ``(B, E, H, W)``.

    Returns:
        Float32 (float64 for float64 features) at least 0, shape ``(B, M)``; zeros for ``E = 0``.

    Raises:
        ValueError: If ``features`` is not four-dimensional or has no pixels.

    Example:
        >>> grid_edge_weights(torch.tensor([[[[0.0, 1.0], [3.0, 3.0]]]])).tolist()
        [[9.0, 4.0, 1.0, 0.0]]
    """
    if features.ndim != 4 or 0 in features.shape[2:] or not features.is_floating_point():
        raise ValueError(
            f"features {tuple(features.shape)} {features.dtype}: expected float (B, E, H, W) with "
            "at least one pixel; convert 8-bit images to [0, 1] first"
        )
    weights: Tensor = _GridEdgeWeights.apply(features)
    return weights
