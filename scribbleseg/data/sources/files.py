"""What all sources of files share: pairing by stem, missing files, groups, reading by kind."""

from __future__ import annotations

import logging
from abc import abstractmethod
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, get_args

import cv2
import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.annotations import ClassIds
from scribbleseg.data.classes import parse_colour
from scribbleseg.data.groups import check_pattern, check_time, group_in
from scribbleseg.data.image_labels import ImageLabelFile, present
from scribbleseg.data.images import ImageOptions, read_header, read_pixels
from scribbleseg.data.jobs.settings import coding_digest
from scribbleseg.data.labels import LabelCoding, orient_label, read_label
from scribbleseg.data.lists import voc_stem
from scribbleseg.data.source import ScribbleSource, require
from scribbleseg.data.sources.index import (
    ROLES,
    FileIndex,
    OnMissing,
    check_pseudo_options,
    cure_for,
    find_pseudo_labels,
    missing_files,
)
from scribbleseg.data.strokes import StrokeOptions, names_with_aliases, read_scribblesup
from scribbleseg.data.weak import (
    BoxFiles,
    ClickFiles,
    LabelType,
    WeakLabels,
    check_boxes,
    check_weak_options,
    render_boxes,
    render_clicks,
)
from scribbleseg.errors import ConfigError, ScribbleNotFoundError, ScribbleSegError
from scribbleseg.functional.degrade import StrokeDrawing
from scribbleseg.options import check_choice
from scribbleseg.types import Label, Record, Split

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scribbleseg.data.annotations import Box
    from scribbleseg.data.classes import ClassTable

__all__ = ["FileSource"]

logger = logging.getLogger(__name__)

_SAMPLE = 128  # files that are read to find out how classes are counted


class FileSource(ScribbleSource):
    """Base of sources that pair files by stem. A subclass says which files and which stems.

    Args:
        classes: Names, colours and what the values of label files mean.
        label_type: What trains, see :class:`~scribbleseg.data.sources.FolderSource`.
        weak_labels: Where clicks, boxes and image-level labels are, and how they are drawn.
        pseudo_label_dir: Folder of pseudo-labels; needed by, and only by, ``"pseudo"``.
        on_missing: Training images without scribble are an error, left out, or kept unlabelled.
        unlabelled_value: Value of scribble files that means unlabelled, besides 255.
        unlabelled_color: Colour of scribble files that means unlabelled.
        group_regex: Pattern searched in the stem; its first group, or the whole match, is the
            group.
        allow_dense_scribbles: Scribbles may cover most of the image.
        resize_labels: Fit labels of another size to their image by nearest neighbour.
        strokes: How stroke files are drawn.
        images: Channels, window and largest size of images.
    """

    root: Path
    """Folder to which names of files are relative; set before this class's ``__init__``."""

    layout: ClassVar[str]
    """What a folder of this kind holds, in a few words, for messages."""

    def __init__(
        self,
        classes: ClassTable,
        *,
        label_type: LabelType = "scribble",
        pseudo_label_dir: Path | None = None,
        on_missing: OnMissing = "error",
        unlabelled_value: int | None = None,
        unlabelled_color: tuple[int, int, int] | str | None = None,
        group_regex: str | None = None,
        allow_dense_scribbles: bool = False,
        resize_labels: bool = False,
        strokes: StrokeOptions | None = None,
        weak_labels: WeakLabels | None = None,
        images: ImageOptions | None = None,
    ) -> None:
        check_weak_options(label_type, weak_labels, classes.background)
        check_pseudo_options(label_type, pseudo_label_dir)
        check_choice("on_missing", on_missing, get_args(OnMissing))
        if unlabelled_value is not None and not -1 <= unlabelled_value <= 65535:
            raise ConfigError(f"unlabelled_value={unlabelled_value}: expected -1..65535")
        try:
            colour = None if unlabelled_color is None else parse_colour(unlabelled_color)
        except ValueError as error:
            raise ConfigError(f"unlabelled_color={unlabelled_color!r}: {error}") from error
        self.unlabelled_color = colour
        self._group_pattern = check_pattern(group_regex=group_regex)
        pixels = images or ImageOptions()
        self.in_channels, self.intensity = pixels.channels, pixels.intensity
        self.rgb_channels, self.max_image_pixels = pixels.rgb_channels, pixels.max_image_pixels
        self.class_names, self.background = classes.names, classes.background
        self.palette, self.flip_pairs, self.classes = classes.palette, classes.flip_pairs, classes
        self.label_type, self.on_missing = label_type, on_missing
        self.pseudo_label_dir = pseudo_label_dir
        self.unlabelled_value = (
            classes.unlabelled_value if unlabelled_value is None else unlabelled_value
        )
        self.allow_dense_scribbles, self.resize_labels = allow_dense_scribbles, resize_labels
        self.strokes, self.weak_labels = strokes or StrokeOptions(), weak_labels or WeakLabels()
        self._ids = ClassIds(len(classes.names), names_with_aliases(classes.names, classes.aliases))
        self._clicks = ClickFiles(
            self.root, self.weak_labels, self._ids, classes.names, classes.background
        )
        self._boxes = BoxFiles(self.root, self.weak_labels, self._ids)
        self._image_labels = ImageLabelFile(
            self.root / self.weak_labels.class_labels,
            self.weak_labels.tags_from,
            classes.names,
            self._ids,
            classes.background,
        )

    # ------------------------------------------------------------------- what is there

    @classmethod
    @abstractmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it; reads no file."""

    @abstractmethod
    def _list_files(self) -> FileIndex:
        """Files of the data set; called once, at the first use."""

    @abstractmethod
    def _list_stems(self, split: Split) -> list[str]:
        """Stems of a split, except ``"predict"``."""

    @cached_property
    def files(self) -> FileIndex:
        """Files of the data set by stem; the folders are read at the first use."""
        files = self._list_files()
        check_time(self._group_pattern, files.images)
        return files

    @cached_property
    def codings(self) -> dict[str, LabelCoding]:
        """What values of files mean, by :attr:`~scribbleseg.types.Label.coding`."""
        table, zero = self.classes, self.unlabelled_value
        codings = {
            "scribble": table.coding(zero, colour=self.unlabelled_color),
            "mask": table.coding(),
            "ids": LabelCoding(self.num_classes),
        }
        # names alone, and 0 is unlabelled: files that hold the value C count classes from 1
        if zero == 0 and table.counted:
            for name, labels in (("scribble", self.files.scribbles), ("mask", self.files.masks)):
                if self._holds(labels, self.num_classes):
                    codings[name] = table.coding(0, first=1)
        return codings

    def _holds(self, labels: Mapping[str, Label], value: int) -> bool:
        """Whether one of some files, spread over all of them, holds a value."""
        maps = [label for label in labels.values() if label.kind == "map"]
        for label in maps[:: max(1, len(maps) // _SAMPLE)]:
            with suppress(ScribbleSegError):  # of a file that is faulty is told when it is read
                if (self._values(label) == value).any():
                    return True
        return False

    def _values(self, label: Label) -> NDArray[Any]:
        """Values of a map as they are stored."""
        return read_pixels(label.path).values

    @cached_property
    def box_files(self) -> Mapping[str, Label]:
        """Boxes by stem.

        Raises:
            ScribbleNotFoundError: If the data set has none (D301).
        """
        return self._boxes.files

    @cached_property
    def training_labels(self) -> Mapping[str, Label]:
        """What trains, by stem.

        Raises:
            ScribbleNotFoundError: If there is no folder or file of this label type (D301).
            LabelFormatError: If the file is faulty, or pseudo-labels are stale or incomplete.
        """
        if self.label_type == "point":
            return self._clicks.files
        if self.label_type == "box":
            return self.box_files
        if self.label_type == "tag":
            place = self._image_labels.path
            return {stem: Label(place, "image_labels", stem) for stem in self._known_classes}
        if self.label_type == "pseudo":
            folder = self.pseudo_label_dir or self.root  # refused before
            return find_pseudo_labels(folder, self.class_names)
        return self.files.masks if self.label_type == "mask" else self.files.scribbles

    @cached_property
    def _known_classes(self) -> dict[str, list[int]]:
        """Image-level labels of the training images, computed if need be."""
        file = self._image_labels
        origin = file.computed_from
        if origin is None:
            return {} if file.stored is None else file.stored.labels
        sources: dict[str, Mapping[str, Label]] = {
            "scribble": self.files.scribbles,
            "mask": self.files.masks,
        }
        chosen = self.box_files if origin == "annotations" else sources[origin]
        listed = self._match(self._list_stems("train"), "train")
        files = {stem: chosen[stem] for stem in listed if stem in chosen}

        def classes_of(stem: str) -> set[int]:
            record = Record(stem, self.files.images[stem])
            if origin == "annotations":
                return {box.label for box in self.boxes(record)}
            return present(self._read(files[stem], record))

        return file.compute(files, f"{coding_digest(self)} {self.weak_labels}", classes_of)

    def records(self, split: Split) -> list[Record]:
        """Samples of a split in the order of its list; ``"predict"`` = all images, without labels.

        Training records carry supervision as ``scribble`` and never a ``mask``. Validation images
        without a mask are left out with a warning if others have one.

        Raises:
            ScribbleNotFoundError: If folders, the list, or training files are missing (D301).
            LabelFormatError: If names are not unique or not safe (D303, D501), or pseudo-labels
                have other classes (D401).
            ConfigError: If there is no such split.
        """
        check_choice("split", split, get_args(Split))
        files = self.files
        if split == "predict":
            return [self._record(stem, None, None) for stem in files.images]
        stems = self._match(self._list_stems(split), split)
        if split == "train":
            role, labels = ROLES[self.label_type], self.training_labels
            if role == "mask" or self.on_missing == "error":
                self._require_all(stems, labels, role, split)
            elif self.on_missing == "skip":
                stems = [stem for stem in stems if stem in labels]
                if not stems:
                    raise ScribbleNotFoundError(
                        f"D301 none of the images of split {split!r} has a {role} in "
                        f"{self._place(role)}; {cure_for(role)}"
                    )
            return [self._record(stem, labels.get(stem), None) for stem in stems]
        scored = [stem for stem in stems if stem in files.masks]
        if scored:
            if len(scored) < len(stems):
                logger.warning(
                    "%d of %d images of split %r have no mask in %s (e.g. %s) and are left out",
                    *(len(stems) - len(scored), len(stems), split, self._place("mask")),
                    ", ".join([stem for stem in stems if stem not in files.masks][:5]),
                )
            return [self._record(s, files.scribbles.get(s), files.masks[s]) for s in scored]
        # clicks are all that some data sets have
        points = self.label_type == "point" and not files.scribbles
        role, labels = ("point", self.training_labels) if points else ("scribble", files.scribbles)
        self._require_all(stems, labels, role, split)
        return [self._record(stem, labels[stem], None) for stem in stems]

    def records_with_masks(self, split: Split) -> list[Record]:
        """Samples of a split with their dense masks, scribbles or not: to make labels from.

        Raises:
            ScribbleNotFoundError: If the list, listed images or masks are missing (D301).
        """
        stems = self._match(self._list_stems(split), split)
        files = self.files
        self._require_all(stems, files.masks, "mask", split)
        return [self._record(stem, files.scribbles.get(stem), files.masks[stem]) for stem in stems]

    def with_mask(self, record: Record) -> Record:
        """The record with its dense mask, if there is one: for checks, never for training."""
        return replace(record, mask=self.files.masks.get(record.image_id))

    def group_of(self, stem: str) -> str | None:
        """Group of a stem; the stem itself if the pattern does not match, ``None`` without one."""
        if self._group_pattern is None:
            return None
        return group_in(self._group_pattern, stem) or stem

    def _record(self, stem: str, scribble: Label | None, mask: Label | None) -> Record:
        return Record(stem, self.files.images[stem], scribble, mask, self.group_of(stem))

    def _match(self, listed: Iterable[str], split: str) -> list[str]:
        """Names of the list as stems of images; VOC ids may have lost their underscore."""
        images = self.files.images
        found = [stem if stem in images else voc_stem(stem) for stem in listed]
        self._require_all(found, images, "image", split)
        return found

    def _require_all(
        self, stems: Sequence[str], files: Mapping[str, Any], role: str, split: str
    ) -> None:
        """One error for all that is missing, not one per file."""
        message = missing_files(stems, files, role=role, split=split, place=self._place(role))
        if message:
            raise ScribbleNotFoundError(message)

    def _place(self, role: str) -> str:
        places = {
            "pseudo-label": self.pseudo_label_dir,
            "point": self._clicks.where,
            "box": self._boxes.where,
            "image-level label": self._image_labels.path,
        }
        known = places.get(role)
        return self.files.places.get(role, f"the {role} folder") if known is None else str(known)

    # ------------------------------------------------------------------------ pixels

    def read_scribble(self, record: Record) -> NDArray[np.uint8]:
        """Scribble ids, uint8, shape ``(H, W)``, 255 = unlabelled.

        Raises:
            ScribbleNotFoundError: If there is no such file.
            LabelFormatError: If it does not hold ids of the classes.
        """
        if record.scribble is None and self.on_missing == "unlabelled":
            return np.full(self.image_size(record), IGNORE_INDEX, dtype=np.uint8)
        label = require(record.scribble, "scribble", record)
        return self._fit(self._read(label, record), label, record)

    def read_mask(self, record: Record) -> NDArray[np.uint8]:
        """Dense ids, uint8, shape ``(H, W)``, 255 = void. Validation and checks only.

        Raises:
            ScribbleNotFoundError: If there is no such file.
            LabelFormatError: If it does not hold ids of the classes.
        """
        label = require(record.mask, "mask", record)
        return self._fit(self._read(label, record), label, record)

    def read_strokes(self, record: Record) -> StrokeDrawing | None:
        """Polylines of a stroke file that trains, ``None`` for scribbles that are pixels.

        Raises:
            LabelFormatError: If the file is faulty.
        """
        label = record.scribble
        if label is None or label.kind != "strokes":
            return None
        return self._read_drawing(label, record)

    def class_labels(self, record: Record) -> list[int] | None:
        """Classes of a training image from its boxes or image-level labels.

        Returns:
            Class ids; ``None`` = the classes that the scribble labels are all that is known.

        Raises:
            ScribbleSegError: If they cannot be read.
        """
        label = record.scribble
        if label is None or label.kind not in ("boxes", "image_labels"):
            return None
        if label.kind == "boxes":
            return sorted({box.label for box in self.boxes(record)})
        return self._known_classes[label.entry]

    def boxes(self, record: Record) -> list[Box]:
        """Boxes of an image as they are in the annotation, whatever label type trains.

        Raises:
            ScribbleNotFoundError: If the data set or the image has none (D301).
            LabelFormatError: If the file is faulty.
        """
        return self._boxes.read(require(self.box_files.get(record.image_id), "box", record))

    def image_size(self, record: Record) -> tuple[int, int]:
        """Height and width of an image in pixels; reads its header only."""
        path = require(record.image, "image", record)
        return read_header(path, channels=self.in_channels).size

    def _read(self, label: Label, record: Record) -> NDArray[np.uint8]:
        """A label as a map of ids; what the label is decides how."""
        if label.kind in ("map", "pseudo_label"):
            return self._read_map(label, record)
        if label.kind == "strokes":
            return self._read_drawing(label, record).rasterize()
        size = self.image_size(record)
        if label.kind == "points":
            clicks, radius = (
                self._clicks.read(label, record.image_id),
                self.weak_labels.point_radius,
            )
            return render_clicks(clicks, size, label, radius=radius, strokes=self.strokes)
        if label.kind == "boxes":
            boxes = self.boxes(record)
            check_boxes(boxes, size, str(label))
            weak, background = self.weak_labels, self.background or 0  # none is refused before
            fill, center = weak.box_fill, weak.box_center
            return render_boxes(boxes, size, background=background, fill=fill, center=center)
        return np.full(size, IGNORE_INDEX, dtype=np.uint8)

    def _read_map(self, label: Label, record: Record) -> NDArray[np.uint8]:
        """A file with a value per pixel."""
        return read_label(label.path, self.codings[label.coding])

    def _read_drawing(self, label: Label, record: Record) -> StrokeDrawing:
        size, drawn = self.image_size(record), self.strokes
        strokes = read_scribblesup(label, self._ids.names, image_size=size)
        return StrokeDrawing(strokes, size, drawn.width, drawn.renderer, drawn.offset)

    def _fit(self, values: NDArray[np.uint8], label: Label, record: Record) -> NDArray[np.uint8]:
        """The label in the frame of its image, and resized to it if that is asked for."""
        values = orient_label(values, label, record.image, channels=self.in_channels)
        if self.resize_labels and values.shape != (size := self.image_size(record)):
            height, width = size
            resized = cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
            return np.asarray(resized, dtype=np.uint8)
        return values
