"""Look at files: unsafe ones below a folder (D501), and image, scribble and mask of a sample."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tarfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import IO, TYPE_CHECKING

import cv2
import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.check.findings import caught, finding_from_error
from scribbleseg.data.findings import Finding, found, some_names
from scribbleseg.data.images import read_header
from scribbleseg.data.labels import LabelCoding, encode_label
from scribbleseg.errors import ScribbleSegError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__: list[str] = []

_PICKLES = (".pkl", ".pickle", ".pth", ".pt", ".joblib", ".dill")
_LARGEST_TGZ = 64 << 20  # listing a compressed archive reads all of it
_DTD = re.compile(rb"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)
_MEMBER = (
    "expected names below the archive's own folder; unpacking it can overwrite other files: delete "
    "it, and download the original release"
)
_HARM = {
    "files hold pickled objects": "expected images, text or plain arrays; reading them can run any "
    "code, so they are never read: move them elsewhere, or write numbers as .npz without objects",
    "XML files declare a DTD or entities": "expected none; entities can read other files or fill "
    "the memory: take the files from their original release",
    "entries are pipes, sockets or devices": "expected files; reading one can wait for ever, so "
    "nothing was read: remove them",
}
_PICKLED, _DECLARED, _SPECIAL = _HARM


def find_unsafe_files(root: Path) -> tuple[list[Finding], bool]:
    """Search a folder for pickles, XML with a DTD, archives that leave their folder, and pipes.

    Only names, heads and tables of content are read.

    Returns:
        D501 findings, a warning for pickles, which are never read; and whether reading the files of
        the folder may hang.
    """
    findings, harmful = [], {harm: list[str]() for harm in _HARM}
    for folder, folders, names in os.walk(root):  # links to folders are not followed
        folders[:] = sorted(name for name in folders if name[0] != ".")
        for path in (Path(folder, name) for name in sorted(names) if name[0] != "."):
            # files that cannot be read, or are not what their name says, are no finding here
            with suppress(Exception):
                if harm := _harm_of(path):
                    harmful[harm].append(str(path))
                elif member := next(_unsafe_members(path), ""):
                    findings.append(found("D501", "error", str(path), f"{member}, {_MEMBER}"))
    for harm, paths in harmful.items():
        if paths:
            severity = "warning" if harm is _PICKLED else "error"
            text = f"{len(paths)} {harm} ({some_names(paths)}), {_HARM[harm]}"
            findings.append(found("D501", severity, paths[0], text))
    return findings, bool(harmful[_SPECIAL])


def _harm_of(path: Path) -> str:
    """Key of ``_HARM``; empty for a harmless file, and for a link to nothing."""
    suffix = path.suffix.lower()
    if not path.is_file():
        return _SPECIAL if path.exists() else ""
    if suffix == ".xml":
        with path.open("rb") as stream:
            # UTF-16 puts a zero byte beside every letter
            return _DECLARED if _DTD.search(stream.read(4096).replace(b"\0", b"")) else ""
    if suffix == ".npy":
        with path.open("rb") as stream:
            return _PICKLED if _holds_objects(stream) else ""
    if suffix == ".npz":
        with zipfile.ZipFile(path) as content:
            arrays = (content.open(name) for name in content.namelist() if name.endswith(".npy"))
            return _PICKLED if any(map(_holds_objects, arrays)) else ""
    return _PICKLED if suffix in _PICKLES else ""


def _holds_objects(stream: IO[bytes]) -> bool:
    form = np.lib.format
    old = form.read_magic(stream) == (1, 0)
    read = form.read_array_header_1_0 if old else form.read_array_header_2_0
    return bool(read(stream)[2].hasobject)


def _unsafe_members(path: Path) -> Iterator[str]:
    """Members that lead out of the folder of an archive, and why."""
    for name, why in _members(path, path.suffix.lower()):
        place = PureWindowsPath(name)  # knows both separators, and drives
        if why or place.anchor or ".." in place.parts:
            why = why or ("is an absolute path" if place.anchor else "leaves its folder with '..'")
            yield f"member {name[:120]!r} {why}"


def _members(path: Path, suffix: str) -> Iterator[tuple[str, str]]:
    """Names in an archive, and what is wrong with their kind."""
    if suffix == ".zip":
        with zipfile.ZipFile(path) as content:
            for info in content.infolist():
                yield info.filename, "is a link" * stat.S_ISLNK(info.external_attr >> 16)
    elif suffix == ".tar" or (suffix == ".tgz" and path.stat().st_size <= _LARGEST_TGZ):
        with tarfile.open(path) as packed:
            for item in packed:
                target = f"{item.name}/../{item.linkname}" if item.issym() else item.linkname
                # a link within the archive is harmless
                leaves = item.linkname.startswith("/") or os.path.normpath(target)[:2] == ".."
                link = (item.issym() or item.islnk()) and leaves
                yield item.name, "is a link" if link else "is a device" * item.isdev()


# ------------------------------------------------------------------------------ samples


@dataclass
class Sample:
    """What the files of one record hold; counts are 0 where nothing could be read."""

    record: Record  # with its mask where one is known
    counts: NDArray[np.int64]  # (4, C + 1), see Group
    findings: list[Finding] = field(default_factory=list)  # errors of this sample's files
    size: tuple[int, int] | None = None  # height and width of the image, if it can be read
    raw_size: tuple[int, int] | None = None  # before the EXIF rotation, where the file says so
    deep: bool = False  # more than 8 bits per channel
    digest: bytes | None = None  # of the pixels; None for an image of one colour
    # mean and mean square of the channels / 255, shape (2, K), if the image can be read
    moments: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    stored: dict[str, Mapping[int, int]] = field(default_factory=dict)  # of labels that hold no ids
    strokes: NDArray[np.float64] | None = None  # see measure_strokes, where they were measured

    def file(self, role: str) -> str:
        """Name of the image, scribble or mask for messages."""
        return str(getattr(self.record, role) or self.record.image_id)


def inspect_sample(source: ScribbleSource, record: Record, *, strokes: bool = False) -> Sample:
    """Decode and count image, scribble and mask of a record; faults become its findings.

    With ``strokes``, the strokes of a scribble that labels less than half the image are measured.
    """
    sample = Sample(record, np.zeros((4, source.num_classes + 1), np.int64))
    with caught(sample.findings, "D202", sample.file("image")):
        sample.record = source.with_mask(record)
        _look_at_image(source, sample)
    scribble, mask = (_read_label(source, sample, role) for role in ("scribble", "mask"))

    def count(labels: NDArray[np.uint8]) -> NDArray[np.int64]:
        return np.bincount(labels.ravel(), minlength=256)[[*range(source.num_classes), -1]]

    if scribble is not None:
        sample.counts[0] = count(scribble)
        if strokes and 0 < 2 * sample.counts[0, :-1].sum() < scribble.size:
            sample.strokes = measure_strokes(scribble)
    if mask is not None:
        sample.counts[1] = count(mask)
    if scribble is not None and mask is not None and scribble.shape == mask.shape:
        differs, void = (scribble != mask) & (scribble != IGNORE_INDEX), mask == IGNORE_INDEX
        sample.counts[2:] = count(scribble[differs & void]), count(scribble[differs & ~void])
    return sample


def _look_at_image(source: ScribbleSource, sample: Sample) -> None:
    image = source.read_image(sample.record)
    sample.size = (image.shape[0], image.shape[1])
    path = Path(sample.file("image"))
    if path.is_file():
        with suppress(ScribbleSegError):  # a file that the source can read need not say its depth
            header = read_header(path, channels=source.in_channels)
            sample.deep, sample.raw_size = header.deep, header.raw_size
    channels = np.ascontiguousarray(np.moveaxis(image, -1, 0))
    mean, std = np.array([cv2.meanStdDev(channel) for channel in channels]).reshape(-1, 2).T / 255
    sample.moments = np.stack([mean, std**2 + mean**2])
    if std.any():  # images of one colour, such as empty slices, are equal without being the same
        content = repr(image.shape).encode() + channels.tobytes()
        sample.digest = hashlib.sha256(content).digest()


def _read_label(source: ScribbleSource, sample: Sample, role: str) -> NDArray[np.uint8] | None:
    record, file, size = sample.record, sample.file(role), sample.size
    if getattr(record, role) is None and record.image is not None:
        return None
    try:
        label = getattr(source, f"read_{role}")(record)
        label = encode_label(label, LabelCoding(source.num_classes), file)
    except Exception as error:  # noqa: BLE001 - a broken file must not hide the others
        sample.findings.append(finding_from_error(error, "D202", file))
        if values := getattr(error, "values", None):
            sample.stored[role] = values
        return None
    if size is not None and label.shape != size:
        sample.findings.append(_other_size(sample, size, label.shape, role))
        return None
    if size is not None and sample.raw_size not in (None, size):
        with suppress(ScribbleSegError, OSError):
            if read_header(file, channels=1).size == sample.raw_size:
                finding = _other_size(sample, size, sample.raw_size, role, turned=True)
                sample.findings.append(finding)
    return label


def _other_size(
    sample: Sample, size: tuple[int, int], shape: tuple[int, ...], role: str, turned: bool = False
) -> Finding:
    """A label of another size; ``turned`` = the source has rotated it like the image."""
    (height, width), rotation, pixels = size, "", f", {shape[0] * shape[1]:,} px"
    mend = "rotate the label like the image, or remove the EXIF orientation from the image"
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
    """Per id the strokes, and the sum of their width over their middle lines with its length.

    A stroke is a connected piece (8 neighbours). Its width is twice the distance from the middle
    line to the nearest pixel outside, exact for discs and for bars along the axes, and within about
    half a pixel for other strokes. Shape ``(3, 256)``: the mean width is ``sum / length``.
    """
    measured = np.zeros((3, 256))
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
        measured[:, label] = pieces - 1, middle.sum(dtype=np.float64), middle.size
    return measured
