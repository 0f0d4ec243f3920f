"""COCO's instance files: checked as a whole, then read image by image."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.annotations import Box
from scribbleseg.data.classes import normalise_name
from scribbleseg.data.documents import is_number
from scribbleseg.data.sources.coco_masks import Crowd, Overlap, object_pixels, shown
from scribbleseg.data.sources.json_lists import read_lists
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

__all__: list[str] = []

_MOST_PIXELS = 100_000_000  # of an image
_LISTS = ("images", "annotations", "categories")
_ROW = np.dtype([("image", "i8"), ("label", "u1"), ("crowd", "?"), ("begin", "i8"), ("end", "i8")])


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _is_box(value: Any) -> bool:
    numbers = isinstance(value, list) and len(value) == 4 and all(map(is_number, value))
    return numbers and min(value[2:]) >= 0


_ID = _is_id, "a whole number from 0, not text"
_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "area": (is_number, "a number of pixels"),
    "bbox": (_is_box, "[x, y, width, height] in pixels"),
    "iscrowd": (lambda value: value in (0, 1), "0 or 1"),
}


class CocoIndex:
    """Images and annotations of one instance file.

    The file is read and checked once, element by element, and only the places of annotations are
    kept: 10 seconds and 100 MB for the 860,000 of train2017.

    Args:
        path: ``instances_*.json``.
        categories: Expected names by ``category_id``; in ascending order they become the classes
            1, 2, …, after the background.

    Attributes:
        sizes: Height and width in pixels by image id, ascending.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: If it is no such file (D202, D303), or has other categories (D401).
    """

    def __init__(self, path: Path, categories: Mapping[int, str]) -> None:
        self.path, self.categories = path, categories
        self.labels = {category: label for label, category in enumerate(sorted(categories), 1)}
        self.sizes: dict[int, tuple[int, int]] = {}
        try:
            self._state = self._file_state()
            rows = np.fromiter(self._read(), dtype=_ROW)
        except OSError as error:
            raise ScribbleNotFoundError(
                f"D301 {path}: does not exist or cannot be opened ({error.strerror}); unpack the "
                "annotations of the release there"
            ) from error
        self.sizes = dict(sorted(self.sizes.items()))
        self._rows = rows[np.argsort(rows["image"], kind="stable")]
        self._images = self._rows["image"].copy()  # searched fast
        unknown = ~np.isin(self._images, list(self.sizes))
        for entry in self._entries(self._rows[unknown][:1]):
            raise LabelFormatError(
                f"D202 {path}: {_name(entry)} is of an image that is not listed; the file is not "
                "complete"
            )

    # ---------------------------------------------------------------------- by image

    def object_labels(self, image_id: int) -> list[int]:
        """Ascending class ids of the objects of an image; crowd regions do not count."""
        rows = self._rows_of(image_id)
        return [int(label) for label in np.unique(rows["label"][~rows["crowd"]])]

    def object_boxes(self, image_id: int) -> list[Box]:
        """Boxes of the objects of an image in file order; crowd regions have none."""
        boxes = []
        rows = self._rows_of(image_id)
        for entry in self._entries(rows[~rows["crowd"]]):
            x, y, width, height = self._field(entry, "bbox", _name(entry))
            boxes.append(Box(self.labels[entry["category_id"]], x, y, x + width, y + height))
        return boxes

    def paint(self, image_id: int, crowd: Crowd, overlap: Overlap) -> NDArray[np.uint8]:
        """Class of every pixel of one image, 0 = background, uint8, shape ``(H, W)``.

        A crowd region never covers an object; objects of equal area keep the order of the file.
        """
        rows = self._rows_of(image_id)
        objects = self._entries(rows[~rows["crowd"]])
        crowds = self._entries(rows[rows["crowd"]]) if crowd == "ignore" else []
        if overlap == "area":
            objects.sort(key=lambda entry: -self._field(entry, "area", _name(entry)))
        mask = np.zeros(self.sizes[image_id], dtype=np.uint8)
        for entry in (*crowds, *objects):
            label = IGNORE_INDEX if entry.get("iscrowd") else self.labels[entry["category_id"]]
            try:
                mask[object_pixels(entry.get("segmentation"), mask.shape)] = label
            except ValueError as error:
                raise LabelFormatError(
                    f"D202 {self.path}: segmentation of {_name(entry)} cannot be drawn ({error}), "
                    "expected polygons of at least 3 points, or run lengths of the image's "
                    f"{mask.shape[0]}x{mask.shape[1]} (height x width) pixels; correct it or "
                    "remove the annotation"
                ) from error
        return mask

    def _rows_of(self, image_id: int) -> NDArray[np.void]:
        if image_id not in self.sizes:
            raise ScribbleNotFoundError(
                f"D301 {self.path}: has no image {image_id} among {len(self.sizes):,}; the image "
                "belongs to another split or year: use the annotations of its release"
            )
        first, last = np.searchsorted(self._images, [image_id, image_id + 1])
        return self._rows[first:last]

    def _entries(self, rows: NDArray[np.void]) -> list[dict[str, Any]]:
        if self._file_state() != self._state:
            raise LabelFormatError(
                f"D403 {self.path}: has changed since it was read; start again to use what it "
                "holds now"
            )
        entries = []
        with self.path.open("rb") as file:
            for row in rows:
                file.seek(row["begin"])
                entries.append(json.loads(file.read(row["end"] - row["begin"])))
        return entries

    def _file_state(self) -> tuple[int, int]:
        state = self.path.stat()
        return state.st_size, state.st_mtime_ns

    # ---------------------------------------------------------------- the whole file

    def _read(self) -> Iterator[tuple[int, int, bool, int, int]]:
        """Check the file, fill :attr:`sizes`, and yield the row of every annotation."""
        counts = dict.fromkeys(_LISTS, 0)
        names: dict[int, str] = {}
        for key, entry, begin, end in read_lists(self.path):
            if key not in counts:
                continue
            counts[key] += 1
            where = f"number {counts[key]} of `{key}`"
            if not isinstance(entry, dict):
                raise self._wrong(where, "content", entry, "an object")
            number = self._field(entry, "id", where)
            if key == "annotations":
                yield *self._annotation(entry, f"annotation {number}"), begin, end
            elif key == "images":
                self._add_image(entry, number)
            else:
                names[number] = str(entry.get("name"))
        absent = [key for key, count in counts.items() if not count]
        if absent:
            raise LabelFormatError(
                f"D202 {self.path}: has no {' and no '.join(absent)}, expected an instance file of "
                "COCO: an object with the lists images, annotations and categories"
            )
        for category in sorted({*self.categories, *names}):
            ours, theirs = self.categories.get(category), names.get(category)
            if normalise_name(str(ours)) != normalise_name(str(theirs)):
                raise LabelFormatError(
                    f"D401 {self.path}: category {category} is {theirs!r}, expected {ours!r} "
                    f"({len(names)} categories in the file, {len(self.categories)} in the data "
                    "set); convert other data sets to a plain folder with their own class file"
                )

    def _add_image(self, entry: dict[str, Any], number: int) -> None:
        height, width = (self._field(entry, k, f"image {number}") for k in ("height", "width"))
        if not 1 <= height * width <= _MOST_PIXELS:
            expected = f"1 to {_MOST_PIXELS:,} pixels"
            raise self._wrong(f"image {number}", "size", f"{width}x{height}", expected)
        if number in self.sizes:
            raise LabelFormatError(
                f"D303 {self.path}: image id {number} is listed twice, expected once; remove the "
                "copies"
            )
        self.sizes[number] = height, width

    def _annotation(self, entry: dict[str, Any], where: str) -> tuple[int, int, bool]:
        """Image, class id, and whether it is a crowd. Segmentations are checked when painted."""
        image, category = (self._field(entry, key, where) for key in ("image_id", "category_id"))
        if category not in self.labels:
            raise LabelFormatError(
                f"D401 {self.path}: {where} has category_id {category}, expected one of the "
                f"{len(self.labels)} ids {min(self.labels)} to {max(self.labels)}; the file is not "
                "of this data set"
            )
        for key in _FIELDS:
            if entry.get(key) is not None:  # not all label types need them
                self._field(entry, key, where)
        return image, self.labels[category], bool(entry.get("iscrowd"))

    def _field(self, entry: dict[str, Any], key: str, where: str) -> Any:
        fits, expected = _FIELDS.get(key, _ID)
        if not fits(entry.get(key)):
            raise self._wrong(where, key, entry.get(key), expected)
        return entry[key]

    def _wrong(self, where: str, key: str, value: Any, expected: str) -> LabelFormatError:
        return LabelFormatError(
            f"D202 {self.path}: {where} has {key} {shown(value)}, expected {expected}, as in "
            "COCO's instance files; correct the program that wrote it"
        )


def _name(entry: dict[str, Any]) -> str:
    return f"annotation {entry['id']} (image {entry['image_id']})"
