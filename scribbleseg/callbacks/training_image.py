"""One training image as the writers of files about training images see it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.degraded import read_degraded
from scribbleseg.functional.images import write_label

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from scribbleseg.types import Record

__all__ = ["TrainingImage"]


@dataclass(frozen=True)
class TrainingImage:
    """An unaugmented training image, its scribble, and the classes that are known of it.

    Attributes:
        record: Its record.
        data: The data module.
        image: Network input without padding, shape ``(1, K, h, w)``, on the method's device; empty
            where a record is all there is.
        raw: The pixels at original size, uint8, shape ``(3, H, W)``; likewise.
    """

    record: Record
    data: Any
    image: Tensor
    raw: Tensor

    @classmethod
    def of_batch(cls, batch: Any, position: int, data: Any, device: torch.device) -> TrainingImage:
        """One image of a batch.

        Args:
            batch: Unaugmented images, see ``ScribbleDataModule.unaugmented_dataloader``.
            position: Which one.
            data: The data module.
            device: Where the network runs.
        """
        record = data.records("train")[int(batch["index"][position])]
        height, width = batch["input_size"][position].tolist()
        rows, columns = batch["orig_size"][position].tolist()
        image = batch["image"][position, None, :, :height, :width].to(device)
        return cls(record, data, image, batch["image_raw"][position, :, :rows, :columns])

    @classmethod
    def of_record(cls, record: Record, data: Any) -> TrainingImage:
        """Scribble and classes alone, on the host, without pixels.

        Args:
            record: Record of the image.
            data: The data module.
        """
        return cls(record, data, torch.empty(0), torch.empty(0))

    def on_host(self) -> TrainingImage:
        """The same in host memory."""
        return replace(self, image=self.image.cpu())

    @property
    def name(self) -> str:
        """Name of its files."""
        return self.record.image_id

    @property
    def size(self) -> tuple[int, int]:
        """Original height and width."""
        return (int(self.scribble.shape[0]), int(self.scribble.shape[1]))

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of :attr:`image`."""
        return (int(self.image.shape[2]), int(self.image.shape[3]))

    @cached_property
    def scribble(self) -> Tensor:
        """As it is trained on: shortened or thinned out if asked for.

        Ids, int64, shape ``(H, W)``, 255 = not drawn, on the device of :attr:`image`.
        """
        data = self.data
        if data.degradation is None:
            found = data.source.read_scribble(self.record)
        else:
            found = read_degraded(data.source, self.record, data.degradation)
        return torch.from_numpy(np.asarray(found, dtype=np.int64)).to(self.image.device)

    @cached_property
    def known_classes(self) -> list[int] | None:
        """Classes of the image that the source knows; ``None`` = what is drawn is all there is."""
        # what the source knows of an image holds for its whole scribble only
        return self.data.source.class_labels(self.record) if self.data.degradation is None else None

    @cached_property
    def tags(self) -> Tensor:
        """Classes of the image without background: those drawn, or those that the source knows.

        Multi-hot float, shape ``(C,)``, on the device of :attr:`image`.
        """
        source, known = self.data.source, self.known_classes
        if known is None:
            known = [
                label for label in torch.unique(self.scribble).tolist() if label != IGNORE_INDEX
            ]
        present = torch.zeros(source.num_classes)
        present[[label for label in known if label != source.background]] = 1
        return present.to(self.image.device)

    def where_known(self, labels: Tensor) -> Tensor:
        """The labels, or 255 everywhere if nothing is drawn and the source knows no classes.

        Labels that are limited to the classes of the image would call all of it background.

        Args:
            labels: Ids at original size, shape ``(H, W)``.
        """
        if self.known_classes is not None or bool((self.scribble != IGNORE_INDEX).any()):
            return labels
        return torch.full_like(labels, IGNORE_INDEX)

    def with_scribble(self, labels: Tensor) -> Tensor:
        """Labels in which drawn pixels have their class, shape ``(H, W)``."""
        return torch.where(self.scribble == IGNORE_INDEX, labels, self.scribble)

    def write_label(self, folder: Path, labels: Tensor) -> None:
        """Write ``<id>.png`` with the palette of the data.

        Args:
            folder: Where to.
            labels: Ids at original size, shape ``(H, W)``.
        """
        pixels = labels.cpu().numpy().astype(np.uint8)
        write_label(folder / f"{self.name}.png", pixels, self.data.source.palette)
