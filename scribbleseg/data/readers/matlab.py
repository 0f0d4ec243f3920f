"""Label maps in MATLAB files: SBD, and PASCAL Context with its 459 classes."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.data.classes import normalise_name
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["NAMES_459", "names_of_459", "read_459_ids", "read_context_mat", "read_sbd_mat"]

NAMES_459 = "labels.txt"
"""File of the Context release that names the 459 classes of its ``.mat`` files."""


def read_sbd_mat(path: Path) -> NDArray[np.integer]:
    """``GTcls.Segmentation`` of an SBD file, uint8, shape ``(H, W)``.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If it is not such a file (D202).
    """
    return _read(
        path,
        lambda content: np.asarray(content["GTcls"][0]["Segmentation"][0], dtype=np.uint8),
        "a class file of SBD (MATLAB 5 with GTcls.Segmentation): copy benchmark_RELEASE/dataset/cls"
        " again",
    )


def read_context_mat(path: Path, ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``LabelMap`` of a file of PASCAL Context, mapped to other ids, uint8, shape ``(H, W)``.

    Args:
        path: File.
        ids: Id by id of the file, see :func:`read_459_ids`.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If it is not such a file (D202), or holds an id without name (D101).
    """

    def label_map(content: dict[str, Any]) -> NDArray[np.integer]:
        labels = np.asarray(content["LabelMap"])
        if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.unsignedinteger):
            raise ValueError(f"LabelMap is {labels.dtype} of shape {labels.shape}")
        return labels

    raw = _read(
        path,
        label_map,
        "a label file of PASCAL Context (MATLAB 5 with LabelMap): download it again",
    )
    value = int(raw.max()) if raw.size else 0
    if value >= len(ids):
        raise LabelFormatError(
            f"D101 {path}: value {value} on {int((raw == value).sum()):,} px, expected ids "
            f"0-{len(ids) - 1} that {NAMES_459} lists; the two are of different releases"
        )
    return np.asarray(ids[raw], dtype=np.uint8)


def _read(
    path: Path, extract: Callable[[dict[str, Any]], NDArray[np.integer]], expected: str
) -> NDArray[np.integer]:
    # SciPy's reader is slow to import and few data sets need it
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        return extract(loadmat(str(path)))
    except FileNotFoundError as error:
        raise ScribbleNotFoundError(f"mask {path} does not exist") from error
    except (
        MatReadError,
        zlib.error,
        KeyError,
        IndexError,
        ValueError,
        TypeError,
        NotImplementedError,
        OSError,
    ) as error:
        raise LabelFormatError(
            f"D202 {path}: cannot be read ({type(error).__name__}: {error}), expected {expected}"
        ) from error


def read_459_ids(path: Path, class_names: Sequence[str]) -> NDArray[np.uint8]:
    """Ids of files with many classes to ids of fewer, by name.

    Args:
        path: Text file of ``id: name`` lines.
        class_names: Names of the wanted classes; the first takes whatever is none of the others.

    Returns:
        Index in ``class_names`` by id of the file, uint8; ids without name, such as 0, are 0.

    Raises:
        LabelFormatError: If a line is no ``id: name`` or a wanted name is absent (D401), or the
            file is not text (D202).
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise LabelFormatError(
            f"D202 {path}: is not UTF-8 text ({error.reason} at byte {error.start}); take the file "
            "from the release again"
        ) from error
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*(\d{1,4})\s*:\s*(.+?)\s*", line)
        if match is None:
            raise LabelFormatError(
                f"D401 {path}: line {number} is {line[:60]!r}, expected `id: name`; take the file "
                "from the release again"
            )
        names[normalise_name(match[2])] = int(match[1])
    wanted = [normalise_name(name) for name in class_names[1:]]
    absent = [name for name in wanted if name not in names]
    if absent:
        raise LabelFormatError(
            f"D401 {path}: names {len(names)} classes, but not {', '.join(absent)}; expected all "
            f"{len(wanted)}: take the file with 459 names from the release"
        )
    table = np.zeros(max(names.values()) + 1, dtype=np.uint8)
    for index, name in enumerate(wanted, 1):
        table[names[name]] = index
    return table


def names_of_459(path: Path) -> Path | None:
    """The list of names for a ``.mat`` file: beside it, or beside its folder."""
    places = (folder / NAMES_459 for folder in (path.parent, path.parent.parent))
    return next((file for file in places if file.is_file()), None)
