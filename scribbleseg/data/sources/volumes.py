"""What sources of cases share: a case is a volume, or an image, in one file per channel."""

from __future__ import annotations

import hashlib
import logging
from abc import abstractmethod
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.data import io
from scribbleseg.data.readers.nifti import (
    NIFTI_SUFFIXES,
    StackCache,
    StackHeader,
    integer_ids,
    read_stack,
    read_stack_header,
)
from scribbleseg.data.sources.base import FileSource
from scribbleseg.data.sources.file_index import FileIndex
from scribbleseg.errors import ConfigError, LabelFormatError
from scribbleseg.options import check_choice, check_whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scribbleseg.data.source import FileRole, LabelRole
    from scribbleseg.types import Record

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
            spacing.
        cache_mib: Memory in MiB that every process may use to keep volumes.
        options: See :class:`~scribbleseg.data.sources.base.FileSource`.

    Raises:
        ConfigError: If an option is out of range.
    """

    def __init__(
        self,
        classes: io.ClassTable,
        *,
        slice_axis: int | None,
        cache_mib: int,
        **options: Any,
    ) -> None:
        if slice_axis is not None:
            check_choice("slice_axis", slice_axis, (0, 1, 2))
        check_whole(0, cache_mib=cache_mib)
        self.slice_axis = slice_axis
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
        for case in sorted(self._list_cases(), key=lambda item: io.natural_key(item.name)):
            first = case.images[0]
            if first.name.lower().endswith(NIFTI_SUFFIXES):
                try:
                    header = read_stack_header(first, slice_axis=self.slice_axis)
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
    def _samples(self) -> dict[str, tuple[Case, int | None]]:
        """Stem to case and slice number."""
        samples: dict[str, tuple[Case, int | None]] = {}
        for case in self.cases.values():
            if case.header is None:
                samples[case.name] = (case, None)
                continue
            for number in range(case.header.shape[0]):
                samples[f"{case.name}_slice{number:03d}"] = (case, number)
        return samples

    def _stems_of(self, cases: Iterable[str]) -> list[str]:
        chosen = set(cases)
        return [stem for stem, (case, _) in self._samples.items() if case.name in chosen]

    def _list_files(self) -> FileIndex:
        index = FileIndex({}, places=self._places())
        for stem, (case, number) in self._samples.items():
            # one file holds all slices: "case.nii.gz/slice007" names one as a file elsewhere
            part = "" if number is None else f"slice{number:03d}"
            index.images[stem] = case.images[0] / part
            if case.scribble is not None:
                index.scribbles[stem] = case.scribble / part
            if case.mask is not None:
                index.masks[stem] = case.mask / part
        return index

    @abstractmethod
    def _places(self) -> dict[str, str]:
        """Where images, scribbles and masks are, for messages."""

    def group_of(self, stem: str) -> str | None:
        """Case of a sample."""
        return self._samples[stem][0].name

    def _record(self, stem: str, scribble: Path | None, mask: Path | None) -> Record:
        header = self._samples[stem][0].header
        record = super()._record(stem, scribble, mask)
        return record if header is None else replace(record, spacing=header.spacing)

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
            return io.read_image(
                path,
                channels=wanted,
                intensity=self.intensity,
                max_pixels=self.max_image_pixels,
            )
        axis = case.header.axis

        def load() -> NDArray[Any]:
            values = read_stack(path, slice_axis=axis)
            return self.intensity.apply(values[..., None], name=str(path))[..., 0]

        stack = self._cache.get(path, f"image {axis} {self.intensity}", load)
        self._check_stack(stack.shape, path, case)
        # a copy: later reads share the stack
        pixels: NDArray[np.uint8] = stack[number][..., None].copy()
        return pixels

    def _decode(self, path: Path, role: LabelRole, record: Record) -> NDArray[np.uint8]:
        case, number = self._samples[record.image_id]
        if number is None or case.header is None:
            return super()._decode(path, role, record)
        file, axis = path.parent, case.header.axis

        def load() -> NDArray[Any]:
            self._check_orientation(file, case)
            ids = integer_ids(read_stack(file, slice_axis=axis), file)
            small = ids.size and 0 <= int(ids.min()) <= int(ids.max()) <= 255
            return ids.astype(np.uint8) if small else ids

        stack = self._cache.get(file, f"label {axis}", load)
        self._check_stack(stack.shape, file, case)
        return io.encode_label(
            stack[number],
            self.num_classes,
            path=path,
            unlabelled_value=self.unlabelled_value if role == "scribble" else None,
            ignore=self.classes.ignore,
            remap=self.classes.remap,
        )

    def _check_orientation(self, path: Path, case: Case) -> None:
        """Each file is turned by its own header: a wrong one would turn labels silently."""
        own, expected = read_stack_header(path).orientation, read_stack_header(case.images[0])
        if own != expected.orientation:
            raise LabelFormatError(
                f"D201 {path}: its axes point to {own}, those of {case.images[0]} to "
                f"{expected.orientation} (R/L, A/P, S/I); the tool that wrote the label has lost "
                "or changed the orientation: save it with the affine of the image"
            )

    def _check_stack(self, shape: Sequence[int], path: Path, case: Case) -> None:
        if case.header is not None and tuple(shape) != case.header.shape:
            raise LabelFormatError(
                f"D201 {path}: has {shape[0]} slices of {shape[2]}x{shape[1]} (width x height), "
                f"expected {case.header.shape[0]} of {case.header.shape[2]}x"
                f"{case.header.shape[1]} as {case.images[0]}; resample it to the grid of the image"
            )

    def _image_size(self, record: Record) -> tuple[int, int]:
        header = self._samples[record.image_id][0].header
        return super()._image_size(record) if header is None else header.shape[1:]


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
    found = io.find_images(folder, suffixes=(last.lower(),), unique=False)
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
