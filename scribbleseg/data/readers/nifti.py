"""NIfTI volumes as stacks of 2-D slices in one orientation, and label stacks written back."""

from __future__ import annotations

import gzip
import io as bytes_io
import zlib
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scribbleseg.errors import LabelFormatError, MissingExtraError, ScribbleNotFoundError
from scribbleseg.functional.image_files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = [
    "NIFTI_SUFFIXES",
    "StackCache",
    "StackHeader",
    "integer_ids",
    "read_stack",
    "read_stack_header",
    "write_nifti_like",
]

NIFTI_SUFFIXES = (".nii.gz", ".nii")

_RAS = (("L", "R"), ("P", "A"), ("I", "S"))


class StackHeader(NamedTuple):
    """What a file says about its slices before its values are read.

    Attributes:
        shape: Number of slices, rows and columns.
        spacing: Distance of neighbouring slices, rows and columns in mm.
        axis: Axis of the slices in RAS orientation: 0 = left-right, 1 = back-front, 2 = feet-head.
        orientation: Where the stored axes point to, such as ``"LPS"``.
    """

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    axis: int
    orientation: str = "RAS"


def _open(path: Path) -> Any:
    """The file, its header read."""
    try:
        import nibabel  # optional package
        from nibabel.filebasedimages import ImageFileError
    except ImportError as error:
        raise MissingExtraError("nibabel", "medical", f"reading {path.name}") from error
    try:
        return nibabel.load(path, mmap=False)
    except FileNotFoundError as error:
        raise ScribbleNotFoundError(f"volume {path} does not exist") from error
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise LabelFormatError(f"D202 {path}: {_DAMAGED.format(error)}") from error


_DAMAGED = "is not a complete NIfTI file ({}); copy it again from its source"


def _to_ras(image: Any) -> NDArray[np.float64]:
    """Axis and direction of every stored axis in RAS, as nibabel writes orientations."""
    import nibabel

    return np.asarray(nibabel.orientations.io_orientation(image.affine))[:3]


def _header(image: Any, path: Path, slice_axis: int | None) -> StackHeader:
    import nibabel

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
    zooms = [float(zoom) for zoom in image.header.get_zooms()[:3]]
    zooms += [1.0] * (3 - len(zooms))
    order = _to_ras(image)[:, 0]
    if np.isnan(order).any():
        raise LabelFormatError(
            f"D203 {path}: its affine has an axis of length 0, so its orientation is unknown; "
            "correct the header, or export the volume again"
        )
    lengths, spacing = [0, 0, 0], [0.0, 0.0, 0.0]
    for stored, target in enumerate(order.astype(int)):
        lengths[target], spacing[target] = shape[stored], zooms[stored]
    axis = slice_axis
    if axis is None:
        # of equal spacings the feet-head axis: those volumes are cut as radiologists read them
        axis = max((2, 1, 0), key=lambda candidate: round(spacing[candidate], 3))
    columns, rows = (other for other in range(3) if other != axis)
    wanted = (axis, rows, columns)
    return StackHeader(
        (lengths[wanted[0]], lengths[wanted[1]], lengths[wanted[2]]),
        (spacing[wanted[0]], spacing[wanted[1]], spacing[wanted[2]]),
        axis,
        "".join(nibabel.orientations.aff2axcodes(image.affine)),
    )


def read_stack_header(path: str | Path, *, slice_axis: int | None = None) -> StackHeader:
    """Number and size of the slices of a volume, without its values.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        slice_axis: Axis of the slices in RAS orientation, 0 to 2; ``None`` = the one with the
            largest spacing, of equal ones the last.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If it is damaged (D202) or no single volume (D203).
        MissingExtraError: If nibabel is not installed.
    """
    path = Path(path)
    return _header(_open(path), path, slice_axis)


def read_stack(path: str | Path, *, slice_axis: int | None = None) -> NDArray[Any]:
    """Values of a volume, slice by slice.

    The volume is brought to RAS orientation, by exchanging and reversing axes only. Rows of a slice
    run from front to back (or from head to feet), columns from left to right (or from back to
    front).

    Args:
        path: See :func:`read_stack_header`.
        slice_axis: See :func:`read_stack_header`.

    Returns:
        Scaled values, shape ``(slices, H, W)`` as :class:`StackHeader` says.

    Raises:
        ScribbleNotFoundError: See :func:`read_stack_header`.
        LabelFormatError: See :func:`read_stack_header`.
        MissingExtraError: See :func:`read_stack_header`.
    """
    path = Path(path)
    image = _open(path)
    header = _header(image, path, slice_axis)
    try:
        values = np.asanyarray(image.dataobj)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise LabelFormatError(f"D202 {path}: {_DAMAGED.format(error)}") from error
    if values.dtype.fields is not None:
        raise LabelFormatError(
            f"D203 {path}: holds colours ({values.dtype}), expected one number per voxel; export a "
            "file per channel"
        )
    values = values.reshape(*values.shape[:3], *(1,) * (3 - values.ndim))
    return _stack_of(values, _to_ras(image), header.axis)


def _stack_of(values: NDArray[Any], orientation: NDArray[np.float64], axis: int) -> NDArray[Any]:
    import nibabel

    canonical = nibabel.orientations.apply_orientation(values, orientation)
    slices = np.moveaxis(canonical, axis, 0).transpose(0, 2, 1)
    return np.ascontiguousarray(slices[:, ::-1])


def _volume_of(slices: NDArray[Any], orientation: NDArray[np.float64], axis: int) -> NDArray[Any]:
    """Inverse of :func:`_stack_of`."""
    import nibabel

    canonical = np.moveaxis(slices[:, ::-1].transpose(0, 2, 1), 0, axis)
    ras = nibabel.orientations.axcodes2ornt("RAS", labels=_RAS)
    back = nibabel.orientations.ornt_transform(ras, orientation)
    return np.ascontiguousarray(nibabel.orientations.apply_orientation(canonical, back))


def integer_ids(values: NDArray[Any], path: str | Path) -> NDArray[np.int32]:
    """Label values as whole numbers; many tools store ids as floating point.

    Raises:
        LabelFormatError: D203, if a value is not a whole number.
    """
    if np.issubdtype(values.dtype, np.integer) or values.dtype == np.bool_:
        small = np.iinfo(np.int32)
        if values.size and not small.min <= int(values.min()) <= int(values.max()) <= small.max:
            raise LabelFormatError(
                f"D101 {path}: holds values from {values.min()} to {values.max()}, expected class "
                "ids and 255; this is no label file"
            )
        return values.astype(np.int32)
    ids: NDArray[np.int32] = np.nan_to_num(values, nan=0.5).round().astype(np.int32)
    wrong = values != ids
    if wrong.any():
        raise LabelFormatError(
            f"D203 {path}: holds values that are no ids, e.g. {values[wrong][0]:g} "
            f"({int(wrong.sum()):,} px); expected whole numbers: was the label file interpolated? "
            "Resample labels by nearest neighbour"
        )
    return ids


def write_nifti_like(
    labels: NDArray[np.integer],
    reference: str | Path,
    path: str | Path,
    *,
    slice_axis: int | None = None,
) -> None:
    """Write label slices as a volume with the affine and the axes of the image they belong to.

    Args:
        labels: Ids 0..255, shape ``(slices, H, W)``, in the order of :func:`read_stack`.
        reference: Image volume that was read.
        path: ``.nii`` or ``.nii.gz``; parent folders are made, the file appears atomically.
        slice_axis: As when the image was read.

    Raises:
        ValueError: If the shape is not that of the reference, or ids do not fit 8 bits.
        ScribbleNotFoundError: If the reference does not exist.
        LabelFormatError: If the reference is no volume.
        MissingExtraError: If nibabel is not installed.
    """
    path, reference = Path(path), Path(reference)
    image = _open(reference)
    header = _header(image, reference, slice_axis)
    if labels.shape != header.shape:
        raise ValueError(
            f"labels have shape {labels.shape}, expected {header.shape} (slices, rows, columns) as "
            f"{reference}"
        )
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) <= 255:
        raise ValueError(f"ids {labels.min()} to {labels.max()} do not fit 8 bits (0..255)")
    import nibabel

    volume = _volume_of(labels.astype(np.uint8), _to_ras(image), header.axis)
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
            raise ScribbleNotFoundError(f"volume {path} does not exist") from error
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
