"""Sums and label votes over regions of an image, and graphs of adjacent regions.

Regions are maps of ids with one table of ``num_regions`` entries per image: pixels of an image
share the region whose id they hold, and ids outside ``0 .. num_regions - 1`` (padding, say -1)
belong to none. Values per region are ``(B, D, S)``: regions take the place of the pixels. Sums on
CUDA add in no fixed order, as scatter operations do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = [
    "RegionGraph",
    "majority_labels",
    "region_means",
    "region_sizes",
    "region_sums",
    "superpixel_affinity",
    "superpixel_histograms",
]

_COLOUR_BINS, _TEXTURE_BINS = 25, 10
_COLOUR_SCALE, _TEXTURE_SCALE = 25.0, 100.0
_SHARPNESS, _STRETCH, _LARGEST = 5.0, 0.8, 0.8


def _slots(regions: Tensor, num_regions: int) -> Tensor:
    """Ids as int64, shape ``(B, N)``; those of no region become ``num_regions``."""
    if regions.ndim < 2 or regions.is_floating_point() or num_regions < 1:
        raise ValueError(
            f"expected integer regions (B, …) and num_regions >= 1, got {regions.dtype} "
            f"{tuple(regions.shape)} and {num_regions}; add a batch axis, and convert ids that "
            "were read as float"
        )
    inside = (regions >= 0) & (regions < num_regions)
    return torch.where(inside, regions, num_regions).flatten(1).long()


def region_sizes(regions: Tensor, num_regions: int) -> Tensor:
    """Number of pixels of each region. Time O(B·N + B·S), memory O(B·N + B·S) for N pixels.

    Args:
        regions: Ids, integer, shape ``(B, …)``.
        num_regions: S.

    Returns:
        Pixels, int64, shape ``(B, S)``; 0 for a region that is not there.

    Raises:
        ValueError: If ``regions`` is not an integer batch.

    Example:
        >>> region_sizes(torch.tensor([[0, 0, 2, -1]]), 3).tolist()
        [[2, 0, 1]]
    """
    slots = _slots(regions, num_regions)
    sizes = slots.new_zeros(len(slots), num_regions + 1)
    return sizes.scatter_add_(1, slots, torch.ones_like(slots))[:, :num_regions]


def region_sums(features: Tensor, regions: Tensor, num_regions: int) -> Tensor:
    r"""Sum of the features over the pixels of each region.

    .. math:: F_s = \sum_{i \in s} f_i

    Differentiable in the features. Time O(B·D·N), memory O(B·N + B·D·S) besides the features, which
    are not copied: 10 ms for 21 channels of 465² pixels on one core, 18 ms with the backward pass.

    Args:
        features: Float, shape ``(B, D, …)``.
        regions: Ids, integer, shape ``(B, …)`` on the same grid.
        num_regions: S.

    Returns:
        float32 (float64 if ``features`` is), shape ``(B, D, S)``; 0 for a region that is not there.

    Raises:
        ValueError: If the shapes disagree.

    Example:
        >>> features = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]])
        >>> region_sums(features, torch.tensor([[0, 0, 2, -1]]), 3).tolist()
        [[[3.0, 0.0, 4.0]]]
    """
    if features.ndim < 3 or (features.shape[0], *features.shape[2:]) != regions.shape:
        raise ValueError(
            f"features {tuple(features.shape)} and regions {tuple(regions.shape)} disagree: "
            "expected (B, D, …) and (B, …) on the same grid; resize one of them first (regions by "
            "nearest neighbour)"
        )
    features = full_precision(features).flatten(2)
    slots = _slots(regions, num_regions)[:, None].expand_as(features)  # a view: nothing repeated
    sums = features.new_zeros(*features.shape[:2], num_regions + 1)
    return sums.scatter_add(2, slots, features)[..., :num_regions]


def region_means(features: Tensor, regions: Tensor, num_regions: int) -> Tensor:
    r"""Mean of the features over the pixels of each region.

    .. math:: \bar f_s = \frac{1}{|s|} \sum_{i \in s} f_i

    Differentiable in the features. Time and memory as :func:`region_sums`.

    Args:
        features: Float, shape ``(B, D, …)``.
        regions: Ids, integer, shape ``(B, …)`` on the same grid.
        num_regions: S.

    Returns:
        float32 (float64 if ``features`` is), shape ``(B, D, S)``; 0 for a region that is not there.

    Raises:
        ValueError: If the shapes disagree.

    Example:
        >>> features = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]])
        >>> region_means(features, torch.tensor([[0, 0, 2, -1]]), 3).tolist()
        [[[1.5, 0.0, 4.0]]]
    """
    sums = region_sums(features, regions, num_regions)
    return sums / region_sizes(regions, num_regions).clamp_min(1)[:, None].to(sums.dtype)


def _region_votes(
    labels: Tensor,
    regions: Tensor,
    num_regions: int,
    num_classes: int,
    *,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Number of pixels of each class in each region, int64, shape ``(B, C, S)``.

    Counted by one scatter on the key (class, region), not from a one-hot map.
    """
    if labels.shape != regions.shape:
        raise ValueError(
            f"labels {tuple(labels.shape)} and regions {tuple(regions.shape)} disagree: expected "
            "(B, …) for both"
        )
    slots = _slots(regions, num_regions)
    flat = labels.flatten(1).long()
    votes = (flat != ignore_index) & (slots < num_regions)
    size = num_classes * num_regions
    key = torch.where(votes, flat * num_regions + slots, size)
    counts = slots.new_zeros(len(slots), size + 1).scatter_add_(1, key, torch.ones_like(key))
    return counts[:, :size].view(len(slots), num_classes, num_regions)


def majority_labels(
    labels: Tensor,
    regions: Tensor,
    num_regions: int,
    num_classes: int,
    *,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Most frequent label of each region; of equally frequent ones the smallest.

    Time and memory O(B·N + B·C·S).

    Args:
        labels: Class ids below C or ``ignore_index``, int64, shape ``(B, …)``.
        regions: Ids, integer, shape ``(B, …)``.
        num_regions: S.
        num_classes: C.
        ignore_index: Label that does not vote.

    Returns:
        Class ids, int64, shape ``(B, S)``; ``ignore_index`` where no pixel has a label.

    Raises:
        ValueError: If the shapes disagree.

    Example:
        >>> labels, regions = torch.tensor([[1, 1, 0, 255]]), torch.tensor([[0, 0, 0, 1]])
        >>> majority_labels(labels, regions, 2, 2).tolist()
        [[1, 255]]
    """
    votes = _region_votes(labels, regions, num_regions, num_classes, ignore_index=ignore_index)
    most, winner = votes.max(1)
    return torch.where(most > 0, winner, ignore_index)


class RegionGraph(NamedTuple):
    """Undirected graph over the regions of one image.

    Attributes:
        edges: Pairs of ids, the smaller first, int64, shape ``(E, 2)``.
        weights: Similarity per edge, float32, shape ``(E,)``; both directions have the same.
    """

    edges: NDArray[np.int64]
    weights: NDArray[np.float32]


def _adjacent_regions(regions: NDArray[Any]) -> NDArray[np.int64]:
    """Pairs of regions that share a pixel edge, the smaller id first, sorted, shape ``(E, 2)``.

    Time O(N log N) in the pixels where two regions meet: 2 ms for 500×375 and 800 superpixels.
    """
    if regions.ndim != 2 or not np.issubdtype(regions.dtype, np.integer):
        raise ValueError(
            f"regions: expected integer ids of shape (H, W), got {regions.dtype} {regions.shape}"
        )
    pairs = [(regions[:, :-1], regions[:, 1:]), (regions[:-1], regions[1:])]
    meet = [(a != b) & (a >= 0) & (b >= 0) for a, b in pairs]
    first = np.concatenate([a[m] for (a, _), m in zip(pairs, meet, strict=True)]).astype(np.int64)
    second = np.concatenate([b[m] for (_, b), m in zip(pairs, meet, strict=True)]).astype(np.int64)
    size = int(regions.max(initial=0)) + 1
    keys = np.unique(np.minimum(first, second) * size + np.maximum(first, second))
    return np.stack(np.divmod(keys, size), axis=1)


def _histogram(
    regions: NDArray[np.intp], bins: NDArray[np.intp], num_bins: int, num_regions: int
) -> NDArray[np.float64]:
    """Share of each bin in each region; negative regions are left out."""
    key = np.where(regions >= 0, regions * num_bins + bins, num_regions * num_bins)
    counts = np.bincount(key.ravel(), minlength=num_regions * num_bins + 1)[:-1]
    counts = counts.reshape(num_regions, num_bins)
    return np.asarray(counts / np.maximum(counts.sum(1, keepdims=True), 1), dtype=np.float64)


def superpixel_histograms(
    image: NDArray[np.uint8], regions: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Colour and texture of each superpixel as histograms.

    Colour: 25 bins per RGB channel over [0, 255]. Texture: 10 bins each of the horizontal and of
    the vertical grey gradient (central differences, one-sided at the frame) over the range of both
    in this image. Every histogram sums to 1; bins are found in integers, so they are the same on
    every processor (CC4S, TPAMI 2024, colour constraint as released). Time O(N), memory O(N + S)
    for N pixels and S regions: 15 ms for 500×375 on one core.

    Args:
        image: RGB, uint8, shape ``(H, W, 3)``.
        regions: Ids below S, integer, shape ``(H, W)``; negative = no region.

    Returns:
        Colour ``(S, 75)`` and texture ``(S, 20)``; all 0 for an id that no pixel has.

    Raises:
        ValueError: If the image is not uint8 RGB or the sizes disagree.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"expected a uint8 RGB image of shape (H, W, 3), got {image.dtype} {image.shape}"
        )
    if regions.shape != image.shape[:2]:
        raise ValueError(
            f"regions {regions.shape} and image {image.shape[:2]} differ in size; make the "
            "superpixels from this image"
        )
    ids = regions.astype(np.intp)
    num_regions = int(ids.max(initial=0)) + 1
    levels = np.minimum(np.arange(256) * _COLOUR_BINS // 255, _COLOUR_BINS - 1)
    colour = [_histogram(ids, levels[image[..., c]], _COLOUR_BINS, num_regions) for c in range(3)]
    # grey and twice its gradient in whole numbers: no bin depends on rounding
    red, green, blue = (image[..., c].astype(np.int64) for c in range(3))
    grey = (298_936 * red + 587_043 * green + 114_021 * blue + 500_000) // 1_000_000
    gradients = [_twice_gradient(grey, axis) for axis in (1, 0)]
    low = min(int(g.min()) for g in gradients)
    span = max(max(int(g.max()) for g in gradients) - low, 1)
    texture = [
        _histogram(
            ids,
            np.minimum(_TEXTURE_BINS * (g - low) // span, _TEXTURE_BINS - 1),
            _TEXTURE_BINS,
            num_regions,
        )
        for g in gradients
    ]
    return np.concatenate(colour, axis=1), np.concatenate(texture, axis=1)


def _twice_gradient(grey: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    """Twice the central difference along an axis, one-sided at its ends."""
    grey = np.moveaxis(grey, axis, 0)
    out = np.zeros_like(grey)
    if len(grey) > 1:
        out[1:-1] = grey[2:] - grey[:-2]
        out[0], out[-1] = 2 * (grey[1] - grey[0]), 2 * (grey[-1] - grey[-2])
    return np.moveaxis(out, 0, axis)


def superpixel_affinity(
    image: NDArray[np.uint8], regions: NDArray[Any], *, stretch: bool = True
) -> RegionGraph:
    r"""How alike adjacent superpixels are in colour and texture.

    .. math:: w_{st} = \exp\left(-5 \left(\frac{\lVert h^c_s - h^c_t \rVert}{25} +
        \frac{\lVert h^t_s - h^t_t \rVert}{100}\right)\right)

    for superpixels that share a pixel edge, with the histograms of :func:`superpixel_histograms`;
    then the contrast is stretched, :math:`w \leftarrow \max(w - 0.8 \min w, 0)`, and the largest
    weight of the image set to 0.8 (CC4S, TPAMI 2024, colour constraint; the released preparation
    divides by the maximum of each *column*, which makes the weights of the two directions differ).
    Time O(N log N), memory O(N + E): 25 ms for 500×375 and 800 superpixels on one core.

    Args:
        image: RGB, uint8, shape ``(H, W, 3)``.
        regions: Ids, integer, shape ``(H, W)``; negative = no region.
        stretch: False returns the equation alone.

    Returns:
        Graph with about 3 S edges; none if there is one region.

    Raises:
        ValueError: If the image is not uint8 RGB or the sizes disagree.

    Example:
        >>> image = np.repeat(np.array([[0, 10, 250]], np.uint8)[..., None], 3, axis=2)
        >>> graph = superpixel_affinity(image, np.array([[0, 1, 2]]))
        >>> graph.edges.tolist(), round(float(graph.weights.max()), 6)
        ([[0, 1], [1, 2]], 0.8)
    """
    colour, texture = superpixel_histograms(image, regions)
    edges = _adjacent_regions(regions)
    first, second = edges.T
    distance = np.linalg.norm(colour[first] - colour[second], axis=1) / _COLOUR_SCALE
    distance += np.linalg.norm(texture[first] - texture[second], axis=1) / _TEXTURE_SCALE
    weights = np.exp(-_SHARPNESS * distance)
    if stretch and len(weights):
        weights = np.maximum(weights - _STRETCH * weights.min(), 0)
        weights *= _LARGEST / weights.max()
    return RegionGraph(edges, weights.astype(np.float32))
