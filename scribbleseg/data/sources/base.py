"""What all sources of files share: pairing by stem, missing files, groups, label decoding."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, get_args

import cv2
import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data import io
from scribbleseg.data.groups import check_pattern, group_in
from scribbleseg.data.image_options import ImageOptions
from scribbleseg.data.label_types import LabelType, WeakLabels, check_weak_options
from scribbleseg.data.orientation import orient_label
from scribbleseg.data.readers.scribblesup import class_ids, read_scribblesup
from scribbleseg.data.source import LabelRole, ScribbleSource
from scribbleseg.data.sources.box_labels import BoxFiles
from scribbleseg.data.sources.file_index import CURES, FileIndex, OnMissing, missing_files
from scribbleseg.data.sources.own_labels import OwnLabels
from scribbleseg.data.sources.pseudo import check_pseudo_options, find_pseudo_labels
from scribbleseg.data.sources.weak import weak_reader
from scribbleseg.errors import ConfigError, ScribbleNotFoundError
from scribbleseg.functional.degrade import StrokeDrawing
from scribbleseg.options import check_choice
from scribbleseg.types import Record, Split

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from scribbleseg.data.readers.boxes import Box
    from scribbleseg.functional.strokes import Renderer

__all__ = ["FileSource"]


class FileSource(ScribbleSource):
    """Base of sources that pair files by stem. A subclass says which files and which stems.

    Args:
        classes: Names, colours and value maps.
        label_type: ``"mask"`` trains on the dense masks (upper bound), ``"pseudo"`` on the files
            of ``pseudo_label_dir``; ``"point"``, ``"box"`` and ``"tag"`` on weaker labels.
        weak_labels: Where clicks, boxes and tags are, and how they are drawn.
        pseudo_label_dir: Folder of pseudo-labels; needed by, and only by, ``"pseudo"``.
        on_missing: Training images without scribble are an error, left out, or kept unlabelled.
        unlabelled_value: Value of scribble files that means "not drawn", besides 255.
        group_regex: Pattern searched in the stem; its first group, or the whole match, is
            the group.
        allow_dense_scribbles: Scribbles may cover most of the image.
        resize_labels: Fit labels of another size to their image by nearest neighbour.
        strokes: Width, renderer and coordinate offset for stroke files.
        images: Channels, window and largest size of images.
    """

    root: Path
    """Folder to which names of files are relative; set before this class's ``__init__``."""

    layout: ClassVar[str]
    """What a folder of this kind holds, in a few words, for messages."""

    def __init__(
        self,
        classes: io.ClassTable,
        *,
        label_type: LabelType = "scribble",
        pseudo_label_dir: Path | None = None,
        on_missing: OnMissing = "error",
        unlabelled_value: int | None = None,
        group_regex: str | None = None,
        allow_dense_scribbles: bool = False,
        resize_labels: bool = False,
        strokes: tuple[float, Renderer, float] = (3.0, "distance", 0.0),
        weak_labels: WeakLabels | None = None,
        images: ImageOptions | None = None,
    ) -> None:
        check_weak_options(label_type, weak_labels, classes.background)
        check_pseudo_options(label_type, pseudo_label_dir)
        check_choice("on_missing", on_missing, get_args(OnMissing))
        if unlabelled_value is not None and not 0 <= unlabelled_value <= 65535:
            raise ConfigError(f"unlabelled_value={unlabelled_value}: expected 0..65535")
        self._group_pattern = check_pattern(group_regex=group_regex)
        pixels = images or ImageOptions()
        self.in_channels, self.intensity = pixels.channels, pixels.intensity
        self.rgb_channels, self.max_image_pixels = pixels.rgb_channels, pixels.max_image_pixels
        self.class_names = classes.names
        self.palette = classes.palette
        self.background = classes.background
        self.flip_pairs = classes.flip_pairs
        self.classes = classes
        self.label_type, self.on_missing = label_type, on_missing
        self.pseudo_label_dir = pseudo_label_dir
        self.unlabelled_value = (
            classes.unlabelled_value if unlabelled_value is None else unlabelled_value
        )
        self.allow_dense_scribbles, self.resize_labels = allow_dense_scribbles, resize_labels
        self._strokes = strokes
        self._own_labels = OwnLabels(classes.names)
        self._tags = class_ids(classes.names, classes.aliases)
        options = weak_labels or WeakLabels()
        self._boxes = BoxFiles(self, options)
        self._weak = weak_reader(self, label_type, options)

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
        return self._list_files()

    @cached_property
    def pseudo_labels(self) -> dict[str, Path]:
        """Pseudo-label files by stem, listed at the first use; empty unless they train."""
        folder = self.pseudo_label_dir
        return {} if folder is None else find_pseudo_labels(folder, self.class_names)

    def records(self, split: Split) -> list[Record]:
        """Samples of a split in the order of its list; ``"predict"`` = all images, without labels.

        Training records carry supervision as ``scribble`` and never a ``mask``.

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
        stems = self._match(self._list_stems(split), split)
        if split == "train":
            role, labels = self._training_labels()
            if role == "mask" or self.on_missing == "error":
                self._require_all(stems, labels, role, split)
            elif self.on_missing == "skip":
                stems = [stem for stem in stems if stem in labels]
                if not stems:
                    raise ScribbleNotFoundError(
                        f"D301 none of the images of split {split!r} has a {role} in "
                        f"{self._place(role)}; {CURES[role]}"
                    )
            return [self._record(stem, labels.get(stem), None) for stem in stems]
        if files.masks:
            self._require_all(stems, files.masks, "mask", split)
            return [
                self._record(stem, files.scribbles.get(stem), files.masks[stem]) for stem in stems
            ]
        # clicks are all that some data sets have
        points = self.label_type == "point" and not files.scribbles
        role, labels = self._training_labels() if points else ("scribble", files.scribbles)
        self._require_all(stems, labels, role, split)
        return [self._record(stem, labels[stem], None) for stem in stems]

    def _training_labels(self) -> tuple[str, Mapping[str, Path]]:
        """What the label type is called in messages, and its files by stem."""
        if self._weak is not None:
            return self._weak.role, self._weak.files
        if self.label_type == "pseudo":
            return "pseudo-label", self.pseudo_labels
        mask = self.label_type == "mask"
        return ("mask", self.files.masks) if mask else ("scribble", self.files.scribbles)

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

    def boxes(self, record: Record) -> list[Box]:
        """Boxes of an image as they are in the annotation, whatever label type trains.

        Raises:
            ScribbleNotFoundError: If the data set or the image has none (D301).
            LabelFormatError: If the file is faulty.
        """
        return self._boxes.read(record)

    @property
    def box_files(self) -> Mapping[str, Path]:
        """Box files by stem, listed at the first use; a source that knows its boxes overrides it.

        Raises:
            ScribbleNotFoundError: If the data set has none (D301).
        """
        return self._boxes.files

    def class_labels(self, record: Record) -> list[int] | None:
        """Classes of a training image from its boxes or tags; ``None`` = what the scribble shows.

        Raises:
            ScribbleSegError: If they cannot be read.
        """
        if self._weak is None or record.scribble is None:
            return None
        return self._weak.class_labels(record)

    def group_of(self, stem: str) -> str | None:
        """Group of a stem; the stem itself if the pattern does not match, ``None`` without one."""
        if self._group_pattern is None:
            return None
        return group_in(self._group_pattern, stem) or stem

    def read_scribble(self, record: Record) -> NDArray[np.uint8]:
        """Scribble ids, uint8, shape ``(H, W)``, 255 = not drawn.

        Raises:
            ScribbleNotFoundError: If there is no such file.
            LabelFormatError: If it does not hold ids of the classes.
        """
        if record.scribble is None and self.on_missing == "unlabelled":
            return np.full(self._image_size(record), IGNORE_INDEX, dtype=np.uint8)
        path = io.require(record.scribble, "scribble", record.image_id)
        if self._weak is not None and self._weak.files.get(record.image_id) == path:
            return self._fit(self._weak.draw(record), record)
        folder = self.pseudo_label_dir
        if folder is not None and path.parent / path.stem == folder / record.image_id:
            return self._fit(io.read_label(path, self.num_classes), record)
        if self.is_own_label(path, record):
            return self._fit(io.read_label(path, self.num_classes), record)
        dense = self.label_type == "mask" and self.files.masks.get(record.image_id) == path
        role: LabelRole = "mask" if dense else "scribble"
        return self._fit(self._decode(path, role, record), record)

    def is_own_label(self, path: Path, record: Record) -> bool:
        """Whether a command of this library wrote a label file, see :class:`OwnLabels`.

        Raises:
            LabelFormatError: If it was made for other classes (D401).
        """
        return self._own_labels.wrote(path, record.image_id)

    def read_strokes(self, record: Record) -> StrokeDrawing | None:
        """Polylines of a stroke file that trains, ``None`` for scribbles that are pixels.

        Raises:
            LabelFormatError: If the file is faulty.
        """
        path = record.scribble
        if self.label_type != "scribble" or path is None or path.suffix.lower() != ".xml":
            return None
        return self._read_drawing(path, record)

    def read_mask(self, record: Record) -> NDArray[np.uint8]:
        """Dense ids, uint8, shape ``(H, W)``, 255 = void. Validation and checks only.

        Raises:
            ScribbleNotFoundError: If there is no such file.
            LabelFormatError: If it does not hold ids of the classes.
        """
        path = io.require(record.mask, "mask", record.image_id)
        return self._fit(self._decode(path, "mask", record), record)

    def _decode(self, path: Path, role: LabelRole, record: Record) -> NDArray[np.uint8]:
        if path.suffix.lower() == ".xml":
            return self._read_drawing(path, record).rasterize()
        palette = dict(self.classes.colours)
        if palette:
            palette.setdefault((224, 224, 192), IGNORE_INDEX)
        return io.read_label(
            path,
            self.num_classes,
            unlabelled_value=self.unlabelled_value if role == "scribble" else None,
            ignore=self.classes.ignore,
            palette=palette or None,
            remap=self.classes.remap,
        )

    def _read_drawing(self, path: Path, record: Record) -> StrokeDrawing:
        content = read_scribblesup(path, self._tags, image_size=self._image_size(record))
        return StrokeDrawing(content.strokes, content.size, *self._strokes)

    def _image_size(self, record: Record) -> tuple[int, int]:
        path = io.require(record.image, "image", record.image_id)
        return io.read_header(path, channels=self.in_channels).size

    def _fit(self, label: NDArray[np.uint8], record: Record) -> NDArray[np.uint8]:
        name = str(record.scribble or record.mask)
        label = orient_label(label, record.image, name, channels=self.in_channels)
        if not self.resize_labels:
            return label
        height, width = self._image_size(record)
        if label.shape == (height, width):
            return label
        resized = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
        return np.asarray(resized, dtype=np.uint8)

    def _record(self, stem: str, scribble: Path | None, mask: Path | None) -> Record:
        return Record(stem, self.files.images[stem], scribble, mask, self.group_of(stem))

    def _match(self, listed: Iterable[str], split: str) -> list[str]:
        """Names of the list as stems of images; VOC ids may have lost their underscore."""
        stems = list(listed)
        images = self.files.images
        found = [stem if stem in images else io.voc_stem(stem) for stem in stems]
        self._require_all(found, images, "image", split)
        return found

    def _require_all(
        self, stems: list[str], files: Mapping[str, Path], role: str, split: str
    ) -> None:
        """One error for all that is missing, not one per file."""
        message = missing_files(stems, files, role=role, split=split, place=self._place(role))
        if message:
            raise ScribbleNotFoundError(message)

    def _place(self, role: str) -> str:
        if role == "pseudo-label":
            return str(self.pseudo_label_dir)
        if self._weak is not None and role == self._weak.role:
            return self._weak.place
        return self.files.places.get(role, f"the {role} folder")
