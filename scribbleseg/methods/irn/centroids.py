"""Objects of a class told apart by where their cells are displaced to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["centroid_clusters", "instance_labels", "refine_centroids"]


@torch.no_grad()
def refine_centroids(displacement: Tensor, *, iterations: int = 300) -> Tensor:
    r"""Where each cell arrives when it follows the displacement field again and again.

    .. math:: c \leftarrow \operatorname{clip}(c + D(c))

    with bilinear lookup, rounded at the end (Ahn et al., CVPR 2019, section 4.3). Time
    O(iterations·h·w), memory O(h·w).

    Args:
        displacement: D in cells, rows first, float, shape ``(2, h, w)``.
        iterations: Steps.

    Returns:
        Row and column, int64, shape ``(2, h, w)``.

    Example:
        >>> refine_centroids(torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]]])).tolist()
        [[[0, 0]], [[1, 1]]]
    """
    _, height, width = displacement.shape
    limit = displacement.new_tensor([height - 1, width - 1]).view(2, 1)
    rows, columns = torch.meshgrid(
        torch.arange(height, device=displacement.device),
        torch.arange(width, device=displacement.device),
        indexing="ij",
    )
    place = torch.stack([rows, columns]).flatten(1).to(displacement.dtype)
    field = displacement.flatten(1)
    for _ in range(iterations):
        low, high = place.floor().long(), place.ceil().long()
        share = place - low
        moved = torch.zeros_like(place)
        for row, row_share in ((high[0], share[0]), (low[0], 1 - share[0])):
            for column, column_share in ((high[1], share[1]), (low[1], 1 - share[1])):
                moved += field[:, row * width + column] * row_share * column_share
        place = (place + moved).clamp_min(0).minimum(limit)
    return place.round().long().view(2, height, width)


def centroid_clusters(displacement: Tensor, centroids: Tensor, *, reach: float = 2.5) -> Tensor:
    """Number of the cluster of cells that each cell arrives at.

    Clusters are the connected cells that are displaced by less than ``reach``; a cell that arrives
    outside of all has none (Ahn et al., CVPR 2019, section 4.3). Time O(h·w), on the host.

    Args:
        displacement: In cells, shape ``(2, h, w)``.
        centroids: From :func:`refine_centroids`.
        reach: In cells.

    Returns:
        From 1, 0 = none, int64, shape ``(h, w)``.
    """
    near = (displacement.norm(dim=0) < reach).cpu().numpy()
    numbers, _ = ndimage.label(near, structure=np.ones((3, 3)))
    found = torch.from_numpy(numbers.astype(np.int64)).to(displacement.device)
    return found[centroids[0], centroids[1]]


def instance_labels(labels: Tensor, clusters: Tensor, *, least: float = 0.01) -> Tensor:
    """Number of the object of each pixel: cells of one class and cluster; small ones are dropped.

    Args:
        labels: Class ids, 0 = background, int64, shape ``(h, w)``.
        clusters: From :func:`centroid_clusters`, same grid.
        least: Share of the image below which a fragment is dropped.

    Returns:
        From 1, 0 = background or dropped, int64, shape ``(h, w)``.
    """
    key = torch.where((labels > 0) & (labels < 255), labels * (clusters.max() + 1) + clusters, 0)
    keys, number = torch.unique(key, return_inverse=True)
    counts = torch.bincount(number.flatten(), minlength=len(keys))
    kept = (counts >= least * labels.numel()) & (keys > 0)
    renumbered = torch.where(kept, kept.cumsum(0), 0)
    return renumbered[number]
