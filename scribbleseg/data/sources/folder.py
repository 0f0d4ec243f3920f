"""The plain folder: ``images/``, ``scribbles/``, ``masks/``, split files and a class file."""

from __future__ import annotations

import hashlib
import inspect
import logging
import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scribbleseg.data.classes import ClassTable, read_classes
from scribbleseg.data.documents import read_yaml
from scribbleseg.data.findings import Finding, found, some_names
from scribbleseg.data.groups import group_in
from scribbleseg.data.images import ImageOptions
from scribbleseg.data.lists import find_images, read_split
from scribbleseg.data.sources.files import FileSource
from scribbleseg.data.sources.index import (
    FileIndex,
    OnMissing,
    find_labels,
)
from scribbleseg.data.volumes import Spacing, read_spacings
from scribbleseg.data.weak import LabelType, WeakLabels  # noqa: TC001  (the CLI resolves them)
from scribbleseg.errors import ConfigError, ScribbleNotFoundError, ScribbleSegError
from scribbleseg.functional.image_files import write_text
from scribbleseg.functional.intensity import Intensity  # noqa: TC001  (the CLI resolves it)

if TYPE_CHECKING:
    from scribbleseg.types import Label, Record, Split

__all__ = ["FolderSource"]

logger = logging.getLogger(__name__)

_VAL_SHARE = 0.2
_SPLIT_SEED = 0
_KNOWN_GROUPS = (
    re.compile(
        r"(?:^|[/_.-])((?:patient|subject|volume|study|case|scan|subj|pat|sub|vol)[_ -]?[0-9]+"
        r"|sub-[0-9a-z]+)",
        re.IGNORECASE,
    ),
    re.compile(r"^(.+?)[/_-](?:slice|frame|slc|sl|fr|s|z|f)[_-]?[0-9]+$", re.IGNORECASE),
)
"""Patterns of names of patients, and of slices and frames, tried in this order."""

_OPTIONS: dict[str, tuple[type, ...]] = {
    "train_list": (str,),
    "val_list": (str,),
    "test_list": (str,),
    "image_dir": (str,),
    "scribble_dir": (str,),
    "mask_dir": (str,),
    "unlabelled_value": (int,),
    "unlabelled_color": (list, str),
    "first_id": (int,),
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
             classes.txt  [train.txt val.txt test.txt, or .csv]  [dataset.yaml]  [spacing.json]

    Files are paired by stem, the path relative to ``images/`` without suffix. Without lists the
    labelled images are split 80/20, the same way on every machine, and both lists are written:
    images with masks are held out, if there are some, and no group is divided; names such as
    ``patient001_slice03`` tell the groups. Without ``masks/`` validation uses scribbles only.
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
        unlabelled_value: Value of scribble files that means unlabelled, besides 255.
        unlabelled_color: Colour that means unlabelled in scribble files, ``[red, green, blue]`` or
            ``"#rrggbb"``.
        first_id: Value of the first class, 0 or 1, where 0 is unlabelled and the class file gives
            names only; by default told by the files, which count from 1 if one holds as large a
            value as there are classes.
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
        max_image_pixels: Larger images are refused, ``null`` = 89 million (Pillow's limit).
        label_type: ``"mask"`` trains on the dense masks, the upper bound of a comparison;
            ``"pseudo"`` on ``pseudo_label_dir``.
        pseudo_label_dir: Folder of pseudo-labels, relative to ``root`` or absolute: PNG ids of
            image size, 255 = undecided, as a predict run or ``python -m scribbleseg.data
            propagate`` writes. A ``manifest.json`` there must name the same classes.
        weak_labels: Clicks, boxes and tags, for the label types ``point``, ``box`` and ``tag``.

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
        unlabelled_color: tuple[int, int, int] | str | None = None,
        first_id: Literal[0, 1] | None = None,
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
        given = dict(locals())
        self.root = Path(root)
        if not self.root.is_dir():
            raise ScribbleNotFoundError(f"D301 {root}: no such folder; check `root`")
        defaults = inspect.signature(FolderSource).parameters
        options = _file_options(self.root)
        for name in _OPTIONS:
            if given[name] != defaults[name].default or name not in options:
                options[name] = given[name]
        self._from_file = dict(options)
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

    def _record(self, stem: str, scribble: Label | None, mask: Label | None) -> Record:
        record = super()._record(stem, scribble, mask)
        known = self._spacings.get(stem) or self._spacings.get(record.group or stem)
        return record if known is None else replace(record, spacing=known)

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it; reads no file."""
        return (root / "images").is_dir()

    def _class_table(self) -> ClassTable:
        return read_classes(self.root)

    def _list_files(self) -> FileIndex:
        names, root = self.class_names, self.root
        return FileIndex(
            images=find_images(self.image_dir, within=root),
            scribbles=find_labels(self.scribble_dir, "scribble", names, within=root),
            masks=find_labels(self.mask_dir, "mask", names, within=root),
            places={
                "image": str(self.image_dir),
                "scribble": str(self.scribble_dir),
                "mask": str(self.mask_dir),
            },
        )

    def _list_stems(self, split: Split) -> list[str]:
        path = self._list_file(split)
        if split == "test" or path.is_file() or self._has_lists():
            return read_split(path, repeats=split == "train")
        return self._divide()[split]

    def _list_file(self, split: Split) -> Path:
        """The list of a split; ``train.csv`` if there is no ``train.txt``."""
        path = self.root / self.lists[split]
        table = path.with_suffix(".csv")
        return table if not path.is_file() and table.is_file() else path

    def problems(self) -> list[Finding]:
        """Warn of labelled images that are in no list (D301), beside what other sources know."""
        findings = super().problems()
        splits: list[Split] = ["train", "val"]
        if self._list_file("test").is_file():
            splits.append("test")
        listed: set[str] = set()
        try:
            for split in splits:
                listed.update(self._listed(split))
        except ScribbleSegError:  # the check says why this split cannot be listed
            return findings
        files = self.files
        labelled = {*files.scribbles, *files.masks} & files.images.keys()
        left = [stem for stem in files.images if stem in labelled and stem not in listed]
        if left:
            text = (
                f"{len(left)} of {len(labelled)} labelled images are in no list "
                f"({some_names(left)}), expected each in one; they are not used: add them to a "
                "list, or leave them out on purpose"
            )
            findings.append(found("D301", "warning", str(self.root), text))
        return findings

    def _has_lists(self) -> bool:
        """Whether the user has lists of any name: then none is invented."""
        own_names = self.lists["train"] != "train.txt" or self.lists["val"] != "val.txt"
        return own_names or any(self._list_file(s).is_file() for s in ("train", "val"))

    def _divide(self) -> dict[str, list[str]]:
        """Seeded split by group over the labelled images, stored in the split files."""
        files = self.files
        drawn = set(files.scribbles or files.masks)
        if self.label_type in ("point", "box"):
            drawn |= self.training_labels.keys()
        scored = files.masks.keys() & files.images.keys()
        labelled = sorted((drawn | scored) & files.images.keys())
        if not labelled:
            raise ScribbleNotFoundError(
                f"D301 {self.root}: none of {len(files.images)} images has a scribble in "
                f"{self.scribble_dir} or a mask; scribbles must have the stem of their image"
            )
        groups = self._groups(labelled)
        held_out = _hold_out(groups, drawn, scored)
        if len(groups) < 2 or len(held_out) == len(groups):
            raise ScribbleNotFoundError(
                f"D301 {self.root}: {len(labelled)} labelled images form {len(groups)} group, at "
                "least 2 are needed to split them; write train.txt and val.txt, or correct "
                "`group_regex`"
            )
        ways = {"train": (groups.keys() - held_out, drawn), "val": (held_out, scored or drawn)}
        chosen = {
            split: sorted(stem for group in wanted for stem in groups[group] if stem in usable)
            for split, (wanted, usable) in ways.items()
        }
        try:
            for name, stems in chosen.items():
                write_text(self.root / self.lists[name], "\n".join(stems) + "\n")
            logger.info(
                "%s: wrote train.txt (%d images) and val.txt (%d images, %s); edit them to change "
                "the split",
                *(self.root, len(chosen["train"]), len(chosen["val"])),
                "with masks" if scored else "scored on scribbles",
            )
        except OSError as error:
            logger.warning("%s: the split is not stored (%s); it is made again", self.root, error)
        return chosen

    def _groups(self, stems: list[str]) -> dict[str, list[str]]:
        """Stems by group; without ``group_regex`` by a pattern that all names have."""
        if self._group_pattern is not None:
            return _by_group(self._group_pattern, stems)
        for pattern in _KNOWN_GROUPS:
            if all(pattern.search(stem) for stem in stems):
                groups = _by_group(pattern, stems)
                if 1 < len(groups) < len(stems):
                    logger.info(
                        "%s: %d images of %d patients, volumes or videos, told from their names by "
                        "group_regex=%r; a group is never divided",
                        *(self.root, len(stems), len(groups), pattern.pattern),
                    )
                    return groups
        text = "%s: names tell no patients or videos; set `group_regex` if images belong together"
        logger.info(text, self.root)
        return {stem: [stem] for stem in stems}


def _by_group(pattern: re.Pattern[str], stems: list[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for stem in stems:
        groups.setdefault(group_in(pattern, stem) or stem, []).append(stem)
    return groups


def _hold_out(groups: dict[str, list[str]], drawn: set[str], scored: set[str]) -> set[str]:
    """Groups for validation: those that cannot train, and of the others until there are enough."""
    # the order of hashes does not depend on the platform or on other groups
    order = sorted(groups, key=lambda g: hashlib.sha256(f"{_SPLIT_SEED}:{g}".encode()).hexdigest())
    number = max(1, round(_VAL_SHARE * len(order)))
    held_out = {group for group in order if not drawn & set(groups[group])}
    for group in order:
        if len(held_out) < number and (not scored or scored & set(groups[group])):
            held_out.add(group)
    return held_out


def _file_options(root: Path) -> dict[str, Any]:
    """Options of ``dataset.yaml``, checked by name and type."""
    path = root / "dataset.yaml"
    if not path.is_file():
        return {}
    try:
        data = read_yaml(path, "file of options") or {}
    except ValueError as error:
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
