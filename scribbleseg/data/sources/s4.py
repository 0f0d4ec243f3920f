"""Scribbles for All (s4): synthetic scribbles for VOC, Cityscapes, ADE20K and KITTI-360."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.labels import LabelCoding, read_label
from scribbleseg.data.lists import find_images, read_split
from scribbleseg.data.sources.files import FileSource
from scribbleseg.data.sources.index import FileIndex, OnMissing, find_labels
from scribbleseg.data.sources.layouts import (
    LabelIds,
    detect_label_ids,
    id_coding,
    own_classes,
    read_layout,
)
from scribbleseg.data.sources.s4_file import read_s4
from scribbleseg.data.sources.voc import VOCSource
from scribbleseg.data.strokes import StrokeOptions
from scribbleseg.data.weak import LabelType, WeakLabels  # noqa: TC001  (the CLI resolves them)
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.degrade import StrokeDrawing
from scribbleseg.functional.strokes import Renderer, Stroke
from scribbleseg.options import check_choice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.data.classes import ClassTable
    from scribbleseg.data.source import FileRole
    from scribbleseg.types import Label, Record, Split

__all__ = ["S4Source"]

LabelsFrom = Literal["auto", "png", "h5"]
S4Dataset = Literal["pascal", "cityscapes", "ade20k", "kitti360"]
"""Data set that the scribbles belong to."""


class _Layout(NamedTuple):
    """Folders of a data set below its root, and what a stem in them starts with."""

    images: str
    masks: str
    scribbles: str
    train: str
    val: str
    classes: str  # of this layout of the package


_LAYOUTS = {
    "pascal": _Layout("JPEGImages", "", "", "", "", ""),
    "cityscapes": _Layout("leftImg8bit", "gtFine", "gtFine", "train/", "val/", "cityscapes_blocks"),
    "ade20k": _Layout("images", "annotations", "", "training/", "validation/", "ade20k_blocks"),
    "kitti360": _Layout("data_2d_raw", "data_2d_semantics/train", "", "", "", "cityscapes_blocks"),
}
_KITTI_LISTS = "data_2d_semantics/train/2013_05_28_drive_{}_frames.txt"
_KITTI_STEM = re.compile(r"(?:.*/)?([^/]+)/image_00/(data_rect|semantic|scribble)/([^/]+)")
_KITTI_LAST_ID = 44
_RELEASED_WIDTH = 3.0


class S4Source(FileSource):
    """A data set with the scribbles of Scribbles for All unpacked in it.

    ========== ========================== ===================================================
    pascal     ``VOC2012/JPEGImages``     ``VOC2012/scribbles``
    cityscapes ``leftImg8bit``            ``scribbles/gtFine/train/CITY``
    ade20k     ``images``                 ``scribbles/training``
    kitti360   ``data_2d_raw``            ``data_2d_semantics/train/DRIVE/image_00/scribble``
    ========== ========================== ===================================================

    Each image has a PNG of three equal channels and an ``.h5`` with the strokes, from which
    scribbles of another width or length are made. The value that means "not drawn" is
    noted in the ``.h5``.

    Args:
        root: Folder of the data set.
        dataset: ``"pascal"``, ``"cityscapes"``, ``"ade20k"`` or ``"kitti360"``.
        scribbles: Folder of scribbles, relative to ``root`` or absolute; for KITTI-360 they are
            beside the labels.
        labels_from: ``"png"`` or ``"h5"``; ``"auto"`` prefers PNG, the published form, unless
            ``scribble_width`` is given.
        scribble_width: Width of strokes drawn from ``.h5``, pixels; 3 by default.
        renderer: How strokes are drawn, see :func:`~scribbleseg.functional.strokes.rasterize`.
        label_ids: Coding of Cityscapes and KITTI-360 files, see
            :class:`~scribbleseg.data.sources.LayoutSource`.
        unlabelled_value: Value of the PNGs that means "not drawn"; needed only without ``.h5``.
        train_list: Split file of training images; by default that of the data set: train_aug for
            VOC, the training folder, or the frames list of KITTI-360.
        val_list: Split file of validation images.
        on_missing: What to do with training images without scribble.
        label_type: What trains, see :class:`~scribbleseg.data.sources.folder.FolderSource`.
        pseudo_label_dir: Folder of pseudo-label PNGs, see
            :class:`~scribbleseg.data.sources.folder.FolderSource`.
        weak_labels: Where clicks, boxes and tags are.

    Raises:
        ScribbleNotFoundError: If ``root`` is not a folder of this data set.
        ConfigError: If an option is out of range.
    """

    layout = "scribbles/ of Scribbles for All"

    def __init__(
        self,
        root: str | Path,
        *,
        dataset: S4Dataset,
        scribbles: str = "scribbles",
        labels_from: LabelsFrom = "auto",
        scribble_width: float | None = None,
        renderer: Renderer = "distance",
        label_ids: LabelIds = "auto",
        unlabelled_value: int | None = None,
        train_list: str | None = None,
        val_list: str | None = None,
        on_missing: OnMissing = "error",
        label_type: LabelType = "scribble",
        pseudo_label_dir: str | None = None,
        weak_labels: WeakLabels | None = None,
    ) -> None:
        check_choice("dataset", dataset, get_args(S4Dataset))
        check_choice("labels_from", labels_from, get_args(LabelsFrom))
        check_choice("label_ids", label_ids, get_args(LabelIds))
        if labels_from == "png" and scribble_width is not None:
            raise ConfigError(
                f"scribble_width={scribble_width} with labels_from='png' would not be used: the "
                "width of a PNG is drawn in; set `labels_from: h5`"
            )
        self.dataset, self.label_ids = dataset, label_ids
        wide = scribble_width is not None
        self.labels_from = "h5" if wide and labels_from == "auto" else labels_from
        self.lists = {"train": train_list, "val": val_list}
        self._noted: dict[Path, int | None] = {}
        self.root = Path(root)
        self._voc: VOCSource | None = None
        self._layout = _LAYOUTS[dataset]
        if dataset == "pascal":
            self._voc = VOCSource(root, train_list=train_list, val_list=val_list)
            self.root = self._voc.root
        elif not (self.root / self._layout.images).is_dir():
            raise ScribbleNotFoundError(
                f"D301 {root}: no {self._layout.images}/ here; set `root` to the folder of "
                f"{dataset} into which the scribbles were unpacked"
            )
        self.scribble_dir = self.root / scribbles / self._layout.scribbles
        if dataset == "kitti360":
            self.scribble_dir = self.root / self._layout.masks
        super().__init__(
            self._class_table(),
            label_type=label_type,
            pseudo_label_dir=None if pseudo_label_dir is None else self.root / pseudo_label_dir,
            weak_labels=weak_labels,
            on_missing=on_missing,
            unlabelled_value=unlabelled_value,
            strokes=StrokeOptions(scribble_width or _RELEASED_WIDTH, renderer),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Never: the folder is also one of its data set, and only the user knows which."""
        return False

    def _class_table(self) -> ClassTable:
        if self._voc is not None:
            return self._voc.classes
        self._spec = read_layout(self._layout.classes)
        return own_classes(self.root, self._spec.classes)

    def _stem(self, name: str, role: str) -> str | None:
        """Stem of a file from its path without suffix; of KITTI-360 only those of one camera."""
        if self.dataset == "kitti360":
            match = _KITTI_STEM.fullmatch(name)
            return f"{match[1]}/{match[3]}" if match is not None and match[2] == role else None
        if self._voc is not None:
            return name
        return re.sub(self._spec.options.get("strip", r"\Z"), "", name)

    def _list_files(self) -> FileIndex:
        skip = () if self._voc is not None else self._spec.options.get("skip", ())
        if self._voc is not None:
            images, masks = self._voc.files.images, self._voc.files.masks
        else:
            found = find_images(self.root / self._layout.images)
            named = {self._stem(name, "data_rect"): path for name, path in found.items()}
            images = {stem: path for stem, path in named.items() if stem is not None}
            masks = self._labels(self.root / self._layout.masks, "mask", skip=skip)
        order = {"auto": (".png", ".h5"), "png": (".png",), "h5": (".h5",)}[self.labels_from]
        return FileIndex(
            images=images,
            scribbles=self._labels(self.scribble_dir, "scribble", suffixes=order),
            masks=masks,
            places={
                "image": str(self.root / self._layout.images),
                "scribble": f"{self.scribble_dir} ({' or '.join(order)})",
                "mask": str(self.root / self._layout.masks),
            },
        )

    def _labels(
        self, folder: Path, role: Literal["scribble", "mask"], **options: Any
    ) -> dict[str, Label]:
        part = {"scribble": "scribble", "mask": "semantic"}[role]
        names = self.class_names
        return find_labels(
            folder, role, names, stem_of=lambda name: self._stem(name, part), **options
        )

    def _list_stems(self, split: Split) -> list[str]:
        if self._voc is not None:
            return self._voc._list_stems(split)
        if split == "test":
            raise ScribbleNotFoundError(
                f"D301 {self.root}: there is no split 'test', its labels are not public; use val"
            )
        wanted = self.lists[split]
        if wanted is None and self.dataset == "kitti360":
            wanted = _KITTI_LISTS.format(split)
        prefix = self._layout.train if split == "train" else self._layout.val
        if wanted is None:
            return [stem for stem in self.files.images if stem.startswith(prefix)]
        names = read_split(self.root / wanted, repeats=split == "train")
        listed = [self._stem(name, "data_rect") or name for name in names]
        return [stem if stem.startswith(prefix) else prefix + stem for stem in listed]

    @cached_property
    def codings(self) -> dict[str, LabelCoding]:
        """What values of scribbles and masks mean, which may be coded differently."""
        codings = {**super().codings, "scribble": self.classes.coding()}
        facts = None if self._voc is not None else self._spec.options.get("label_ids")
        if facts is None:
            return codings
        raw = id_coding(facts["ids"], facts["last"])
        if self.dataset == "kitti360":
            raw = id_coding(facts["ids"], _KITTI_LAST_ID)
        pictures = {s: label for s, label in self.files.scribbles.items() if label.kind == "map"}
        # scribbles are cut from the label files and named like them
        own, masks = detect_label_ids(pictures, self.files.masks, raw, self.label_ids)
        for name, way in (("scribble", own if pictures else masks), ("mask", masks)):
            if way == "label":
                codings[name] = raw
        return codings

    def _noted_value(self, path: Path) -> int | None:
        """Value that means unlabelled as the ``.h5`` beside a PNG notes it: each has its own."""
        if path not in self._noted:
            strokes = path.with_suffix(".h5")
            self._noted[path] = read_s4(strokes).unlabelled_value if strokes.is_file() else None
        return self._noted[path]

    def inputs(self, record: Record, role: FileRole) -> list[Path]:
        """See :meth:`ScribbleSource.inputs`; an ``.h5`` says which value of a PNG is none."""
        paths = super().inputs(record, role)
        noted = [path.with_suffix(".h5") for path in paths if role == "scribble"]
        return list(dict.fromkeys([*paths, *noted]))

    def _read_map(self, label: Label, record: Record) -> NDArray[np.uint8]:
        if label.coding == "mask" and self._voc is not None:
            return self._voc._read_map(label, record)
        coding = self.codings[label.coding]
        if label.coding == "scribble":
            ignore = (*coding.ignore, self._unlabelled_value(label.path))
            coding = replace(coding, ignore=ignore, colours={})
        return read_label(label.path, replace(coding, colours={}))

    def _unlabelled_value(self, path: Path) -> int:
        value = self.unlabelled_value
        if value is None:
            value = self._noted_value(path)
        if value is None:
            raise LabelFormatError(
                f"D101 {path}: there is no {path.with_suffix('.h5').name} beside it that notes "
                "which value means unlabelled; copy the .h5 files too, or set `unlabelled_value` "
                "(background_px_value of the generator)"
            )
        label = self.codings["scribble"].index_of().get(value, IGNORE_INDEX)
        if label != IGNORE_INDEX and self.unlabelled_value is None:
            raise LabelFormatError(
                f"D101 {path}: value {value} means unlabelled and class "
                f"{self.class_names[label]!r} (id {label}) in these PNGs, so strokes of that class "
                f"are lost; set `labels_from: h5`, or accept it with `unlabelled_value: {value}`"
            )
        return value

    def _classes_of(self, values: list[int], path: Path) -> list[int]:
        known = self.codings["scribble"].index_of()
        wrong = [value for value in values if value not in known]
        if wrong:
            highest = max(value for value in known if value != IGNORE_INDEX)
            raise LabelFormatError(
                f"D101 {path}: value {wrong[0]} on {values.count(wrong[0])} strokes, expected "
                f"{min(known)}-{highest} or 255; the file belongs to another data set, or "
                "`label_ids` is wrong"
            )
        return [known[value] for value in values]

    def _read_drawing(self, label: Label, record: Record) -> StrokeDrawing:
        path, drawn = label.path, self.strokes
        content, size = read_s4(path), self.image_size(record)
        if content.size != size:
            raise LabelFormatError(
                f"D201 {path}: was made for an image of {content.size[1]}x{content.size[0]} (width "
                f"x height), but the image has {size[1]}x{size[0]}; use the original image"
            )
        ids = self._classes_of([int(value) for value in content.values], path)
        strokes = [
            Stroke(label, points)
            for label, points in zip(ids, content.lines, strict=True)
            if label != IGNORE_INDEX
        ]
        return StrokeDrawing(strokes, size, drawn.width, drawn.renderer, drawn.offset)
