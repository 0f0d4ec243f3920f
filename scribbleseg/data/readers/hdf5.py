"""HDF5 files, with what can be wrong with one said in a sentence."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from scribbleseg.errors import (
    LabelFormatError,
    MissingExtraError,
    ScribbleNotFoundError,
    ScribbleSegError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["open_hdf5"]


@contextmanager
def open_hdf5(path: Path, what: str, *, cure: str = "") -> Iterator[Any]:
    """Open a file for reading.

    Args:
        path: HDF5 file.
        what: What it is, such as ``"slice"``, for messages.
        cure: What else helps if it is damaged.

    Yields:
        An ``h5py.File``.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: If it is not a complete HDF5 file (D202).
        MissingExtraError: If h5py is not installed.
    """
    try:
        import h5py  # optional package
    except ImportError as error:
        raise MissingExtraError("h5py", "medical", f"reading {path}") from error
    try:
        with h5py.File(path, "r") as content:
            yield content
    except ScribbleSegError:  # what the reader says of the content; some are OSErrors too
        raise
    except FileNotFoundError as error:
        raise ScribbleNotFoundError(f"D301 {what} {path} does not exist") from error
    except OSError as error:
        raise LabelFormatError(
            f"D202 {path}: is not a complete HDF5 file ({error}); {cure}copy it again from its "
            "source"
        ) from error
