"""Image tags: which classes an image shows, as ``class_labels.json`` or numeric ``.npz``."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scribbleseg.data.lists import voc_stem
from scribbleseg.data.readers.stem_json import class_id, read_json, read_stem_json
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.image_files import write_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["TagFile", "read_class_labels", "write_class_labels"]

_CONVERT = (
    "convert it once, on a machine where its origin is trusted, to class_labels.json "
    "{stem: [ids]} or to an .npz with one multi-hot vector per stem"
)


class TagFile(NamedTuple):
    """Content of a file of tags.

    Attributes:
        labels: Stem to class ids, ascending, each once.
        source: What the tags were computed from (``"scribbles"``, ``"annotations"``,
            ``"ground_truth"``); ``None`` if the file does not say.
        digest: Fingerprint of the files that they were computed from, if there is one.
    """

    labels: dict[str, list[int]]
    source: str | None = None
    digest: str | None = None


def read_class_labels(
    path: str | Path,
    class_names: Sequence[str],
    ids: Mapping[str, int],
    *,
    background: int | None = 0,
) -> TagFile:
    """Tags of all images.

    Args:
        path: ``.json``, either ``{stem: [ids or names]}`` or what :func:`write_class_labels`
            writes; or ``.npz`` of numbers: one multi-hot vector per stem, or ``stems`` with
            ``labels`` of shape ``(N, C)``. Vectors may leave the background class out.
        class_names: One name per class.
        ids: Normalised class name to id.
        background: Id of the background class, ``None`` if there is none.

    Returns:
        Tags by stem, and their origin.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: D501 for pickled content or ``.npy``, D101 or D401 for an unknown class,
            D401 for other class names, D202 for another form, D303 for a repeated stem.
    """
    path = Path(path)
    if path.suffix.lower() == ".npy":
        raise LabelFormatError(
            f"D501 {path}: a .npy file of tags is a pickled dictionary, which could run any "
            f"program; it is not opened: {_CONVERT}"
        )
    if path.suffix.lower() == ".npz":
        return TagFile(_read_npz(path, len(class_names), background))
    content = read_json(path, "tags")
    described = isinstance(content, dict) and isinstance(content.get("class_labels"), dict)
    if not described:
        return TagFile(_ids(read_stem_json(path, "tags"), class_names, ids, path))
    names = content.get("class_names")
    if names is not None and names != list(class_names):
        raise LabelFormatError(
            f"D401 {path}: tags of {len(names)} classes {names[:5]}, the data set has "
            f"{len(class_names)}: {list(class_names[:5])}; ids would name the wrong classes: "
            "delete the file to have it made again, or list the classes in its order"
        )
    labels = _ids(content["class_labels"], class_names, ids, path)
    return TagFile(labels, content.get("source"), content.get("digest"))


def _ids(
    content: Mapping[str, object], class_names: Sequence[str], ids: Mapping[str, int], path: Path
) -> dict[str, list[int]]:
    labels = {}
    for stem, values in content.items():
        if not isinstance(values, list):
            raise LabelFormatError(
                f"D202 {path}: tags of {stem!r} are {values!r}, expected a list of class ids or "
                "names"
            )
        found = {class_id(value, ids, len(class_names), path, repr(stem)) for value in values}
        labels[stem] = sorted(found)
    return labels


def _read_npz(path: Path, num_classes: int, background: int | None) -> dict[str, list[int]]:
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays: dict[str, NDArray[np.generic]] = {key: content[key] for key in content.files}
    except FileNotFoundError as error:
        raise ScribbleNotFoundError(f"D301 {path}: file of tags does not exist") from error
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        pickled = "pickle" in str(error).casefold()
        if pickled:
            raise LabelFormatError(
                f"D501 {path}: holds pickled objects, which could run any program; they are not "
                f"opened: {_CONVERT}"
            ) from error
        raise LabelFormatError(
            f"D202 {path}: is not a complete .npz archive ({error}); copy it again"
        ) from error
    if set(arrays) == {"stems", "labels"}:
        stems = [str(stem) for stem in arrays["stems"].ravel()]
        if arrays["labels"].ndim != 2 or len(stems) != len(arrays["labels"]):
            raise LabelFormatError(
                f"D202 {path}: {len(stems)} stems and labels of shape {arrays['labels'].shape}, "
                f"expected one row of {num_classes} values per stem"
            )
        arrays = dict(zip(stems, arrays["labels"], strict=True))
    return {
        voc_stem(stem): _classes_of(vector, num_classes, background, path, stem)
        for stem, vector in arrays.items()
    }


def _classes_of(
    vector: NDArray[np.generic], num_classes: int, background: int | None, path: Path, stem: str
) -> list[int]:
    lengths = (num_classes,) if background is None else (num_classes, num_classes - 1)
    numeric = np.issubdtype(vector.dtype, np.number) or vector.dtype == np.bool_
    if vector.ndim != 1 or len(vector) not in lengths or not numeric:
        raise LabelFormatError(
            f"D202 {path}: tags of {stem!r} are {vector.dtype} {vector.shape}, expected a "
            f"multi-hot vector of {' or '.join(map(str, lengths))} numbers"
        )
    values = vector.astype(np.float64)
    if not np.isin(values, (0, 1)).all():
        raise LabelFormatError(
            f"D202 {path}: tags of {stem!r} hold {values[~np.isin(values, (0, 1))][0]:g}, expected "
            "0 or 1; scores must be thresholded first"
        )
    if len(vector) < num_classes and background is not None:
        values = np.insert(values, background, 0)
    return [int(label) for label in np.flatnonzero(values)]


def write_class_labels(
    path: str | Path,
    labels: Mapping[str, Sequence[int]],
    class_names: Sequence[str],
    *,
    source: str,
    digest: str | None = None,
) -> None:
    """Write tags with their origin; atomic.

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
