"""Segments of a batch, their weak labels, and the segments of all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.functional.distributed import all_gather_rows
from scribbleseg.functional.geometry import resize_labels
from scribbleseg.functional.losses import full_precision
from scribbleseg.functional.regions import majority_labels
from scribbleseg.nn.segment_queue import SegmentRows

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "SegmentedBatch",
    "Segments",
    "WeakBatch",
    "gather_segments",
    "rows_of_pixels",
    "segment_index",
    "segment_prototypes",
    "weak_labels_on_grid",
]

# bits of the key (image, cluster, label, region); 62 in all
_CLUSTER_BITS, _LABEL_BITS, _REGION_BITS = 16, 9, 20


class WeakBatch(NamedTuple):
    """What is known of a batch, at image size.

    Attributes:
        image: Normalised, shape ``(B, K, H, W)``.
        labels: Weak labels, 255 = not labelled, int64, shape ``(B, H, W)``.
        regions: Over-segmentation, -1 = none, shape ``(B, H, W)``.
        valid: False = padding, bool, shape ``(B, H, W)``.
        tags: Classes of the whole images, multi-hot, shape ``(B, C)``.
    """

    image: Tensor
    labels: Tensor
    regions: Tensor
    valid: Tensor
    tags: Tensor


class SegmentedBatch(NamedTuple):
    """Pixels and segments of the batch of this process, and the segments of all.

    Attributes:
        segments: Partition of its pixels; label C = not labelled.
        z: Unit embedding of each pixel, shape ``(N, D)``.
        located: Embedding and local features as one unit vector per cell, ``(B, D + L, h, w)``.
        rows: Segments of all ranks, those of this one from ``offset`` on.
        offset: See ``rows``.
        tags: Classes of the images of this rank, background left out, bool, shape ``(B, C)``.
        num_images: Images on all ranks.
        assigned: Classes of the own segments by feature affinity, bool, shape ``(S, C)``.
        usable: Own segments that others may be compared with, bool, shape ``(S,)``.
    """

    segments: Segments
    z: Tensor
    located: Tensor
    rows: SegmentRows
    offset: int
    tags: Tensor
    num_images: int
    assigned: Tensor
    usable: Tensor

    @property
    def own(self) -> Tensor:
        """Position of each pixel's segment among the rows, int64, shape ``(N,)``."""
        return self.segments.pixel_segment + self.offset

    def only(self, pixels: Tensor) -> SegmentedBatch:
        """The same with some of its pixels, by their rows."""
        some = self.segments._replace(
            pixel_index=self.segments.pixel_index[pixels],
            pixel_segment=self.segments.pixel_segment[pixels],
        )
        return self._replace(segments=some, z=self.z[pixels])


def rows_of_pixels(features: Tensor, segments: Segments) -> Tensor:
    """Rows ``(N, D)`` of the pixels that take part, of maps ``(B, D, h, w)``."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)[segments.pixel_index]


@torch.no_grad()
def weak_labels_on_grid(
    labels: Tensor,
    size: tuple[int, int],
    num_classes: int,
    *,
    mode: Literal["nearest", "any"] = "nearest",
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Label of each cell of a coarser grid; one value for all cells without label.

    ``nearest`` looks at the top left pixel of a cell, as the released code of SPML does, and misses
    a stroke of three pixels in one row of cells in four; with ``any`` the most frequent label that
    is drawn in the cell wins. Time and memory O(B·H·W), and O(B·C·h·w) for ``any``.

    Args:
        labels: Ids, ``ignore_index`` = not labelled, int64, shape ``(B, H, W)``.
        size: ``(h, w)``, at most the labels'.
        num_classes: C.
        mode: One of the two.
        ignore_index: Value without meaning.

    Returns:
        0..C-1, C = not labelled, int64, shape ``(B, h, w)``.

    Raises:
        ValueError: If the mode is unknown.

    Example:
        >>> drawn = torch.tensor([[[255, 1], [1, 0]]])
        >>> weak_labels_on_grid(drawn, (1, 1), 2).item()
        2
        >>> weak_labels_on_grid(drawn, (1, 1), 2, mode="any").item()
        1
    """
    if mode not in ("nearest", "any"):
        raise ValueError(f"mode={mode!r}: expected 'nearest' or 'any'")
    if mode == "nearest":
        found = resize_labels(labels, size)
    else:
        height, width = labels.shape[1:]
        rows = torch.arange(height, device=labels.device) * size[0] // height
        columns = torch.arange(width, device=labels.device) * size[1] // width
        cells = (rows[:, None] * size[1] + columns).expand(labels.shape)
        count = size[0] * size[1]
        found = majority_labels(labels, cells, count, num_classes, ignore_index=ignore_index)
        found = found.view(len(labels), *size)
    return found.masked_fill(found == ignore_index, num_classes)


def gather_segments(
    prototypes: Tensor,
    segments: Segments,
    tags: Tensor,
    assigned: Tensor,
    *,
    usable: Tensor,
    with_grad: bool = True,
) -> tuple[SegmentRows, int, int]:
    """Segments of all ranks, one rank after the other.

    Without a process group these are the segments that are given. On several, the gradient of a
    prototype is the sum of what the losses of all ranks say, see
    :func:`~scribbleseg.functional.distributed.all_gather_rows`: every rank must call, and use the
    rows in its loss.

    Args:
        prototypes: Shape ``(S, D)``.
        segments: Their images, labels and regions.
        tags: Classes of the images, bool, shape ``(B, C)``.
        assigned: Classes by feature affinity, bool, shape ``(S, C)``.
        usable: Segments that others may be compared with, bool, shape ``(S,)``; the rest lose
            label, tags and assigned classes.
        with_grad: Whether the gradient reaches the prototypes of other ranks; the own ones have
            theirs in any case.

    Returns:
        Rows of all ranks, position of the first own one, images of all ranks.
    """
    images = all_gather_rows(tags, with_grad=False)
    found = all_gather_rows(prototypes, with_grad=with_grad)
    values = found.values
    if not with_grad:
        stop = found.offset + len(prototypes)
        values = torch.cat([values[: found.offset], prototypes, values[stop:]])
    label = torch.where(usable, segments.label, -1)
    image = segments.image + images.offset
    facts = torch.cat([torch.stack([label, image], 1), (assigned & usable[:, None]).long()], 1)
    facts = all_gather_rows(facts, with_grad=False).values
    everywhere = images.values[facts[:, 1]] & (facts[:, :1] >= 0)
    rows = SegmentRows(values, facts[:, 0], facts[:, 1], everywhere, facts[:, 2:] > 0)
    return rows, found.offset, sum(images.sizes)


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
        clusters: From :func:`~scribbleseg.methods.spml.clusters.image_kmeans`, -1 = not valid,
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
    return F.normalize(sums.index_add(0, pixel_segment, features), dim=1)
