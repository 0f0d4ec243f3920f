"""nnU-Net v2 raw folders: 2-D images or slices of volumes, one file per channel."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.constants import MAX_CLASSES
from scribbleseg.data.classes import ClassTable, normalise_name
from scribbleseg.data.images import ImageOptions
from scribbleseg.data.sources.index import OnMissing  # noqa: TC001  (the CLI resolves it)
from scribbleseg.data.sources.volumes import Case, CaseSource, check_fold, files_ending
from scribbleseg.data.weak import LabelType  # noqa: TC001  (the CLI resolves it)
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.intensity import Intensity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scribbleseg.types import Record, Split

__all__ = ["NnUNetSource"]

_FOLDS, _SPLIT_SEED = 5, 12345
_FACTS = "dataset.json"
_SPLITS = "splits_final.json"
_CHANNEL = re.compile(r"(.+)_(\d{4})")
_EXAMPLE = '{"channel_names": {"0": "MRI"}, "labels": {"background": 0, "organ": 1}, ...}'


class NnUNetSource(CaseSource):
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
        check_fold(fold, _FOLDS)
        self.root, self.fold = Path(root), fold
        facts = _read_facts(self.root)
        names, self._ignored = _read_labels(facts, self.root / _FACTS)
        self._ending = str(facts.get("file_ending", ".nii.gz"))
        sparse = self._ignored is not None
        self.scribble_dir = self.root / (scribble_dir or ("labelsTr" if sparse else "scribblesTr"))
        self.mask_dir = self.root / (mask_dir or ("masksTr" if sparse else "labelsTr"))
        super().__init__(
            ClassTable(
                names,
                background=0 if normalise_name(names[0]) == "background" else None,
                ignore=() if self._ignored is None else (self._ignored,),
            ),
            slice_axis=slice_axis,
            cache_mib=cache_mib,
            images=ImageOptions(
                channels=_count_channels(facts, self.root / _FACTS),
                intensity=Intensity.from_options(intensity),
                rgb_channels=rgb_channels,
                max_image_pixels=max_image_pixels,
            ),
            unlabelled_value=unlabelled_value,
            on_missing=on_missing,
            allow_dense_scribbles=allow_dense_scribbles,
            label_type=label_type,
            pseudo_label_dir=None if pseudo_label_dir is None else self.root / pseudo_label_dir,
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it; reads no file."""
        return (root / "imagesTr").is_dir() and (root / _FACTS).is_file()

    def _places(self) -> dict[str, str]:
        return {
            "image": str(self.root / "imagesTr"),
            "scribble": str(self.scribble_dir),
            "mask": str(self.mask_dir),
        }

    def _list_cases(self) -> Iterable[Case]:
        scribbles, masks = self._labels(self.scribble_dir), self._labels(self.mask_dir)
        train = self._images("imagesTr")
        for name, files in train.items():
            yield Case(name, files, scribbles.get(name), masks.get(name))
        truth = self._labels(self.root / "labelsTs")
        for name, files in self._images("imagesTs").items():
            if name in train:
                raise LabelFormatError(
                    f"D303 {self.root}: case {name!r} is in imagesTr and in imagesTs; give every "
                    "case its own name"
                )
            yield Case(name, files, None, truth.get(name))

    def _images(self, folder: str) -> dict[str, tuple[Path, ...]]:
        """Files of every case in the order of the channels."""
        place = self.root / folder
        if folder == "imagesTs" and not place.is_dir():
            return {}
        channels: dict[str, dict[int, Path]] = {}
        for stem, path in files_ending(place, self._ending).items():
            match = _CHANNEL.fullmatch(stem)
            if match is None:
                raise LabelFormatError(
                    f"D301 {path}: expected a name that ends in _0000{self._ending}, the number of "
                    "its channel; rename the file"
                )
            channels.setdefault(match[1], {})[int(match[2])] = path
        wanted = self.in_channels
        for name, found in channels.items():
            # natural images hold three channels in one file
            if sorted(found) not in (list(range(wanted)), [0] if wanted == 3 else None):
                raise ScribbleNotFoundError(
                    f"D301 {place}: case {name!r} has the channel numbers {sorted(found)}, "
                    f"{_FACTS} names {wanted} channels, expected one file for each of 0 to "
                    f"{wanted - 1}; copy the missing files"
                )
        return {name: tuple(found[i] for i in sorted(found)) for name, found in channels.items()}

    def _labels(self, folder: Path) -> dict[str, Path]:
        if not folder.is_dir():
            return {}
        return files_ending(folder, self._ending)

    def _in(self, folder: str) -> list[str]:
        place = self.root / folder
        return [name for name, case in self.cases.items() if place in case.images[0].parents]

    def records(self, split: Split) -> list[Record]:
        """Samples of a split; see the class for what the splits are.

        Raises:
            ScribbleNotFoundError: If folders, cases or labels are missing (D301).
            LabelFormatError: If names or headers are faulty.
            ConfigError: If there is no such split.
        """
        if split != "predict":
            return super().records(split)
        stems = self._stems_of(self._in("imagesTs") or self._in("imagesTr"))
        return [self._record(stem, None, None) for stem in stems]

    def _list_stems(self, split: Split) -> list[str]:
        if split == "test":
            cases = self._in("imagesTs")
            if not cases:
                raise ScribbleNotFoundError(
                    f"D301 {self.root / 'imagesTs'}: holds no case; copy the test images there, or "
                    "evaluate on the validation split"
                )
            return self._stems_of(cases)
        names = self._in("imagesTr")
        stored = self.root / _SPLITS
        if stored.is_file():
            chosen = _stored_fold(stored, self.fold, split)
            unknown = sorted(set(chosen) - set(names))
            if unknown:
                raise ScribbleNotFoundError(
                    f"D301 {stored}: fold {self.fold} lists {len(unknown)} cases that are not in "
                    f"imagesTr (e.g. {', '.join(unknown[:5])}); copy them, or delete the file"
                )
            return self._stems_of(chosen)
        if len(names) < _FOLDS:
            raise ScribbleNotFoundError(
                f"D301 {self.root / 'imagesTr'}: holds {len(names)} cases, at least {_FOLDS} are "
                f"needed to make folds; write {_SPLITS}: "
                '[{"train": ["CASE", ...], "val": ["CASE", ...]}]'
            )
        held_out = _default_fold(names, self.fold)
        return self._stems_of(n for n in names if (n in held_out) == (split == "val"))


def _default_fold(names: list[str], fold: int) -> set[str]:
    """Held-out cases of nnU-Net's own shuffled folds, so that results can be compared with its."""
    ordered = sorted(names)
    order = np.arange(len(ordered))
    # an old generator, but the one that it uses
    np.random.RandomState(_SPLIT_SEED).shuffle(order)
    return {ordered[index] for index in np.array_split(order, _FOLDS)[fold]}


def _stored_fold(path: Path, fold: int, split: str) -> list[str]:
    try:
        folds = json.loads(path.read_text(encoding="utf-8-sig"))
        names = folds[fold][split]
    except (OSError, ValueError, RecursionError) as error:
        raise LabelFormatError(f"D202 {path}: is not valid JSON ({error})") from error
    except (IndexError, KeyError, TypeError) as error:
        raise ConfigError(
            f'fold={fold}: {path} has no such fold; expected a list of {{"train": [...], "val": '
            "[...]}"
        ) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise LabelFormatError(
            f"D202 {path}: {split!r} of fold {fold} is {str(names)[:60]!r}, expected a list "
            "of case names"
        )
    return names


def _read_facts(root: Path) -> dict[str, Any]:
    path = root / _FACTS
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise ScribbleNotFoundError(
            f"D301 {path}: does not exist; set `root` to a folder of nnUNet_raw, or write "
            f"{_EXAMPLE}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise LabelFormatError(f"D202 {path}: is not valid JSON ({error})") from error
    if not isinstance(facts, dict) or not isinstance(facts.get("labels"), dict):
        raise LabelFormatError(f"D401 {path}: has no `labels`, expected {_EXAMPLE}")
    if "file_ending" not in facts and "channel_names" not in facts:
        raise LabelFormatError(
            f"D401 {path}: has neither `channel_names` nor `file_ending`, so it is of nnU-Net v1 "
            "or the Medical Segmentation Decathlon; convert it with nnUNetv2_convert_MSD_dataset"
        )
    return facts


def _count_channels(facts: dict[str, Any], path: Path) -> int:
    channels = facts.get("channel_names")
    if not isinstance(channels, dict) or not channels:
        raise LabelFormatError(
            f'D401 {path}: channel_names is {channels!r}, expected e.g. {{"0": "T1", "1": "T2"}}'
        )
    return len(channels)


def _read_labels(facts: dict[str, Any], path: Path) -> tuple[tuple[str, ...], int | None]:
    """Class names by id, and the value of ``ignore``."""
    labels = dict(facts["labels"])
    for name, value in labels.items():
        if isinstance(value, list):
            raise LabelFormatError(
                f"D401 {path}: label {name!r} is the region {value}; regions overlap, but a pixel "
                "has one class here: write one id per class"
            )
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise LabelFormatError(
                f'D401 {path}: label {name!r} is {value!r}, expected its id, as in {{"organ": 1}}'
            )
    ignored = labels.pop("ignore", None)
    order = sorted(labels, key=lambda name: int(labels[name]))
    ids = [int(labels[name]) for name in order]
    if ids != list(range(len(ids))) or not 2 <= len(ids) <= MAX_CLASSES:
        raise LabelFormatError(
            f"D401 {path}: labels have the ids {ids[:8]}, expected 2 to {MAX_CLASSES} ids from 0 "
            "without gaps; renumber them"
        )
    if ignored is not None and ignored in ids:
        raise LabelFormatError(
            f"D401 {path}: `ignore` has the id {ignored} of class {order[ignored]!r}, expected the "
            f"highest id, {len(ids)}"
        )
    return tuple(order), ignored
