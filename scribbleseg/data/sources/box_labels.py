"""Boxes of a file source: where they are, and what they say about each pixel."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from scribbleseg.data import io
from scribbleseg.data.label_types import WeakLabels, render_boxes
from scribbleseg.data.readers.boxes import Box, read_annotation_boxes, read_boxes
from scribbleseg.data.sources.weak_reader import WeakReader
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.data.sources.base import FileSource
    from scribbleseg.types import Record

__all__ = ["BoxFiles", "BoxLabels"]

_OUTSIDE = 0.05


class BoxFiles:
    """Boxes of a data set, whatever trains.

    Args:
        source: Data set; it must have a ``root``.
        options: Where the boxes are.
    """

    def __init__(self, source: FileSource, options: WeakLabels) -> None:
        self.source, self.options = source, options

    @cached_property
    def where(self) -> Path:
        """JSON file or folder of XML."""
        root = self.source.root
        if self.options.boxes is not None:
            return root / self.options.boxes
        folder = root / "Annotations"
        file = root / "boxes.json"
        return folder if folder.is_dir() and not file.is_file() else file

    @cached_property
    def _table(self) -> dict[str, list[Box]]:
        return read_boxes(self.where, self.source._tags, self.source.num_classes)

    @cached_property
    def files(self) -> dict[str, Path]:
        """File by stem; ``boxes.json/STEM`` is an entry of a file."""
        if self.where.is_dir():
            return io.find_images(self.where, suffixes=(".xml",))
        if not self.where.is_file():
            raise ScribbleNotFoundError(
                f"D301 {self.where}: no boxes there; put boxes.json ({{stem: [{{box: [x0, y0, x1, "
                "y1], cls}]}) or a folder Annotations of devkit XML beside the images, or name "
                "either with `boxes`"
            )
        return {stem: self.where / stem for stem in self._table}

    def read(self, record: Record) -> list[Box]:
        """Boxes of an image.

        Raises:
            ScribbleNotFoundError: If the image has no entry (D301).
            LabelFormatError: If the file is faulty.
        """
        path = io.require(self.files.get(record.image_id), "box", record.image_id)
        if self.where.is_dir():
            return read_annotation_boxes(path, self.source._tags, difficult=self.options.difficult)
        return self._table[record.image_id]


class BoxLabels(WeakReader):
    """Boxes as a label map: outside is background, inside is undecided unless it is filled."""

    role = "box"

    @property
    def place(self) -> str:
        """Folder or file of the boxes."""
        return next((str(path.parent) for path in self.files.values()), str(self.source.root))

    def _list_files(self) -> dict[str, Path]:
        return dict(self.source.box_files)

    def draw(self, record: Record) -> NDArray[np.uint8]:
        """Background outside the boxes, ``box_fill`` inside.

        Raises:
            LabelFormatError: If a box is not on the image (D201), or the file is faulty.
        """
        boxes, size = self.source.boxes(record), self.source._image_size(record)
        for box in boxes:
            self._check(box, size, record)
        background = self.source.background
        return render_boxes(
            boxes,
            size,
            background=0 if background is None else background,  # refused before
            fill=self.options.box_fill,
            center=self.options.box_center,
        )

    def _check(self, box: Box, size: tuple[int, int], record: Record) -> None:
        spans = ((box.x0, box.x1, size[1]), (box.y0, box.y1, size[0]))
        for low, high, length in spans:
            slack = max(2.0, _OUTSIDE * length)
            if low < -slack or high > length + slack or low >= length or high <= 0:
                raise LabelFormatError(
                    f"D201 {self.files.get(record.image_id, self.place)}: box {list(box[1:])} of "
                    f"class {box.label} reaches out of the image of {size[1]}x{size[0]} (width x "
                    "height); the image was resized, or x and y are exchanged: correct the boxes"
                )

    def class_labels(self, record: Record) -> list[int]:
        """Classes of the boxes."""
        return sorted({box.label for box in self.source.boxes(record)})
