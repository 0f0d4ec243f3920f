"""Semantic masks painted from COCO's instances: which one is on top, and what a crowd is."""

from __future__ import annotations

import reprlib
import sqlite3
from contextlib import closing
from functools import cached_property, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scribbleseg.constants import IGNORE_INDEX, voc_palette
from scribbleseg.data.annotations import Box
from scribbleseg.data.documents import is_number
from scribbleseg.data.jobs.job import ImageJob
from scribbleseg.data.jobs.settings import is_fresh
from scribbleseg.errors import LabelFormatError, MissingExtraError, ScribbleNotFoundError
from scribbleseg.functional.images import write_label
from scribbleseg.types import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["CocoIndex", "Crowd", "Overlap"]

Crowd = Literal["background", "ignore"]
"""What pixels of crowd regions are where no object covers them: background, or 255."""

Overlap = Literal["order", "area"]
"""Which object is on top: the later one in the file, or the smaller one."""

_LONGEST = 2_000_000  # outline of a polygon in pixels: pycocotools allocates 80 bytes for each


class CocoIndex:
    """Images and annotations of one instance file, read from a small database when needed.

    Args:
        path: The JSON file, for messages.
        stored: Database that :func:`read_coco_index` made.
    """

    def __init__(self, path: Path, stored: Path) -> None:
        self.path, self.stored = path, stored

    def _query(self, command: str, *values: int) -> list[tuple[Any, ...]]:
        try:
            return query(self.stored, command, *values)
        except sqlite3.Error as error:
            raise LabelFormatError(
                f"D202 {self.stored}: the index of {self.path} cannot be read ({error}); delete "
                "it, it is made again"
            ) from error

    @cached_property
    def sizes(self) -> dict[int, tuple[int, int]]:
        """Height and width in pixels by image id, ascending."""
        rows = self._query("SELECT id, height, width FROM images ORDER BY id")
        return {number: (height, width) for number, height, width in rows}

    def size(self, image_id: int) -> tuple[int, int]:
        """Height and width of an image in pixels.

        Raises:
            ScribbleNotFoundError: If the file has no such image (D301).
        """
        if image_id not in self.sizes:
            raise ScribbleNotFoundError(
                f"D301 {self.path}: has no image {image_id} among {len(self.sizes):,}; the image "
                "belongs to another split or year: use the annotations of its release"
            )
        return self.sizes[image_id]

    @cached_property
    def _labels(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        command = "SELECT DISTINCT image, label FROM annotations WHERE crowd = 0 ORDER BY 1, 2"
        for image, label in self._query(command):
            found.setdefault(image, []).append(label)
        return found

    def object_labels(self, image_id: int) -> list[int]:
        """Ascending class ids of the objects of an image; crowd regions do not count."""
        self.size(image_id)
        return self._labels.get(image_id, [])

    def object_boxes(self, image_id: int) -> list[Box]:
        """Boxes of the objects of an image in file order; crowd regions have none.

        Raises:
            LabelFormatError: If an object has no box (D202).
        """
        self.size(image_id)
        boxes = []
        for name, label, x, y, width, height in self._query(
            "SELECT name, label, x, y, width, height FROM annotations "
            "WHERE image = ? AND crowd = 0 ORDER BY rowid",
            image_id,
        ):
            if x is None:
                raise LabelFormatError(
                    f"D202 {self.path}: {name} (image {image_id}) has no bbox, expected "
                    "[x, y, width, height] in pixels; add it, or use another label type"
                )
            boxes.append(Box(label, x, y, x + width, y + height))
        return boxes

    def paint(
        self, image_id: int, *, crowd: Crowd = "background", overlap: Overlap = "order"
    ) -> NDArray[np.uint8]:
        """Class of every pixel of one image. Time O(pixels x annotations of the image).

        Args:
            image_id: Image.
            crowd: See :data:`Crowd`; a crowd region never covers an object.
            overlap: See :data:`Overlap`; equal areas keep the order of the file.

        Returns:
            Ids, 0 = background, uint8, shape ``(H, W)``.

        Raises:
            ScribbleNotFoundError: If the file has no such image (D301).
            LabelFormatError: If a polygon or run length is malformed (D202).
        """
        size = self.size(image_id)
        mask = np.zeros(size, dtype=np.uint8)
        order = "crowd DESC, area DESC, rowid" if overlap == "area" else "crowd DESC, rowid"
        rows = self._query(
            "SELECT name, label, crowd, area, runs, fault FROM annotations "
            f"WHERE image = ? AND crowd <= ? ORDER BY {order}",  # the order is one of two constants
            *(image_id, int(crowd == "ignore")),
        )
        for name, label, is_crowd, area, runs, fault in rows:
            if fault is None and area is None and overlap == "area" and not is_crowd:
                fault = "has no area, which overlap='area' needs"
            if fault is None:
                try:
                    mask[_decode(runs, size)] = IGNORE_INDEX if is_crowd else label
                except (ValueError, TypeError) as error:  # the index was damaged
                    fault = f"of {self.stored} is damaged ({error}): delete that file"
            if fault is not None:
                raise LabelFormatError(
                    f"D202 {self.path}: segmentation of {name} (image {image_id}) {fault}, "
                    f"expected polygons of at least 3 points or run lengths of {size[0]}x{size[1]} "
                    "(height x width) pixels; correct it or remove the annotation"
                )
        return mask


def query(database: Path, command: str, *values: int) -> list[tuple[Any, ...]]:
    """Rows of a database; a connection must not cross threads or forks, opening takes 0.1 ms."""
    place = f"{database.resolve().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(place, uri=True)) as connection:
        return connection.execute(command, values).fetchall()


def _write(
    index: CocoIndex, job: ImageJob, numbers: Mapping[str, int], record: Record
) -> tuple[bool, None]:
    """Write one mask, if it is not newer than the annotations."""
    target = job.output / f"{record.image_id}.png"
    if is_fresh(target, index.path):
        return False, None
    crowd, overlap = job.settings["crowd"], job.settings["overlap"]
    mask = index.paint(numbers[record.image_id], crowd=crowd, overlap=overlap)
    write_label(target, mask, voc_palette())
    return True, None


def write_masks(
    folder: Path,
    indexes: Mapping[str, CocoIndex],
    names: Mapping[str, Sequence[str]],
    class_names: Sequence[str],
    settings: Mapping[str, Any],
    *,
    workers: int,
    progress: bool,
) -> ImageJob:
    """Write the masks of all images as palette PNGs, with a manifest of how they were painted.

    Masks appear atomically and are kept if they are not older than the JSON, so an interrupted call
    continues. An image that fails is reported and does not stop the others.

    Args:
        folder: Target: new, empty, or of an earlier call with the same settings.
        indexes: Annotations by name of the split, such as ``train2014``.
        names: Names of the mask files of every split, in the order of ``index.sizes``.
        class_names: One name per class.
        settings: What masks of one folder share: ``crowd``, ``overlap``, …
        workers: Processes; 0 = this one.
        progress: Show a progress bar on stderr.

    Raises:
        ConfigError: If the folder holds anything else.
        ScribbleSegError: If a worker process was killed.
    """
    job = ImageJob(folder, "masks", dict(settings), class_names)
    counts: dict[str, int] = dict(job.earlier.get("splits", {}))
    job.settings |= {"pycocotools": version("pycocotools"), "splits": counts}
    for title, index in indexes.items():
        numbers = dict(zip(names[title], index.sizes, strict=True))
        make = partial(_write, index, job, numbers)
        records = [Record(name) for name in numbers]
        counts[title] = len(job.run(make, records, workers=workers, progress=progress))
    job.describe(sum(counts.values()), complete=not job.failed)
    return job


# --------------------------------------------------------------------------- run lengths


def encode_runs(segmentation: Any, size: tuple[int, int]) -> bytes:
    """Run lengths of an object in COCO's text form.

    pycocotools trusts what it gets, so every number is checked before.

    Raises:
        ValueError: What is wrong.
    """
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise MissingExtraError("pycocotools", "coco", "reading COCO annotations") from error
    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        if segmentation.get("size") != list(size):
            raise ValueError(f"run lengths of size {shown(segmentation.get('size'))}")
        if isinstance(counts, str):
            wrong = [character for character in counts if not "0" <= character <= "o"]
            if wrong:
                raise ValueError(f"character {wrong[0]!r} in run lengths")
            text = counts.encode()
            _check_runs(text, size)
            return text
        if not isinstance(counts, list):
            raise ValueError(f"run lengths {shown(counts)}")
        wrong = [n for n in counts if isinstance(n, bool) or not isinstance(n, int) or n < 0]
        if wrong or sum(counts) != size[0] * size[1]:
            what = shown(wrong[0]) if wrong else f"of {sum(counts):,} pixels"
            raise ValueError(f"run lengths {what}")
        return bytes(coco.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"])
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(f"polygons {shown(segmentation)}")
    polygons = [_polygon(part, number, size) for number, part in enumerate(segmentation, 1)]
    return bytes(coco.merge(coco.frPyObjects(polygons, *size))["counts"])


def _polygon(part: Any, number: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """Coordinates x, y, x, y, … of a polygon on or near its image."""
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        what = f"{len(part)} numbers" if isinstance(part, list) else shown(part)
        raise ValueError(f"polygon {number} of {what}")
    try:
        flat = np.array(part)
    except ValueError:  # a list among the numbers
        flat = np.array([None])
    if flat.dtype.kind not in "if" or flat.ndim != 1:
        wrong = next((v for v in part if not is_number(v)), part)
        raise ValueError(f"polygon {number} with coordinate {shown(wrong)}")
    points = flat.astype(np.float64).reshape(-1, 2)
    length = np.array(size[::-1])
    outside = ~((points >= -length) & (points <= 2 * length))
    if outside.any():
        raise ValueError(f"polygon {number} with coordinate {points[outside][0]:g}")
    steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
    if steps.sum() > _LONGEST:
        raise ValueError(f"polygon {number} with an outline of {steps.sum():,.0f} pixels")
    return points.ravel()


def _check_runs(text: bytes, size: tuple[int, int]) -> None:
    """Refuse other run lengths; a character holds 5 bits of a difference to the last but one."""
    bits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    if not bits.size or bits.min() < 0 or bits.max() > 63 or bits[-1] & 32:
        raise ValueError("run lengths that are cut off")
    last = bits & 32 == 0
    starts = np.flatnonzero(np.append(True, last[:-1]))
    place = np.arange(bits.size) - starts[np.cumsum(last) - last]
    if place.max() > 6:
        raise ValueError("a run length of more than 30 bits")
    runs = np.add.reduceat((bits & 31) << 5 * place, starts)
    runs -= np.where(bits[last] & 16, 1 << 5 * (place[last] + 1), 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    if runs.min() < 0 or runs.sum() != size[0] * size[1]:
        raise ValueError(f"run lengths of {runs.sum():,} pixels")


def _decode(text: bytes, size: tuple[int, int]) -> NDArray[np.bool_]:
    from pycocotools import mask as coco

    _check_runs(text, size)
    return np.asarray(coco.decode({"size": list(size), "counts": text}), dtype=np.bool_)


def shown(value: Any) -> str:
    """A faulty value, shortened; JSON has no NaN, it is read as null."""
    return reprlib.repr(value).replace("None", "null or NaN")
