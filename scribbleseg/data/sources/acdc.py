"""ACDC cardiac MR slices with human scribbles, as released in HDF5 or converted to a folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.data.classes import ClassTable
from scribbleseg.data.labels import encode_label
from scribbleseg.data.lists import find_images, natural_key
from scribbleseg.data.source import require
from scribbleseg.data.sources.folder import FolderSource
from scribbleseg.data.sources.index import FileIndex, OnMissing
from scribbleseg.data.volumes import open_hdf5, read_data_set
from scribbleseg.data.weak import LabelType, WeakLabels  # noqa: TC001  (the CLI resolves them)
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError
from scribbleseg.options import check_choice
from scribbleseg.types import Label

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scribbleseg.types import Record, Split

__all__ = ["ACDC_CLASSES", "ACDCSource"]

ACDC_CLASSES = ("background", "right_ventricle", "myocardium", "left_ventricle")

_GROUP = r"(patient\d+_frame\d+)"
_PATIENT = re.compile(r"patient(\d+)")
_UNLABELLED = 4
_FOLDS, _FOLD_SIZE = 5, 20


class ACDCSource(FolderSource):
    """ACDC slices; 4 classes, background first; a group is one volume (patient and frame).

    ``root`` is either the release (``ACDC_training_slices/*.h5``, or that folder itself) or a plain
    folder with ``images/``. The release is divided by patient into five folds of 20 consecutive
    ids: ``fold`` is held out as ``val``, and ``test`` is the same fold. There is no third part, so
    choose no checkpoint by it: train for a fixed time and report the last. A plain folder uses its
    split files, and the same folds if it has none.

    Args:
        root: Folder of the data set.
        fold: Held-out fold, 1 to 5: fold 1 holds out patients 1 to 20.
        train_list: Split file of a plain folder.
        val_list: Split file of a plain folder.
        test_list: Split file of a plain folder.
        unlabelled_value: Value of scribbles that means "not drawn", besides 255; 4 in the release.
        on_missing: What to do with listed training slices without scribble.
        label_type: ``"mask"`` trains on the dense masks, the upper bound of a comparison;
            ``"pseudo"`` on ``pseudo_label_dir``.
        pseudo_label_dir: Folder of pseudo-label PNGs of either layout, see
            :class:`~scribbleseg.data.sources.folder.FolderSource`.
        weak_labels: Where clicks, boxes and tags are, for the label types ``"point"``, ``"box"``
            and ``"tag"``.

    Raises:
        ScribbleNotFoundError: If ``root`` holds neither layout.
        ConfigError: If ``fold`` or another option is out of range.
    """

    layout = "ACDC_training_slices/*.h5"

    def __init__(
        self,
        root: str | Path,
        fold: int = 1,
        *,
        train_list: str = "train.txt",
        val_list: str = "val.txt",
        test_list: str = "test.txt",
        unlabelled_value: int | None = _UNLABELLED,
        on_missing: OnMissing = "error",
        label_type: LabelType = "scribble",
        pseudo_label_dir: str | None = None,
        weak_labels: WeakLabels | None = None,
    ) -> None:
        check_choice("fold", fold, range(1, _FOLDS + 1))
        self.fold = fold
        self._slices = _locate_slices(Path(root))
        super().__init__(
            root,
            train_list=train_list,
            val_list=val_list,
            test_list=test_list,
            unlabelled_value=unlabelled_value,
            on_missing=on_missing,
            group_regex=_GROUP,
            label_type=label_type,
            pseudo_label_dir=pseudo_label_dir,
            weak_labels=weak_labels,
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it; reads no file."""
        return (root / "ACDC_training_slices").is_dir() or any(root.glob("*.h5"))

    def _class_table(self) -> ClassTable:
        return ClassTable(ACDC_CLASSES, background=0)

    def _list_files(self) -> FileIndex:
        if self._slices is None:
            return super()._list_files()
        found = find_images(self._slices, suffixes=(".h5",))
        files = {stem: found[stem] for stem in sorted(found, key=natural_key)}
        return FileIndex(
            images=files,
            scribbles={s: Label(path, "map", "scribble", "scribble") for s, path in files.items()},
            masks={s: Label(path, "map", "label", "mask") for s, path in files.items()},
            places=dict.fromkeys(("image", "scribble", "mask"), str(self._slices)),
        )

    def _list_stems(self, split: Split) -> list[str]:
        if self._slices is None and (split == "test" or self._has_lists()):
            return super()._list_stems(split)
        first = (self.fold - 1) * _FOLD_SIZE + 1
        held_out = range(first, first + _FOLD_SIZE)
        stems = [s for s in self.files.images if (_patient(s) in held_out) != (split == "train")]
        if not stems:
            raise ScribbleNotFoundError(
                f"D301 {self.root}: fold {self.fold} leaves no slice for split {split!r}; it holds "
                f"out patients {first} to {first + _FOLD_SIZE - 1}: choose another `fold`"
            )
        return sorted(stems, key=natural_key)

    def read_image(self, record: Record) -> NDArray[np.uint8]:
        """RGB image, uint8, shape ``(H, W, 3)``; the release's [0, 1] is scaled to 0..255.

        Raises:
            ScribbleNotFoundError: If there is no such file.
            LabelFormatError: If it cannot be decoded, or values are not in [0, 1].
            MissingExtraError: If h5py is not installed.
        """
        if self._slices is None:
            return super().read_image(record)
        path = require(record.image, "image", record)
        values = _read_slice(path, "image")
        if not (0 <= values.min() <= values.max() <= 1):  # false for nan as well
            raise LabelFormatError(
                f"D203 {path}: {values.dtype} with values {values.min():g} to {values.max():g}, "
                "expected a slice in [0, 1]; take the released slices"
            )
        grey = np.round(values * 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)

    def image_size(self, record: Record) -> tuple[int, int]:
        """Height and width of an image in pixels."""
        if self._slices is None:
            return super().image_size(record)
        height, width = self.read_image(record).shape[:2]
        return height, width

    def _read_map(self, label: Label, record: Record) -> NDArray[np.uint8]:
        if not label.entry:
            return super()._read_map(label, record)
        values = _read_slice(label.path, label.entry)
        return encode_label(values, self.codings[label.coding], str(label))


def _locate_slices(root: Path) -> Path | None:
    """Folder of the release, ``None`` for a plain folder."""
    if (root / "images").is_dir() or not root.is_dir():
        return None
    for folder in (root / "ACDC_training_slices", root):
        if any(folder.glob("*.h5")):
            return folder
    raise ScribbleNotFoundError(
        f"D301 {root}: holds neither images/ nor ACDC_training_slices/*.h5; set `root` to the "
        "folder of the release or of a plain-folder copy"
    )


def _patient(stem: str) -> int:
    match = _PATIENT.search(stem)
    if match is None:
        raise LabelFormatError(
            f"D301 {stem}: no patient number in the name, expected patientPPP_frameFF_slice_Z; "
            "folds are divided by patient: rename the file"
        )
    return int(match[1])


def _read_slice(path: Path, key: str) -> NDArray[Any]:
    with open_hdf5(path, "slice") as content:
        if key not in content:
            raise ScribbleNotFoundError(
                f"D301 {path}: holds no data set {key!r}; expected image, scribble and label: take "
                "the released slices"
            )
        values: NDArray[Any] = read_data_set(content, key, path)
    if values.ndim != 2 or not values.size:
        raise LabelFormatError(
            f"D203 {path}/{key}: has shape {values.shape}, expected one slice; take the released "
            "slices"
        )
    return values
