"""Prototypes of the segments of the last batches, with what their segments were labelled."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from scribbleseg.options import check_whole

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SegmentQueue", "SegmentRows"]

logger = logging.getLogger(__name__)


class SegmentRows(NamedTuple):
    """Segments, one per row.

    Attributes:
        prototypes: Unit vectors, float, shape ``(M, D)``.
        labels: Weak label; negative or from C on = none, int64, shape ``(M,)``.
        image: Image, int64, shape ``(M,)``; of earlier batches above those of later ones.
        tags: Classes of the image, multi-hot, bool, shape ``(M, C)``.
        assigned: Classes by feature affinity, multi-hot, bool, shape ``(M, C)``.
    """

    prototypes: Tensor
    labels: Tensor
    image: Tensor
    tags: Tensor
    assigned: Tensor

    def joined(self, others: SegmentRows) -> SegmentRows:
        """These rows and then others."""
        return SegmentRows(*(torch.cat(pair) for pair in zip(self, others, strict=True)))


class SegmentQueue(nn.Module):
    """First in, first out: the segments of the last batches (SPML, ICLR 2021).

    Buffers have a fixed shape, so a checkpoint holds the queue and resuming continues it. All ranks
    must append the same rows, those of the whole global batch. No gradient flows into what is kept.

    Args:
        num_batches: T, batches that are kept, at least 0.
        capacity: Most segments of a batch; of more, as many are kept, evenly spread.
        dim: D.
        num_classes: C.
    """

    prototypes: Tensor
    labels: Tensor
    image: Tensor
    tags: Tensor
    assigned: Tensor
    counts: Tensor
    place: Tensor

    def __init__(self, num_batches: int, capacity: int, dim: int, num_classes: int) -> None:
        super().__init__()
        check_whole(0, num_batches=num_batches)
        check_whole(1, capacity=capacity, dim=dim, num_classes=num_classes)
        self.num_batches, self.capacity = num_batches, capacity
        shape = (num_batches, capacity)
        self.register_buffer("prototypes", torch.zeros(*shape, dim))
        self.register_buffer("labels", torch.full(shape, -1))
        self.register_buffer("image", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("tags", torch.zeros(*shape, num_classes, dtype=torch.bool))
        self.register_buffer("assigned", torch.zeros(*shape, num_classes, dtype=torch.bool))
        self.register_buffer("counts", torch.zeros(num_batches, dtype=torch.int64))
        self.register_buffer("place", torch.tensor(0))  # of the next batch
        # what the host knows of the last two, so that no step waits for the device
        self._known: tuple[list[int], int] | None = None
        self._warned = False
        self.register_load_state_dict_post_hook(_forget)  # type: ignore[no-untyped-call]

    def _state(self) -> tuple[list[int], int]:
        if self._known is None:
            self._known = (self.counts.tolist(), int(self.place))
        return self._known

    @torch.no_grad()
    def append(self, rows: SegmentRows, num_images: int) -> None:
        """Keep the segments of a batch in place of the oldest ones; O(capacity·D), no sync.

        Vectors that are not finite are kept as zeros without label, tags and assigned classes.

        Args:
            rows: Segments, images counted from 0.
            num_images: Images of the batch: those of earlier batches move up by as many.

        Raises:
            ValueError: If the vectors have another length.
        """
        if rows.prototypes.shape[1:] != self.prototypes.shape[2:]:
            raise ValueError(
                f"prototypes of shape {tuple(rows.prototypes.shape)} do not fit this queue: "
                f"expected (M, {self.prototypes.shape[2]})"
            )
        if not self.num_batches:
            return
        counts, place = self._state()
        found = len(rows.labels)
        count = min(found, self.capacity)
        if found > count:
            self._warn(found)
            kept = torch.arange(count, device=rows.labels.device) * found // count
            rows = SegmentRows(*(values[kept] for values in rows))
        finite = torch.isfinite(rows.prototypes).all(1)
        self.image += num_images
        self.prototypes[place, :count] = torch.where(finite[:, None], rows.prototypes, 0).float()
        self.labels[place, :count] = torch.where(finite, rows.labels, -1)
        self.image[place, :count] = rows.image
        self.tags[place, :count] = rows.tags & finite[:, None]
        self.assigned[place, :count] = rows.assigned & finite[:, None]
        counts = [*counts[:place], count, *counts[place + 1 :]]
        place = (place + 1) % self.num_batches
        self.counts[place - 1] = count
        self.place.fill_(place)
        self._known = (counts, place)

    def _warn(self, found: int) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "a batch has %d segments, the queue keeps %d of them; set memory_capacity to more "
                "to keep all",
                found,
                self.capacity,
            )

    def rows(self) -> SegmentRows:
        """Copies of all segments that are kept, the newest batch first."""
        counts, place = self._state()
        order = [(place - 1 - age) % self.num_batches for age in range(self.num_batches)]
        buffers = (self.prototypes, self.labels, self.image, self.tags, self.assigned)
        return SegmentRows(
            *(
                torch.cat([x[:0].flatten(0, 1), *(x[batch, : counts[batch]] for batch in order)])
                for x in buffers
            )
        )

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"num_batches={self.num_batches}, capacity={self.capacity}"


def _forget(queue: SegmentQueue, _: object) -> None:
    """After loading, ask the buffers again."""
    queue._known = None
