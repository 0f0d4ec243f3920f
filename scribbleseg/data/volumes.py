"""Volumes as stacks of 2-D slices in one orientation: NIfTI, and data sets of HDF5 files."""

from __future__ import annotations

import gzip
import io as bytes_io
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scribbleseg.data.decode import check_promise, decoding
from scribbleseg.errors import LabelFormatError, MissingExtraError, ScribbleNotFoundError
from scribbleseg.functional.image_files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

__all__ = [
    "NIFTI_SUFFIXES",
    "StackCache",
    "StackHeader",
    "open_hdf5",
    "read_data_set",
    "read_stack",
    "read_stack_header",
    "slice_axis_of",
    "write_nifti_like",
]

NIFTI_SUFFIXES = (".nii.gz", ".nii")

_RAS = (("L", "R"), ("P", "A"), ("I", "S"))
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
        slices, rows, columns = (self.lengths[a] for a in _order(axis))
        return slices, rows, columns

    def spacing(self, axis: int) -> tuple[float, float, float]:
        """Distance of slices, rows and columns in mm if slices lie across an axis."""
        slices, rows, columns = (self.zooms[a] for a in _order(axis))
        return slices, rows, columns


def _order(axis: int) -> tuple[int, int, int]:
    columns, rows = (other for other in range(3) if other != axis)
    return axis, rows, columns


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
def _decoding(path: Path) -> Iterator[None]:
    """Turn whatever nibabel raises into a library error that names the file."""
    try:
        import nibabel  # noqa: F401 (optional package)
        from nibabel.filebasedimages import ImageFileError
        from nibabel.spatialimages import HeaderDataError
    except ImportError as error:
        raise MissingExtraError("nibabel", "medical", f"reading {path.name}") from error
    with decoding(path, "volume", "it is not a complete NIfTI file: copy it again from its source"):
        try:
            yield
        except (ImageFileError, HeaderDataError) as error:
            raise ValueError(str(error)) from error


def _open(path: Path) -> Any:
    """The file, its header read."""
    with _decoding(path):
        import nibabel

        return nibabel.load(path, mmap=False)


def _header(image: Any, path: Path) -> StackHeader:
    import nibabel
    from nibabel.affines import voxel_sizes

    shape = [int(length) for length in image.shape]
    while len(shape) > 3 and shape[-1] == 1:
        shape.pop()
    if len(shape) == 2:
        shape.append(1)
    if len(shape) != 3 or min(shape) < 1:
        raise LabelFormatError(
            f"D203 {path}: has shape {tuple(image.shape)}, expected a volume of three axes; split "
            "time series and channels into one file each"
        )
    check_promise(path, int(np.prod(shape, dtype=np.float64)) * image.get_data_dtype().itemsize)
    order = np.asarray(nibabel.orientations.io_orientation(image.affine))[:3, 0]
    if np.isnan(order).any():
        raise LabelFormatError(
            f"D203 {path}: its affine has an axis of length 0, so its orientation is unknown; "
            "correct the header, or export the volume again"
        )
    unit = _MILLIMETRES.get(image.header.get_xyzt_units()[0], 1.0)
    sizes = voxel_sizes(image.affine) * unit
    lengths, zooms = [0, 0, 0], [0.0, 0.0, 0.0]
    for stored, target in enumerate(order.astype(int)):
        lengths[target], zooms[target] = shape[stored], float(sizes[stored])
    return StackHeader(
        (lengths[0], lengths[1], lengths[2]),
        (zooms[0], zooms[1], zooms[2]),
        "".join(nibabel.orientations.aff2axcodes(image.affine)),
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
    path = Path(path)
    image = _open(path)
    with _decoding(path):
        return _header(image, path)


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
    image = _open(path)
    with _decoding(path):
        import nibabel

        _header(image, path)
        values = np.asanyarray(image.dataobj)
        if values.dtype.fields is not None:
            raise LabelFormatError(
                f"D203 {path}: holds colours ({values.dtype}), expected one number per voxel; "
                "export a file per channel"
            )
        values = values.reshape(*values.shape[:3], *(1,) * (3 - values.ndim))
        stored = nibabel.orientations.io_orientation(image.affine)[:3]
        canonical = nibabel.orientations.apply_orientation(values, stored)
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
        ScribbleNotFoundError: If the reference does not exist.
        LabelFormatError: If the reference is no volume.
        MissingExtraError: If nibabel is not installed.
    """
    path, reference = Path(path), Path(reference)
    image = _open(reference)
    header = _header(image, reference)
    axis = slice_axis_of([header]) if axis is None else axis
    if labels.shape != header.shape(axis):
        raise ValueError(
            f"labels have shape {labels.shape}, expected {header.shape(axis)} (slices, rows, "
            f"columns) as {reference}"
        )
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= 255:
        raise ValueError(f"ids {labels.min()} to {labels.max()} do not fit 8 bits (0..255)")
    import nibabel

    canonical = np.moveaxis(labels.astype(np.uint8)[:, ::-1].transpose(0, 2, 1), 0, axis)
    ras = nibabel.orientations.axcodes2ornt("RAS", labels=_RAS)
    stored_axes = nibabel.orientations.io_orientation(image.affine)[:3]
    back = nibabel.orientations.ornt_transform(ras, stored_axes)
    volume = np.ascontiguousarray(nibabel.orientations.apply_orientation(canonical, back))
    kept = nibabel.Nifti1Header.from_header(image.header)
    kept.set_data_dtype(np.uint8)
    kept.set_slope_inter(1, 0)
    stored = nibabel.Nifti1Image(volume.reshape(image.shape), image.affine, kept)
    data = stored.to_bytes()
    if path.suffix == ".gz":
        packed = bytes_io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as stream:  # same bytes every time
            stream.write(data)
        data = packed.getvalue()
    write_atomic(path, lambda stream: stream.write(data))


class StackCache:
    """The stacks that were used last, up to a number of bytes; each process has its own.

    Training draws slices in random order: without it every slice would decompress its whole volume.

    Args:
        max_bytes: Stacks are dropped, longest unused first, when they take more. One stack is
            always kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._stacks: OrderedDict[tuple[str, int, str], NDArray[Any]] = OrderedDict()
        self._bytes = 0
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
        try:
            changed = path.stat().st_mtime_ns
        except FileNotFoundError as error:
            raise ScribbleNotFoundError(f"D301 volume {path} does not exist") from error
        key = (str(path), changed, kind)
        with self._lock:
            if key in self._stacks:
                self._stacks.move_to_end(key)
                return self._stacks[key]
        stack = load()  # not under the lock: threads read different volumes at once
        with self._lock:
            if key not in self._stacks:
                self._stacks[key] = stack
                self._bytes += stack.nbytes
            while self._bytes > self.max_bytes and len(self._stacks) > 1:
                _, dropped = self._stacks.popitem(last=False)
                self._bytes -= dropped.nbytes
        return stack


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
