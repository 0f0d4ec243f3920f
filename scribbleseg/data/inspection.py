"""Look at the files of one sample: decode, compare sizes, count; errors become findings."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import cv2
import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data import io
from scribbleseg.data.findings import Finding, finding_from_error
from scribbleseg.data.scribble_shape import StrokeShape, measure_strokes
from scribbleseg.errors import ScribbleSegError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__ = ["Sample", "explain_contradiction", "inspect_sample"]

_REACH = 8


@dataclass
class Sample:
    """What was seen of one record.

    Attributes:
        record: The record, with its mask where one is known.
        findings: Errors of this sample's files.
        size: Height and width of the image in pixels, ``None`` if it cannot be read.
        high_depth: The image has more than 8 bits per channel.
        raw_size: Height and width before the EXIF rotation, where the file says so.
        digest: SHA-256 of the pixels; ``None`` for an image of one colour.
        mean: Mean of every channel divided by 255, float64, shape ``(K,)``.
        square: Mean of its square, float64, shape ``(K,)``.
        scribble: Pixels per scribble value, int64, shape ``(256,)``.
        mask: Pixels per mask value, int64, shape ``(256,)``.
        contradicting: Labelled pixels whose mask has another class.
        on_void: Labelled pixels whose mask is void.
        shape: Strokes of the scribble, where they were measured.
    """

    record: Record
    findings: list[Finding] = field(default_factory=list)
    size: tuple[int, int] | None = None
    high_depth: bool = False
    raw_size: tuple[int, int] | None = None
    digest: bytes | None = None
    mean: NDArray[np.float64] | None = None
    square: NDArray[np.float64] | None = None
    scribble: NDArray[np.int64] | None = None
    mask: NDArray[np.int64] | None = None
    contradicting: int | None = None
    on_void: int | None = None
    shape: StrokeShape | None = None

    @property
    def labelled(self) -> int:
        """Labelled scribble pixels."""
        return 0 if self.scribble is None else int(self.scribble[:IGNORE_INDEX].sum())

    @property
    def scribble_file(self) -> str:
        """Name of the scribble for messages."""
        return str(self.record.scribble or self.record.image_id)


def inspect_sample(source: ScribbleSource, record: Record, *, strokes: bool = False) -> Sample:
    """Decode image, scribble and mask of a record; never raises for a broken file.

    Args:
        source: Data set that the record is from.
        record: Sample; its mask is compared with the scribble if both exist.
        strokes: Count and measure the strokes of a scribble that labels less than half the image.

    Returns:
        Counts and findings.
    """
    sample = Sample(record)
    _look_at_image(source, sample)
    scribble = _read_label(source.read_scribble, sample, "scribble")
    mask = _read_label(source.read_mask, sample, "mask")
    if scribble is not None:
        sample.scribble = np.bincount(scribble.ravel(), minlength=256)
        if strokes and 0 < 2 * sample.labelled < scribble.size:
            sample.shape = measure_strokes(scribble)
    if mask is not None:
        sample.mask = np.bincount(mask.ravel(), minlength=256)
    if scribble is not None and mask is not None and scribble.shape == mask.shape:
        drawn = scribble != IGNORE_INDEX
        ours, theirs = scribble[drawn], mask[drawn]
        void = theirs == IGNORE_INDEX
        sample.on_void = int(void.sum())
        sample.contradicting = int(((ours != theirs) & ~void).sum())
    return sample


def _look_at_image(source: ScribbleSource, sample: Sample) -> None:
    record = sample.record
    file = None if record.image is None else str(record.image)
    try:
        image = source.read_image(record)
    except Exception as error:  # noqa: BLE001 - a broken file must not hide the others
        sample.findings.append(_named(error, "image", file or record.image_id))
        return
    sample.size = (image.shape[0], image.shape[1])
    if record.image is not None and record.image.is_file():
        # a file that the source can read need not say how deep it is
        with suppress(ScribbleSegError):
            header = io.read_header(record.image, channels=source.in_channels)
            sample.high_depth = header.mode[0] in "IF" or ";16" in header.mode
            sample.raw_size = header.raw_size
    mean, std = _moments(image)
    sample.mean = mean / 255
    sample.square = (std / 255) ** 2 + sample.mean**2
    if std.any():
        # images of one colour, such as empty slices, are equal without being the same
        shape = repr(image.shape).encode()
        sample.digest = hashlib.sha256(shape + np.ascontiguousarray(image).tobytes()).digest()


def _moments(image: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of every channel."""
    parts = [
        # OpenCV counts four channels at a time
        cv2.meanStdDev(np.ascontiguousarray(image[..., first : first + 4]))
        for first in range(0, image.shape[2], 4)
    ]
    mean = np.concatenate([part[0][:, 0] for part in parts])
    return mean, np.concatenate([part[1][:, 0] for part in parts])


def _read_label(
    read: Callable[[Record], NDArray[np.uint8]], sample: Sample, role: str
) -> NDArray[np.uint8] | None:
    record = sample.record
    path = getattr(record, role)
    if path is None and record.image is not None:
        return None
    file = str(path or record.image_id)
    try:
        label = read(record)
    except Exception as error:  # noqa: BLE001 - a broken file must not hide the others
        # a label may need the size of its image, whose fault is told once
        if sample.size is not None or record.image is None or str(record.image) not in str(error):
            sample.findings.append(_named(error, role, file))
        return None
    if sample.size is not None and label.shape != sample.size:
        sample.findings.append(_size_mismatch(sample, label.shape, role, file))
        return None
    if sample.raw_size not in (None, sample.size) and path is not None and path.is_file():
        with suppress(ScribbleSegError):
            if io.read_header(path, channels=1).size == sample.raw_size:
                sample.findings.append(_rotated(sample, role, file))
    return label


def _rotated(sample: Sample, role: str, file: str) -> Finding:
    """A label that was drawn on the frame before the EXIF rotation, which sources rotate."""
    height, width = sample.size or (0, 0)
    return Finding(
        "D201",
        "warning",
        f"{file}: {role} is {height}x{width} (width x height), expected {width}x{height} as "
        f"{sample.record.image} after its EXIF rotation; it is turned like the image when it is "
        "read, which other programs do not do: rotate the label like the image, or remove the EXIF "
        "orientation from the image",
        file,
    )


def _named(error: Exception, role: str, file: str) -> Finding:
    if not isinstance(error, ScribbleSegError):
        error = ScribbleSegError(
            f"D202 {file}: {role} cannot be read ({type(error).__name__}: {error}); copy the file "
            "again from its source"
        )
    return finding_from_error(error, "D202" if file else "D301", file)


def _size_mismatch(sample: Sample, shape: tuple[int, ...], role: str, file: str) -> Finding:
    image = sample.record.image
    height, width = sample.size or (0, 0)
    raw = sample.raw_size
    if raw is not None and raw != sample.size and shape == raw:
        cause = (
            "the label fits the frame before the image's EXIF rotation: rotate the label like the "
            "image, or remove the EXIF orientation from the image"
        )
    elif shape == (width, height):
        cause = "width and height are exchanged: export the label again without transposing it"
    elif abs(shape[0] * width - shape[1] * height) <= max(width, height):
        cause = (
            "same proportions, so it was exported from a resized copy: export it at the image's "
            "size, or set `resize_labels: true`"
        )
    else:
        cause = "it probably belongs to another image: check the pairing of names"
    found = f"{shape[1]}x{shape[0]}"
    return Finding(
        "D201",
        "error",
        f"{file}: {role} is {found} (width x height, {shape[0] * shape[1]:,} px), expected "
        f"{width}x{height} as {image or sample.record.image_id}; {cause}",
        file,
    )


def explain_contradiction(scribble: NDArray[np.uint8], mask: NDArray[np.uint8]) -> str:
    """Which simple change makes a scribble agree with its mask.

    Args:
        scribble: Ids, shape ``(H, W)``, 255 = not drawn.
        mask: Ids, shape ``(H, W)``, 255 = void.

    Returns:
        A clause for a message; empty if no flip or shift of up to 8 px helps.
    """
    rows, columns = np.nonzero(scribble != IGNORE_INDEX)
    labels = scribble[rows, columns]
    height, width = mask.shape

    def wrong(y: NDArray[np.intp], x: NDArray[np.intp]) -> float:
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        truth = mask[y[inside], x[inside]]
        outside = len(labels) - len(truth)
        differs = (truth != labels[inside]) & (truth != IGNORE_INDEX)
        return (int(differs.sum()) + outside) / max(1, len(labels))

    candidates = {
        "flipping it horizontally": wrong(rows, width - 1 - columns),
        "flipping it vertically": wrong(height - 1 - rows, columns),
        "rotating it by 180 degrees": wrong(height - 1 - rows, width - 1 - columns),
    }
    # of equally good shifts the shortest comes first, and min() keeps it
    reach = range(-_REACH, _REACH + 1)
    shifts = sorted(((dx, dy) for dx in reach for dy in reach), key=lambda s: s[0] ** 2 + s[1] ** 2)
    for dx, dy in shifts[1:]:
        candidates[f"shifting it by ({dx}, {dy}) px"] = wrong(rows + dy, columns + dx)
    best = min(candidates, key=lambda name: candidates[name])
    return f"{best} removes most of it" if candidates[best] < 0.25 * wrong(rows, columns) else ""
