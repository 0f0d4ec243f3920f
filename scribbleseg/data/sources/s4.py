"""Scribbles for All (s4): synthetic scribbles for VOC, Cityscapes, ADE20K and KITTI-360."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data import io
from scribbleseg.data.label_types import LabelType, WeakLabels  # noqa: TC001  (the CLI resolves them)
from scribbleseg.data.readers.s4 import S4File, read_grey_label, read_s4
from scribbleseg.data.sources.base import FileSource
from scribbleseg.data.sources.file_index import FileIndex, OnMissing
from scribbleseg.data.sources.s4_layouts import KITTI_LISTS, LAYOUTS, S4Dataset, stem_of
from scribbleseg.data.sources.scene_classes import (
    LabelIds,
    ade20k_classes,
    ade20k_table,
    cityscapes_classes,
    cityscapes_table,
    detect_label_ids,
    find_labels,
)
from scribbleseg.data.sources.stroke_options import stroke_options
from scribbleseg.data.sources.voc import VOC_CLASSES, VOCSource
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.degrade import StrokeDrawing
from scribbleseg.functional.strokes import Renderer, Stroke
from scribbleseg.options import check_choice

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.data.source import FileRole, LabelRole
    from scribbleseg.types import Record, Split

__all__ = ["S4Source"]

LabelsFrom = Literal["auto", "png", "h5"]


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
            :class:`~scribbleseg.data.sources.blocks.BlockSource`.
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
        self._layout = LAYOUTS[dataset]
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
            strokes=stroke_options(scribble_width or _RELEASED_WIDTH, renderer, 0.0),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Never: the folder is also one of its data set, and only the user knows which."""
        return False

    def _class_table(self) -> io.ClassTable:
        if self.dataset == "pascal":
            return io.ClassTable(VOC_CLASSES, background=0)
        return ade20k_classes(self.root) if self.dataset == "ade20k" else cityscapes_classes()

    def _stem_of(self, relative: str) -> str | None:
        return stem_of(relative, self.dataset)

    def _by_stem(self, found: Mapping[str, Path], role: str = "") -> dict[str, Path]:
        """Files by stem; of KITTI-360 only those of one folder, such as ``scribble``."""
        if self.dataset == "kitti360" and role:
            found = {name: path for name, path in found.items() if path.parent.name == role}
        named = ((self._stem_of(name), path) for name, path in found.items())
        return {stem: path for stem, path in named if stem is not None}

    def _list_files(self) -> FileIndex:
        if self._voc is not None:
            images, masks = self._voc.files.images, self._voc.files.masks
        else:
            images = self._by_stem(io.find_images(self.root / self._layout.images))
            masks = self._find_masks()
        order = {"auto": (".png", ".h5"), "png": (".png",), "h5": (".h5",)}[self.labels_from]
        drawn: dict[str, Path] = {}
        if self.scribble_dir.is_dir():
            drawn = io.find_images(self.scribble_dir, suffixes=order, unique=False)
        return FileIndex(
            images=images,
            scribbles=self._by_stem(drawn, "scribble"),
            masks=masks,
            places={
                "image": str(self.root / self._layout.images),
                "scribble": f"{self.scribble_dir} ({' or '.join(order)})",
                "mask": str(self.root / self._layout.masks),
            },
        )

    def _find_masks(self) -> dict[str, Path]:
        folder = self.root / self._layout.masks
        if self.dataset != "kitti360":
            return find_labels(folder)
        found = io.find_images(folder, suffixes=io.LABEL_SUFFIXES) if folder.is_dir() else {}
        return self._by_stem(found, "semantic")

    def _list_stems(self, split: Split) -> list[str]:
        if self._voc is not None:
            return self._voc._list_stems(split)
        if split == "test":
            raise ScribbleNotFoundError(
                f"D301 {self.root}: there is no split 'test', its labels are not public; use val"
            )
        wanted = self.lists[split]
        if wanted is None and self.dataset == "kitti360":
            wanted = KITTI_LISTS.format(split)
        prefix = self._layout.train if split == "train" else self._layout.val
        if wanted is None:
            return [stem for stem in self.files.images if stem.startswith(prefix)]
        listed = [self._stem_of(name) or name for name in io.read_split(self.root / wanted)]
        return [stem if stem.startswith(prefix) else prefix + stem for stem in listed]

    @cached_property
    def _tables(self) -> dict[LabelRole, NDArray[np.int32] | None]:
        """Value tables of scribbles and masks, which may be coded differently."""
        if self.dataset == "pascal":
            return {"scribble": None, "mask": None}
        if self.dataset == "ade20k":
            return {"scribble": ade20k_table(), "mask": ade20k_table()}
        last = _KITTI_LAST_ID if self.dataset == "kitti360" else 33
        pictures = {s: p for s, p in self.files.scribbles.items() if p.suffix.lower() != ".h5"}
        # scribbles are cut from the label files and named like them
        own, masks = detect_label_ids(pictures, self.files.masks, self.label_ids)
        drawn = own if pictures else masks
        return {"scribble": cityscapes_table(drawn, last), "mask": cityscapes_table(masks, last)}

    def _noted_value(self, path: Path) -> int | None:
        """Value that means "not drawn" as the ``.h5`` beside a PNG notes it: each has its own."""
        if path not in self._noted:
            strokes = path.with_suffix(".h5")
            self._noted[path] = read_s4(strokes).unlabelled_value if strokes.is_file() else None
        return self._noted[path]

    def inputs(self, record: Record, role: FileRole) -> list[Path]:
        """See :meth:`ScribbleSource.inputs`; an ``.h5`` says which value of a PNG is none."""
        paths = super().inputs(record, role)
        noted = [path.with_suffix(".h5") for path in paths if role == "scribble"]
        return list(dict.fromkeys([*paths, *noted]))

    def _decode(self, path: Path, role: LabelRole, record: Record) -> NDArray[np.uint8]:
        if path.suffix.lower() == ".h5":
            return self._read_drawing(path, record).rasterize()
        if role == "mask" and self._voc is not None:
            return self._voc._decode(path, role, record)
        table = self._tables[role]
        value = self._unlabelled_value(path) if role == "scribble" else None
        return io.encode_label(
            read_grey_label(path), self.num_classes, path=path, unlabelled_value=value, remap=table
        )

    def _unlabelled_value(self, path: Path) -> int:
        value = self.unlabelled_value
        if value is None:
            value = self._noted_value(path)
        if value is None:
            raise LabelFormatError(
                f"D101 {path}: there is no {path.with_suffix('.h5').name} beside it that notes "
                "which value means 'not drawn'; copy the .h5 files too, or set `unlabelled_value` "
                "(background_px_value of the generator)"
            )
        label = self._known_values.get(value, IGNORE_INDEX)
        if label != IGNORE_INDEX and self.unlabelled_value is None:
            raise LabelFormatError(
                f"D101 {path}: value {value} means 'not drawn' and class "
                f"{self.class_names[label]!r} (id {label}) in these PNGs, so strokes of that class "
                f"are lost; set `labels_from: h5`, or accept it with `unlabelled_value: {value}`"
            )
        return value

    @cached_property
    def _known_values(self) -> dict[int, int]:
        """Values of scribble files to ids and 255."""
        table = self._tables["scribble"]
        if table is None:
            return {value: value for value in (*range(self.num_classes), IGNORE_INDEX)}
        return {value: int(label) for value, label in enumerate(table) if label >= 0}

    def _ids(self, values: list[int], path: Path) -> list[int]:
        known = self._known_values
        wrong = [value for value in values if value not in known]
        if wrong:
            highest = max(value for value in known if value != IGNORE_INDEX)
            raise LabelFormatError(
                f"D101 {path}: value {wrong[0]} on {values.count(wrong[0])} strokes, expected "
                f"{min(known)}-{highest} or 255; the file belongs to another data set, or "
                "`label_ids` is wrong"
            )
        return [known[value] for value in values]

    def _read_drawing(self, path: Path, record: Record) -> StrokeDrawing:
        content: S4File = read_s4(path)
        size = self._image_size(record)
        if content.size != size:
            raise LabelFormatError(
                f"D201 {path}: was made for an image of {content.size[1]}x{content.size[0]} (width "
                f"x height), but the image has {size[1]}x{size[0]}; use the original image"
            )
        ids = self._ids([int(value) for value in content.values], path)
        strokes = [
            Stroke(label, points)
            for label, points in zip(ids, content.lines, strict=True)
            if label != IGNORE_INDEX
        ]
        return StrokeDrawing(strokes, size, *self._strokes)

    def read_strokes(self, record: Record) -> StrokeDrawing | None:
        """Strokes of a training image, for shortened scribbles; ``None`` if a PNG trains.

        Raises:
            LabelFormatError: If the file is faulty, or belongs to an image of another size (D201).
        """
        path = record.scribble
        if self.label_type != "scribble" or path is None or path.suffix.lower() != ".h5":
            return None
        return self._read_drawing(path, record)
