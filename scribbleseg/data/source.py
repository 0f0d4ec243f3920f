"""What a data set must be able to say about itself; everything else is shared by all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from scribbleseg.constants import voc_palette
from scribbleseg.data import io

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.types import Record, Split

__all__ = ["ScribbleSource"]


class ScribbleSource(ABC):
    """A data set: classes, and where the bytes of every sample are.

    Constructing a source reads at most its class file. A subclass sets the attributes below in its
    ``__init__`` and implements :meth:`records`; it overrides the ``read_*`` methods only if its
    files are not plain images and label PNGs. All ``read_*`` methods return labels in the one
    internal coding: 0..C-1, and 255 for unlabelled or void.

    Attributes:
        class_names: One name per class; the index is the id.
        palette: Colours, uint8, shape ``(256, 3)``.
        background: Id of the background class, ``None`` if there is none.
    """

    class_names: tuple[str, ...]
    palette: NDArray[np.uint8] = voc_palette()
    background: int | None = 0

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.class_names)

    @abstractmethod
    def records(self, split: Split) -> list[Record]:
        """Samples of a split in a fixed order.

        Raises:
            ScribbleNotFoundError: If the folder, the list or listed files are missing.
        """

    def read_image(self, record: Record) -> NDArray[np.uint8]:
        """RGB image in its EXIF orientation, uint8, shape ``(H, W, 3)``."""
        return io.read_image(io.require(record.image, "image", record.image_id))

    def read_scribble(self, record: Record) -> NDArray[np.uint8]:
        """Scribble ids, uint8, shape ``(H, W)``, 255 = not drawn."""
        path = io.require(record.scribble, "scribble", record.image_id)
        return io.read_label(path, self.num_classes)

    def read_mask(self, record: Record) -> NDArray[np.uint8]:
        """Dense ids, uint8, shape ``(H, W)``, 255 = void. Validation and checks only."""
        path = io.require(record.mask, "mask", record.image_id)
        return io.read_label(path, self.num_classes)
