"""Image-level labels: which classes an image shows, from a file or computed from other labels."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.documents import entries_by_stem, read_npz
from scribbleseg.data.lists import voc_stem
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.image_files import write_text
from scribbleseg.functional.manifest import class_difference

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scribbleseg.data.annotations import ClassIds
    from scribbleseg.data.weak import TagOrigin
    from scribbleseg.types import Label

__all__ = ["ImageLabelFile", "present"]

logger = logging.getLogger(__name__)

_SOURCES: dict[TagOrigin, str] = {
    "scribble": "scribbles",
    "annotations": "annotations",
    "mask": "ground_truth",
}
_CONVERT = (
    "convert it once, on a machine where its origin is trusted, to class_labels.json "
    "{stem: [ids]} or to an .npz with one multi-hot vector per stem"
)


class _Stored(NamedTuple):
    """Content of a file: class ids by stem; from what and which files they were computed."""

    labels: dict[str, list[int]]
    source: str | None = None
    digest: str | None = None


class ImageLabelFile:
    """Image-level labels of a data set: the file as it is, or computed and kept beside the data.

    The file is JSON, ``{stem: [ids or names]}`` or what :meth:`compute` writes; or ``.npz`` of
    numbers: a multi-hot vector per stem, or ``stems`` with ``labels`` of shape ``(N, C)``. Vectors
    may leave the background class out.

    Args:
        path: The file; made if it is missing and its suffix is ``.json``.
        origin: ``"file"`` takes the file as it is; the others compute the labels from scribbles,
            boxes or masks; ``None`` = the file if there is one, else the scribbles.
        class_names: One name per class.
        ids: Classes.
        background: Id of the background class, ``None`` if there is none.
    """

    def __init__(
        self,
        path: Path,
        origin: TagOrigin | None,
        class_names: Sequence[str],
        ids: ClassIds,
        background: int | None,
    ) -> None:
        self.path, self.origin = path, origin
        self.class_names, self.ids, self.background = class_names, ids, background

    @cached_property
    def stored(self) -> _Stored | None:
        """Content of the file, ``None`` if the labels are still to be computed.

        Raises:
            ConfigError: If the labels are from another origin than the option says.
            ScribbleNotFoundError: If the file does not exist (D301).
            LabelFormatError: D501 for pickled content or ``.npy``, D101 or D401 for an unknown
                class, D401 for other class names, D202 for another form, D303 for a repeated stem.
        """
        suffix = self.path.suffix.lower()
        if suffix == ".json" and self.origin != "file" and not self.path.is_file():
            return None
        if suffix == ".npy":
            raise LabelFormatError(
                f"D501 {self.path}: a .npy file of labels is a pickled dictionary, which could run "
                f"any program; it is not opened: {_CONVERT}"
            )
        found = _Stored(self._read_vectors()) if suffix == ".npz" else self._read_json()
        if found.digest is not None and found.source not in _SOURCES.values():
            raise LabelFormatError(
                f"D202 {self.path}: `source` is {found.source!r}, expected one of "
                f"{', '.join(_SOURCES.values())}; delete the file to have it made again"
            )
        if found.source == _SOURCES["mask"] and self.origin != "mask":
            raise ConfigError(
                f"{self.path}: these labels were computed from the ground truth masks "
                "(`source: ground_truth`); set `tags_from: mask` if that is meant, or delete the "
                "file to have them computed from the scribbles"
            )
        if self.origin not in (None, "file") and found.source != _SOURCES[self.origin]:
            raise ConfigError(
                f"{self.path}: holds labels from {found.source or 'an unnamed source'}, but "
                f"tags_from={self.origin!r}; set `tags_from: file` to use them, or name another "
                "file with `class_labels`"
            )
        return found

    @property
    def computed_from(self) -> TagOrigin | None:
        """From what the labels must be computed, or were; ``None`` = the file counts as it is."""
        stored = self.stored
        if stored is None:
            return self.origin or "scribble"
        if stored.digest is None or self.origin == "file":
            return None
        # made by an earlier run: its own origin says from what
        return next(origin for origin, name in _SOURCES.items() if name == stored.source)

    def compute(
        self, files: Mapping[str, Label], coding: str, classes_of: Callable[[str], set[int]]
    ) -> dict[str, list[int]]:
        """Labels of all images of a list, unless they are stored and still right; then stored.

        Args:
            files: What they are computed from, by stem.
            coding: Fingerprint of how values of the files become ids.
            classes_of: Class ids of one image.

        Raises:
            ScribbleNotFoundError: If there is nothing to compute them from (D301).
        """
        origin, stored = self.computed_from or "scribble", self.stored
        if not files:
            raise ScribbleNotFoundError(
                f"D301 {self.path}: no such file of image-level labels, and none of the training "
                f"images has a {origin} to compute them from; write {{stem: [classes]}}, or set "
                "`tags_from`"
            )
        digest = _digest(files, coding)
        if stored is not None and stored.digest == digest:
            return stored.labels
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            found = pool.map(classes_of, files)
            shown = tqdm(found, "image-level labels", len(files), unit="image", leave=False)
            labels = {
                stem: sorted(own - {self.background, IGNORE_INDEX})
                for stem, own in zip(files, shown, strict=True)
            }
        content = {
            "source": _SOURCES[origin],
            "digest": digest,
            "class_names": list(self.class_names),
            "class_labels": labels,
        }
        try:
            write_text(self.path, json.dumps(content, ensure_ascii=False) + "\n")
        except OSError as error:
            logger.warning("%s: not stored (%s); made again next time", self.path, error)
        return labels

    def _read_json(self) -> _Stored:
        content = entries_by_stem(self.path, "image-level labels")
        if not isinstance(content.get("class_labels"), dict):
            return _Stored(self._ids_of(content))
        names = content.get("class_names")
        if names is not None and names != list(self.class_names):
            difference = class_difference(names, self.class_names, owner="labels")
            raise LabelFormatError(
                f"D401 {self.path}: these labels have other classes than the data set: "
                f"{difference}; ids would name the wrong classes: delete the file to have it made "
                "again, or list the classes in its order"
            )
        labels = self._ids_of(content["class_labels"])
        return _Stored(labels, content.get("source"), content.get("digest"))

    def _ids_of(self, entries: Mapping[str, object]) -> dict[str, list[int]]:
        labels = {}
        for stem, values in entries.items():
            if not isinstance(values, list):
                raise LabelFormatError(
                    f"D202 {self.path}: classes of {stem!r} are {values!r}, expected a list of "
                    "class ids or names"
                )
            labels[stem] = sorted({self.ids.of(value, self.path, repr(stem)) for value in values})
        return labels

    def _read_vectors(self) -> dict[str, list[int]]:
        arrays = read_npz(self.path, "file of image-level labels", _CONVERT)
        if set(arrays) == {"stems", "labels"}:
            stems, rows = arrays["stems"].ravel(), arrays["labels"]
            if rows.ndim != 2 or len(stems) != len(rows):
                raise LabelFormatError(
                    f"D202 {self.path}: {len(stems)} stems and labels of shape {rows.shape}, "
                    f"expected one row of {len(self.class_names)} values per stem"
                )
            arrays = dict(zip(map(str, stems), rows, strict=True))
        return {
            unicodedata.normalize("NFC", voc_stem(stem)): self._classes_of(vector, stem)
            for stem, vector in arrays.items()
        }

    def _classes_of(self, vector: NDArray[np.generic], stem: str) -> list[int]:
        classes = list(range(len(self.class_names)))
        without = [label for label in classes if label != self.background]
        numeric = np.issubdtype(vector.dtype, np.number) or vector.dtype == np.bool_
        if vector.ndim != 1 or len(vector) not in (len(classes), len(without)) or not numeric:
            lengths = " or ".join(map(str, sorted({len(classes), len(without)}, reverse=True)))
            raise LabelFormatError(
                f"D202 {self.path}: classes of {stem!r} are {vector.dtype} {vector.shape}, "
                f"expected a multi-hot vector of {lengths} numbers"
            )
        wrong = vector[~np.isin(vector, (0, 1))]
        if wrong.size:
            raise LabelFormatError(
                f"D202 {self.path}: classes of {stem!r} hold {wrong[0]}, expected 0 or 1; scores "
                "must be thresholded first"
            )
        meant = classes if len(vector) == len(classes) else without
        return [label for label, shown in zip(meant, vector, strict=True) if shown]


def present(label: NDArray[np.uint8]) -> set[int]:
    """Class ids that occur in a map."""
    counts = np.bincount(label.ravel(), minlength=256)
    return {int(value) for value in np.flatnonzero(counts[:IGNORE_INDEX])}


def _digest(files: Mapping[str, Label], coding: str) -> str:
    """Fingerprint of files by name, size and time, and of how their values become ids."""
    states = []
    for stem, label in files.items():
        state = label.path.stat() if label.path.exists() else None
        states.append((stem, state and (state.st_size, state.st_mtime_ns)))
    return hashlib.sha256(repr((coding, states)).encode()).hexdigest()[:32]
