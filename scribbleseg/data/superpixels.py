"""Superpixels from files, in the forms that this library and others write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.data.images import read_header, read_pixels
from scribbleseg.data.labels import whole_numbers
from scribbleseg.data.lists import find_images
from scribbleseg.data.volumes import open_hdf5, read_data_set
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SUPERPIXEL_FILL", "find_superpixels", "read_superpixels"]

SUPERPIXEL_FILL = -1
"""Id of pixels without superpixel, such as padding; 65535 in a 16-bit file."""

_NONE = 65535
_KEYS = ("superpixels", "var1", "L", "W")
_HDF5 = {".mat", ".h5", ".hdf5"}


def read_superpixels(path: str | Path, *, size: tuple[int, int] | None = None) -> NDArray[np.int32]:
    """Superpixel ids of one image.

    Time and memory O(H·W).

    Args:
        path: PNG of one channel with ids from 0 (65535 = none), or MATLAB 7.3 / HDF5 with one of
            the data sets ``superpixels``, ``var1``, ``L``, ``W``: transposed, ids from 1.
        size: Height and width of the image, pixels; checked if given.

    Returns:
        Ids from 0, -1 = none, int32, shape ``(H, W)``.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If it cannot be read (D202), holds something else than ids (D101, D103),
            or has another size (D201).
        MissingExtraError: If h5py is not installed (extra ``medical``) and needed.
    """
    path = Path(path)
    if path.suffix.lower() in _HDF5:
        regions = _from_hdf5(path)
    else:
        values = read_pixels(path, what="file of superpixels").values
        if values.ndim != 2:
            raise LabelFormatError(
                f"D103 {path}: holds colours, expected one channel of ids; this is a picture: "
                "check the folder"
            )
        regions = whole_numbers(values, path).astype(np.int32)
        regions[regions == _NONE] = SUPERPIXEL_FILL
    if (regions < SUPERPIXEL_FILL).any():
        value = int(regions.min())
        raise LabelFormatError(
            f"D101 {path}: value {value} on {int((regions == value).sum()):,} px, expected ids of "
            "at least 0; make the superpixels again"
        )
    if size is not None and regions.shape != tuple(size):
        raise LabelFormatError(
            f"D201 {path}: superpixels are {regions.shape[1]}x{regions.shape[0]} (width x height), "
            f"the image is {size[1]}x{size[0]}; make them again from the images that are trained "
            "on"
        )
    return regions


def find_superpixels(folder: str | Path) -> dict[str, Path]:
    """Files of a cache by stem: 16-bit PNG, or ``.mat`` and ``.h5`` of other projects.

    Args:
        folder: Folder of the cache.

    Returns:
        Stem relative to ``folder`` to file; the overview is left out.

    Raises:
        ScribbleNotFoundError: If the folder does not exist (D301).
        LabelFormatError: If a link leaves it (D501).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ScribbleNotFoundError(
            f"D301 {folder}: folder of superpixels does not exist; make it with `python -m "
            "scribbleseg.data superpixels ROOT --out DIR`"
        )
    found = find_images(folder, suffixes=(".png", *sorted(_HDF5)), unique=False)
    # 8 bits of three channels can only be the picture, whatever it is called
    return {
        stem: path
        for stem, path in found.items()
        if not (stem.strip("_") == "overview" and read_header(path).colour)
    }


def _from_hdf5(path: Path) -> NDArray[np.int32]:
    cure = "save it in MATLAB with the option -v7.3, or "
    with open_hdf5(path, "file of superpixels", cure=cure) as content:
        # a group has no shape
        found = [key for key in _KEYS if hasattr(content.get(key), "shape")]
        if not found:
            raise LabelFormatError(
                f"D202 {path}: holds {sorted(content)[:5]}, expected one of {list(_KEYS)}; rename "
                "the data set, or write 16-bit PNGs"
            )
        stored: NDArray[Any] = read_data_set(content, found[0], path)
    values = np.squeeze(stored)
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise LabelFormatError(
            f"D202 {path}: {found[0]!r} is {stored.dtype} of shape {stored.shape}, expected one "
            "number per pixel"
        )
    ids = values.astype(np.int64)
    wrong = (ids != values) | (ids < 1)
    if wrong.any():
        raise LabelFormatError(
            f"D101 {path}: {found[0]!r} has value {values[wrong][0]:g} on "
            f"{int((values == values[wrong][0]).sum()):,} px, expected whole numbers from 1, as "
            "MATLAB counts; write 16-bit PNGs if ids start at 0"
        )
    # MATLAB stores columns first
    return np.ascontiguousarray(ids.T - 1).astype(np.int32)
