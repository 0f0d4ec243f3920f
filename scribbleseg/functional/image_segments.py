"""Segments of a batch of images: their pixels, their mean direction and their majority label."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Segments", "segment_index", "segment_prototypes"]

_EPS = 1e-12
# bits of the key (image, cluster, label, region); 62 in all
_CLUSTER_BITS, _LABEL_BITS, _REGION_BITS = 16, 9, 20


class Segments(NamedTuple):
    """Partition of the valid pixels; segments are ordered by image, cluster, label and region.

    Attributes:
        pixel_index: Position of each valid pixel in the flattened ``(B, h, w)``, shape ``(N,)``.
        pixel_segment: Its segment, shape ``(N,)``.
        image: Image of each segment, shape ``(S,)``.
        label: Weak label of each segment, shape ``(S,)``.
        region: Low-level region of each segment, shape ``(S,)``.
    """

    pixel_index: Tensor
    pixel_segment: Tensor
    image: Tensor
    label: Tensor
    region: Tensor


@torch.no_grad()
def segment_index(clusters: Tensor, labels: Tensor, regions: Tensor | None = None) -> Segments:
    """Split clusters so that no segment mixes images, labels or regions (SPML, ICLR 2021).

    Unlabelled is a label value like any other. Time O(P·log P), memory O(P) for P = B·h·w pixels.
    The number of segments depends on the data, so a device synchronisation is unavoidable.

    Args:
        clusters: From :func:`~scribbleseg.functional.image_kmeans.image_kmeans`, -1 = not valid,
            below 2¹⁶, shape ``(B, h, w)``.
        labels: Weak label of each pixel, 0 to 511, shape ``(B, h, w)``.
        regions: Low-level over-segmentation, 0 to 2²⁰ - 1, shape ``(B, h, w)``; one region if
            ``None``.

    Returns:
        The segments, none for a batch without valid pixels.

    Raises:
        ValueError: If shapes disagree or a valid pixel's value is out of range.

    Example:
        >>> s = segment_index(torch.tensor([[[0, 0, 1, -1]]]), torch.tensor([[[5, 2, 2, 2]]]))
        >>> s.pixel_segment.tolist(), s.label.tolist()
        ([1, 0, 2], [2, 5, 2])
    """
    if regions is None:
        regions = torch.zeros_like(clusters)
    if clusters.ndim != 3 or not clusters.shape == labels.shape == regions.shape:
        raise ValueError(
            f"clusters {tuple(clusters.shape)}, labels {tuple(labels.shape)} and regions "
            f"{tuple(regions.shape)} disagree: expected (B, h, w) each; resize labels and regions "
            "by nearest neighbour first"
        )
    flat = clusters.flatten()
    (pixels,) = (flat >= 0).nonzero(as_tuple=True)
    image = pixels // max(1, clusters[0].numel() if len(clusters) else 1)
    columns = [flat[pixels], labels.flatten()[pixels], regions.flatten()[pixels]]
    widths = (_CLUSTER_BITS, _LABEL_BITS, _REGION_BITS)
    key = image
    wrong = torch.zeros_like(pixels, dtype=torch.bool)
    for column, bits in zip(columns, widths, strict=True):
        key = (key << bits) | column.long()
        wrong |= (column < 0) | (column >= 1 << bits)
    if bool(wrong.any()):
        raise ValueError(
            "a valid pixel has a value out of range: clusters must be below 65536, labels 0 to 511 "
            "and regions 0 to 1048575; set clusters to -1 on padding"
        )
    unique, own = torch.unique(key, return_inverse=True)
    region, rest = unique & ((1 << _REGION_BITS) - 1), unique >> _REGION_BITS
    label, rest = rest & ((1 << _LABEL_BITS) - 1), rest >> _LABEL_BITS
    return Segments(pixels, own, rest >> _CLUSTER_BITS, label, region)


def segment_prototypes(features: Tensor, pixel_segment: Tensor, num_segments: int) -> Tensor:
    r"""Mean direction of each segment.

    .. math:: \mu_s = \frac{\sum_{i \in s} z_i}{\|\sum_{i \in s} z_i\|}

    (SegSort, ICCV 2019; SPML, ICLR 2021). Differentiable. Time O(N·D), memory O(S·D).

    Args:
        features: Unit vectors, shape ``(N, D)``; 16-bit input is computed in float32.
        pixel_segment: Segment of each row, 0 to S-1, shape ``(N,)``.
        num_segments: S.

    Returns:
        Unit vectors, shape ``(S, D)``; zero for a segment without pixels.

    Raises:
        ValueError: If the shapes disagree.

    Example:
        >>> segment_prototypes(torch.tensor([[3.0, 0.0], [1.0, 0.0]]), torch.tensor([1, 1]), 2)
        tensor([[0., 0.],
                [1., 0.]])
    """
    if features.ndim != 2 or pixel_segment.shape != features.shape[:1]:
        raise ValueError(
            f"features {tuple(features.shape)} and pixel_segment {tuple(pixel_segment.shape)} "
            "disagree: expected (N, D) and (N,)"
        )
    features = full_precision(features)
    sums = features.new_zeros(num_segments, features.shape[1])
    return F.normalize(sums.index_add(0, pixel_segment, features), dim=1, eps=_EPS)
