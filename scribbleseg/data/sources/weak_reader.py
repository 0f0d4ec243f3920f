"""What all weak labels of a file source have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.data.label_types import WeakLabels
    from scribbleseg.data.sources.base import FileSource
    from scribbleseg.types import Record

__all__ = ["WeakReader"]


class WeakReader(ABC):
    """Labels of one type for the images of a source.

    Args:
        source: Data set; it must have a ``root``.
        options: Where the labels are, and how they are drawn.
    """

    role: ClassVar[str]
    """What a label is called in messages."""

    def __init__(self, source: FileSource, options: WeakLabels) -> None:
        self.source, self.options = source, options

    @cached_property
    def files(self) -> dict[str, Path]:
        """File by stem, listed at the first use; ``points.json/STEM`` is an entry of a file."""
        return self._list_files()

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the labels are, for messages."""

    @abstractmethod
    def _list_files(self) -> dict[str, Path]:
        """File by stem."""

    @abstractmethod
    def draw(self, record: Record) -> NDArray[np.uint8]:
        """Label map of an image, uint8, shape ``(H, W)``, 255 = undecided."""

    def class_labels(self, record: Record) -> list[int] | None:
        """Classes of an image; ``None`` if those of the label map are all that is known."""
        return None
