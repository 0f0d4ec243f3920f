"""Weak labels on the grid of the embedding, and the segments of all ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.functional.distributed import all_gather_rows
from scribbleseg.functional.geometry import resize_labels
from scribbleseg.functional.regions import majority_labels
from scribbleseg.nn.segment_queue import SegmentRows

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.functional.image_segments import Segments

__all__ = [
    "SegmentedBatch",
    "WeakBatch",
    "gather_segments",
    "rows_of_pixels",
    "weak_labels_on_grid",
]


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
