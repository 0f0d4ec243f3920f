"""Image-level labels: which classes an image shows, from a file or computed from other labels."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.documents import entries_by_stem, read_json, read_npz
from scribbleseg.data.lists import voc_stem
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.image_files import write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from scribbleseg.data.annotations import ClassIds
    from scribbleseg.data.weak import TagOrigin
    from scribbleseg.types import Label

__all__ = ["ImageLabelFile", "ImageLabels", "present", "read_image_labels", "write_image_labels"]

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


class ImageLabels(NamedTuple):
    """Content of a file of image-level labels.

    Attributes:
        labels: Stem to class ids, ascending, each once.
        source: What they were computed from (``"scribbles"``, ``"annotations"``,
            ``"ground_truth"``); ``None`` if the file does not say.
        digest: Fingerprint of the files that they were computed from, if there is one.
    """

    labels: dict[str, list[int]]
    source: str | None = None
    digest: str | None = None


def read_image_labels(
    path: str | Path,
    class_names: Sequence[str],
    ids: ClassIds,
    *,
    background: int | None = 0,
) -> ImageLabels:
    """Image-level labels of all images.

    Args:
        path: ``.json``, either ``{stem: [ids or names]}`` or what :func:`write_image_labels`
            writes; or ``.npz`` of numbers: one multi-hot vector per stem, or ``stems`` with
            ``labels`` of shape ``(N, C)``. Vectors may leave the background class out.
        class_names: One name per class.
        ids: Classes.
        background: Id of the background class, ``None`` if there is none.

    Returns:
        Labels by stem, and their origin.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: D501 for pickled content or ``.npy``, D101 or D401 for an unknown class,
            D401 for other class names, D202 for another form, D303 for a repeated stem.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        raise LabelFormatError(
            f"D501 {path}: a .npy file of labels is a pickled dictionary, which could run any "
            f"program; it is not opened: {_CONVERT}"
        )
    if path.suffix.lower() == ".npz":
        return ImageLabels(_read_npz(path, len(class_names), background))
    content = read_json(path, "image-level labels")
    described = isinstance(content, dict) and isinstance(content.get("class_labels"), dict)
    if not described:
        return ImageLabels(_ids(entries_by_stem(path, "image-level labels"), ids, path))
    names = content.get("class_names")
    if names is not None and names != list(class_names):
        raise LabelFormatError(
            f"D401 {path}: labels of {len(names)} classes {names[:5]}, the data set has "
            f"{len(class_names)}: {list(class_names[:5])}; ids would name the wrong classes: "
            "delete the file to have it made again, or list the classes in its order"
        )
    labels = _ids(content["class_labels"], ids, path)
    return ImageLabels(labels, content.get("source"), content.get("digest"))


def _ids(content: Mapping[str, object], ids: ClassIds, path: Path) -> dict[str, list[int]]:
    labels = {}
    for stem, values in content.items():
        if not isinstance(values, list):
            raise LabelFormatError(
                f"D202 {path}: classes of {stem!r} are {values!r}, expected a list of class ids or "
                "names"
            )
        found = {ids.of(value, path, repr(stem)) for value in values}
        labels[stem] = sorted(found)
    return labels


def _read_npz(path: Path, num_classes: int, background: int | None) -> dict[str, list[int]]:
    arrays = read_npz(path, "file of image-level labels", _CONVERT)
    if set(arrays) == {"stems", "labels"}:
        stems = [str(stem) for stem in arrays["stems"].ravel()]
        if arrays["labels"].ndim != 2 or len(stems) != len(arrays["labels"]):
            raise LabelFormatError(
                f"D202 {path}: {len(stems)} stems and labels of shape {arrays['labels'].shape}, "
                f"expected one row of {num_classes} values per stem"
            )
        arrays = dict(zip(stems, arrays["labels"], strict=True))
    labels = {}
    for stem, vector in arrays.items():
        name = unicodedata.normalize("NFC", voc_stem(stem))
        labels[name] = _classes_of(vector, num_classes, background, path, stem)
    return labels


def _classes_of(
    vector: NDArray[np.generic], num_classes: int, background: int | None, path: Path, stem: str
) -> list[int]:
    lengths = (num_classes,) if background is None else (num_classes, num_classes - 1)
    numeric = np.issubdtype(vector.dtype, np.number) or vector.dtype == np.bool_
    if vector.ndim != 1 or len(vector) not in lengths or not numeric:
        raise LabelFormatError(
            f"D202 {path}: classes of {stem!r} are {vector.dtype} {vector.shape}, expected a "
            f"multi-hot vector of {' or '.join(map(str, lengths))} numbers"
        )
    values = vector.astype(np.float64)
    wrong = values[~np.isin(values, (0, 1))]
    if wrong.size:
        raise LabelFormatError(
            f"D202 {path}: classes of {stem!r} hold {wrong[0]:g}, expected 0 or 1; scores must be "
            "thresholded first"
        )
    if len(vector) < num_classes and background is not None:
        values = np.insert(values, background, 0)
    return [int(label) for label in np.flatnonzero(values)]


def write_image_labels(
    path: str | Path,
    labels: Mapping[str, Sequence[int]],
    class_names: Sequence[str],
    *,
    source: str,
    digest: str | None = None,
) -> None:
    """Write image-level labels with their origin; atomic.

    Args:
        path: JSON file to write.
        labels: Stem to class ids.
        class_names: One name per class, index = id.
        source: What they were computed from; ``"ground_truth"`` for dense masks.
        digest: Fingerprint of the files that they were computed from.
    """
    content = {
        "source": source,
        "digest": digest,
        "class_names": list(class_names),
        "class_labels": {stem: [int(label) for label in ids] for stem, ids in labels.items()},
    }
    write_text(Path(path), json.dumps(content, ensure_ascii=False) + "\n")


class ImageLabelFile:
    """Image-level labels of a data set: the file as it is, or computed and kept beside the data.

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
    def stored(self) -> ImageLabels | None:
        """Content of the file, ``None`` if the labels are still to be computed.

        Raises:
            ConfigError: If the labels are from another origin than the option says.
            ScribbleSegError: If the file cannot be read.
        """
        if not (
            self.path.is_file() or self.origin == "file" or self.path.suffix.lower() != ".json"
        ):
            return None
        found = read_image_labels(self.path, self.class_names, self.ids, background=self.background)
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
        wanted = None if self.origin in (None, "file") else _SOURCES[self.origin]
        if wanted is not None and found.source != wanted:
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
        self,
        files: Mapping[str, Label],
        coding: str,
        classes_of: Callable[[str], set[int]],
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
            found = tqdm(
                pool.map(classes_of, files),
                total=len(files),
                unit="image",
                desc="image-level labels",
                leave=False,
            )
            labels = {
                stem: sorted(own - {self.background, IGNORE_INDEX})
                for stem, own in zip(files, found, strict=True)
            }
        name = _SOURCES[origin]
        try:
            write_image_labels(self.path, labels, self.class_names, source=name, digest=digest)
        except OSError as error:
            logger.warning("%s: not stored (%s); made again next time", self.path, error)
        return labels


def present(label: NDArray[np.uint8]) -> set[int]:
    """Class ids that occur in a map."""
    counts = cv2.calcHist([label], [0], None, [256], [0, 256]).ravel()
    return {int(value) for value in np.flatnonzero(counts[:IGNORE_INDEX])}


def _digest(files: Mapping[str, Label], coding: str) -> str:
    """Fingerprint of files by name, size and time, and of how their values become ids."""
    states = []
    for stem, label in files.items():
        state = label.path.stat() if label.path.exists() else None
        states.append((stem, state and (state.st_size, state.st_mtime_ns)))
    return hashlib.sha256(repr((coding, states)).encode()).hexdigest()[:32]
