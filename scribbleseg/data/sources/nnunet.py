"""nnU-Net v2 raw folders: 2-D images or slices of volumes, one file per channel."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.data.classes import ClassTable, table_of
from scribbleseg.data.documents import read_json
from scribbleseg.data.images import ImageOptions
from scribbleseg.data.sources.index import OnMissing  # noqa: TC001  (the CLI resolves it)
from scribbleseg.data.sources.volumes import FOLDS, Case, VolumeSource, files_ending
from scribbleseg.data.volumes import NIFTI_SUFFIXES
from scribbleseg.data.weak import LabelType  # noqa: TC001  (the CLI resolves it)
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.intensity import Intensity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scribbleseg.data.source import FileRole
    from scribbleseg.types import Record, Split

__all__ = ["NnUNetSource"]

_SPLIT_SEED = 12345
_FACTS = "dataset.json"
_SPLITS = "splits_final.json"
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_EXAMPLE = '{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "organ": 1}, ...}'


class NnUNetSource(VolumeSource):
    """A raw data set of nnU-Net v2 (``nnUNet_raw/DatasetXXX_NAME``).

    ::

        root/imagesTr/CASE_0000.ext  labelsTr/CASE.ext  dataset.json  [masksTr/CASE.ext]
             [imagesTs/CASE_0000.ext  labelsTs/CASE.ext]  [splits_final.json]

    Class names, channels and the file ending come from ``dataset.json``. A label called ``ignore``
    means that ``labelsTr`` is sparse: those are the scribbles, and the ignored value is "not
    drawn". Dense labels for validation are then looked for in ``masksTr``; without them validation
    uses scribbles only. Without an ``ignore`` label ``labelsTr`` is dense, and scribbles are looked
    for in ``scribblesTr`` (255 or ``unlabelled_value`` = not drawn). A volume yields one sample per
    slice; its group is the case. ``test`` is ``imagesTs`` with ``labelsTs``; ``predict`` is
    ``imagesTs``, or ``imagesTr`` if that is absent.

    Args:
        root: Folder that holds ``dataset.json``.
        fold: Held-out fold, 0 to 4: of ``splits_final.json`` if it is there, otherwise the one that
            nnU-Net itself makes of these cases.
        scribble_dir: Folder of scribbles, relative to ``root``; ``null`` = see above.
        mask_dir: Folder of dense labels, relative to ``root``; ``null`` = see above.
        unlabelled_value: Further value of scribbles that means "not drawn".
        slice_axis: Axis of the slices in RAS orientation: 0 = left-right, 1 = back-front, 2 =
            feet-head; ``null`` = the one with the largest spacing.
        intensity: Window to 8 bits; by default the 0.5 to 99.5 percentile of each volume or image.
        rgb_channels: Three channels that stand for red, green and blue in pictures.
        max_image_pixels: Larger 2-D images are refused, ``null`` = Pillow's limit (89 million).
        cache_mib: Memory in MiB that every loader process may use to keep volumes.
        on_missing: What to do with training cases without scribble.
        allow_dense_scribbles: Scribbles may cover more than half of the pixels.
        label_type: ``"mask"`` trains on the dense labels, ``"pseudo"`` on ``pseudo_label_dir``.
        pseudo_label_dir: Folder of pseudo-label PNGs, one per sample.

    Raises:
        ScribbleNotFoundError: If the folder or ``dataset.json`` is missing (D301).
        LabelFormatError: If ``dataset.json`` is faulty (D202, D401).
        ConfigError: If an option is out of range.
    """

    layout = "imagesTr/ and dataset.json"

    def __init__(
        self,
        root: str | Path,
        *,
        fold: int = 0,
        scribble_dir: str | None = None,
        mask_dir: str | None = None,
        unlabelled_value: int | None = None,
        slice_axis: int | None = None,
        intensity: Intensity | None = None,
        rgb_channels: tuple[int, int, int] | None = None,
        max_image_pixels: int | None = None,
        cache_mib: int = 512,
        on_missing: OnMissing = "error",
        allow_dense_scribbles: bool = False,
        label_type: LabelType = "scribble",
        pseudo_label_dir: str | None = None,
    ) -> None:
        folder = Path(root)
        facts = _read_facts(folder / _FACTS)
        sparse = "ignore" in facts["labels"]
        folders: dict[FileRole, str] = {
            "image": "imagesTr",
            "scribble": scribble_dir or ("labelsTr" if sparse else "scribblesTr"),
            "mask": mask_dir or ("masksTr" if sparse else "labelsTr"),
        }
        ending = str(facts.get("file_ending", ".nii.gz"))
        super().__init__(
            folder,
            _read_labels(facts, folder / _FACTS),
            {role: (folder / name, ending) for role, name in folders.items()},
            fold=fold,
            slice_axis=slice_axis,
            cache_mib=cache_mib,
            images=ImageOptions(
                channels=len(facts["channel_names"]),
                intensity=Intensity.from_options(intensity),
                rgb_channels=rgb_channels,
                max_image_pixels=max_image_pixels,
            ),
            unlabelled_value=unlabelled_value,
            on_missing=on_missing,
            allow_dense_scribbles=allow_dense_scribbles,
            label_type=label_type,
            pseudo_label_dir=pseudo_label_dir,
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it; reads no file."""
        return (root / "imagesTr").is_dir() and (root / _FACTS).is_file()

    def _list_cases(self) -> Iterable[Case]:
        scribbles, masks = self._find("scribble"), self._find("mask")
        train = self._channels("imagesTr", needed=True)
        for name, files in train.items():
            yield Case(name, files, scribbles.get(name), masks.get(name))
        masks = files_ending(self.root / "labelsTs", self.places["mask"][1])
        for name, files in self._channels("imagesTs").items():
            if name in train:
                raise LabelFormatError(
                    f"D303 {self.root}: case {name!r} is in imagesTr and in imagesTs; give every "
                    "case its own name"
                )
            yield Case(name, files, None, masks.get(name))

    def _channels(self, place: str, *, needed: bool = False) -> dict[str, tuple[Path, ...]]:
        """Files of every case of a folder in the order of the channels."""
        folder, ending = self.root / place, self.places["image"][1]
        channels: dict[str, dict[int, Path]] = {}
        for stem, path in files_ending(folder, ending, needed=needed).items():
            match = _CHANNEL.fullmatch(stem)
            if match is None:
                raise LabelFormatError(
                    f"D301 {path}: expected a name that ends in _0000{ending}, the number of its "
                    "channel; rename the file"
                )
            channels.setdefault(match[1], {})[int(match[2])] = path
        # pictures hold three channels in one file
        wanted, picture = self.in_channels, not ending.endswith(NIFTI_SUFFIXES)
        allowed = [list(range(wanted)), *([[0]] if wanted == 3 and picture else [])]
        for name, found in channels.items():
            if sorted(found) not in allowed:
                raise ScribbleNotFoundError(
                    f"D301 {folder}: case {name!r} has the channel numbers {sorted(found)}, "
                    f"{_FACTS} names {wanted} channels, expected one file for each of 0 to "
                    f"{wanted - 1}; copy the missing files"
                )
        return {name: tuple(found[i] for i in sorted(found)) for name, found in channels.items()}

    def _in(self, folder: str) -> list[str]:
        place = self.root / folder
        return [name for name, case in self.cases.items() if place in case.images[0].parents]

    def records(self, split: Split) -> list[Record]:
        """Samples of a split; see the class for what the splits are.

        Raises:
            ScribbleSegError: See :meth:`FileSource.records`.
        """
        records, tests = super().records(split), self._in("imagesTs")
        if split != "predict" or not tests:
            return records
        return [record for record in records if record.group in tests]

    def _list_stems(self, split: Split) -> list[str]:
        if split == "test":
            cases = self._in("imagesTs")
            if not cases:
                raise ScribbleNotFoundError(
                    f"D301 {self.root / 'imagesTs'}: holds no case; copy the test images there, or "
                    "evaluate on the validation split"
                )
            return self._stems_of(cases)
        stored = self.root / _SPLITS
        if stored.is_file():
            return self._stems_of(_stored_fold(stored, self.fold, split), stored)
        names = sorted(self._in("imagesTr"))
        # an old generator, but the one of nnU-Net: results can be compared with its
        np.random.RandomState(_SPLIT_SEED).shuffle(names)
        held_out = np.array_split(names, FOLDS)[self.fold].tolist()
        cure = f'write {_SPLITS}: [{{"train": ["CASE", ...], "val": ["CASE", ...]}}]'
        return self._divide(split, {name: [name] for name in names}, held_out, cure)


def _stored_fold(path: Path, fold: int, split: str) -> list[str]:
    try:
        names = read_json(path, "folds")[fold][split]
    except (IndexError, KeyError, TypeError) as error:
        raise ConfigError(
            f'fold={fold}: {path} has no such fold; expected a list of {{"train": [...], "val": '
            "[...]}"
        ) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LabelFormatError(
            f"D202 {path}: {split!r} of fold {fold} is {str(names)[:60]!r}, expected a list of "
            "case names; correct it, or delete the file"
        )
    return names


def _read_facts(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ScribbleNotFoundError(
            f"D301 {path}: does not exist; set `root` to a folder of nnUNet_raw, or write "
            f"{_EXAMPLE}"
        )
    facts = read_json(path, "facts of the data set")
    if not isinstance(facts, dict) or not isinstance(facts.get("labels"), dict):
        raise LabelFormatError(f"D401 {path}: has no `labels`, expected {_EXAMPLE}")
    if "file_ending" not in facts and "channel_names" not in facts:
        raise LabelFormatError(
            f"D401 {path}: has neither `channel_names` nor `file_ending`, so it is of nnU-Net v1 "
            "or the Medical Segmentation Decathlon; convert it with nnUNetv2_convert_MSD_dataset"
        )
    channels = facts.get("channel_names")
    if not isinstance(channels, dict) or not channels:
        raise LabelFormatError(
            f'D401 {path}: channel_names is {channels!r}, expected e.g. {{"0": "T1", "1": "T2"}}'
        )
    return facts


def _read_labels(facts: dict[str, Any], path: Path) -> ClassTable:
    """Classes by id; the value of ``ignore`` is unlabelled."""
    labels = dict(facts["labels"])
    for name, value in labels.items():
        if isinstance(value, list):
            raise LabelFormatError(
                f"D401 {path}: label {name!r} is the region {value}; regions overlap, but a pixel "
                "has one class here: write one id per class"
            )
    ignored = labels.pop("ignore", None)
    entries = [{"name": name, "id": value} for name, value in labels.items()]
    table = table_of({"classes": entries, "ignore": ignored}, path)
    if ignored in labels.values():
        raise LabelFormatError(
            f"D401 {path}: `ignore` has the id {ignored}, which is that of a class too, expected "
            f"the highest id, {len(labels)}"
        )
    return ClassTable(table.names, table.background, ignore=table.ignore)
