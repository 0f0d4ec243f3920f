"""The plain folder: ``images/``, ``scribbles/``, ``masks/``, split files and a class file."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from scribbleseg.data import io
from scribbleseg.data.image_options import ImageOptions
from scribbleseg.data.label_types import LabelType, WeakLabels  # noqa: TC001  (the CLI resolves them)
from scribbleseg.data.sources.base import FileSource
from scribbleseg.data.sources.file_index import FileIndex, OnMissing
from scribbleseg.data.spacings import Spacing, read_spacings
from scribbleseg.errors import ConfigError, ScribbleNotFoundError
from scribbleseg.functional.image_files import write_text
from scribbleseg.functional.intensity import Intensity  # noqa: TC001  (the CLI resolves it)

if TYPE_CHECKING:
    from scribbleseg.types import Record, Split

__all__ = ["FolderSource"]

logger = logging.getLogger(__name__)

_VAL_SHARE = 0.2
_SPLIT_SEED = 0
_STROKE_SUFFIXES = (".xml",)
_OPTIONS: dict[str, tuple[type, ...]] = {
    "train_list": (str,),
    "val_list": (str,),
    "test_list": (str,),
    "image_dir": (str,),
    "scribble_dir": (str,),
    "mask_dir": (str,),
    "unlabelled_value": (int,),
    "on_missing": (str,),
    "group_regex": (str,),
    "allow_dense_scribbles": (bool,),
    "resize_labels": (bool,),
    "channels": (int,),
    "intensity": (dict,),
    "rgb_channels": (list,),
    "max_image_pixels": (int,),
}


class FolderSource(FileSource):
    """Anybody's own data in the plain-folder layout.

    ::

        root/images/STEM.jpg  scribbles/STEM.png  masks/STEM.png
             classes.txt  [train.txt val.txt test.txt]  [dataset.yaml]  [spacing.json]

    Files are paired by stem, the path relative to ``images/`` without suffix. If neither
    ``train.txt`` nor ``val.txt`` exists, the labelled images are split 80/20 by group, the same way
    on every machine, and both files are written. Without ``masks/`` validation uses scribbles only.
    ``dataset.yaml`` may set any of the options below except ``label_type``, ``pseudo_label_dir``
    and ``weak_labels``; an argument that differs from its default wins over the file.
    ``spacing.json`` gives the distance of slices, rows and columns in mm by stem or group.

    Args:
        root: Folder of the data set.
        train_list: Split file of training images, relative to ``root`` or absolute.
        val_list: Split file of validation images.
        test_list: Split file of test images.
        scribble_dir: Folder of scribbles, relative to ``root`` or absolute: PNG ids, or ScribbleSup
            XML; PNG is preferred.
        mask_dir: Folder of dense masks; may be absent.
        image_dir: Folder of images.
        unlabelled_value: Value of scribble files that means "not drawn", besides 255.
        on_missing: What to do with listed training images without scribble.
        group_regex: Pattern searched in the stem that gives its patient, volume or video: the first
            group, or the whole match.
        allow_dense_scribbles: Scribbles may cover more than half of the pixels.
        resize_labels: Resize labels of another size to their image (nearest neighbour).
        channels: Image channels: 3 = RGB (grey files are repeated), 1 = grey, others as the files
            have them: TIFF (needs tifffile) or ``.npy`` of shape ``(H, W, K)`` or ``(K, H, W)``.
        intensity: Window of images with more than 8 bits, ``{mode: percentile|range|dtype, low,
            high}``; by default the 0.5 to 99.5 percentile of each image.
        rgb_channels: Three channels that stand for red, green and blue in pictures and where
            colours are compared; by default the first three.
        max_image_pixels: Larger images are refused, ``null`` = Pillow's limit (89 million).
        label_type: ``"mask"`` trains on the dense masks, the upper bound of a comparison: the
            ``scribble`` of a training record is then its mask file. ``"pseudo"`` trains on
            ``pseudo_label_dir`` in the same way.
        pseudo_label_dir: Folder of pseudo-labels, relative to ``root`` or absolute: PNG ids of
            image size, 255 = undecided, as a predict run or ``python -m scribbleseg.data spread``
            writes. A ``manifest.json`` there must name the same classes.
        weak_labels: Where clicks, boxes and tags are, and how they are drawn, for the label types
            ``"point"``, ``"box"`` and ``"tag"``.

    Raises:
        ScribbleNotFoundError: If ``root`` or the class file is missing.
        LabelFormatError: If the class file is faulty.
        ConfigError: If an option is out of range or unknown in ``dataset.yaml``.
    """

    layout = "images/"

    def __init__(
        self,
        root: str | Path,
        *,
        train_list: str = "train.txt",
        val_list: str = "val.txt",
        test_list: str = "test.txt",
        scribble_dir: str = "scribbles",
        mask_dir: str = "masks",
        image_dir: str = "images",
        unlabelled_value: int | None = None,
        on_missing: OnMissing = "error",
        group_regex: str | None = None,
        allow_dense_scribbles: bool = False,
        resize_labels: bool = False,
        channels: int = 3,
        intensity: Intensity | None = None,
        rgb_channels: tuple[int, int, int] | None = None,
        max_image_pixels: int | None = None,
        label_type: LabelType = "scribble",
        pseudo_label_dir: str | None = None,
        weak_labels: WeakLabels | None = None,
    ) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise ScribbleNotFoundError(f"D301 {root}: no such folder; check `root`")
        options = _file_options(self.root)
        given: dict[str, tuple[Any, Any]] = {
            "train_list": (train_list, "train.txt"),
            "val_list": (val_list, "val.txt"),
            "test_list": (test_list, "test.txt"),
            "image_dir": (image_dir, "images"),
            "scribble_dir": (scribble_dir, "scribbles"),
            "mask_dir": (mask_dir, "masks"),
            "unlabelled_value": (unlabelled_value, None),
            "on_missing": (on_missing, "error"),
            "group_regex": (group_regex, None),
            "allow_dense_scribbles": (allow_dense_scribbles, False),
            "resize_labels": (resize_labels, False),
            "channels": (channels, 3),
            "intensity": (intensity, None),
            "rgb_channels": (rgb_channels, None),
            "max_image_pixels": (max_image_pixels, None),
        }
        for name, (value, default) in given.items():
            if value != default or name not in options:
                options[name] = value
        self._from_file = {name: options[name] for name in given}
        self.image_dir = self.root / options.pop("image_dir")
        self.scribble_dir = self.root / options.pop("scribble_dir")
        self.mask_dir = self.root / options.pop("mask_dir")
        self.lists: dict[str, str] = {
            split: options.pop(f"{split}_list") for split in ("train", "val", "test")
        }
        images = ImageOptions(
            **{name: options.pop(name) for name in ImageOptions.__dataclass_fields__}
        )
        super().__init__(
            self._class_table(),
            images=images,
            label_type=label_type,
            pseudo_label_dir=None if pseudo_label_dir is None else self.root / pseudo_label_dir,
            weak_labels=weak_labels,
            **options,
        )

    @cached_property
    def _spacings(self) -> dict[str, Spacing]:
        return read_spacings(self.root)

    def _record(self, stem: str, scribble: Path | None, mask: Path | None) -> Record:
        record = super()._record(stem, scribble, mask)
        known = self._spacings.get(stem) or self._spacings.get(record.group or stem)
        return record if known is None else replace(record, spacing=known)

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it; reads no file."""
        return (root / "images").is_dir()

    def _class_table(self) -> io.ClassTable:
        return io.read_classes(self.root)

    def _list_files(self) -> FileIndex:
        suffixes = (*io.LABEL_SUFFIXES, *_STROKE_SUFFIXES)
        labels = {
            role: io.find_images(folder, suffixes=suffixes, unique=False) if folder.is_dir() else {}
            for role, folder in (("scribble", self.scribble_dir), ("mask", self.mask_dir))
        }
        places = {
            "image": self.image_dir,
            "scribble": self.scribble_dir,
            "mask": self.mask_dir,
        }
        return FileIndex(
            images=io.find_images(self.image_dir),
            scribbles=labels["scribble"],
            masks=labels["mask"],
            places={role: str(folder) for role, folder in places.items()},
        )

    def _list_stems(self, split: Split) -> list[str]:
        path = self.root / self.lists[split]
        if split == "test" or path.is_file() or self._has_lists():
            return io.read_split(path)
        return self._divide()[split]

    def _has_lists(self) -> bool:
        """Whether the user has lists of any name: then none is invented."""
        own_names = self.lists["train"] != "train.txt" or self.lists["val"] != "val.txt"
        return own_names or any((self.root / self.lists[s]).is_file() for s in ("train", "val"))

    def _divide(self) -> dict[str, list[str]]:
        """Seeded split by group over the labelled images, stored in the split files."""
        files = self.files
        labelled = {*files.scribbles, *files.masks} & files.images.keys()
        if self.label_type in ("point", "box"):
            labelled |= self._training_labels()[1].keys() & files.images.keys()
        if not labelled:
            raise ScribbleNotFoundError(
                f"D301 {self.root}: none of {len(files.images)} images has a scribble in "
                f"{self.scribble_dir} or a mask; scribbles must have the stem of their image"
            )
        groups: dict[str, list[str]] = {}
        for stem in sorted(labelled):
            groups.setdefault(self.group_of(stem) or stem, []).append(stem)
        if len(groups) < 2:
            raise ScribbleNotFoundError(
                f"D301 {self.root}: {len(labelled)} labelled images form {len(groups)} group, at "
                "least 2 are needed to split them; write train.txt and val.txt, or correct "
                "`group_regex`"
            )
        # the order of hashes does not depend on the platform or on other groups
        order = sorted(
            groups, key=lambda g: hashlib.sha256(f"{_SPLIT_SEED}:{g}".encode()).hexdigest()
        )
        held_out = set(order[: max(1, round(_VAL_SHARE * len(order)))])
        chosen = {
            "train": [s for g in groups if g not in held_out for s in groups[g]],
            "val": [s for g in groups if g in held_out for s in groups[g]],
        }
        try:
            for name, stems in chosen.items():
                write_text(self.root / self.lists[name], "\n".join(sorted(stems)) + "\n")
        except OSError as error:
            logger.warning("%s: the split is not stored (%s); it is made again", self.root, error)
        return {name: sorted(stems) for name, stems in chosen.items()}


def _file_options(root: Path) -> dict[str, Any]:
    """Options of ``dataset.yaml``, checked by name and type."""
    path = root / "dataset.yaml"
    if not path.is_file():
        return {}
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8-sig")) or {}
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected `option: value` lines, got {type(data).__name__}")
    for name, value in data.items():
        if name not in _OPTIONS:
            raise ConfigError(f"{path}: unknown option {name!r}; known are {sorted(_OPTIONS)}")
        # bool is an int for Python, but no label value
        wrong_bool = isinstance(value, bool) and bool not in _OPTIONS[name]
        if value is not None and (wrong_bool or not isinstance(value, _OPTIONS[name])):
            expected = " or ".join(kind.__name__ for kind in _OPTIONS[name])
            raise ConfigError(f"{path}: {name} is {value!r}, expected {expected}")
    return {name: value for name, value in data.items() if value is not None}
