"""MS COCO as weakly supervised segmentation uses it: masks painted from instance annotations."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from scribbleseg.data.classes import ClassTable
from scribbleseg.data.coco_index import read_coco_index
from scribbleseg.data.coco_masks import CocoIndex, Crowd, Overlap, write_masks
from scribbleseg.data.jobs.settings import is_fresh
from scribbleseg.data.lists import find_images
from scribbleseg.data.sources.coco_files import (
    PRESET,
    SPLITS,
    YEARS,
    MaskStyle,
    by_number,
    find_year,
    image_folder,
    image_number,
    image_stem,
    instance_file,
    list_numbers,
    mask_folder,
    painted_masks,
)
from scribbleseg.data.sources.files import FileSource
from scribbleseg.data.sources.index import FileIndex, OnMissing, find_labels
from scribbleseg.data.sources.layouts import COCO_CATEGORIES
from scribbleseg.data.weak import LabelType, WeakLabels  # noqa: TC001  (the CLI resolves them)
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.manifest import MANIFEST
from scribbleseg.options import check_choice, check_flag, check_whole
from scribbleseg.types import Label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.data.annotations import Box
    from scribbleseg.data.jobs.job import ImageJob
    from scribbleseg.data.source import FileRole
    from scribbleseg.types import Record, Split

__all__ = ["COCOSource"]

logger = logging.getLogger(__name__)

OnMissingMask = Literal["paint", "error"]
"""What to do where ``mask_dir`` lacks a mask: paint it from the annotations, or stop."""


class COCOSource(FileSource):
    """MS COCO; 81 classes: background and the 80 categories in ascending ``category_id``.

    ::

        root/train2014/COCO_train2014_000000000009.jpg  val2014/…  [scribbles/…png]
             annotations/instances_train2014.json  instances_val2014.json

    or ``train2017/000000000009.jpg``; the image folders may also be in ``root/images``. The release
    has no semantic masks: they are painted from the instances. Papers paint them differently, so
    scores of different styles must not be compared. :meth:`prepare` writes the masks once; masks
    that are not written are painted whenever they are read. Label files belong to the image whose
    number ends their name: ``9.png`` and ``COCO_train2014_000000000009.png`` are the same.

    Args:
        root: Folder of the data set.
        year: 2014 or 2017; by default the one that is there, 2014 if both are.
        mask_style: ``"coco2014-wsss"`` paints objects (``iscrowd`` 0) in the order of the file, the
            later over the earlier, crowd regions are background, and nothing is void; files are
            called by the image number without zeros. ``"custom"`` uses the next two options; files
            are called like their image.
        crowd: ``"ignore"`` makes crowd pixels that no object covers 255.
        overlap: ``"area"`` paints small objects over large ones.
        mask_dir: Folder of painted masks, absolute or relative to ``root``; by default
            ``masks_<mask_style>``, with the options in the name of custom ones.
        on_missing_mask: ``"error"`` stops where ``mask_dir`` lacks a mask.
        scribble_dir: Folder of scribbles: PNG ids or ScribbleSup XML.
        train_list: Split file of training images, relative to ``root`` or absolute; by default all
            images of the annotations, or of the folder if there is no annotation file.
        val_list: Split file of validation images.
        keep_unannotated: Train also on images without any object, all background: about 700 of
            train2014. They have no image-level label.
        on_missing: What to do with training images without scribble.
        label_type: ``"mask"`` trains on the painted masks, the upper bound of a comparison;
            ``"pseudo"`` on ``pseudo_label_dir``; ``"box"`` on the boxes of the annotations.
        pseudo_label_dir: Folder of pseudo-label PNGs with stems of images.
        weak_labels: How boxes are filled, where image-level labels and clicks are.

    Raises:
        ScribbleNotFoundError: If there are no image folders of the year.
        ConfigError: If an option is out of range, or contradicts ``mask_style``.
    """

    layout = "train2014/ or train2017/ with annotations/instances_*.json"

    def __init__(
        self,
        root: str | Path,
        *,
        year: int | None = None,
        mask_style: MaskStyle = "coco2014-wsss",
        crowd: Crowd = "background",
        overlap: Overlap = "order",
        mask_dir: str | None = None,
        on_missing_mask: OnMissingMask = "paint",
        scribble_dir: str = "scribbles",
        train_list: str | None = None,
        val_list: str | None = None,
        keep_unannotated: bool = True,
        on_missing: OnMissing = "error",
        label_type: LabelType = "scribble",
        pseudo_label_dir: str | None = None,
        weak_labels: WeakLabels | None = None,
    ) -> None:
        check_choice("year", year, (None, *YEARS))
        check_choice("on_missing_mask", on_missing_mask, get_args(OnMissingMask))
        check_flag(keep_unannotated=keep_unannotated)
        default = mask_folder(mask_style, crowd, overlap)
        self.root = Path(root)
        self.year = find_year(self.root, year)
        self.mask_style, self.crowd, self.overlap = mask_style, crowd, overlap
        self.mask_dir = self.root / (mask_dir or default)
        self.on_missing_mask, self.keep_unannotated = on_missing_mask, keep_unannotated
        self.scribble_dir = self.root / scribble_dir
        self.lists = {"train": train_list, "val": val_list}
        self._indexes: dict[str, CocoIndex] = {}
        self._warned: set[str] = set()
        names = ("background", *(COCO_CATEGORIES[number] for number in sorted(COCO_CATEGORIES)))
        super().__init__(
            ClassTable(names, background=0),
            label_type=label_type,
            pseudo_label_dir=None if pseudo_label_dir is None else self.root / pseudo_label_dir,
            on_missing=on_missing,
            weak_labels=weak_labels,
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it; reads no file."""
        return any(
            image_folder(root, split, year) and instance_file(root, split, year).is_file()
            for year in YEARS
            for split in SPLITS
        )

    def index(self, split: str) -> CocoIndex:
        """Annotations of ``"train"`` or ``"val"``; see :func:`read_coco_index`."""
        check_choice("split", split, SPLITS)
        if split not in self._indexes:
            path = instance_file(self.root, split, self.year)
            self._indexes[split] = read_coco_index(path, COCO_CATEGORIES)
        return self._indexes[split]

    @cached_property
    def _folders(self) -> dict[str, dict[str, Path]]:
        """Image files by split and stem."""
        folders = {split: image_folder(self.root, split, self.year) for split in SPLITS}
        found = {s: {} if folder is None else find_images(folder) for s, folder in folders.items()}
        common = sorted(found["train"].keys() & found["val"].keys())
        if common:
            raise LabelFormatError(
                f"D302 {self.root}: {len(common)} images are in both splits ({common[0]}), "
                "expected none; unpack each archive into its own folder"
            )
        return found

    @cached_property
    def _stems(self) -> dict[str, dict[int, str]]:
        """Stems of the images by split and number, ascending."""
        return {s: by_number(files, f"{s}{self.year}") for s, files in self._folders.items()}

    def _list_files(self) -> FileIndex:
        stems = {number: stem for split in self._stems.values() for number, stem in split.items()}
        drawn = find_labels(self.scribble_dir, "scribble", self.class_names)
        numbers = by_number(drawn, str(self.scribble_dir))
        painted = painted_masks(self.mask_dir, self.class_names, self._settings)
        return FileIndex(
            images={stem: path for files in self._folders.values() for stem, path in files.items()},
            scribbles={stems[n]: drawn[name] for n, name in numbers.items() if n in stems},
            # a mask that is not written yet has its place already, see _read_map
            masks={
                stem: Label(
                    painted.get(number, self.mask_dir / f"{self._mask_name(number, stem)}.png"),
                    coding="mask",
                )
                for number, stem in stems.items()
            },
            places={
                "image": f"{self.root}/train{self.year} and val{self.year}",
                "scribble": str(self.scribble_dir),
                "mask": str(self.mask_dir),
            },
        )

    @property
    def _settings(self) -> dict[str, object]:
        return {key: getattr(self, key) for key in ("mask_style", "crowd", "overlap", "year")}

    def _mask_name(self, number: int, stem: str) -> str:
        return str(number) if self.mask_style == PRESET else stem

    def _list_stems(self, split: Split) -> list[str]:
        if split not in SPLITS:
            raise ScribbleNotFoundError(
                f"D301 {self.root}: COCO has no labelled split {split!r}; use 'train' or 'val'"
            )
        wanted, stems = self.lists[split], self._stems[split]
        if wanted is not None:
            numbers = list_numbers(self.root / wanted)
        elif instance_file(self.root, split, self.year).is_file():
            numbers = list(self.index(split).sizes)
        elif stems:
            numbers = list(stems)
        else:
            raise ScribbleNotFoundError(
                f"D301 {self.root}: no images in {split}{self.year}; unpack the archive there"
            )
        if split == "train" and not self.keep_unannotated:
            numbers = [n for n in numbers if self.index(split).object_labels(n)]
        return [stems.get(number, image_stem(number, split, self.year)) for number in numbers]

    def records(self, split: Split) -> list[Record]:
        """Samples of a split, see :meth:`FileSource.records`.

        Masks that are not written count as missing only with ``on_missing_mask="error"``.
        """
        records = super().records(split)
        self._warn_of_old_masks(split)
        if split == "val" or (split == "train" and self.label_type == "mask"):
            labels = [record.scribble if split == "train" else record.mask for record in records]
            paths = [label.path for label in labels if label is not None]
            missing = [path for path in paths if not path.is_file()]
            if missing and self.on_missing_mask == "error":
                raise ScribbleNotFoundError(
                    f"D301 {len(missing):,} of {len(paths):,} masks of split {split!r} missing in "
                    f"{self.mask_dir} (e.g. {missing[0].name}); {self._cure}"
                )
            if missing:
                logger.info("%d masks are painted when they are read; %s", len(missing), self._cure)
        return records

    def _warn_of_old_masks(self, split: Split) -> None:
        """Warn once if the painted masks are older than the annotations."""
        path = self.mask_dir / MANIFEST
        if split not in SPLITS or split in self._warned or not path.is_file():
            return
        self._warned.add(split)
        annotations = instance_file(self.root, split, self.year)
        if annotations.is_file() and not is_fresh(path, annotations):
            text = "%s is newer than the masks in %s, which may show earlier annotations; %s"
            logger.warning(text, annotations, self.mask_dir, self._cure)

    @property
    def _cure(self) -> str:
        options = f"{str(self.root)!r}, year={self.year}, mask_style={self.mask_style!r}"
        if self.mask_style != PRESET:
            options += f", crowd={self.crowd!r}, overlap={self.overlap!r}"
        return (
            f"write them once with `COCOSource({options}).prepare(workers=8)`, or use the plain "
            f"folder that `python -m scribbleseg.data convert {self.root} --source coco --out "
            "FOLDER` writes"
        )

    def image_tags(self, record: Record) -> list[int]:
        """Ascending ids of the classes of an image's objects, without background.

        Training uses them only with ``label_type="tag"`` or ``"box"``.
        """
        split, number = self._find(record)
        return self.index(split).object_labels(number)

    def boxes(self, record: Record) -> list[Box]:
        """Boxes of an image's objects in the order of the file; crowd regions have none."""
        split, number = self._find(record)
        return self.index(split).object_boxes(number)

    @cached_property
    def box_files(self) -> Mapping[str, Label]:
        """Annotation file and stem of every image that it lists."""
        files: dict[str, Label] = {}
        for split, stems in self._stems.items():
            path = instance_file(self.root, split, self.year)
            if path.is_file():
                listed = self.index(split).sizes
                files.update({s: Label(path, "boxes", s) for n, s in stems.items() if n in listed})
        return files

    def _find(self, record: Record) -> tuple[str, int]:
        number = image_number(record.image_id) or 0
        for split, stems in self._stems.items():
            if stems.get(number) == record.image_id:
                return split, number
        raise ScribbleNotFoundError(
            f"D301 {record.image_id}: is no image of {self.root}; take records of this source"
        )

    def read_mask(self, record: Record) -> NDArray[np.uint8]:
        """Dense ids, uint8, shape ``(H, W)``: the painted file, or painted now."""
        return self._paint(record) if record.mask is None else super().read_mask(record)

    def inputs(self, record: Record, role: FileRole) -> list[Path]:
        """See :meth:`ScribbleSource.inputs`; masks without a file are painted from the JSON."""
        paths = super().inputs(record, role)
        painted = role == "mask" and not any(path.is_file() for path in paths)
        return [instance_file(self.root, self._find(record)[0], self.year)] if painted else paths

    def _read_map(self, label: Label, record: Record) -> NDArray[np.uint8]:
        written = label.coding != "mask" or self.on_missing_mask == "error" or label.path.is_file()
        return super()._read_map(label, record) if written else self._paint(record)

    def _paint(self, record: Record) -> NDArray[np.uint8]:
        split, number = self._find(record)
        return self.index(split).paint(number, crowd=self.crowd, overlap=self.overlap)

    def prepare(
        self, *, splits: Sequence[str] = SPLITS, workers: int = 0, progress: bool = True
    ) -> ImageJob:
        """Write the masks into ``mask_dir`` once: parallel, resumable, with a manifest.

        Args:
            splits: ``"train"``, ``"val"``, or both.
            workers: Processes; 0 = this one.
            progress: Show a progress bar on stderr.

        Returns:
            What was done; look at ``failed``: one broken image does not stop the others.

        Raises:
            ConfigError: If an option is out of range, or the folder holds anything else.
            ScribbleSegError: If the annotations cannot be read, or a worker process was killed.
        """
        check_whole(0, workers=workers)
        indexes, names = {}, {}
        for split in splits:
            title, index = f"{split}{self.year}", self.index(split)
            stems = {number: image_stem(number, split, self.year) for number in index.sizes}
            indexes[title] = index
            names[title] = [self._mask_name(number, stem) for number, stem in stems.items()]
        settings = {"command": "COCOSource.prepare", **self._settings}
        return write_masks(
            *(self.mask_dir, indexes, names, self.class_names, settings),
            workers=workers,
            progress=progress,
        )
