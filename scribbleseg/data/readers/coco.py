"""COCO instance files: an index of what is where in the JSON, without its polygons in memory."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.data.classes import normalise_name
from scribbleseg.data.readers.boxes import Box
from scribbleseg.data.readers.json_stream import JsonStream
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.image_files import write_arrays

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["CocoIndex", "read_coco_index"]

_VERSION = 1  # of the stored index
_LARGEST = 1 << 20  # pixels of a side
_ARRAYS = (
    "image_ids",
    "sizes",
    "starts",
    "annotation_ids",
    "places",
    "labels",
    "crowd",
    "areas",
    "boxes",
)


@dataclass(frozen=True)
class CocoIndex:
    """Images and annotations of one instance file; N images, M annotations.

    Annotation rows are grouped by image and stay in file order within an image. An annotation costs
    about 70 bytes: polygons and run lengths are read from the file when they are needed.

    Attributes:
        path: The JSON file.
        image_ids: Ascending, int64, shape ``(N,)``.
        sizes: Height and width in pixels, int32, shape ``(N, 2)``.
        starts: First row of every image and M, int64, shape ``(N + 1,)``.
        annotation_ids: int64, shape ``(M,)``.
        places: Byte offset and length in the file, int64, shape ``(M, 2)``.
        labels: Class ids 1..C-1, uint8, shape ``(M,)``.
        crowd: ``iscrowd``, bool, shape ``(M,)``.
        areas: As the file says, in pixels, float64, shape ``(M,)``.
        boxes: x, y, width, height in pixels, float64, shape ``(M, 4)``; NaN where there is none.
    """

    path: Path
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int32]
    starts: NDArray[np.int64]
    annotation_ids: NDArray[np.int64]
    places: NDArray[np.int64]
    labels: NDArray[np.uint8]
    crowd: NDArray[np.bool_]
    areas: NDArray[np.float64]
    boxes: NDArray[np.float64]

    def position(self, image_id: int) -> int:
        """Place of an image in ``image_ids``. Time O(log N).

        Raises:
            ScribbleNotFoundError: If the file has no such image (D301).
        """
        place = int(np.searchsorted(self.image_ids, image_id))
        if place == len(self.image_ids) or self.image_ids[place] != image_id:
            raise ScribbleNotFoundError(
                f"D301 {self.path}: has no image {image_id} among {len(self.image_ids):,}; the "
                "image belongs to another split or year: use the annotations of its release"
            )
        return place

    def rows(self, image_id: int) -> slice:
        """Rows of the annotations of an image, in file order."""
        place = self.position(image_id)
        return slice(int(self.starts[place]), int(self.starts[place + 1]))

    def size(self, image_id: int) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        height, width = self.sizes[self.position(image_id)]
        return int(height), int(width)

    def object_labels(self, image_id: int) -> list[int]:
        """Ascending class ids of the objects of an image; crowd regions do not count."""
        rows = self.rows(image_id)
        return [int(label) for label in np.unique(self.labels[rows][~self.crowd[rows]])]

    def object_boxes(self, image_id: int) -> list[Box]:
        """Boxes of the objects of an image in file order; crowd regions have none."""
        rows = self.rows(image_id)
        objects = ~self.crowd[rows]
        return [
            Box(int(label), float(x), float(y), float(x + width), float(y + height))
            for label, (x, y, width, height) in zip(
                self.labels[rows][objects], self.boxes[rows][objects], strict=True
            )
        ]

    def annotations(self, rows: NDArray[np.integer]) -> list[dict[str, Any]]:
        """Full annotations of some rows, read from the JSON file.

        Raises:
            LabelFormatError: If the file is not the one that was indexed (D202).
        """
        found = []
        with self.path.open("rb") as stream:
            for row in rows:
                offset, length = self.places[row]
                stream.seek(int(offset))
                try:
                    item = json.loads(stream.read(int(length)))
                except ValueError:
                    item = None
                if not isinstance(item, dict) or item.get("id") != self.annotation_ids[row]:
                    raise LabelFormatError(
                        f"D202 {self.path}: annotation {self.annotation_ids[row]} is no longer at "
                        f"byte {offset}; the file was changed while it was in use: start again"
                    )
                found.append(item)
        return found


def read_coco_index(path: str | Path, categories: Mapping[int, str]) -> CocoIndex:
    """Index of an instance file, stored beside it for the next time.

    The file is read in pieces, so that memory holds the index only: 42 MB for the 605,000
    annotations of train2014, not the gigabytes of the whole JSON. Time is one pass over the file.
    ``NAME.index.npz`` beside it keeps the result until size or time of the file change; in a
    folder that cannot be written it is made again by every process.

    Args:
        path: ``instances_*.json``.
        categories: Expected names by ``category_id``; in ascending order they become the classes
            1, 2, …, after the background.

    Returns:
        The index.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: If it is no such file (D202), or has other categories (D401).
    """
    path = Path(path)
    try:
        found = path.stat()
    except OSError as error:
        raise ScribbleNotFoundError(
            f"D301 {path}: does not exist; unpack the annotations of the release there"
        ) from error
    stamp = np.array([_VERSION, found.st_size, found.st_mtime_ns, *_fingerprint(categories)])
    stored = path.with_suffix(".index.npz")
    index = _load(stored, path, stamp)
    if index is None:
        index = _Builder(path, categories).build()
        try:
            arrays = {name: getattr(index, name) for name in _ARRAYS}
            write_arrays(stored, stamp=stamp, **arrays)
        except OSError:
            pass  # a read-only data set: the index is only faster the next time
    return index


def _fingerprint(categories: Mapping[int, str]) -> list[int]:
    return [len(categories), *sorted(categories)]


def _load(stored: Path, path: Path, stamp: NDArray[np.int64]) -> CocoIndex | None:
    """The stored index, unless it is of another file or damaged."""
    try:
        # opened here: NumPy leaves a damaged file open
        with stored.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            if not np.array_equal(content["stamp"], stamp):
                return None
            return CocoIndex(path, **{name: content[name] for name in _ARRAYS})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


class _Builder:
    """One pass over the file; columns grow in compact arrays."""

    def __init__(self, path: Path, categories: Mapping[int, str]) -> None:
        self.path, self.categories = path, categories
        self.labels = {category: index for index, category in enumerate(sorted(categories), 1)}
        self.images, self.sizes = array("q"), array("i")
        self.owners, self.ids, self.places = array("q"), array("q"), array("q")
        self.classes, self.crowd = array("B"), array("B")
        self.areas, self.boxes = array("d"), array("d")

    def build(self) -> CocoIndex:
        seen = set()
        with self.path.open("rb") as file:
            stream = JsonStream(file, self.path)
            for key in stream.members():
                seen.add(key)
                if key == "images":
                    for _, _, item in stream.elements():
                        self._image(item)
                elif key == "annotations":
                    for offset, length, item in stream.elements():
                        self._annotation(item, offset, length)
                elif key == "categories":
                    self._check_categories([item for _, _, item in stream.elements()])
                else:
                    stream.value()
        absent = {"images", "annotations", "categories"} - seen
        if absent:
            raise LabelFormatError(
                f"D202 {self.path}: has no {', '.join(sorted(absent))}, only "
                f"{', '.join(sorted(seen)) or 'an empty object'}; expected an instance file of COCO"
            )
        return self._columns()

    def _image(self, item: Any) -> None:
        values = [self._whole(item, key, "image") for key in ("id", "height", "width")]
        if not 1 <= min(values[1:]) <= max(values[1:]) <= _LARGEST:
            raise self._wrong("image", item, f"size {values[2]}x{values[1]}")
        self.images.append(values[0])
        self.sizes.extend(values[1:])

    def _annotation(self, item: Any, offset: int, length: int) -> None:
        category = self._whole(item, "category_id", "annotation")
        label = self.labels.get(category)
        if label is None:
            raise LabelFormatError(
                f"D401 {self.path}: annotation {item.get('id')} has category_id {category}, "
                f"expected one of the {len(self.labels)} ids {min(self.labels)} to "
                f"{max(self.labels)}; the file is not of this data set"
            )
        self.ids.append(self._whole(item, "id", "annotation"))
        self.owners.append(self._whole(item, "image_id", "annotation"))
        self.classes.append(label)
        self.places.extend((offset, length))
        self.crowd.append(bool(item.get("iscrowd", 0)))
        box = item.get("bbox", [math.nan] * 4)
        numbers = [*box, item.get("area", math.nan)] if isinstance(box, list) else []
        if len(numbers) != 5 or not all(isinstance(value, (int, float)) for value in numbers):
            raise self._wrong("annotation", item, f"bbox {box!r} and area {item.get('area')!r}")
        self.boxes.extend(numbers[:4])
        self.areas.append(numbers[4])

    def _whole(self, item: Any, key: str, what: str) -> int:
        value = item.get(key) if isinstance(item, dict) else None
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
            raise self._wrong(what, item, f"{key} {value!r}")
        return value

    def _wrong(self, what: str, item: Any, found: str) -> LabelFormatError:
        name = item.get("id") if isinstance(item, dict) else repr(item)[:60]
        return LabelFormatError(
            f"D202 {self.path}: {what} {name} has {found}, expected whole numbers in pixels and "
            "ids as in COCO's instance files; correct the program that wrote it"
        )

    def _check_categories(self, items: list[Any]) -> None:
        found = {item.get("id"): item.get("name") for item in items if isinstance(item, dict)}
        for category in sorted({*self.categories, *(key for key in found if key is not None)}):
            ours, theirs = self.categories.get(category), found.get(category)
            if normalise_name(str(ours)) != normalise_name(str(theirs)):
                raise LabelFormatError(
                    f"D401 {self.path}: category {category} is {theirs!r}, expected {ours!r} "
                    f"({len(found)} categories in the file, {len(self.categories)} in the data "
                    "set); convert other data sets to a plain folder with their own class file"
                )

    def _columns(self) -> CocoIndex:
        images = np.array(self.images, dtype=np.int64)
        order = np.argsort(images, kind="stable")
        images = images[order]
        twice = images[1:][images[1:] == images[:-1]]
        if twice.size:
            raise LabelFormatError(
                f"D303 {self.path}: image id {twice[0]} is listed twice ({twice.size} such ids), "
                "expected once; remove the copies"
            )
        owners = np.array(self.owners, dtype=np.int64)
        position = np.searchsorted(images, owners)
        known = np.append(images, -1)  # no image is number -1
        lost = known[position] != owners
        if lost.any():
            first = int(np.flatnonzero(lost)[0])
            raise LabelFormatError(
                f"D202 {self.path}: annotation {self.ids[first]} is of image {owners[first]}, "
                f"which is not listed ({int(lost.sum()):,} such annotations); the file is not "
                "complete"
            )
        rows = np.argsort(position, kind="stable")  # file order within an image
        counts = np.bincount(position, minlength=len(images))
        return CocoIndex(
            path=self.path,
            image_ids=images,
            sizes=np.array(self.sizes, dtype=np.int32).reshape(-1, 2)[order],
            starts=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            annotation_ids=np.array(self.ids, dtype=np.int64)[rows],
            places=np.array(self.places, dtype=np.int64).reshape(-1, 2)[rows],
            labels=np.array(self.classes, dtype=np.uint8)[rows],
            crowd=np.array(self.crowd, dtype=np.bool_)[rows],
            areas=np.array(self.areas, dtype=np.float64)[rows],
            boxes=np.array(self.boxes, dtype=np.float64).reshape(-1, 4)[rows],
        )
