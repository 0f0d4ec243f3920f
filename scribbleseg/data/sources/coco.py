"""MS COCO as weakly supervised segmentation uses it: masks painted from instance annotations."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, get_args

from scribbleseg.data.classes import ClassTable
from scribbleseg.data.lists import find_images, read_split
from scribbleseg.data.source import require
from scribbleseg.data.sources.coco_index import CocoIndex
from scribbleseg.data.sources.coco_masks import Crowd, Overlap
from scribbleseg.data.sources.files import FileSource
from scribbleseg.data.sources.index import FileIndex, OnMissing, find_labels
from scribbleseg.data.sources.layouts import COCO_CATEGORIES
from scribbleseg.data.weak import LabelType, WeakLabels  # noqa: TC001  (the CLI resolves them)
from scribbleseg.errors import ConfigError, ScribbleNotFoundError
from scribbleseg.options import check_choice, check_flag
from scribbleseg.types import Label

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.data.annotations import Box
    from scribbleseg.types import Record, Split

__all__ = ["COCOSource"]

_YEARS = (2014, 2017)  # the one of published comparisons first
_SPLITS = ("train", "val")  # with public labels
_NUMBER = re.compile(r"(?:^|[^0-9])0*([0-9]{1,12})$")


class _Image(NamedTuple):
    """Stem and file of an image, and the annotations of its split."""

    stem: str
    path: Path
    annotations: Path


class COCOSource(FileSource):
    """MS COCO; 81 classes: background and the 80 categories in ascending ``category_id``.

    ::

        root/train2014/COCO_train2014_000000000009.jpg  val2014/…  [scribbles/…png]
             annotations/instances_train2014.json  instances_val2014.json

    or ``train2017/000000000009.jpg``; the image folders may also be in ``root/images``. Label files
    belong to the image whose number ends their name: ``9.png`` and
    ``COCO_train2014_000000000009.png`` are the same. The release has no semantic masks: they are
    painted from the instances when they are read, and ``python -m scribbleseg.data convert`` writes
    them.

    Papers paint masks differently, and scores on different masks must not be compared. The
    defaults are those of the published comparisons on COCO 2014: objects (``iscrowd`` 0) in the
    order of the file, the later over the earlier, crowd regions are background, nothing is void.

    Args:
        root: Folder of the data set.
        year: 2014 or 2017; by default the one that is there, 2014 if both are.
        crowd: ``"ignore"`` makes crowd pixels that no object covers 255.
        overlap: ``"area"`` paints small objects over large ones.
        mask_dir: Folder of masks, absolute or relative to ``root``, to read in place of painting.
        scribble_dir: Folder of scribbles: PNG ids or ScribbleSup XML.
        train_list: Split file of training images, relative to ``root`` or absolute; by default all
            images of the annotations, or of the folder if there is no annotation file.
        val_list: Split file of validation images.
        keep_unannotated: Train also on images without any object, all background: about 700 of
            train2014. They have no image-level label.
        on_missing: What to do with training images without scribble.
        label_type: ``"mask"`` trains on the masks, the upper bound of a comparison; ``"pseudo"`` on
            ``pseudo_label_dir``; ``"box"`` on the boxes of the annotations.
        pseudo_label_dir: Folder of pseudo-label PNGs with stems of images.
        weak_labels: How boxes are filled, where image-level labels and clicks are.

    Raises:
        ScribbleNotFoundError: If there are no image folders of the year.
        ConfigError: If an option is out of range or would not be used.
    """

    layout = "train2014/ or train2017/ with annotations/instances_*.json"

    def __init__(
        self,
        root: str | Path,
        *,
        year: int | None = None,
        crowd: Crowd = "background",
        overlap: Overlap = "order",
        mask_dir: str | None = None,
        scribble_dir: str = "scribbles",
        train_list: str | None = None,
        val_list: str | None = None,
        keep_unannotated: bool = True,
        on_missing: OnMissing = "error",
        label_type: LabelType = "scribble",
        pseudo_label_dir: str | None = None,
        weak_labels: WeakLabels | None = None,
    ) -> None:
        check_choice("year", year, (None, *_YEARS))
        check_choice("crowd", crowd, get_args(Crowd))
        check_choice("overlap", overlap, get_args(Overlap))
        check_flag(keep_unannotated=keep_unannotated)
        if mask_dir is not None and (crowd, overlap) != ("background", "order"):
            raise ConfigError(
                f"crowd={crowd!r} and overlap={overlap!r} would not be used with mask_dir="
                f"{mask_dir!r}, whose masks are painted; remove either"
            )
        self.root = Path(root)
        self.year = _find_year(self.root, year)
        self.crowd, self.overlap, self.keep_unannotated = crowd, overlap, keep_unannotated
        self.mask_dir = None if mask_dir is None else self.root / mask_dir
        self.scribble_dir = self.root / scribble_dir
        self.lists = {"train": train_list, "val": val_list}
        self._indexes: dict[Path, CocoIndex] = {}
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
        releases = [f"{split}{year}" for split in _SPLITS for year in _YEARS]
        return any(_image_folder(root, r) and _instance_file(root, r).is_file() for r in releases)

    # ---------------------------------------------------------------------------- files

    def _instances(self, split: str) -> Path:
        return _instance_file(self.root, f"{split}{self.year}")

    def _index(self, path: Path) -> CocoIndex:
        if path not in self._indexes:
            self._indexes[path] = CocoIndex(path, COCO_CATEGORIES)
        return self._indexes[path]

    @cached_property
    def _images(self) -> dict[int, _Image]:
        """Images of both splits by number; names without number are no images of COCO."""
        found: dict[int, _Image] = {}
        for split in _SPLITS:
            folder = _image_folder(self.root, f"{split}{self.year}")
            files = {} if folder is None else find_images(folder)
            for number, stem in sorted((image_number(stem), stem) for stem in files):
                found[number] = _Image(stem, files[stem], self._instances(split))
        found.pop(-1, None)
        return found

    def _list_files(self) -> FileIndex:
        names, images = self.class_names, self._images
        stems = {number: image.stem for number, image in images.items()}

        def stem_of(name: str) -> str | None:
            return stems.get(image_number(name))

        if self.mask_dir is None:
            masks = {
                image.stem: Label(image.annotations, "map", str(number), "mask")
                for number, image in images.items()
            }
        elif not self.mask_dir.is_dir():
            raise ScribbleNotFoundError(
                f"D301 {self.mask_dir}: no such folder of masks; correct `mask_dir`, or remove it "
                "to have them painted"
            )
        else:
            masks = find_labels(self.mask_dir, "mask", names, suffixes=(".png",), stem_of=stem_of)
        return FileIndex(
            images={image.stem: image.path for image in images.values()},
            scribbles=find_labels(self.scribble_dir, "scribble", names, stem_of=stem_of),
            masks=masks,
            places={
                "image": f"{self.root}/train{self.year} and val{self.year}",
                "scribble": str(self.scribble_dir),
                "mask": str(self.mask_dir or self.root / "annotations"),
            },
        )

    def _list_stems(self, split: Split) -> list[str]:
        if split not in _SPLITS:
            raise ScribbleNotFoundError(
                f"D301 {self.root}: COCO has no labelled split {split!r}; use 'train' or 'val'"
            )
        wanted, path = self.lists[split], self._instances(split)
        # read before worker processes start, each of which would read it again
        index = self._index(path) if path.is_file() else None
        if wanted is not None:
            names = read_split(self.root / wanted)
        elif index is not None:
            prefix = "" if self.year == 2017 else f"COCO_{split}{self.year}_"
            names = [f"{prefix}{number:012d}" for number in index.sizes]
        else:
            names = [image.stem for image in self._images.values() if image.annotations == path]
        if not names:
            raise ScribbleNotFoundError(
                f"D301 {self.root}: no images in {split}{self.year}; unpack the archive there"
            )
        if split == "train" and not self.keep_unannotated:
            names = [name for name in names if self._index(path).object_labels(image_number(name))]
        stems = {number: image.stem for number, image in self._images.items()}
        return [stems.get(image_number(name), name) for name in names]

    @cached_property
    def box_files(self) -> Mapping[str, Label]:
        """Annotation file and image number by stem, for images that the annotations list."""
        files = [path for path in map(self._instances, _SPLITS) if path.is_file()]
        listed = {path: self._index(path).sizes for path in files}
        return {
            image.stem: Label(image.annotations, "boxes", str(number))
            for number, image in self._images.items()
            if number in listed.get(image.annotations, ())
        }

    # ------------------------------------------------------------------------ reading

    def boxes(self, record: Record) -> list[Box]:
        """Boxes of an image's objects in the order of the file; crowd regions have none."""
        label = require(self.box_files.get(record.image_id), "box", record)
        return self._index(label.path).object_boxes(int(label.entry))

    def _read_map(self, label: Label, record: Record) -> NDArray[np.uint8]:
        if not label.entry:
            return super()._read_map(label, record)
        index = self._index(label.path)
        return index.paint(int(label.entry), self.crowd, self.overlap)


def image_number(name: str) -> int:
    """Image id of COCO that ends a file name, -1 without one.

    Example:
        >>> image_number("val2014/COCO_val2014_000000000042"), image_number("42"), image_number("x")
        (42, 42, -1)
    """
    match = _NUMBER.search(name)
    return int(match[1]) if match else -1


def _image_folder(root: Path, release: str) -> Path | None:
    folders = (root / release, root / "images" / release)
    return next((folder for folder in folders if folder.is_dir()), None)


def _instance_file(root: Path, release: str) -> Path:
    return root / "annotations" / f"instances_{release}.json"


def _find_year(root: Path, year: int | None) -> int:
    """The year that is asked for, or the first one that has an image folder."""
    years = _YEARS if year is None else (year,)
    for candidate in years:
        if any(_image_folder(root, f"{split}{candidate}") for split in _SPLITS):
            return candidate
    wanted = " or ".join(f"train{y}, val{y}" for y in years)
    raise ScribbleNotFoundError(
        f"D301 {root}: no folder {wanted} here or in images/; unpack the archives of the release "
        "there, or correct `root` and `year`"
    )
