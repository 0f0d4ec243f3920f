"""The files of one image of a plain folder: copied or written, each only if it is needed."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scribbleseg.data import io
from scribbleseg.data.image_work import failure
from scribbleseg.data.prepared import is_fresh, safe_id
from scribbleseg.data.source import ScribbleSource
from scribbleseg.errors import LabelFormatError
from scribbleseg.functional.image_files import write_atomic
from scribbleseg.functional.images import IMAGE_SUFFIXES, write_image, write_label

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from scribbleseg.data.source import LabelRole
    from scribbleseg.types import Record

__all__ = ["ImageConverter", "ImageResult", "is_plain_image"]

_LABELS: tuple[LabelRole, ...] = ("scribble", "mask")


class ImageResult(NamedTuple):
    """What became of one image.

    Attributes:
        image_id: Id of the record.
        written: Whether any file was written.
        reason: What went wrong; empty if nothing did.
    """

    image_id: str
    written: bool
    reason: str = ""


@dataclass(frozen=True)
class ImageConverter:
    """All that a worker needs to write the files of one image; call it with a record.

    Attributes:
        source: Reads pixels.
        output: The plain folder.
        link: Make hard links to image files where the disk allows it.
    """

    source: ScribbleSource
    output: Path
    link: bool

    def __call__(self, record: Record) -> ImageResult:
        """Write what is missing or out of date; never raises."""
        try:
            return ImageResult(record.image_id, self._convert(record))
        except Exception as error:  # noqa: BLE001 - one broken file must not stop the others
            return ImageResult(record.image_id, False, failure(error))

    def _convert(self, record: Record) -> bool:
        target = self.output / "images" / safe_id(record.image_id)
        written, size = self._image(record, target)
        for role in _LABELS:
            # a source that makes its images has no files to name
            if getattr(record, role) is not None or record.image is None:
                written |= self._label(record, role, size)
        return written

    def _image(self, record: Record, target: Path) -> tuple[bool, tuple[int, int]]:
        """Whether the image was written, and its height and width."""
        path = record.image
        if path is not None and is_plain_image(self.source, record):
            copied = target.with_name(target.name + path.suffix)
            return self._copy(path, copied), self._size(path)
        for suffix in (".png", ".npy"):
            made = target.with_name(target.name + suffix)
            if is_fresh(made, *self.source.inputs(record, "image")):
                return False, self._size(made)
        pixels = self.source.read_image(record)
        _write_pixels(target, pixels)
        return True, (pixels.shape[0], pixels.shape[1])

    def _size(self, path: Path) -> tuple[int, int]:
        return io.read_header(path, channels=self.source.in_channels).size

    def _copy(self, path: Path, target: Path) -> bool:
        """Copy or link a file; False if that was done before."""
        if target.is_file():
            same = target.samefile(path) or target.stat().st_size == path.stat().st_size
            if same and is_fresh(target, path):
                return False
            target.unlink()
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.link:
            try:
                os.link(path.resolve(), target)
            except OSError:
                pass  # another disk, or a file system without links
            else:
                return True
        with path.open("rb") as stream:
            write_atomic(target, lambda out: shutil.copyfileobj(stream, out, 1 << 20))
        return True

    def _label(self, record: Record, role: LabelRole, size: tuple[int, int]) -> bool:
        target = self.output / f"{role}s" / f"{record.image_id}.png"
        if is_fresh(target, *self.source.inputs(record, role)):
            return False
        read = self.source.read_scribble if role == "scribble" else self.source.read_mask
        labels = read(record)
        if labels.shape != size:
            named = getattr(record, role) or record.image_id
            raise LabelFormatError(
                f"D201 {named}: {role} is {labels.shape[1]}x{labels.shape[0]} (width x height), "
                f"its image is {size[1]}x{size[0]}; export it again at the image's size, or set "
                "`resize_labels: true` where the source has that option"
            )
        write_label(target, labels, self.source.palette)
        return True


def is_plain_image(source: ScribbleSource, record: Record) -> bool:
    """Whether a plain folder would read the same pixels from a copy of the file."""
    path = record.image
    if path is None or path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
        return False
    if type(source).read_image in _plain_readers():
        return True
    # the source may stack channels, cut slices or change values
    return np.array_equal(source.read_image(record), ScribbleSource.read_image(source, record))


def _plain_readers() -> tuple[object, ...]:
    from scribbleseg.data.sources.base import FileSource
    from scribbleseg.data.sources.folder import FolderSource

    return ScribbleSource.read_image, FileSource.read_image, FolderSource.read_image


def _write_pixels(target: Path, pixels: NDArray[np.uint8]) -> None:
    if pixels.ndim == 3 and pixels.shape[2] in (1, 3):
        grey = bool((pixels == pixels[..., :1]).all())
        path = target.with_name(target.name + ".png")
        write_image(path, pixels[..., 0] if grey else pixels)
    else:
        path = target.with_name(target.name + ".npy")
        write_atomic(path, lambda stream: np.save(stream, pixels, allow_pickle=False))
