"""Tags of a file source: from a file, or computed from its other labels and kept."""

from __future__ import annotations

import hashlib
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import cv2
import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.readers.tags import TagFile, read_class_labels, write_class_labels
from scribbleseg.data.settings import coding_digest
from scribbleseg.data.sources.weak_reader import WeakReader
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.types import Record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scribbleseg.data.label_types import TagOrigin
    from scribbleseg.data.source import LabelRole

__all__ = ["TagLabels"]

logger = logging.getLogger(__name__)

_ORIGINS: tuple[TagOrigin, ...] = ("scribble", "annotations", "mask")
_SOURCES: dict[TagOrigin, str] = {
    "scribble": "scribbles",
    "annotations": "annotations",
    "mask": "ground_truth",
}


class TagLabels(WeakReader):
    """Tags alone: no pixel is labelled."""

    role = "tag"

    @property
    def place(self) -> str:
        """File of the tags."""
        return str(self._path)

    @cached_property
    def _path(self) -> Path:
        return self.source.root / self.options.class_labels

    @cached_property
    def _labels(self) -> dict[str, list[int]]:
        source, origin = self.source, self.options.tags_from
        found = None
        if self._path.is_file() or origin == "file" or self._path.suffix.lower() != ".json":
            found = read_class_labels(
                self._path, source.class_names, source._tags, background=source.background
            )
            self._check_origin(found)
            if found.digest is None or origin == "file":
                return found.labels
            # made by an earlier run: its own origin says from what
            origin = next(key for key in _ORIGINS if _SOURCES[key] == found.source)
        return self._compute(origin or "scribble", found)

    def _check_origin(self, found: TagFile) -> None:
        origin = self.options.tags_from
        if found.digest is not None and found.source not in _SOURCES.values():
            raise LabelFormatError(
                f"D202 {self._path}: `source` is {found.source!r}, expected one of "
                f"{', '.join(_SOURCES.values())}; delete the file to have it made again"
            )
        if found.source == _SOURCES["mask"] and origin != "mask":
            raise ConfigError(
                f"{self._path}: these tags were computed from the ground truth masks "
                "(`source: ground_truth`); set `tags_from: mask` if that is meant, or delete the "
                "file to have them computed from the scribbles"
            )
        wanted = None if origin is None or origin == "file" else _SOURCES[origin]
        if wanted is not None and found.source != wanted:
            raise ConfigError(
                f"{self._path}: holds tags from {found.source or 'an unnamed source'}, but "
                f"tags_from={origin!r}; set `tags_from: file` to use them, or name another file "
                "with `class_labels`"
            )

    def _compute(self, origin: TagOrigin, earlier: TagFile | None) -> dict[str, list[int]]:
        """Tags of all training images that have the label, stored beside the data."""
        source = self.source
        files: Mapping[str, Path] = source.files.scribbles
        role: LabelRole = "scribble"
        if origin == "annotations":
            files = source.box_files
        elif origin == "mask":
            files, role = source.files.masks, "mask"
        listed = source._match(source._list_stems("train"), "train")
        stems = [stem for stem in listed if stem in files]
        if not stems:
            raise ScribbleNotFoundError(
                f"D301 {self._path}: no such file of tags, and none of the training images has a "
                f"{origin} to compute them from; write {{stem: [classes]}}, or set `tags_from`"
            )
        coding = f"{coding_digest(self.source)} {self.options}"
        digest = _digest(stems, files, coding)
        if earlier is not None and earlier.digest == digest:
            return earlier.labels

        def tags_of(stem: str) -> list[int]:
            record = Record(stem, source.files.images[stem])
            if origin == "annotations":
                found = {box.label for box in source.boxes(record)}
            else:
                found = _present(source._decode(files[stem], role, record))
            return sorted(found - {source.background})

        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            done = tqdm(
                pool.map(tags_of, stems), total=len(stems), unit="image", desc="tags", leave=False
            )
            labels = dict(zip(stems, done, strict=True))
        try:
            write_class_labels(
                self._path, labels, source.class_names, source=_SOURCES[origin], digest=digest
            )
        except OSError as error:
            logger.warning("%s: tags are not stored (%s); made again next time", self._path, error)
        return labels

    def _list_files(self) -> dict[str, Path]:
        return {stem: self._path / stem for stem in self._labels}

    def draw(self, record: Record) -> NDArray[np.uint8]:
        """Nothing is drawn: 255 everywhere."""
        return np.full(self.source._image_size(record), IGNORE_INDEX, dtype=np.uint8)

    def class_labels(self, record: Record) -> list[int] | None:
        """Tags of an image; ``None`` = it has none and may be without.

        Raises:
            ScribbleNotFoundError: If the image has none (D301).
        """
        labels = self._labels.get(record.image_id)
        if labels is None:
            if self.source.on_missing == "unlabelled":
                return None
            raise ScribbleNotFoundError(
                f"D301 {self._path}: no tags of {record.image_id!r}; add them, or remove the image "
                "from its list"
            )
        return labels


def _present(label: NDArray[np.uint8]) -> set[int]:
    counts = cv2.calcHist([label], [0], None, [256], [0, 256]).ravel()
    return {int(value) for value in np.flatnonzero(counts[:IGNORE_INDEX])}


def _digest(stems: Sequence[str], files: Mapping[str, Path], coding: str) -> str:
    """Fingerprint of files by name, size and time, and of how their values become ids."""
    states = [(stem, _state(files[stem])) for stem in stems]
    return hashlib.sha256(repr((coding, states)).encode()).hexdigest()[:32]


def _state(path: Path) -> tuple[int, int]:
    """Size and time of a file, or of the archive or list that a path leads into."""
    for file in (path, *path.parents):
        if file.is_file():
            state = file.stat()
            return state.st_size, state.st_mtime_ns
    return 0, 0
