"""MS COCO as weakly supervised segmentation uses it: masks derived from instance annotations."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from scribbleseg.data import io
from scribbleseg.data.label_types import LabelType, WeakLabels  # noqa: TC001  (the CLI resolves them)
from scribbleseg.data.prepared import is_fresh
from scribbleseg.data.readers.coco import CocoIndex, read_coco_index
from scribbleseg.data.readers.coco_masks import (
    Crowd,
    MaskReport,
    Overlap,
    paint_mask,
)
from scribbleseg.data.sources.base import FileSource
from scribbleseg.data.sources.class_names import COCO_CATEGORIES
from scribbleseg.data.sources.coco_files import (
    SPLITS,
    YEARS,
    annotation_file,
    by_number,
    find_year,
    image_folder,
    image_number,
    image_stem,
    labels_by_stem,
    list_numbers,
    painted_masks,
)
from scribbleseg.data.sources.coco_painting import CocoMaskStyle, MaskStyle, write_coco_masks
from scribbleseg.data.sources.file_index import FileIndex, OnMissing
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.manifest import MANIFEST
from scribbleseg.options import check_choice, check_flag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.data.readers.boxes import Box
    from scribbleseg.data.source import FileRole, LabelRole
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

    or ``train2017/000000000009.jpg``; the image folders may also be in ``root/images``. There are
    no semantic masks in the release: they are painted from the instances, and papers differ in
    how, so scores of different styles must not be compared. :meth:`prepare` writes them once;
    without it they are painted whenever they are read. Files of labels belong to the image whose
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
            train2014. They have no image tag.
        on_missing: What to do with training images without scribble.
        label_type: ``"mask"`` trains on the painted masks, the upper bound of a comparison;
            ``"pseudo"`` on ``pseudo_label_dir``; ``"box"`` on the boxes of the annotations.
        pseudo_label_dir: Folder of pseudo-label PNGs with stems of images.
        weak_labels: How boxes are filled, where tags and clicks are.

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
        self.style = CocoMaskStyle(mask_style, crowd, overlap)
        self.root = Path(root)
        self.year = find_year(self.root, year)
        self.mask_style, self.crowd, self.overlap = mask_style, crowd, overlap
        self.mask_dir = self.root / (mask_dir or self.style.folder)
        self.on_missing_mask, self.keep_unannotated = on_missing_mask, keep_unannotated
        self.scribble_dir = self.root / scribble_dir
        self.lists = {"train": train_list, "val": val_list}
        self._indexes: dict[str, CocoIndex] = {}
        self._warned: set[str] = set()
        self._numbers: dict[str, dict[int, str]] = {}
        self._images: dict[str, Path] = {}
        names = ("background", *(COCO_CATEGORIES[number] for number in sorted(COCO_CATEGORIES)))
        super().__init__(
            io.ClassTable(names, background=0),
            label_type=label_type,
            pseudo_label_dir=None if pseudo_label_dir is None else self.root / pseudo_label_dir,
            on_missing=on_missing,
            weak_labels=weak_labels,
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it; reads no file."""
        return any(
            image_folder(root, split, year) and annotation_file(root, split, year).is_file()
            for year in YEARS
            for split in SPLITS
        )

    # ------------------------------------------------------------------- files

    def index(self, split: str) -> CocoIndex:
        """Annotations of ``"train"`` or ``"val"``, read once per process.

        Raises:
            ScribbleNotFoundError: If there is no annotation file (D301).
            LabelFormatError: If it is not one of COCO (D202, D401).
        """
        check_choice("split", split, SPLITS)
        if split not in self._indexes:
            path = annotation_file(self.root, split, self.year)
            self._indexes[split] = read_coco_index(path, COCO_CATEGORIES)
        return self._indexes[split]

    def prepare(
        self, *, splits: Sequence[str] = SPLITS, workers: int = 0, progress: bool = True
    ) -> MaskReport:
        """Write the masks of both splits into ``mask_dir``; see :func:`write_coco_masks`."""
        return write_coco_masks(self, splits=splits, workers=workers, progress=progress)

    def mask_names(self, split: str) -> list[str]:
        """Stems of the mask files of a split, in the order of its index."""
        numbers = self.index(split).image_ids
        return [
            self.style.file_name(int(number), image_stem(int(number), split, self.year))
            for number in numbers
        ]

    def _list_files(self) -> FileIndex:
        stems = {
            n: stem for split in self._numbers_of_files().values() for n, stem in split.items()
        }
        settings = {key: getattr(self, key) for key in ("mask_style", "crowd", "overlap", "year")}
        painted = painted_masks(self.mask_dir, self.class_names, settings)
        return FileIndex(
            images=self._images,
            scribbles=labels_by_stem(self.scribble_dir, stems),
            # a mask that is not written yet has its place already, see _decode
            masks={
                stem: painted.get(
                    number, self.mask_dir / f"{self.style.file_name(number, stem)}.png"
                )
                for number, stem in stems.items()
            },
            places={
                "image": f"{self.root}/train{self.year} and val{self.year}",
                "scribble": str(self.scribble_dir),
                "mask": str(self.mask_dir),
            },
        )

    def _numbers_of_files(self) -> dict[str, dict[int, str]]:
        """Stems of the images of every split, by number; lists the folders at the first call."""
        for split in SPLITS if not self._numbers else ():
            folder = image_folder(self.root, split, self.year)
            found = {} if folder is None else io.find_images(folder)
            common = sorted(self._images.keys() & found.keys())
            if common:
                raise LabelFormatError(
                    f"D302 {folder}: {len(common)} images are in both splits ({common[0]}), "
                    "expected none; unpack each archive into its own folder"
                )
            self._numbers[split] = by_number(found, str(folder))
            self._images.update(found)
        return self._numbers

    def _list_stems(self, split: Split) -> list[str]:
        if split not in SPLITS:
            raise ScribbleNotFoundError(
                f"D301 {self.root}: COCO has no labelled split {split!r}; use 'train' or 'val'"
            )
        numbers = self._listed(split)
        if split == "train" and not self.keep_unannotated:
            index = self.index(split)
            numbers = [number for number in numbers if index.object_labels(number)]
        stems = self._numbers_of_files()[split]
        return [stems.get(number, image_stem(number, split, self.year)) for number in numbers]

    def _listed(self, split: str) -> list[int]:
        wanted = self.lists[split]
        if wanted is not None:
            return list_numbers(self.root / wanted)
        if annotation_file(self.root, split, self.year).is_file():
            return [int(number) for number in self.index(split).image_ids]
        if not self._numbers_of_files()[split]:
            raise ScribbleNotFoundError(
                f"D301 {self.root}: no images in {split}{self.year}; unpack the archive there"
            )
        return sorted(self._numbers_of_files()[split])

    def records(self, split: Split) -> list[Record]:
        """Samples of a split; ``"predict"`` = all images, without labels.

        See :meth:`FileSource.records`; masks count as there if they can be painted.

        Raises:
            ScribbleNotFoundError: If files are missing (D301), masks only with
                ``on_missing_mask="error"``.
        """
        records = super().records(split)
        self._warn_of_old_masks(split)
        if split == "val" or (split == "train" and self.label_type == "mask"):
            paths = [record.scribble if split == "train" else record.mask for record in records]
            missing = [path for path in paths if path is not None and not path.is_file()]
            if missing and self.on_missing_mask == "error":
                raise ScribbleNotFoundError(
                    f"D301 {len(missing):,} of {len(paths):,} masks of split {split!r} missing in "
                    f"{self.mask_dir} (e.g. {missing[0].name}); {self._cure()}"
                )
            if missing:
                logger.info(
                    "%d masks are painted when they are read; %s", len(missing), self._cure()
                )
        return records

    def _warn_of_old_masks(self, split: Split) -> None:
        """Say once that painted masks show earlier annotations; :meth:`prepare` makes them anew."""
        path = self.mask_dir / MANIFEST
        if split not in SPLITS or split in self._warned or not path.is_file():
            return
        self._warned.add(split)
        annotations = annotation_file(self.root, split, self.year)
        if annotations.is_file() and not is_fresh(path, annotations):
            logger.warning(
                "%s is newer than the masks in %s, which may show earlier annotations; %s",
                *(annotations, self.mask_dir, self._cure()),
            )

    def _cure(self) -> str:
        options = f"{str(self.root)!r}, year={self.year}, {self.style.arguments()}"
        return (
            f"write them once with `COCOSource({options}).prepare(workers=8)`, or use the plain "
            f"folder that `python -m scribbleseg.data convert {self.root} --source coco --out "
            "FOLDER` writes"
        )

    # ------------------------------------------------------------------ labels

    def image_tags(self, record: Record) -> list[int]:
        """Ascending ids of the classes of an image's objects, without background.

        They are annotation: training takes them only with ``label_type="tag"`` or ``"box"``.
        """
        split, number = self._find(record)
        return self.index(split).object_labels(number)

    def boxes(self, record: Record) -> list[Box]:
        """Boxes of an image's objects in the order of the file; crowd regions have none."""
        split, number = self._find(record)
        return self.index(split).object_boxes(number)

    @property
    def box_files(self) -> Mapping[str, Path]:
        """Annotation file and stem of every image that it lists."""
        files: dict[str, Path] = {}
        for split, stems in self._numbers_of_files().items():
            path = annotation_file(self.root, split, self.year)
            if path.is_file():
                listed = set(map(int, self.index(split).image_ids))
                files.update({stem: path / stem for n, stem in stems.items() if n in listed})
        return files

    def _find(self, record: Record) -> tuple[str, int]:
        """Split and number of an image."""
        number = image_number(record.image_id)
        for split, stems in self._numbers_of_files().items():
            if number is not None and stems.get(number) == record.image_id:
                return split, number
        raise ScribbleNotFoundError(
            f"D301 {record.image_id}: is no image of {self.root}; take records of this source"
        )

    def read_mask(self, record: Record) -> NDArray[np.uint8]:
        """Dense ids, uint8, shape ``(H, W)``: the painted file, or painted now.

        Raises:
            ScribbleNotFoundError: If there is neither file nor annotation (D301).
            LabelFormatError: If either is malformed.
        """
        if record.mask is None:
            return self._paint(record)
        return super().read_mask(record)

    def inputs(self, record: Record, role: FileRole) -> list[Path]:
        """See :meth:`ScribbleSource.inputs`; masks without a file are painted from the JSON."""
        paths = super().inputs(record, role)
        painted = role == "mask" and not any(path.is_file() for path in paths)
        return [annotation_file(self.root, self._find(record)[0], self.year)] if painted else paths

    def _decode(self, path: Path, role: LabelRole, record: Record) -> NDArray[np.uint8]:
        if role == "mask" and not path.is_file() and self.on_missing_mask == "paint":
            return self._paint(record)
        return super()._decode(path, role, record)

    def _paint(self, record: Record) -> NDArray[np.uint8]:
        split, number = self._find(record)
        return paint_mask(self.index(split), number, crowd=self.crowd, overlap=self.overlap)
