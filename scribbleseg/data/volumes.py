"""Volumes as stacks of 2-D slices in one orientation (NIfTI), HDF5 files, and ``spacing.json``."""

from __future__ import annotations

import gzip
import json
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scribbleseg.data.decode import check_promise, decoding
from scribbleseg.data.documents import is_number
from scribbleseg.errors import LabelFormatError, MissingExtraError
from scribbleseg.functional.image_files import write_atomic, write_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from scribbleseg.types import Record

__all__ = [
    "NIFTI_SUFFIXES",
    "Spacing",
    "StackCache",
    "StackHeader",
    "open_hdf5",
    "read_data_set",
    "read_spacings",
    "read_stack",
    "read_stack_header",
    "slice_axis_of",
    "write_nifti_like",
    "write_spacings",
]

NIFTI_SUFFIXES = (".nii.gz", ".nii")

Spacing = tuple[float, float, float]
"""Distance of neighbouring slices, rows and columns, mm."""

_SPACING_FILE = "spacing.json"  # of a plain folder, whose images hold no distances
_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001}


class StackHeader(NamedTuple):
    """What a file says about its voxels before their values are read; axes are in RAS order.

    RAS: axis 0 runs from left to right, 1 from back to front, 2 from feet to head.

    Attributes:
        lengths: Number of voxels along each axis.
        zooms: Distance of neighbouring voxels along each axis in mm.
        orientation: Where the stored axes point to, such as ``"LPS"``.
        affine: Voxel to position in the units of the file, shape ``(4, 4)``.
    """

    lengths: tuple[int, int, int]
    zooms: tuple[float, float, float]
    orientation: str
    affine: NDArray[np.float64]

    def shape(self, axis: int) -> tuple[int, int, int]:
        """Slices, rows and columns if slices lie across an axis."""
        columns, rows = (length for other, length in enumerate(self.lengths) if other != axis)
        return self.lengths[axis], rows, columns

    def spacing(self, axis: int) -> Spacing:
        """Distance of slices, rows and columns in mm if slices lie across an axis."""
        columns, rows = (zoom for other, zoom in enumerate(self.zooms) if other != axis)
        return self.zooms[axis], rows, columns


def slice_axis_of(headers: list[StackHeader]) -> int:
    """The one axis across which a data set is sliced: that of the largest median spacing.

    Of equal spacings it is the feet-head axis: those volumes are cut as radiologists read them.
    Files of a single slice are not cut any further.
    """
    flat = [axis for axis in range(3) if all(header.lengths[axis] == 1 for header in headers)]
    if len(flat) == 1:
        return flat[0]
    median = np.median([header.zooms for header in headers], axis=0)
    return max((2, 1, 0), key=lambda axis: round(float(median[axis]), 3))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, StackHeader]]:
    """A file whose header is read and checked; what nibabel raises becomes a library error."""
    try:
        import nibabel  # optional package
        from nibabel.filebasedimages import ImageFileError
        from nibabel.spatialimages import HeaderDataError
    except ImportError as error:
        raise MissingExtraError("nibabel", "medical", f"reading {path.name}") from error
    with decoding(path, "volume", "it is not a complete NIfTI file: copy it again from its source"):
        try:
            image = nibabel.load(path, mmap=False)
            yield image, _header(image, path)
        except (ImageFileError, HeaderDataError) as error:
            raise ValueError(str(error)) from error


def _header(image: Any, path: Path) -> StackHeader:
    from nibabel.affines import voxel_sizes
    from nibabel.orientations import aff2axcodes, io_orientation

    shape = (*map(int, image.shape), 1)[:3]
    if len(shape) < 3 or min(shape) < 1 or {*image.shape[3:]} - {1}:
        raise LabelFormatError(
            f"D203 {path}: has shape {tuple(image.shape)}, expected a volume of three axes; split "
            "time series and channels into one file each"
        )
    check_promise(path, int(np.prod(shape, dtype=np.float64)) * image.get_data_dtype().itemsize)
    axes = io_orientation(image.affine)[:3, 0]
    if np.isnan(axes).any():
        raise LabelFormatError(
            f"D203 {path}: its affine has an axis of length 0, so its orientation is unknown; "
            "correct the header, or export the volume again"
        )
    zooms = voxel_sizes(image.affine) * _MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    x, y, z = np.argsort(axes).tolist()  # the stored axis of every RAS axis
    return StackHeader(
        (shape[x], shape[y], shape[z]),
        (float(zooms[x]), float(zooms[y]), float(zooms[z])),
        "".join(aff2axcodes(image.affine)),
        np.asarray(image.affine, np.float64),
    )


def read_stack_header(path: str | Path) -> StackHeader:
    """Size, spacing and orientation of a volume, without its values.

    Args:
        path: ``.nii`` or ``.nii.gz``.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: If it is damaged (D202) or no single volume (D203).
        MissingExtraError: If nibabel is not installed.
    """
    with _opened(Path(path)) as (_, header):
        return header


def read_stack(path: str | Path, axis: int) -> NDArray[Any]:
    """Values of a volume, slice by slice.

    The volume is brought to RAS orientation, by exchanging and reversing axes only. Rows of a slice
    run from front to back (or from head to feet), columns from left to right (or from back to
    front).

    Args:
        path: See :func:`read_stack_header`.
        axis: Axis of the slices in RAS orientation, 0 to 2.

    Returns:
        Scaled values, shape ``(slices, H, W)``.

    Raises:
        ScribbleSegError: See :func:`read_stack_header`.
    """
    path = Path(path)
    with _opened(path) as (image, _):
        from nibabel.orientations import apply_orientation, io_orientation

        values = np.asanyarray(image.dataobj)
        if values.dtype.fields is not None:
            raise LabelFormatError(
                f"D203 {path}: holds colours ({values.dtype}), expected one number per voxel; "
                "export a file per channel"
            )
        values = values.reshape((*values.shape, 1)[:3])
        canonical = apply_orientation(values, io_orientation(image.affine)[:3])
        slices = np.moveaxis(canonical, axis, 0).transpose(0, 2, 1)
        return np.ascontiguousarray(slices[:, ::-1])


def write_nifti_like(
    labels: NDArray[np.integer],
    reference: str | Path,
    path: str | Path,
    *,
    axis: int | None = None,
) -> None:
    """Write label slices as a volume with the affine and the axes of the image they belong to.

    Args:
        labels: Ids 0..255, shape ``(slices, H, W)``, in the order of :func:`read_stack`.
        reference: Image volume that was read.
        path: ``.nii`` or ``.nii.gz``; parent folders are made, the file appears atomically.
        axis: Axis of the slices as when the image was read; by default that of the largest
            spacing.

    Raises:
        ValueError: If the shape is not that of the reference, or ids do not fit 8 bits.
        ScribbleSegError: See :func:`read_stack_header`, of the reference.
    """
    with _opened(Path(reference)) as (image, header):
        axis = slice_axis_of([header]) if axis is None else axis
    if labels.shape != header.shape(axis):
        raise ValueError(
            f"labels have shape {labels.shape}, expected {header.shape(axis)} (slices, rows, "
            f"columns) as {reference}"
        )
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= 255:
        raise ValueError(f"ids {labels.min()} to {labels.max()} do not fit 8 bits (0..255)")
    import nibabel
    from nibabel.orientations import apply_orientation, axcodes2ornt, ornt_transform

    canonical = np.moveaxis(labels.astype(np.uint8)[:, ::-1].transpose(0, 2, 1), 0, axis)
    back = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(header.orientation))
    volume = np.ascontiguousarray(apply_orientation(canonical, back)).reshape(image.shape)
    kept = nibabel.Nifti1Header.from_header(image.header)
    kept.set_data_dtype(np.uint8)
    kept.set_slope_inter(1, 0)
    data = nibabel.Nifti1Image(volume, image.affine, kept).to_bytes()
    if Path(path).suffix == ".gz":
        data = gzip.compress(data, mtime=0)  # the same bytes every time
    write_atomic(Path(path), lambda stream: stream.write(data))


class StackCache:
    """The stacks that were used last, so that not every slice decompresses its whole volume.

    Args:
        max_bytes: Stacks are dropped, longest unused first, when they take more. One stack is
            always kept. Each process has its own cache.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._stacks: dict[tuple[str, int, str], NDArray[Any]] = {}  # the one used last is last
        self._lock = Lock()

    def __reduce__(self) -> tuple[type[StackCache], tuple[int]]:
        """A copy for another process starts empty."""
        return StackCache, (self.max_bytes,)

    def get(self, path: Path, kind: str, load: Callable[[], NDArray[Any]]) -> NDArray[Any]:
        """The stack of a file; ``load`` makes it if it is not there or the file has changed.

        Args:
            path: Volume file.
            kind: What ``load`` makes of it.
            load: Called without arguments.
        """
        key = (str(path), path.stat().st_mtime_ns if path.exists() else 0, kind)
        with self._lock:
            if key in self._stacks:
                self._stacks[key] = self._stacks.pop(key)
                return self._stacks[key]
        stack = load()  # not under the lock: threads read different volumes at once
        with self._lock:
            self._stacks[key] = stack
            used = sum(kept.nbytes for kept in self._stacks.values())
            while used > self.max_bytes and len(self._stacks) > 1:
                used -= self._stacks.pop(next(iter(self._stacks))).nbytes
        return stack


@contextmanager
def open_hdf5(path: Path, what: str, *, cure: str = "") -> Iterator[Any]:
    """Open an ``h5py.File`` for reading.

    Args:
        path: HDF5 file.
        what: What it is, such as ``"slice"``, for messages.
        cure: What else helps if it is damaged.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: If it is not a complete HDF5 file (D202).
        MissingExtraError: If h5py is not installed.
    """
    try:
        import h5py  # optional package
    except ImportError as error:
        raise MissingExtraError("h5py", "medical", f"reading {path}") from error
    whole = f"it is not a complete HDF5 file: {cure}copy it again from its source"
    with decoding(path, what, whole), h5py.File(path, "r") as content:
        yield content


def read_data_set(content: Any, key: str, path: Path) -> Any:
    """Values of a data set of an open HDF5 file: an array, or a scalar such as a text.

    Raises:
        LabelFormatError: If its header promises more than the file holds (D202).
    """
    stored = content[key]
    size = int(np.prod(stored.shape, dtype=np.float64)) * stored.dtype.itemsize
    check_promise(path, size, min(stored.id.get_storage_size(), path.stat().st_size))
    return stored[()]


def read_spacings(root: Path) -> dict[str, Spacing]:
    """Distances by stem or group, empty without such a file.

    Args:
        root: Plain folder.

    Raises:
        LabelFormatError: If the file does not map names to three positive numbers (D202).
    """
    path = root / _SPACING_FILE
    cure = "expected {stem or group: [slices, rows, columns]} in mm; correct or remove the file"
    if not path.is_file():  # a pipe would never end
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # bad JSON or bad UTF-8
        raise LabelFormatError(f"D202 {path}: is not valid JSON ({error}); {cure}") from error
    if not isinstance(content, dict):
        raise LabelFormatError(f"D202 {path}: is a {type(content).__name__}; {cure}")
    spacings: dict[str, Spacing] = {}
    for name, value in content.items():
        numbers = value if isinstance(value, list) else ()
        if len(numbers) != 3 or not all(is_number(number) and number > 0 for number in numbers):
            raise LabelFormatError(f"D202 {path}: {name!r} has {value!r}; {cure}")
        spacings[name] = (float(numbers[0]), float(numbers[1]), float(numbers[2]))
    return spacings


def write_spacings(root: Path, records: Sequence[Record], *, by_group: bool) -> None:
    """Add the distances of records to those that are there; no file if none is known.

    Args:
        root: Plain folder.
        records: Samples.
        by_group: Name groups, such as volumes, in place of all their images; images of groups
            whose images differ are named one by one.
    """
    if all(record.spacing is None for record in records):
        return
    of_group: dict[str | None, set[Spacing | None]] = {}
    for record in records:
        of_group.setdefault(record.group, set()).add(record.spacing)
    spacings = read_spacings(root)
    for record in records:
        if record.spacing is not None:
            shared = by_group and len(of_group[record.group]) == 1
            spacings[(shared and record.group) or record.image_id] = record.spacing
    lines = [f"{json.dumps(name)}: {json.dumps(list(spacings[name]))}" for name in sorted(spacings)]
    write_text(root / _SPACING_FILE, "{\n" + ",\n".join(lines) + "\n}\n")
