"""What sources of cases share: a case is a volume, or an image, in one file per channel."""

from __future__ import annotations

import hashlib
import logging
from abc import abstractmethod
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.data.check.findings import Finding, found
from scribbleseg.data.images import read_image
from scribbleseg.data.labels import encode_label, whole_numbers
from scribbleseg.data.lists import find_images, natural_key
from scribbleseg.data.sources.files import FileSource
from scribbleseg.data.sources.index import FileIndex
from scribbleseg.data.volumes import (
    NIFTI_SUFFIXES,
    StackCache,
    StackHeader,
    read_stack,
    read_stack_header,
    slice_axis_of,
)
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleSegError
from scribbleseg.options import check_choice, check_whole
from scribbleseg.types import Label, Record

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from scribbleseg.data.classes import ClassTable
    from scribbleseg.data.source import FileRole

__all__ = ["Case", "CaseSource", "check_fold", "files_ending", "hashed_order"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Case:
    """Files of one patient, examination or image.

    Attributes:
        name: Unique name, relative POSIX path.
        images: One file per channel, or one file with all of them.
        scribble: Scribble file, if there is one.
        mask: Dense label file, if there is one.
        header: Slices of a volume; ``None`` for a 2-D image.
    """

    name: str
    images: tuple[Path, ...]
    scribble: Path | None = None
    mask: Path | None = None
    header: StackHeader | None = None


class CaseSource(FileSource):
    """Base of sources whose unit is a case; a volume yields one sample per slice.

    A slice has the stem ``CASE_slice007`` (numbered from 0), and its case is its group. Windows of
    intensity are taken from the whole volume, so that slices stay comparable.

    Args:
        classes: Names, colours and value maps.
        slice_axis: Axis of the slices in RAS orientation; ``None`` = the one with the largest
            median spacing, the same for all cases.
        cache_mib: Memory in MiB that every process may use to keep volumes.
        options: See :class:`~scribbleseg.data.sources.files.FileSource`.

    Raises:
        ConfigError: If an option is out of range.
    """

    def __init__(
        self,
        classes: ClassTable,
        *,
        slice_axis: int | None,
        cache_mib: int,
        **options: Any,
    ) -> None:
        if slice_axis is not None:
            check_choice("slice_axis", slice_axis, (0, 1, 2))
        check_whole(0, cache_mib=cache_mib)
        self._axis = slice_axis
        self._cache = StackCache(cache_mib << 20)
        kind = options.get("label_type", "scribble")
        if kind in ("point", "box"):
            raise ConfigError(
                f"label_type={kind!r}: clicks and boxes of volumes are not read; draw them into "
                "label volumes, or convert the slices to a plain folder first"
            )
        super().__init__(classes, **options)

    @abstractmethod
    def _list_cases(self) -> Iterable[Case]:
        """All cases, without their headers; called once."""

    @cached_property
    def cases(self) -> dict[str, Case]:
        """Cases by name in natural order; reads the header of every volume at the first use."""
        cases: dict[str, Case] = {}
        for case in sorted(self._list_cases(), key=lambda item: natural_key(item.name)):
            first = case.images[0]
            if first.name.lower().endswith(NIFTI_SUFFIXES):
                try:
                    header = read_stack_header(first)
                except LabelFormatError as error:
                    if case.scribble is not None or case.mask is not None:
                        raise
                    # such as the 4-D series beside the frames of ACDC
                    logger.warning("left out, since it has no labels either: %s", error)
                    continue
                case = replace(case, header=header)
            cases[case.name] = case
        return cases

    @cached_property
    def slice_axis(self) -> int:
        """Axis of the slices of all volumes in RAS orientation: 0, 1 or 2."""
        headers = [case.header for case in self.cases.values() if case.header is not None]
        return slice_axis_of(headers) if self._axis is None and headers else self._axis or 0

    @cached_property
    def _samples(self) -> dict[str, tuple[Case, int | None]]:
        """Stem to case and slice number."""
        samples: dict[str, tuple[Case, int | None]] = {}
        for case in self.cases.values():
            if case.header is None:
                samples[case.name] = (case, None)
                continue
            for number in range(case.header.shape(self.slice_axis)[0]):
                samples[f"{case.name}_slice{number:03d}"] = (case, number)
        return samples

    def _stems_of(self, cases: Iterable[str]) -> list[str]:
        times = Counter(cases)
        samples = self._samples.items()
        return [stem for stem, (case, _) in samples for _ in range(times[case.name])]

    def _list_files(self) -> FileIndex:
        index = FileIndex({}, places=self._places())
        for stem, (case, number) in self._samples.items():
            entry = "" if number is None else f"slice{number:03d}"
            index.images[stem] = case.images[0]
            if case.scribble is not None:
                index.scribbles[stem] = Label(case.scribble, "map", entry, "scribble")
            if case.mask is not None:
                index.masks[stem] = Label(case.mask, "map", entry, "mask")
        return index

    @abstractmethod
    def _places(self) -> dict[str, str]:
        """Where images, scribbles and masks are, for messages."""

    def group_of(self, stem: str) -> str | None:
        """Case of a sample."""
        return self._samples[stem][0].name

    def _record(self, stem: str, scribble: Label | None, mask: Label | None) -> Record:
        header = self._samples[stem][0].header
        record = super()._record(stem, scribble, mask)
        return (
            record if header is None else replace(record, spacing=header.spacing(self.slice_axis))
        )

    def inputs(self, record: Record, role: FileRole) -> list[Path]:
        """See :meth:`ScribbleSource.inputs`; an image has a file per channel."""
        if role == "image":
            return list(self._samples[record.image_id][0].images)
        return super().inputs(record, role)

    # ----------------------------------------------------------------- pixels

    def read_image(self, record: Record) -> NDArray[np.uint8]:
        """Slice or image with all its channels, uint8, shape ``(H, W, K)``.

        Raises:
            ScribbleNotFoundError: If there is no such file.
            LabelFormatError: If it cannot be decoded (D202), has other values or channels than
                expected (D203), or channels differ in size (D201).
            MissingExtraError: If nibabel is needed and not installed.
        """
        case, number = self._samples[record.image_id]
        parts = [self._read_channel(path, case, number) for path in case.images]
        for path, part in zip(case.images[1:], parts[1:], strict=True):
            if part.shape[:2] != parts[0].shape[:2]:
                raise LabelFormatError(
                    f"D201 {path}: is {part.shape[1]}x{part.shape[0]} (width x height), expected "
                    f"{parts[0].shape[1]}x{parts[0].shape[0]} as {case.images[0]}; resample all "
                    "channels of a case to one grid"
                )
        image = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
        if image.shape[2] == 1 and self.in_channels == 3:
            image = np.repeat(image, 3, axis=2)
        if image.shape[2] != self.in_channels:
            raise LabelFormatError(
                f"D203 {case.images[0]}: the case has {image.shape[2]} channels in "
                f"{len(case.images)} files, expected {self.in_channels}"
            )
        return image

    def _read_channel(self, path: Path, case: Case, number: int | None) -> NDArray[np.uint8]:
        if number is None or case.header is None:
            wanted = 1 if len(case.images) > 1 else self.in_channels
            return read_image(
                path,
                channels=wanted,
                intensity=self.intensity,
                max_pixels=self.max_image_pixels,
            )
        axis = self.slice_axis

        def load() -> NDArray[Any]:
            self._check_grid(path, case)
            values = read_stack(path, axis)
            return self.intensity.apply(values[..., None], name=str(path))[..., 0]

        stack = self._cache.get(path, f"image {axis} {self.intensity}", load)
        # a copy: later reads share the stack
        pixels: NDArray[np.uint8] = stack[number][..., None].copy()
        return pixels

    def _read_map(self, label: Label, record: Record) -> NDArray[np.uint8]:
        case, number = self._samples[record.image_id]
        # pseudo-labels are files of their own
        if number is None or not label.entry:
            return super()._read_map(label, record)
        file, axis = label.path, self.slice_axis

        def load() -> NDArray[Any]:
            self._check_grid(file, case)
            ids = whole_numbers(read_stack(file, axis), file)
            small = ids.size and 0 <= int(ids.min()) <= int(ids.max()) <= 255
            return ids.astype(np.uint8) if small else ids

        stack = self._cache.get(file, f"label {axis}", load)
        return encode_label(stack[number], self.codings[label.coding], file / label.entry)

    def _values(self, label: Label) -> NDArray[Any]:
        if label.path.name.lower().endswith(NIFTI_SUFFIXES):
            return read_stack(label.path, self.slice_axis)
        return super()._values(label)

    def _check_grid(self, path: Path, case: Case) -> None:
        """Refuse a file whose voxels are not those of the first channel of its case."""
        if path != case.images[0]:
            for severity, message in _differences(path, case):
                if severity == "error":
                    raise LabelFormatError(f"D201 {path}: {message}")

    def problems(self) -> list[Finding]:
        """Files whose grid is not that of their image, as nnU-Net's integrity check finds them."""
        findings = super().problems()
        for case in self.cases.values():
            for path in (*case.images[1:], case.scribble, case.mask):
                with suppress(ScribbleSegError):  # of a faulty file is told when it is read
                    if path is not None and case.header is not None:
                        findings += [
                            found("D201", severity, str(path), text)
                            for severity, text in _differences(path, case)
                        ]
        return findings

    def image_size(self, record: Record) -> tuple[int, int]:
        """Height and width of an image in pixels; reads its header only."""
        header = self._samples[record.image_id][0].header
        return super().image_size(record) if header is None else header.shape(self.slice_axis)[1:]


def _differences(path: Path, case: Case) -> list[tuple[str, str]]:
    """What tells the grid of a file from that of its image: severity and message."""
    expected, own, image = case.header, read_stack_header(path), case.images[0]
    if expected is None:
        return []
    if own.orientation != expected.orientation:
        # each file is turned by its own header: a wrong one would turn labels silently
        message = (
            f"its axes point to {own.orientation}, those of {image} to {expected.orientation} "
            "(R/L, A/P, S/I); the tool that wrote the file has lost or changed the orientation: "
            "save it with the affine of the image"
        )
        return [("error", message)]
    if own.lengths != expected.lengths:
        size, wanted = ("x".join(map(str, sides)) for sides in (own.lengths, expected.lengths))
        message = f"has {size} voxels, expected {wanted} as {image}; resample it to that grid"
        return [("error", message)]
    if not np.allclose(own.zooms, expected.zooms, rtol=1e-3, atol=1e-4):
        size, wanted = (
            "x".join(f"{zoom:.4g}" for zoom in zooms) for zooms in (own.zooms, expected.zooms)
        )
        message = (
            f"its voxels are {size} mm, those of {image} {wanted} mm (left-right, back-front, "
            "feet-head); the file was resampled or its header was lost: save it with the affine "
            "of the image"
        )
        return [("error", message)]
    shift = np.abs(own.affine[:3, 3] - expected.affine[:3, 3]).max()
    turn = np.abs(own.affine[:3, :3] - expected.affine[:3, :3]).max()
    if shift > 0.1 or turn > 0.01:
        message = (
            f"its origin or direction differs from that of {image} (by up to {shift:.3g} in "
            "position); voxels are compared by their number all the same"
        )
        return [("warning", message)]
    return []


def files_ending(folder: Path, ending: str) -> dict[str, Path]:
    """Files of a folder and its sub-folders by relative path without a common ending.

    Args:
        folder: Where to look.
        ending: End of the names, with the suffix, such as ``"_gt.nii.gz"``.

    Raises:
        ScribbleNotFoundError: If the folder does not exist (D301).
        LabelFormatError: If a link leaves the folder (D501).
    """
    last = f".{ending.rpartition('.')[2]}"  # of ".png", pathlib would say that it is no suffix
    found = find_images(folder, suffixes=(last.lower(),), unique=False)
    names = {f"{stem}{path.suffix}": path for stem, path in found.items()}
    return {
        name[: -len(ending)]: path
        for name, path in names.items()
        if name.lower().endswith(ending.lower())
    }


def hashed_order(names: Iterable[str]) -> list[str]:
    """Names in a fixed random order that depends on neither the platform nor on other names.

    Example:
        >>> hashed_order(["a", "b", "c"]) == hashed_order(["c", "a", "b"])
        True
    """
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())


def check_fold(fold: object, folds: int) -> None:
    """Refuse a fold that does not exist.

    Raises:
        ConfigError: Naming the option and the range.
    """
    if isinstance(fold, bool) or not isinstance(fold, int) or not 0 <= fold < folds:
        raise ConfigError(f"fold={fold!r}: expected 0 to {folds - 1}")
