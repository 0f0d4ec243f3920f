"""Folders of NIfTI volumes with scribbles beside them, such as raw ACDC, MSCMR, CHAOS and WORD."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scribbleseg.constants import MAX_CLASSES
from scribbleseg.data.classes import ClassTable, normalise_name, read_classes
from scribbleseg.data.images import ImageOptions
from scribbleseg.data.lists import check_pattern, group_in, read_split
from scribbleseg.data.sources.index import OnMissing  # noqa: TC001  (the CLI resolves it)
from scribbleseg.data.sources.volumes import (
    Case,
    CaseSource,
    check_fold,
    files_ending,
    hashed_order,
)
from scribbleseg.data.volumes import NIFTI_SUFFIXES
from scribbleseg.data.weak import LabelType  # noqa: TC001  (the CLI resolves it)
from scribbleseg.errors import ConfigError, ScribbleNotFoundError
from scribbleseg.functional.intensity import Intensity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scribbleseg.types import Split

__all__ = ["NiftiSource"]

_FOLDS = 5
_MASK_SUFFIX, _SCRIBBLE_SUFFIX = "_gt.nii.gz", "_scribble.nii.gz"


class NiftiSource(CaseSource):
    """Volumes, dense labels and scribbles in files that share the name of their case.

    A case is the path of its image, relative to ``image_dir``, without ``image_suffix``; its labels
    have the same path in their folders. One slice is one sample, its group is the case. By default
    the folder of raw ACDC::

        root/patient001/patient001_frame01.nii.gz  patient001_frame01_gt.nii.gz
                        patient001_frame01_scribble.nii.gz

    Separate folders, as in WORD: ``image_dir: imagesTr, mask_dir: labelsTr, mask_suffix: .nii.gz,
    scribble_dir: scribblesTr, scribble_suffix: .nii.gz``. Without split files the labelled cases
    are divided by patient into five seeded folds; ``fold`` is held out as ``val``.

    Args:
        root: Folder of the data set.
        class_names: Names in the order of the ids; ``null`` = the class file of ``root``.
        background: Id of the background class, if ``class_names`` are given; ``null`` = none.
        image_dir: Folder of images, relative to ``root``.
        scribble_dir: Folder of scribbles, relative to ``root``; ``null`` = ``image_dir``.
        mask_dir: Folder of dense labels, relative to ``root``; ``null`` = ``image_dir``.
        image_suffix: End of the image names.
        scribble_suffix: End of the scribble names.
        mask_suffix: End of the names of dense labels.
        unlabelled_value: Value of scribbles that means "not drawn", besides 255: 4 in ACDC.
        patient_regex: Pattern searched in the case name; its first group, or the whole match, is
            the patient, who is never divided. By default the first folder of the name, or the case.
        fold: Held-out fold, 0 to 4, where there are no split files.
        train_list: Split file of case names, relative to ``root``.
        val_list: Split file of case names.
        test_list: Split file of case names.
        slice_axis: Axis of the slices in RAS orientation: 0 = left-right, 1 = back-front, 2 =
            feet-head; ``null`` = the one with the largest spacing.
        channels: 1 = grey, 3 = the same three times.
        intensity: Window to 8 bits; by default the 0.5 to 99.5 percentile of each volume.
        cache_mib: Memory in MiB that every loader process may use to keep volumes.
        on_missing: What to do with listed training cases without scribble.
        allow_dense_scribbles: Scribbles may cover more than half of the pixels.
        label_type: ``"mask"`` trains on the dense labels, ``"pseudo"`` on ``pseudo_label_dir``.
        pseudo_label_dir: Folder of pseudo-label PNGs, one per slice.

    Raises:
        ScribbleNotFoundError: If ``root`` or the class file is missing (D301).
        LabelFormatError: If the class file is faulty.
        ConfigError: If an option is out of range, or suffixes cannot tell images from labels.
    """

    layout = "CASE_gt.nii.gz or CASE_scribble.nii.gz"

    def __init__(
        self,
        root: str | Path,
        *,
        class_names: list[str] | None = None,
        background: int | None = 0,
        image_dir: str = ".",
        scribble_dir: str | None = None,
        mask_dir: str | None = None,
        image_suffix: str = ".nii.gz",
        scribble_suffix: str = _SCRIBBLE_SUFFIX,
        mask_suffix: str = _MASK_SUFFIX,
        unlabelled_value: int | None = None,
        patient_regex: str | None = None,
        fold: int = 0,
        train_list: str = "train.txt",
        val_list: str = "val.txt",
        test_list: str = "test.txt",
        slice_axis: int | None = None,
        channels: int = 1,
        intensity: Intensity | None = None,
        cache_mib: int = 512,
        on_missing: OnMissing = "error",
        allow_dense_scribbles: bool = False,
        label_type: LabelType = "scribble",
        pseudo_label_dir: str | None = None,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ScribbleNotFoundError(f"D301 {root}: no such folder; check `root`")
        check_fold(fold, _FOLDS)
        if channels not in (1, 3):
            raise ConfigError(f"channels={channels!r}: a volume has one channel, expected 1 or 3")
        self.fold = fold
        self.lists = {"train": train_list, "val": val_list, "test": test_list}
        self.image_dir = self.root / image_dir
        self.scribble_dir = self.image_dir if scribble_dir is None else self.root / scribble_dir
        self.mask_dir = self.image_dir if mask_dir is None else self.root / mask_dir
        self._suffixes = {
            "image": image_suffix,
            "scribble": scribble_suffix,
            "mask": mask_suffix,
        }
        self._check_suffixes()
        self._patient = check_pattern(patient_regex=patient_regex)
        super().__init__(
            read_classes(self.root)
            if class_names is None
            else _class_table(class_names, background),
            slice_axis=slice_axis,
            cache_mib=cache_mib,
            images=ImageOptions(channels=channels, intensity=Intensity.from_options(intensity)),
            unlabelled_value=unlabelled_value,
            on_missing=on_missing,
            allow_dense_scribbles=allow_dense_scribbles,
            label_type=label_type,
            pseudo_label_dir=None if pseudo_label_dir is None else self.root / pseudo_label_dir,
        )

    def _check_suffixes(self) -> None:
        for role, suffix in self._suffixes.items():
            if not suffix.endswith(NIFTI_SUFFIXES):
                raise ConfigError(
                    f"{role}_suffix={suffix!r}: expected the end of a file name, with .nii or "
                    ".nii.gz"
                )
        places = {"image": self.image_dir, "scribble": self.scribble_dir, "mask": self.mask_dir}
        roles = list(places)
        for index, first in enumerate(roles):
            for second in roles[index + 1 :]:
                same = places[first].resolve() == places[second].resolve()
                if same and self._suffixes[first] == self._suffixes[second]:
                    raise ConfigError(
                        f"{first}_suffix and {second}_suffix are both {self._suffixes[first]!r} in "
                        f"{places[first]}; expected names that tell them apart, or other folders"
                    )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it; reads no file."""
        patterns = (
            f"{place}*{end}" for place in ("", "*/") for end in (_MASK_SUFFIX, _SCRIBBLE_SUFFIX)
        )
        return any(any(root.glob(pattern)) for pattern in patterns)

    def _places(self) -> dict[str, str]:
        return {
            "image": str(self.image_dir),
            "scribble": str(self.scribble_dir),
            "mask": str(self.mask_dir),
        }

    def _list_cases(self) -> Iterable[Case]:
        files = {role: self._find(role, Path(folder)) for role, folder in self._places().items()}
        for name, path in files["image"].items():
            labels = (files["scribble"].get(name), files["mask"].get(name))
            yield Case(name, (path,), *labels)

    def _find(self, role: str, folder: Path) -> dict[str, Path]:
        """Files of a role by case name; in a shared folder the longer suffixes win."""
        suffix = self._suffixes[role]
        if role != "image" and not folder.is_dir():
            return {}
        places = self._places()
        longer = tuple(
            other
            for name, other in self._suffixes.items()
            if name != role and places[name] == str(folder) and other.endswith(suffix)
        )
        return {
            name: path
            for name, path in files_ending(folder, suffix).items()
            if not (longer and path.name.endswith(longer))
        }

    def _list_stems(self, split: Split) -> list[str]:
        path = self.root / self.lists[split]
        if split == "test" or any((self.root / self.lists[s]).is_file() for s in ("train", "val")):
            listed = [self._case_name(name) for name in read_split(path, repeats=split == "train")]
            unknown = [name for name in listed if name not in self.cases]
            if unknown:
                raise ScribbleNotFoundError(
                    f"D301 {path}: {len(unknown)} of {len(listed)} cases have no image in "
                    f"{self.image_dir} (e.g. {', '.join(unknown[:5])}); expected names without "
                    f"{self._suffixes['image']}, relative to that folder: correct the list"
                )
            return self._stems_of(listed)
        return self._divide(split)

    def _case_name(self, name: str) -> str:
        return name.removesuffix(self._suffixes["image"])

    def _divide(self, split: str) -> list[str]:
        labelled = [case.name for case in self.cases.values() if case.scribble or case.mask]
        patients: dict[str, list[str]] = {}
        for name in labelled:
            patients.setdefault(self._patient_of(name), []).append(name)
        if len(patients) < _FOLDS:
            raise ScribbleNotFoundError(
                f"D301 {self.root}: {len(labelled)} labelled cases of {len(patients)} patients, at "
                f"least {_FOLDS} patients are needed to make folds; write train.txt and val.txt "
                "with one case name a line, or correct `patient_regex` and the suffixes"
            )
        held_out = set(hashed_order(patients)[self.fold :: _FOLDS])
        return self._stems_of(
            name
            for patient, names in patients.items()
            if (patient in held_out) == (split == "val")
            for name in names
        )

    def _patient_of(self, case: str) -> str:
        if self._patient is None:
            return case.split("/", 1)[0]
        return group_in(self._patient, case) or case


def _class_table(names: Sequence[str], background: int | None) -> ClassTable:
    if not 2 <= len(names) <= MAX_CLASSES or len({*map(normalise_name, names)}) < len(names):
        raise ConfigError(
            f"class_names={list(names)}: expected 2 to {MAX_CLASSES} different names, in the order "
            "of the ids"
        )
    if background is not None and not 0 <= background < len(names):
        raise ConfigError(f"background={background}: expected an id below {len(names)}, or null")
    return ClassTable(tuple(names), background=background)
