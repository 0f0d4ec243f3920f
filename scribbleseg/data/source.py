"""What a data set must be able to say about itself; everything else is shared by all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

from scribbleseg.constants import voc_palette
from scribbleseg.data.images import read_image
from scribbleseg.data.labels import read_label
from scribbleseg.errors import ScribbleNotFoundError
from scribbleseg.functional.intensity import Intensity

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Self

    from scribbleseg.data.annotations import Box
    from scribbleseg.data.findings import Finding
    from scribbleseg.functional.degrade import StrokeDrawing
    from scribbleseg.types import Label, Record, Split

__all__ = ["FileRole", "ScribbleSource", "require"]

FileRole = Literal["image", "scribble", "mask"]
"""What is read from the files of a record."""


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
        flip_pairs: Pairs of ids that a mirror image exchanges, such as left and right hand.
        in_channels: Channels K of every image.
        intensity: Window of images with more than 8 bits.
        rgb_channels: Channels for pictures and comparisons of colour, ``None`` = by number.
        max_image_pixels: Larger images are refused, ``None`` = Pillow's limit.
    """

    _given: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    _from_file: Mapping[str, Any] = {}  # arguments that a file of the data set gives
    class_names: tuple[str, ...]
    palette: NDArray[np.uint8] = voc_palette()
    background: int | None = 0
    flip_pairs: tuple[tuple[int, int], ...] = ()
    in_channels: int = 3
    intensity: Intensity = Intensity()
    rgb_channels: tuple[int, int, int] | None = None
    max_image_pixels: int | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Remember the arguments: folders that are made from a source say from which."""
        source = super().__new__(cls)
        source._given = (args, kwargs)
        return source

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

    def with_mask(self, record: Record) -> Record:
        """The record with its dense mask, if there is one: for reports, never for training.

        Training records of files have none, so that nothing reads it by accident.
        """
        return record

    def inputs(self, record: Record, role: FileRole) -> list[Path]:
        """Files that decide what is read: results that are older than one of them are made anew.

        Args:
            record: Sample of this source.
            role: Which of the ``read_*`` methods the question is about.

        Returns:
            Paths; empty if there is no such file.
        """
        if role == "image":
            return [] if record.image is None else [record.image]
        label: Label | None = getattr(record, role)
        return [] if label is None else [label.path]

    def read_image(self, record: Record) -> NDArray[np.uint8]:
        """Image in its EXIF orientation, uint8, shape ``(H, W, K)``; RGB if K is 3."""
        return read_image(
            require(record.image, "image", record),
            channels=self.in_channels,
            intensity=self.intensity,
            max_pixels=self.max_image_pixels,
        )

    def read_scribble(self, record: Record) -> NDArray[np.uint8]:
        """Scribble ids, uint8, shape ``(H, W)``, 255 = unlabelled."""
        return read_label(require(record.scribble, "scribble", record).path, self.num_classes)

    def read_mask(self, record: Record) -> NDArray[np.uint8]:
        """Dense ids, uint8, shape ``(H, W)``, 255 = void. Validation and checks only."""
        return read_label(require(record.mask, "mask", record).path, self.num_classes)

    def read_strokes(self, record: Record) -> StrokeDrawing | None:
        """The scribble as polylines that draw it exactly, ``None`` if only pixels are known."""
        return None

    def class_labels(self, record: Record) -> list[int] | None:
        """Classes that a training image shows, where they are known apart from its scribble.

        Returns:
            Class ids, the background or not; ``None`` = the classes that the scribble labels.
        """
        return None

    def boxes(self, record: Record) -> list[Box]:
        """Bounding boxes of an image, edges in pixels: for methods that need more than a map.

        Raises:
            ScribbleNotFoundError: If the data set has none (D301).
        """
        raise ScribbleNotFoundError(
            f"D301 {record.image_id}: {type(self).__name__} has no boxes; choose a source with "
            "boxes, or another label type"
        )

    def problems(self) -> list[Finding]:
        """Faults of the whole data set that the check reports beside those of single files.

        A source overrides it to compare what it alone knows, such as the headers of volumes; it
        reads no pixels, because the check before every training calls it as well.
        """
        return []


def require(part: Any, role: str, record: Record) -> Any:
    """A file of a record, or an error if it has none.

    Args:
        part: Field of the record.
        role: Name of the field, for the message: image, scribble or mask.
        record: The sample.

    Raises:
        ScribbleNotFoundError: If ``part`` is ``None`` (D301).
    """
    if part is None:
        raise ScribbleNotFoundError(
            f"D301 {record.image_id}: this sample has no {role} file; add it to the {role} folder, "
            f"or remove {record.image_id!r} from its split file"
        )
    return part
