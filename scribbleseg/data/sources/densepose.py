"""DensePose on COCO images: body parts from dense labels or points; a mirror swaps the sides."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scribbleseg.data import io
from scribbleseg.data.label_types import LabelType, WeakLabels  # noqa: TC001  (the CLI resolves them)
from scribbleseg.data.sources.base import FileSource
from scribbleseg.data.sources.coco_files import SPLITS, image_folder
from scribbleseg.data.sources.file_index import FileIndex, OnMissing
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
    from scribbleseg.types import Split

__all__ = ["DENSEPOSE_CLASSES", "DENSEPOSE_FLIP_PAIRS", "DensePoseSource"]

DENSEPOSE_CLASSES = (
    "background",
    "torso",
    "right_hand",
    "left_hand",
    "left_foot",
    "right_foot",
    "right_thigh",
    "left_thigh",
    "right_leg",
    "left_leg",
    "left_arm",
    "right_arm",
    "left_forearm",
    "right_forearm",
    "head",
)

DENSEPOSE_FLIP_PAIRS = ((2, 3), (4, 5), (6, 7), (8, 9), (10, 11), (12, 13))
"""Left and right parts: a mirror image exchanges them."""

_YEAR = 2014
_LIST_FOLDERS = ("", "datasets/densepose", "lists", "segcls")
_LISTS = {
    "train": ("panoptic_train2014_points*.txt", "panoptic_train2014.txt"),
    "val": ("panoptic_minival2014.txt",),
    "test": ("panoptic_valminusminival2014.txt",),
}


class DensePoseSource(FileSource):
    """Body parts on COCO 2014 images as released for SPML; 15 classes, background first.

    ::

        root/images/train2014/COCO_train2014_000000000036.jpg  images/val2014/…
             segcls/densepose/gray/COCO_train2014_000000000036.png
             segcls/densepose_points/gray/COCO_train2014_000000000036.png
             panoptic_train2014_points_*.txt  panoptic_minival2014.txt

    Image folders may also be in ``root`` itself. Lists are the released ones, of which the first
    column counts. Left and right parts change their ids in mirrored training images and mirrored
    test images, see ``flip_pairs``.

    Args:
        root: Folder of the data set.
        train_list: Split file, absolute or relative to ``root``; by default
            ``panoptic_train2014_points*.txt``, else ``panoptic_train2014.txt``, in ``root`` or in
            its ``datasets/densepose``.
        val_list: Split file of validation images, by default ``panoptic_minival2014.txt``.
        test_list: Split file of test images, by default ``panoptic_valminusminival2014.txt``.
        point_dir: Folder of label PNGs with points or scribbles.
        mask_dir: Folder of dense label PNGs.
        on_missing: What to do with training images without points.
        label_type: ``"mask"`` trains on the dense labels, the upper bound of a comparison;
            ``"pseudo"`` on ``pseudo_label_dir``.
        pseudo_label_dir: Folder of pseudo-label PNGs, absolute or relative to ``root``.
        weak_labels: Where clicks and tags are, for the label types ``"point"`` and ``"tag"``.

    Raises:
        ScribbleNotFoundError: If there are no image folders.
        ConfigError: If an option is out of range.
    """

    layout = "images/train2014/ with segcls/densepose/gray/"

    def __init__(
        self,
        root: str | Path,
        *,
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        point_dir: str = "segcls/densepose_points/gray",
        mask_dir: str = "segcls/densepose/gray",
        on_missing: OnMissing = "error",
        label_type: LabelType = "scribble",
        pseudo_label_dir: str | None = None,
        weak_labels: WeakLabels | None = None,
    ) -> None:
        self.root = Path(root)
        if not any(image_folder(self.root, split, _YEAR) for split in SPLITS):
            raise ScribbleNotFoundError(
                f"D301 {root}: no folder train2014 or val2014 here or in images/; unpack the "
                "images of COCO 2014 there, or correct `root`"
            )
        self.lists = {"train": train_list, "val": val_list, "test": test_list}
        self.point_dir, self.mask_dir = self.root / point_dir, self.root / mask_dir
        super().__init__(
            io.ClassTable(DENSEPOSE_CLASSES, background=0, flip_pairs=DENSEPOSE_FLIP_PAIRS),
            label_type=label_type,
            pseudo_label_dir=None if pseudo_label_dir is None else self.root / pseudo_label_dir,
            on_missing=on_missing,
            weak_labels=weak_labels,
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it; reads no file."""
        return any((root / "segcls" / n).is_dir() for n in ("densepose", "densepose_points"))

    def _list_files(self) -> FileIndex:
        images: dict[str, Path] = {}
        for split in SPLITS:
            folder = image_folder(self.root, split, _YEAR)
            if folder is None:
                continue
            found = io.find_images(folder)
            both = sorted(found.keys() & images.keys())
            if both:
                raise LabelFormatError(
                    f"D303 {folder}: {len(both)} images are also in another folder (e.g. "
                    f"{', '.join(both[:5])}), expected each once; remove one of each"
                )
            images.update(found)
        labels = {
            role: io.find_images(folder, suffixes=io.LABEL_SUFFIXES, unique=False)
            if folder.is_dir()
            else {}
            for role, folder in (("scribble", self.point_dir), ("mask", self.mask_dir))
        }
        return FileIndex(
            images=dict(sorted(images.items())),
            scribbles=labels["scribble"],
            masks=labels["mask"],
            places={
                "image": f"{self.root}/train2014 and val2014",
                "scribble": str(self.point_dir),
                "mask": str(self.mask_dir),
            },
        )

    def _list_stems(self, split: Split) -> list[str]:
        wanted = self.lists[split]
        path = self._find_list(split) if wanted is None else self.root / wanted
        return [stem.rsplit("/", 1)[-1] for stem in io.read_split(path)]

    def _find_list(self, split: Split) -> Path:
        for pattern in _LISTS[split]:
            for folder in _LIST_FOLDERS:
                found = sorted((self.root / folder).glob(pattern))
                if len(found) > 1:
                    names = ", ".join(path.name for path in found)
                    raise ConfigError(
                        f"{self.root / folder}: several lists could be split {split!r}: {names}; "
                        f"name one with `{split}_list`"
                    )
                if found:
                    return found[0]
        raise ScribbleNotFoundError(
            f"D301 {self.root}: no list of split {split!r} (looked for "
            f"{', '.join(_LISTS[split])} here and in {', '.join(_LIST_FOLDERS[1:])}); copy it from "
            f"the release, or pass `{split}_list`"
        )
