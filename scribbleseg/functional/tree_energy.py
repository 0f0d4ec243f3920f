"""Tree energy loss: predictions agree with their averages along trees of similar pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from scribbleseg.functional.grid_tree import edge_counts, grid_mst, root_tree
from scribbleseg.functional.losses import full_precision, masked_mean
from scribbleseg.functional.tree_filter import tree_filter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = ["grid_edge_weights", "tree_energy_loss", "tree_soft_labels"]

# elements of one temporary: fits the second-level cache of a core, or fills a GPU
_CPU_CHUNK = 2**17
_GPU_CHUNK = 2**24


def tree_soft_labels(
    probabilities: Tensor,
    image: Tensor,
    *,
    embedding: Tensor | None = None,
    sigma_low: float = 0.02,
    sigma_high: float = 1.0,
) -> Tensor:
    r"""Predictions averaged along the tree of the image, then along that of the embedding.

    .. math:: \tilde P = F(A^{\text{high}}, F(A^{\text{low}}, p))

    with the filter of :func:`.tree_filter` on the minimum spanning trees of squared colour and of
    squared embedding distances (Liang et al., CVPR 2022, cascaded filtering). Gradients reach the
    probabilities and the embedding, never the image or the choice of a tree. Time O(B·N·(C + E +
    log N)) on the CPU, a factor of log N more elsewhere; memory O(B·N·(C + E)).

    Args:
        probabilities: p, float, shape ``(B, C, h, w)``.
        image: Clean RGB image in [0, 1], float, shape ``(B, 3, H, W)``; it is resized to ``(h, w)``
            bilinearly.
        embedding: Features of the network, float, shape ``(B, E, h, w)``; without them, the first
            average is the result.
        sigma_low: Bandwidth of squared colour distances; 0.02 for VOC, 0.002 for Cityscapes and
            ADE20K.
        sigma_high: Bandwidth of squared embedding distances.

    Returns:
        Soft labels, probabilities of shape ``(B, C, h, w)``, float32 for 16-bit input.

    Raises:
        ValueError: If shapes disagree or a bandwidth is not positive.

    Example:
        >>> image = torch.tensor([0.0, 0.0, 1.0]).expand(1, 3, 1, 3)
        >>> p = torch.tensor([[[[0.0, 1.0, 0.0]], [[1.0, 0.0, 1.0]]]])
        >>> tree_soft_labels(p, image)[0, 0].tolist()
        [[0.5, 0.5, 0.0]]
    """
    batch, _, *size = probabilities.shape if probabilities.ndim == 4 else (0, 0)
    if image.ndim != 4 or len(image) != batch or not size:
        raise ValueError(
            f"probabilities {tuple(probabilities.shape)} and image {tuple(image.shape)} disagree: "
            "expected (B, C, h, w) and (B, 3, H, W)"
        )
    if embedding is not None and (len(embedding), *embedding.shape[2:]) != (batch, *size):
        raise ValueError(
            f"embedding {tuple(embedding.shape)} and probabilities {tuple(probabilities.shape)} "
            "disagree: expected (B, E, h, w) and (B, C, h, w); take both from one decoder stage"
        )
    colours = full_precision(image.detach())
    colours = F.interpolate(colours, size, mode="bilinear", align_corners=False)
    result = _average(probabilities, colours, sigma_low)
    return result if embedding is None else _average(result, embedding, sigma_high)


def _average(values: Tensor, features: Tensor, sigma: float) -> Tensor:
    weights = grid_edge_weights(features)
    size = (features.shape[2], features.shape[3])
    tree = root_tree(grid_mst(weights, size=size), size=size)
    return tree_filter(values, weights, tree, sigma=sigma)


def tree_energy_loss(
    logits: Tensor,
    image: Tensor,
    unlabelled: Tensor,
    *,
    embedding: Tensor | None = None,
    sigma_low: float = 0.02,
    sigma_high: float = 1.0,
    detach_target: bool = False,
    across_ranks: bool = False,
) -> Tensor:
    r"""Distance between predictions and their averages along trees, where nothing is drawn.

    .. math:: L = \frac{1}{|U|} \sum_{i \in U} \sum_c |p_{ic} - \tilde P_{ic}|

    with :math:`\tilde P` of :func:`tree_soft_labels` and U the unlabelled cells of the batch on
    this process (Liang et al., CVPR 2022, tree energy loss; there times 0.4). Time O(B·N·(C + E +
    log N)) on the CPU, a factor of log N more elsewhere; memory O(B·N·(C + E)).

    Args:
        logits: Unnormalised scores of the decoder *before* they are enlarged, float, shape ``(B, C,
            h, w)``.
        image: RGB image in [0, 1] with the geometry of the network's input but without its colour
            changes, float, shape ``(B, 3, H, W)``; it gets no gradient.
        unlabelled: True on pixels that are neither drawn nor padding, bool, shape ``(B, H, W)``;
            the nearest one counts for a cell.
        embedding: Features whose distances make the second tree, float, shape ``(B, E, h, w)``.
        sigma_low: Bandwidth of squared colour distances; 0.02 for VOC, 0.002 for Cityscapes and
            ADE20K.
        sigma_high: Bandwidth of squared embedding distances.
        detach_target: Whether the averages are constants; then the embedding gets no gradient. The
            published method lets gradients through.
        across_ranks: See :func:`~scribbleseg.functional.losses.weighted_mean`.

    Returns:
        Scalar without unit, 0..2; an exact differentiable 0 if nothing is unlabelled.

    Raises:
        ValueError: If shapes disagree or a bandwidth is not positive.

    Example:
        >>> logits, image = torch.zeros(1, 2, 4, 4), torch.rand(1, 3, 8, 8)
        >>> tree_energy_loss(logits, image, torch.ones(1, 8, 8, dtype=torch.bool)).item()
        0.0
    """
    if unlabelled.shape != (len(logits), *image.shape[2:]):
        raise ValueError(
            f"unlabelled {tuple(unlabelled.shape)} and image {tuple(image.shape)} disagree: "
            "expected (B, H, W) and (B, 3, H, W) of one size; do not shrink the mask beforehand"
        )
    probabilities = full_precision(logits).softmax(1)
    with torch.set_grad_enabled(torch.is_grad_enabled() and not detach_target):
        target = tree_soft_labels(
            probabilities,
            image,
            embedding=embedding,
            sigma_low=sigma_low,
            sigma_high=sigma_high,
        )
    mask = unlabelled[:, None].to(probabilities.dtype)
    mask = F.interpolate(mask, probabilities.shape[2:], mode="nearest")[:, 0]
    distance = (probabilities - target).abs().sum(1)
    return masked_mean(distance, mask, across_ranks=across_ranks)


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
