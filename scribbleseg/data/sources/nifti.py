"""Folders of NIfTI volumes with scribbles beside them, such as raw ACDC, MSCMR, CHAOS and WORD."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from scribbleseg.data.classes import read_classes, table_of
from scribbleseg.data.groups import check_pattern, check_time, group_in
from scribbleseg.data.images import ImageOptions
from scribbleseg.data.lists import read_split
from scribbleseg.data.sources.index import OnMissing  # noqa: TC001  (the CLI resolves it)
from scribbleseg.data.sources.volumes import FOLDS, VolumeSource
from scribbleseg.data.volumes import NIFTI_SUFFIXES
from scribbleseg.data.weak import LabelType  # noqa: TC001  (the CLI resolves it)
from scribbleseg.errors import ConfigError, ScribbleNotFoundError
from scribbleseg.functional.intensity import Intensity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scribbleseg.data.source import FileRole
    from scribbleseg.types import Split

__all__ = ["NiftiSource"]


class NiftiSource(VolumeSource):
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
        unlabelled_value: Value of scribbles that means unlabelled, besides 255: 4 in ACDC.
        first_id: Value of the first class, see :class:`~scribbleseg.data.sources.FolderSource`.
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
        scribble_suffix: str = "_scribble.nii.gz",
        mask_suffix: str = "_gt.nii.gz",
        unlabelled_value: int | None = None,
        first_id: Literal[0, 1] | None = None,
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
        folder = Path(root)
        if not folder.is_dir():
            raise ScribbleNotFoundError(f"D301 {root}: no such folder; check `root`")
        if channels not in (1, 3):
            raise ConfigError(f"channels={channels!r}: a volume has one channel, expected 1 or 3")
        self.lists = {"train": train_list, "val": val_list, "test": test_list}
        self._patient = check_pattern(patient_regex=patient_regex)
        places: dict[FileRole, tuple[Path, str]] = {
            "image": (folder / image_dir, image_suffix),
            "scribble": (folder / (scribble_dir or image_dir), scribble_suffix),
            "mask": (folder / (mask_dir or image_dir), mask_suffix),
        }
        _check_suffixes(places)
        given = {"classes": class_names, "background": background}
        super().__init__(
            folder,
            read_classes(folder) if class_names is None else table_of(given, Path("class_names")),
            places,
            fold=fold,
            slice_axis=slice_axis,
            cache_mib=cache_mib,
            images=ImageOptions(channels=channels, intensity=Intensity.from_options(intensity)),
            unlabelled_value=unlabelled_value,
            first_id=first_id,
            on_missing=on_missing,
            allow_dense_scribbles=allow_dense_scribbles,
            label_type=label_type,
            pseudo_label_dir=pseudo_label_dir,
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it; reads no file."""
        ends = ("*_gt.nii.gz", "*_scribble.nii.gz")
        return any(any(root.glob(f"{place}{end}")) for place in ("", "*/") for end in ends)

    def _list_stems(self, split: Split) -> list[str]:
        if split == "test" or any((self.root / self.lists[s]).is_file() for s in ("train", "val")):
            path, suffix = self.root / self.lists[split], self.places["image"][1]
            names = read_split(path, repeats=split == "train")
            return self._stems_of([name.removesuffix(suffix) for name in names], path)
        check_time(self._patient, self.cases, "patient_regex")
        patients: dict[str, list[str]] = {}
        for name, case in self.cases.items():
            if case.scribble or case.mask:
                patients.setdefault(self._patient_of(name), []).append(name)
        # the order of hashes depends on neither the platform nor other patients
        order = sorted(patients, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
        cure = (
            "write train.txt and val.txt with one case name a line, or correct `patient_regex` and "
            "the suffixes"
        )
        return self._divide(split, patients, order[self.fold :: FOLDS], cure)

    def _patient_of(self, case: str) -> str:
        if self._patient is None:
            return case.split("/", 1)[0]
        return group_in(self._patient, case) or case


def _check_suffixes(places: Mapping[FileRole, tuple[Path, str]]) -> None:
    """Refuse suffixes of other files, and roles whose files could not be told apart."""
    seen: dict[tuple[Path, str], str] = {}
    for role, (folder, suffix) in places.items():
        if not suffix.endswith(NIFTI_SUFFIXES):
            raise ConfigError(
                f"{role}_suffix={suffix!r}: expected the end of a file name, with .nii or .nii.gz"
            )
        first = seen.setdefault((folder.resolve(), suffix), role)
        if first != role:
            raise ConfigError(
                f"{first}_suffix and {role}_suffix are both {suffix!r} in {folder}; expected names "
                "that tell them apart, or other folders"
            )
