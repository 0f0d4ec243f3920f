"""What all sources of volumes share: slices of cases, each a volume or an image, in channels."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scribbleseg.data.findings import Finding, found
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
from scribbleseg.errors import (
    ConfigError,
    LabelFormatError,
    ScribbleNotFoundError,
    ScribbleSegError,
)
from scribbleseg.options import check_choice, check_whole
from scribbleseg.types import Label, Record

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scribbleseg.data.classes import ClassTable
    from scribbleseg.data.source import FileRole
    from scribbleseg.types import Split

__all__ = ["VolumeSource"]

logger = logging.getLogger(__name__)

FOLDS = 5


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

    def samples(self, axis: int) -> dict[str, int | None]:
        """Stem and number of every slice across an axis; an image has no number."""
        if self.header is None:
            return {self.name: None}
        return {f"{self.name}_slice{n:03d}": n for n in range(self.header.shape(axis)[0])}


class VolumeSource(FileSource):
    """Base of sources whose unit is a case; a volume yields one sample per slice.

    A slice has the stem ``CASE_slice007`` (numbered from 0), and its case is its group. Windows of
    intensity are taken from the whole volume, so that slices stay comparable. Without lists the
    cases are divided into five folds, of which ``fold`` is held out as ``val``.

    Args:
        root: Folder of the data set.
        classes: Names, colours and value maps.
        places: Folder and end of the file names of images, scribbles and masks.
        fold: Held-out fold, 0 to 4.
        slice_axis: Axis of the slices in RAS orientation; ``None`` = the one with the largest
            median spacing, the same for all cases.
        cache_mib: Memory in MiB that every process may use to keep volumes.
        pseudo_label_dir: Folder of pseudo-labels, relative to ``root``.
        options: See :class:`~scribbleseg.data.sources.files.FileSource`.

    Raises:
        ConfigError: If an option is out of range.
    """

    def __init__(
        self,
        root: Path,
        classes: ClassTable,
        places: Mapping[FileRole, tuple[Path, str]],
        *,
        fold: int,
        slice_axis: int | None,
        cache_mib: int,
        pseudo_label_dir: str | None,
        **options: Any,
    ) -> None:
        check_choice("fold", fold, range(FOLDS))
        check_choice("slice_axis", slice_axis, (None, 0, 1, 2))
        check_whole(0, cache_mib=cache_mib)
        if options["label_type"] in ("point", "box"):
            raise ConfigError(
                f"label_type={options['label_type']!r}: clicks and boxes of volumes are not read; "
                "draw them into label volumes, or convert the slices to a plain folder first"
            )
        self.root, self.places, self.fold = root, places, fold
        self._axis, self._cache = slice_axis, StackCache(cache_mib << 20)
        pseudo = None if pseudo_label_dir is None else root / pseudo_label_dir
        super().__init__(classes, pseudo_label_dir=pseudo, **options)

    def _list_cases(self) -> Iterable[Case]:
        """All cases, without their headers; called once."""
        files = {role: self._find(role) for role in self.places}
        for name, path in files["image"].items():
            yield Case(name, (path,), files["scribble"].get(name), files["mask"].get(name))

    def _find(self, role: FileRole) -> dict[str, Path]:
        """Files of a role by case name; where roles share a folder, longer endings win."""
        folder, ending = self.places[role]
        others = (end for where, end in self.places.values() if where == folder and end != ending)
        longer = tuple(end for end in others if end.endswith(ending))
        found = files_ending(folder, ending, needed=role == "image")
        return {name: path for name, path in found.items() if not path.name.endswith(longer)}

    @cached_property
    def cases(self) -> dict[str, Case]:
        """Cases by name in natural order; reads the header of every volume at the first use."""
        cases: dict[str, Case] = {}
        for case in sorted(self._list_cases(), key=lambda item: natural_key(item.name)):
            if _is_volume(case.images[0]):
                try:
                    case = replace(case, header=read_stack_header(case.images[0]))
                except LabelFormatError as error:
                    if case.scribble is not None or case.mask is not None:
                        raise
                    # such as the 4-D series beside the frames of ACDC
                    logger.warning("left out, since it has no labels either: %s", error)
                    continue
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
        axis, cases = self.slice_axis, self.cases.values()
        return {stem: (case, n) for case in cases for stem, n in case.samples(axis).items()}

    def _list_files(self) -> FileIndex:
        folders: dict[str, str] = {role: str(place) for role, (place, _) in self.places.items()}
        index = FileIndex({}, places=folders)
        for stem, (case, number) in self._samples.items():
            entry = "" if number is None else f"slice{number:03d}"
            index.images[stem] = case.images[0]
            if case.scribble is not None:
                index.scribbles[stem] = Label(case.scribble, "map", entry, "scribble")
            if case.mask is not None:
                index.masks[stem] = Label(case.mask, "map", entry, "mask")
        return index

    def _stems_of(self, cases: Iterable[str], listed: Path | None = None) -> list[str]:
        """Stems of all slices of some cases, repeated as often as the case is."""
        times = Counter(cases)
        unknown = [name for name in times if name not in self.cases]
        if unknown:
            raise ScribbleNotFoundError(
                f"D301 {listed}: {len(unknown)} of {len(times)} cases have no image in "
                f"{self.places['image'][0]} (e.g. {', '.join(unknown[:5])}); expected names "
                "without the suffix, relative to that folder: copy the images, or correct the list"
            )
        samples = self._samples.items()
        return [stem for stem, (case, _) in samples for _ in range(times[case.name])]

    def _divide(
        self, split: Split, patients: Mapping[str, Sequence[str]], fold: Collection[str], cure: str
    ) -> list[str]:
        """Stems of the cases of all patients but those of a fold, or for ``"val"`` of those."""
        if len(patients) < FOLDS:
            raise ScribbleNotFoundError(
                f"D301 {self.root}: {sum(map(len, patients.values()))} labelled cases of "
                f"{len(patients)} patients, at least {FOLDS} patients are needed to make folds; "
                f"{cure}"
            )
        chosen = [patient for patient in patients if (patient in fold) == (split == "val")]
        return self._stems_of(name for patient in chosen for name in patients[patient])

    def group_of(self, stem: str) -> str | None:
        """Case of a sample."""
        return self._samples[stem][0].name

    def _record(self, stem: str, scribble: Label | None, mask: Label | None) -> Record:
        header = self._samples[stem][0].header
        spacing = None if header is None else header.spacing(self.slice_axis)
        return replace(super()._record(stem, scribble, mask), spacing=spacing)

    def inputs(self, record: Record, role: FileRole) -> list[Path]:
        """See :meth:`ScribbleSource.inputs`; an image has a file per channel."""
        if role == "image":
            return list(self._samples[record.image_id][0].images)
        return super().inputs(record, role)

    def image_size(self, record: Record) -> tuple[int, int]:
        """Height and width of an image in pixels; reads its header only."""
        header = self._samples[record.image_id][0].header
        return super().image_size(record) if header is None else header.shape(self.slice_axis)[1:]

    def read_image(self, record: Record) -> NDArray[np.uint8]:
        """Slice or image with all its channels, uint8, shape ``(H, W, K)``.

        Raises:
            ScribbleNotFoundError: If there is no such file.
            LabelFormatError: If it cannot be decoded (D202), has other values or channels than
                expected (D203), or channels differ in size (D201).
            MissingExtraError: If nibabel is needed and not installed.
        """
        case, number = self._samples[record.image_id]
        if number is None:
            return self._read_picture(case)
        channels = [self._read_slice(path, case, number, "image") for path in case.images]
        image = np.stack(channels, axis=-1)
        # grey in three equal channels, if that is asked for
        return np.repeat(image, 3, axis=2) if self.in_channels == 3 > len(channels) else image

    def _read_picture(self, case: Case) -> NDArray[np.uint8]:
        channels, limit = 1 if len(case.images) > 1 else self.in_channels, self.max_image_pixels
        parts = [
            read_image(path, channels=channels, intensity=self.intensity, max_pixels=limit)
            for path in case.images
        ]
        for path, part in zip(case.images, parts, strict=True):
            if part.shape[:2] != parts[0].shape[:2]:
                raise LabelFormatError(
                    f"D201 {path}: is {part.shape[1]}x{part.shape[0]} (width x height), expected "
                    f"{parts[0].shape[1]}x{parts[0].shape[0]} as {case.images[0]}; resample all "
                    "channels of a case to one grid"
                )
        return np.concatenate(parts, axis=2)

    def _read_map(self, label: Label, record: Record) -> NDArray[np.uint8]:
        case, number = self._samples[record.image_id]
        if number is None or not label.entry:  # pseudo-labels are files of their own
            return super()._read_map(label, record)
        values = self._read_slice(label.path, case, number, "label")
        return encode_label(values, self.codings[label.coding], str(label))

    def _read_slice(
        self, path: Path, case: Case, number: int, kind: Literal["image", "label"]
    ) -> NDArray[Any]:
        """A slice after the window of intensities, or of ids; the whole volume is kept."""

        def load() -> NDArray[Any]:
            problem = _grid_problem(path, case)
            if problem is not None and problem.severity == "error":
                raise LabelFormatError(f"D201 {problem.message}")
            values = read_stack(path, self.slice_axis)
            if kind == "image":
                return self.intensity.apply(values[..., None], name=str(path))[..., 0]
            ids = whole_numbers(values, path)
            return ids.astype(np.uint8) if ids.size and 0 <= ids.min() <= ids.max() <= 255 else ids

        stack = self._cache.get(path, kind, load)
        return np.asarray(stack[number])

    def _values(self, label: Label) -> NDArray[Any]:
        if _is_volume(label.path):
            return read_stack(label.path, self.slice_axis)
        return super()._values(label)

    def problems(self) -> list[Finding]:
        """Files whose grid is not that of their image, as nnU-Net's integrity check finds them."""
        findings = super().problems()
        for case in self.cases.values():
            for path in (*case.images[1:], case.scribble, case.mask):
                with suppress(ScribbleSegError):  # of a faulty file is told when it is read
                    problem = None if path is None else _grid_problem(path, case)
                    findings += [] if problem is None else [problem]
        return findings


def _is_volume(path: Path) -> bool:
    return path.name.lower().endswith(NIFTI_SUFFIXES)


def _grid_problem(path: Path, case: Case) -> Finding | None:
    """What tells the voxels of a file from those of the first channel of its case."""
    expected, image = case.header, case.images[0]
    if expected is None or path == image:
        return None
    own = read_stack_header(path)
    # each file is turned by its own header: a wrong one would turn labels silently
    same = (own.orientation, own.lengths) == (expected.orientation, expected.lengths)
    if not same or not np.allclose(own.zooms, expected.zooms, rtol=1e-3, atol=1e-4):
        text = (
            f"its voxels are {_grid(own)}, those of {image} {_grid(expected)} (left-right, "
            "back-front, feet-head); the file was resampled, or its header was lost or changed: "
            "save it on the grid of the image, with its affine"
        )
        return found("D201", "error", str(path), text)
    difference = np.abs(own.affine - expected.affine)[:3]
    if difference[:, 3].max() <= 0.1 and difference[:, :3].max() <= 0.01:
        return None
    text = (
        f"its origin or direction differs from that of {image} (by up to "
        f"{difference[:, 3].max():.3g} in position); voxels are compared by their number all the "
        "same"
    )
    return found("D201", "warning", str(path), text)


def _grid(header: StackHeader) -> str:
    lengths, zooms = "x".join(map(str, header.lengths)), "x".join(f"{z:.4g}" for z in header.zooms)
    return f"{zooms} mm, {lengths} of them, whose axes point to {header.orientation}"


def files_ending(folder: Path, ending: str, *, needed: bool = False) -> dict[str, Path]:
    """Files of a folder by relative path without an ending such as ``"_gt.nii.gz"``."""
    if not needed and not folder.is_dir():
        return {}
    last = f".{ending.rpartition('.')[2]}"  # of ".png", pathlib would say that it is no suffix
    found = find_images(folder, suffixes=(last.lower(),), unique=False)
    names = {f"{stem}{path.suffix}": path for stem, path in found.items()}
    end = ending.lower()
    return {name[: -len(end)]: path for name, path in names.items() if name.lower().endswith(end)}
