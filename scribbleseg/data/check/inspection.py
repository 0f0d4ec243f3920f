"""Look at the files of one sample: decode, compare sizes, count; errors become findings."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.check.findings import Finding, caught, finding_from_error, found
from scribbleseg.data.images import read_header
from scribbleseg.errors import ScribbleSegError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__: list[str] = []

_REACH = 8


def _no_counts() -> NDArray[np.int64]:
    return np.zeros(256, dtype=np.int64)


@dataclass
class Sample:
    """What was seen of one record; counts are int64, shape ``(256,)``, all 0 if nothing was."""

    record: Record  # with its mask where one is known
    findings: list[Finding] = field(default_factory=list)  # errors of this sample's files
    size: tuple[int, int] | None = None  # height and width of the image, if it can be read
    raw_size: tuple[int, int] | None = None  # before the EXIF rotation, where the file says so
    high_depth: bool = False  # more than 8 bits per channel
    digest: bytes | None = None  # of the pixels; None for an image of one colour
    moments: NDArray[np.float64] | None = None  # mean, mean square of the channels / 255, (2, K)
    scribble: NDArray[np.int64] = field(default_factory=_no_counts)  # pixels per value
    stored: dict[str, Mapping[int, int]] = field(default_factory=dict)  # of labels that hold no ids
    mask: NDArray[np.int64] = field(default_factory=_no_counts)  # pixels per value
    contradicting: int = 0  # labelled pixels whose mask has another class
    on_void: NDArray[np.int64] = field(default_factory=_no_counts)  # labelled pixels, mask void
    strokes: NDArray[np.float64] | None = None  # see measure_strokes, where they were measured

    @property
    def labelled(self) -> int:
        """Labelled scribble pixels."""
        return int(self.scribble[:IGNORE_INDEX].sum())

    @property
    def compared(self) -> bool:
        """Whether both scribble and mask were read."""
        return bool(self.scribble.any() and self.mask.any())

    def file(self, role: str) -> str:
        """Name of the image, scribble or mask for messages."""
        return str(getattr(self.record, role) or self.record.image_id)


def inspect_sample(source: ScribbleSource, record: Record, *, strokes: bool = False) -> Sample:
    """Decode and count image, scribble and mask of a record; faults become its findings.

    With ``strokes``, the strokes of a scribble that labels less than half the image are measured.
    """
    sample = Sample(record)
    with caught(sample.findings, "D202", sample.file("image")):
        sample.record = source.with_mask(record)
        _look_at_image(source, sample)
    scribble = _read_label(source.read_scribble, sample, "scribble")
    mask = _read_label(source.read_mask, sample, "mask")
    if scribble is not None:
        sample.scribble = np.bincount(scribble.ravel(), minlength=256)
        if strokes and 0 < 2 * sample.labelled < scribble.size:
            sample.strokes = measure_strokes(scribble)
    if mask is not None:
        sample.mask = np.bincount(mask.ravel(), minlength=256)
    if scribble is not None and mask is not None and scribble.shape == mask.shape:
        differs, void = (scribble != mask) & (scribble != IGNORE_INDEX), mask == IGNORE_INDEX
        sample.on_void = np.bincount(scribble[differs & void], minlength=256)
        sample.contradicting = int((differs & ~void).sum())
    return sample


def _look_at_image(source: ScribbleSource, sample: Sample) -> None:
    image = source.read_image(sample.record)
    sample.size = (image.shape[0], image.shape[1])
    path = Path(sample.file("image"))
    if path.is_file():
        with suppress(ScribbleSegError):  # a file that the source can read need not say its depth
            header = read_header(path, channels=source.in_channels)
            sample.high_depth = header.deep
            sample.raw_size = header.raw_size
    parts = [
        # OpenCV counts four channels at a time
        np.concatenate(cv2.meanStdDev(np.ascontiguousarray(image[..., first : first + 4])), axis=1)
        for first in range(0, image.shape[2], 4)
    ]
    mean, std = np.concatenate(parts).T / 255
    sample.moments = np.stack([mean, std**2 + mean**2])
    if std.any():  # images of one colour, such as empty slices, are equal without being the same
        content = np.ascontiguousarray(image).tobytes()
        sample.digest = hashlib.sha256(repr(image.shape).encode() + content).digest()


def _read_label(
    read: Callable[[Record], NDArray[np.uint8]], sample: Sample, role: str
) -> NDArray[np.uint8] | None:
    record, file = sample.record, sample.file(role)
    if getattr(record, role) is None and record.image is not None:
        return None
    try:
        label = read(record)
    except Exception as error:  # noqa: BLE001 - a broken file must not hide the others
        # a label may need the size of its image, whose fault is told once
        if sample.size is not None or record.image is None or str(record.image) not in str(error):
            sample.findings.append(finding_from_error(error, "D202", file))
        if values := getattr(error, "values", None):
            sample.stored[role] = values
        return None
    if sample.size is not None and label.shape != sample.size:
        sample.findings.append(_size_mismatch(sample, label.shape, role))
        return None
    if sample.size is not None and sample.raw_size not in (None, sample.size):
        with suppress(ScribbleSegError, OSError):
            if read_header(file, channels=1).size == sample.raw_size:
                sample.findings.append(_size_mismatch(sample, sample.raw_size, role, turned=True))
    return label


def _size_mismatch(
    sample: Sample, shape: tuple[int, ...], role: str, *, turned: bool = False
) -> Finding:
    """A label of another size; ``turned`` = the source has rotated it like the image."""
    height, width = sample.size or (0, 0)
    mend = "rotate the label like the image, or remove the EXIF orientation from the image"
    rotation, pixels = "", f", {shape[0] * shape[1]:,} px"
    if turned:
        pixels, rotation = "", " after its EXIF rotation"
        cause = "it is turned like the image when it is read, which other programs do not do: "
        cause += mend
    elif shape == sample.raw_size:
        cause = f"the label fits the frame before the image's EXIF rotation: {mend}"
    elif shape == (width, height):
        cause = "width and height are exchanged: export the label again without transposing it"
    elif abs(shape[0] * width - shape[1] * height) <= max(width, height):
        cause = (
            "same proportions, so it was exported from a resized copy: export it at the image's "
            "size, or set `resize_labels: true`"
        )
    else:
        cause = "it probably belongs to another image: check the pairing of names"
    text = (
        f"{role} is {shape[1]}x{shape[0]} (width x height{pixels}), expected {width}x{height} as "
        f"{sample.file('image')}{rotation}; {cause}"
    )
    return found("D201", "warning" if turned else "error", sample.file(role), text)


def measure_strokes(labels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Count the strokes of a scribble and measure their width.

    The width is twice the distance from the middle line to the nearest pixel that is not of the
    stroke, exact for straight bars along the axes and for discs, and within about half a pixel for
    other strokes.

    Args:
        labels: Ids, uint8, shape ``(H, W)``, 255 = unlabelled.

    Returns:
        Per id the connected pieces (8 neighbours), the sum of the stroke width in pixels over the
        middle lines, and their length, shape ``(3, 256)``: the mean width is ``sum / length``.

    Example:
        >>> labels = np.full((9, 20), 255, np.uint8)
        >>> labels[2:5, 2:8], labels[2:5, 12:18], labels[7, 3:15] = 1, 1, 2
        >>> pieces, width, length = measure_strokes(labels)[:, 1:3]
        >>> pieces.tolist(), (width / length).tolist()
        ([2.0, 1.0], [3.0, 1.0])
    """
    found = np.zeros((3, 256))
    for label in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[:IGNORE_INDEX]):
        drawn = (labels == label).astype(np.uint8)
        left, top, width, height = cv2.boundingRect(drawn)
        drawn = np.pad(drawn[top : top + height, left : left + width], 1)
        pieces, _ = cv2.connectedComponents(drawn, connectivity=8)
        # at twice the size the middle of an even width lies on pixels as well
        twice = cv2.resize(drawn, None, fx=2, fy=2, interpolation=cv2.INTER_NEAREST)
        distance = cv2.distanceTransform(twice, cv2.DIST_L2, 5)
        highest = cv2.dilate(distance, np.ones((3, 3), np.uint8))
        middle = distance[(distance >= highest) & (twice > 0)]
        found[:, label] = pieces - 1, middle.sum(dtype=np.float64), middle.size
    return found


def explain_contradiction(scribble: NDArray[np.uint8], mask: NDArray[np.uint8]) -> str:
    """Which flip or shift of up to 8 px makes a scribble agree with its mask: a clause, or ''."""
    rows, columns = np.nonzero(scribble != IGNORE_INDEX)
    labels, (height, width) = scribble[rows, columns], mask.shape

    def wrong(y: NDArray[np.intp], x: NDArray[np.intp]) -> float:
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        truth = mask[y[inside], x[inside]]
        fits = (truth == labels[inside]) | (truth == IGNORE_INDEX)
        return 1 - int(fits.sum()) / max(1, len(labels))

    down, right = height - 1 - rows, width - 1 - columns
    candidates = {
        "flipping it horizontally": wrong(rows, right),
        "flipping it vertically": wrong(down, columns),
        "rotating it by 180 degrees": wrong(down, right),
    }
    # of equally good shifts the shortest comes first, and min() keeps it
    shifts = product(range(-_REACH, _REACH + 1), repeat=2)
    for dx, dy in sorted(shifts, key=lambda shift: shift[0] ** 2 + shift[1] ** 2)[1:]:
        candidates[f"shifting it by ({dx}, {dy}) px"] = wrong(rows + dy, columns + dx)
    best = min(candidates, key=lambda name: candidates[name])
    return f"{best} removes most of it" if candidates[best] < 0.25 * wrong(rows, columns) else ""
