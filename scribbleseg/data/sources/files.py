"""What all sources of files share: pairing by stem, missing files, groups, reading by kind."""

from __future__ import annotations

import logging
from abc import abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.annotations import ClassIds
from scribbleseg.data.classes import parse_colour
from scribbleseg.data.groups import check_pattern, check_time, group_in
from scribbleseg.data.image_labels import ImageLabelFile, present
from scribbleseg.data.images import ImageOptions, read_header
from scribbleseg.data.jobs.settings import coding_digest
from scribbleseg.data.label_maps import resize_map
from scribbleseg.data.labels import LabelCoding, orient_label, read_label
from scribbleseg.data.source import ScribbleSource, require
from scribbleseg.data.sources.index import (
    FileIndex,
    OnMissing,
    check_pseudo_options,
    file_codings,
    find_pseudo_labels,
    first_ids,
    stored_values,
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
from scribbleseg.errors import ConfigError
from scribbleseg.functional.degrade import StrokeDrawing
from scribbleseg.options import check_choice
from scribbleseg.types import Label, Record, Split

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from scribbleseg.data.annotations import Box
    from scribbleseg.data.classes import ClassTable

__all__ = ["FileSource"]

logger = logging.getLogger(__name__)

_NAMES = {"tag": "image-level label", "pseudo": "pseudo-label"}  # of label types, in messages


class FileSource(ScribbleSource):
    """Base of sources that pair files by stem. A subclass says which files and which stems.

    Args:
        classes: Names, colours and what the values of label files mean.
        strokes: How stroke files are drawn.
        images: Channels, window and largest size of images.
        others: See :class:`~scribbleseg.data.sources.FolderSource`.
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
        first_id: Literal[0, 1] | None = None,
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
        check_choice("first_id", first_id, (None, 0, 1))
        if unlabelled_value is not None and not -1 <= unlabelled_value <= 65535:
            raise ConfigError(f"unlabelled_value={unlabelled_value}: expected -1..65535")
        try:
            colour = None if unlabelled_color is None else parse_colour(unlabelled_color)
        except ValueError as error:
            raise ConfigError(f"unlabelled_color={unlabelled_color!r}: {error}") from error
        if unlabelled_value is None:
            unlabelled_value = classes.unlabelled_value
        self.unlabelled_color, self.unlabelled_value = colour, unlabelled_value
        self.first_id = first_id
        self._group_pattern = check_pattern(group_regex=group_regex)
        pixels = images or ImageOptions()
        self.in_channels, self.intensity = pixels.channels, pixels.intensity
        self.rgb_channels, self.max_image_pixels = pixels.rgb_channels, pixels.max_image_pixels
        names, background = classes.names, classes.background
        self.class_names, self.background, self.classes = names, background, classes
        self.palette, self.flip_pairs = classes.palette, classes.flip_pairs
        self.label_type, self.on_missing = label_type, on_missing
        self.pseudo_label_dir = pseudo_label_dir
        self.allow_dense_scribbles, self.resize_labels = allow_dense_scribbles, resize_labels
        self.strokes, self.weak_labels = strokes or StrokeOptions(), weak_labels or WeakLabels()
        root, weak = self.root, self.weak_labels
        self._stroke_names = names_with_aliases(names, classes.aliases)
        self._ids = ClassIds(len(names), self._stroke_names)
        self._clicks = ClickFiles(root, weak, self._ids, names, background)
        self._boxes = BoxFiles(root, weak, self._ids)
        self._image_labels = ImageLabelFile(
            root / weak.class_labels, weak.tags_from, names, self._ids, background
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
        weak = {
            "pseudo-label": self.pseudo_label_dir,
            "point": self._clicks.where,
            "box": self._boxes.where,
            "image-level label": self._image_labels.path,
        }
        return replace(files, places={**files.places, **{k: str(p) for k, p in weak.items()}})

    @cached_property
    def codings(self) -> dict[str, LabelCoding]:
        """What values of files mean, by :attr:`~scribbleseg.types.Label.coding`."""
        return self._find_codings()  # a cached super().codings would be seen by other threads

    def _find_codings(self) -> dict[str, LabelCoding]:
        table, zero, first = self.classes, self.unlabelled_value, (0, 0)
        if zero == 0 and table.counted:
            first = first_ids(self.files, table.names, self.first_id, self._values)
            one = dict(enumerate(table.names, first[0])).get(1, "no class")
            logger.info("%s: 0 is unlabelled in scribbles, and 1 means %r", self.root, one)
        return file_codings(table, zero, self.unlabelled_color, first)

    def _values(self, label: Label) -> NDArray[Any]:
        """Values of a map as they are stored."""
        return stored_values(label)

    @cached_property
    def box_files(self) -> Mapping[str, Label]:
        """Boxes by stem; an error if the data set has none (D301)."""
        return self._boxes.files

    @cached_property
    def training_labels(self) -> Mapping[str, Label]:
        """What trains, by stem; an error if there is nothing of this label type (D301)."""
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
        if origin == "annotations":
            chosen = self.box_files
        else:
            chosen = self.files.masks if origin == "mask" else self.files.scribbles
        files = {stem: chosen[stem] for stem in self._listed("train") if stem in chosen}

        def classes_of(stem: str) -> set[int]:
            record = Record(stem, self.files.images[stem])
            if origin == "annotations":
                return {box.label for box in self.boxes(record)}
            return present(self._read(files[stem], record))

        return file.compute(files, f"{coding_digest(self)} {self.weak_labels}", classes_of)

    # ------------------------------------------------------------------------ records

    def _listed(self, split: Split) -> list[str]:
        """Listed images, all of which are there."""
        return self.files.match(self._list_stems(split), split)

    def records(self, split: Split) -> list[Record]:
        """Samples of a split in the order of its list; ``"predict"`` = all images, without labels.

        Training records carry what trains as ``scribble``, whatever the label type is, never a
        ``mask``; listed images without it are an error, or what ``on_missing`` says. Records of
        other splits carry mask and scribble; images without a mask are left out with a warning. If
        no image has a mask, each carries its scribble, or its clicks if they train and there are no
        scribbles.

        Raises:
            ScribbleNotFoundError: If folders, the list, or listed files are missing (D301).
            LabelFormatError: If names are not unique or not safe (D303, D501), or pseudo-labels
                have other classes (D401).
            ConfigError: If there is no such split.
        """
        check_choice("split", split, get_args(Split))
        files = self.files
        if split == "predict":
            return [self._record(stem, None, None) for stem in files.images]
        stems = self._listed(split)
        if split == "train":
            return self._training_records(stems)
        scored = [stem for stem in stems if stem in files.masks]
        if scored:
            left = [stem for stem in stems if stem not in files.masks]
            if left:
                text = "%d of %d images of split %r have no mask in %s (e.g. %s) and are left out"
                some = ", ".join(left[:5])
                logger.warning(text, len(left), len(stems), split, files.place("mask"), some)
            return [self._record(s, files.scribbles.get(s), files.masks[s]) for s in scored]
        points = self.label_type == "point" and not files.scribbles  # clicks may be all there is
        role, labels = ("point", self.training_labels) if points else ("scribble", files.scribbles)
        files.require(stems, labels, role, split)
        return [self._record(stem, labels[stem], None) for stem in stems]

    def _training_records(self, stems: list[str]) -> list[Record]:
        role, labels = _NAMES.get(self.label_type, self.label_type), self.training_labels
        labelled, skip = [stem for stem in stems if stem in labels], self.on_missing == "skip"
        if role == "mask" or self.on_missing == "error" or (skip and not labelled):
            self.files.require(stems, labels, role, "train")
        return [self._record(s, labels.get(s), None) for s in (labelled if skip else stems)]

    def records_with_masks(self, split: Split) -> list[Record]:
        """Samples of a split with their dense masks, scribbles or not: to make labels from.

        Raises:
            ScribbleNotFoundError: If the list, listed images or masks are missing (D301).
        """
        stems, files = self._listed(split), self.files
        files.require(stems, files.masks, "mask", split)
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

    # ------------------------------------------------------------------------ pixels

    def read_scribble(self, record: Record) -> NDArray[np.uint8]:
        """Scribble ids, uint8, shape ``(H, W)``, 255 = unlabelled; see :func:`read_label`."""
        if record.scribble is None and self.on_missing == "unlabelled":
            return np.full(self.image_size(record), IGNORE_INDEX, dtype=np.uint8)
        return self._fit(require(record.scribble, "scribble", record), record)

    def read_mask(self, record: Record) -> NDArray[np.uint8]:
        """Dense ids, uint8, shape ``(H, W)``, 255 = void. Validation and checks only."""
        return self._fit(require(record.mask, "mask", record), record)

    def read_strokes(self, record: Record) -> StrokeDrawing | None:
        """Polylines of a stroke file that trains, ``None`` for scribbles that are pixels."""
        label = record.scribble
        if label is None or label.kind != "strokes":
            return None
        return self._read_drawing(label, record)

    def class_labels(self, record: Record) -> list[int] | None:
        """Classes of a training image from its boxes or image-level labels; ``None`` without."""
        label = record.scribble
        if label is None or label.kind not in ("boxes", "image_labels"):
            return None
        if label.kind == "boxes":
            return sorted({box.label for box in self.boxes(record)})
        return self._known_classes[label.entry]

    def boxes(self, record: Record) -> list[Box]:
        """Boxes of an image as they are in the annotation, whatever label type trains."""
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
        size, weak = self.image_size(record), self.weak_labels
        if label.kind == "points":
            clicks, radius = self._clicks.read(label, record.image_id), weak.point_radius
            return render_clicks(clicks, size, label, radius=radius, strokes=self.strokes)
        if label.kind == "boxes":
            boxes = self.boxes(record)
            check_boxes(boxes, size, str(label))
            background = self.background or 0  # none is refused before
            fill, center = weak.box_fill, weak.box_center
            return render_boxes(boxes, size, background=background, fill=fill, center=center)
        return np.full(size, IGNORE_INDEX, dtype=np.uint8)

    def _read_map(self, label: Label, record: Record) -> NDArray[np.uint8]:
        """A file with a value per pixel."""
        return read_label(label.path, self.codings[label.coding])

    def _read_drawing(self, label: Label, record: Record) -> StrokeDrawing:
        size, drawn = self.image_size(record), self.strokes
        strokes = read_scribblesup(label, self._stroke_names, image_size=size)
        return StrokeDrawing(strokes, size, drawn.width, drawn.renderer, drawn.offset)

    def _fit(self, label: Label, record: Record) -> NDArray[np.uint8]:
        """A label in the frame of its image, and resized to it if that is asked for."""
        values = self._read(label, record)
        values = orient_label(values, label, record.image, channels=self.in_channels)
        return resize_map(values, self.image_size(record)) if self.resize_labels else values
