"""PASCAL VOC 2012 with the extra SBD images, and PASCAL-Scribble annotations for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scribbleseg.data.classes import ClassTable
from scribbleseg.data.images import LABEL_SUFFIXES
from scribbleseg.data.labels import encode_label
from scribbleseg.data.lists import find_images
from scribbleseg.data.matlab import read_mat
from scribbleseg.data.sources.class_names import VOC_CLASSES
from scribbleseg.data.sources.devkit import (
    TRAIN_AUG_LISTS,
    find_list,
    find_scribbles,
    locate_devkit,
    voc_ids,
)
from scribbleseg.data.sources.files import FileSource
from scribbleseg.data.sources.index import FileIndex, OnMissing, find_labels
from scribbleseg.data.strokes import SCRIBBLESUP_ALIASES, StrokeOptions
from scribbleseg.data.weak import LabelType, WeakLabels  # noqa: TC001  (the CLI resolves them)
from scribbleseg.errors import ScribbleNotFoundError
from scribbleseg.types import Label

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.functional.strokes import Renderer
    from scribbleseg.types import Record, Split

__all__ = ["VOC_CLASSES", "VOCSource"]

_LISTS: dict[str, tuple[str, ...]] = {
    "train": TRAIN_AUG_LISTS,
    "val": ("Segmentation/val.txt", "SegmentationAug/val.txt", "val.txt"),
    "test": ("Segmentation/test.txt", "SegmentationAug/test.txt", "test.txt"),
}
_SBD_FILE = "a class file of SBD (GTcls.Segmentation): copy benchmark_RELEASE/dataset/cls again"
_SCRIBBLE_FOLDERS = ("pascal_2012_scribble", "scribble", "scribbles", "pascal_2012")


class VOCSource(FileSource):
    """PASCAL VOC 2012 segmentation with scribbles; 21 classes, background first.

    Args:
        root: ``VOCdevkit``, the folder ``VOC2012`` in it, or the folder that holds ``VOCdevkit``.
        train_list: Split file, absolute or relative to ``ImageSets``, ``ImageSets/Segmentation`` or
            ``VOC2012``. By default the 10,582 images of train_aug: a list found in ``ImageSets``,
            or (VOC train ∪ SBD train ∪ SBD val) − VOC val if the SBD lists are there.
        val_list: Split file of validation images; by default VOC val (1,449 images).
        test_list: Split file of test images. VOC test labels are not public.
        scribbles: Folder or zip archive of scribbles, absolute or relative to ``VOC2012``;
            ``"auto"`` looks for the known names. PNG is preferred over XML, because published
            numbers use it.
        sbd_root: ``benchmark_RELEASE/dataset``; by default looked for beside and above ``VOC2012``.
        scribble_width: Stroke width for XML scribbles in pixels.
        renderer: How XML scribbles are drawn, see
            :func:`~scribbleseg.functional.strokes.rasterize`.
        coordinate_offset: 1 draws XML coordinates as the MATLAB-made PNGs do.
        on_missing: What to do with training images without scribble.
        label_type: ``"mask"`` trains on the dense masks, the upper bound of a comparison;
            ``"pseudo"`` on ``pseudo_label_dir``.
        pseudo_label_dir: Folder of pseudo-label PNGs, absolute or relative to ``VOC2012``, see
            :class:`~scribbleseg.data.sources.folder.FolderSource`.
        weak_labels: Where clicks, boxes and tags are, for the label types ``"point"``, ``"box"``
            and ``"tag"``; boxes are those of ``Annotations/`` by default.

    Raises:
        ScribbleNotFoundError: If there is no ``JPEGImages`` at ``root``.
        ConfigError: If an option is out of range.
    """

    layout = "JPEGImages/"

    def __init__(
        self,
        root: str | Path,
        *,
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        scribbles: str = "auto",
        sbd_root: str | Path | None = None,
        scribble_width: float = 3.0,
        renderer: Renderer = "distance",
        coordinate_offset: float = 0.0,
        on_missing: OnMissing = "error",
        label_type: LabelType = "scribble",
        pseudo_label_dir: str | None = None,
        weak_labels: WeakLabels | None = None,
    ) -> None:
        self.root = locate_devkit(Path(root))
        self.lists = {"train": train_list, "val": val_list, "test": test_list}
        self.scribbles = scribbles
        self._sbd_root = None if sbd_root is None else Path(sbd_root)
        aliases = {short: VOC_CLASSES.index(name) for short, name in SCRIBBLESUP_ALIASES.items()}
        super().__init__(
            ClassTable(VOC_CLASSES, background=0, aliases=aliases),
            label_type=label_type,
            pseudo_label_dir=None if pseudo_label_dir is None else self.root / pseudo_label_dir,
            weak_labels=weak_labels,
            on_missing=on_missing,
            strokes=StrokeOptions(scribble_width, renderer, coordinate_offset),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it; reads no file."""
        names = ("", "VOC2012", "VOCdevkit/VOC2012")
        return any((root / name / "JPEGImages").is_dir() for name in names)

    @property
    def sbd_root(self) -> Path | None:
        """Folder of the SBD release with ``img/`` and ``cls/``, or ``None``."""
        if self._sbd_root is not None:
            return self._sbd_root
        for base in (self.root, *list(self.root.parents)[:3]):
            for name in ("benchmark_RELEASE/dataset", "SBD/benchmark_RELEASE/dataset", "SBD"):
                if (base / name / "cls").is_dir():
                    return base / name
        return None

    def _list_files(self) -> FileIndex:
        images = find_images(self.root / "JPEGImages")
        sbd = self.sbd_root
        if sbd is not None and (sbd / "img").is_dir():
            images = {**find_images(sbd / "img"), **images}
        names, masks = self.class_names, dict[str, Label]()
        if sbd is not None:
            masks.update(find_labels(sbd / "cls", "mask", names, suffixes=(".mat",)))
        # later entries win: VOC masks have void borders, SBD masks do not
        for name in ("SegmentationClassAug", "SegmentationClass"):
            masks.update(find_labels(self.root / name, "mask", names, suffixes=LABEL_SUFFIXES))
        place, scribbles = find_scribbles(self.root, self.scribbles, _SCRIBBLE_FOLDERS, names)
        return FileIndex(
            images=dict(sorted(images.items())),
            scribbles=scribbles,
            masks=masks,
            places={
                "image": str(self.root / "JPEGImages"),
                "scribble": place,
                "mask": f"{self.root}/SegmentationClassAug and SegmentationClass",
            },
        )

    def _list_stems(self, split: Split) -> list[str]:
        wanted = self.lists[split]
        if wanted is not None:
            return voc_ids(find_list(self.root, wanted), repeats=split == "train")
        sets = self.root / "ImageSets"
        for name in _LISTS[split]:
            if (sets / name).is_file():
                return voc_ids(sets / name, repeats=split == "train")
        if split == "train":
            return self._derive_train_aug()
        raise ScribbleNotFoundError(
            f"D301 {sets}: no list of split {split!r} (looked for {', '.join(_LISTS[split])}); "
            f"copy it from the devkit, or pass `{split}_list`"
        )

    def _derive_train_aug(self) -> list[str]:
        """(VOC train ∪ SBD train ∪ SBD val) − VOC val, the definition of train_aug."""
        voc, sbd = self.root / "ImageSets" / "Segmentation", self.sbd_root
        parts = [voc / "train.txt", voc / "val.txt"]
        if sbd is not None:
            parts += [sbd / "train.txt", sbd / "val.txt"]
        absent = [str(path) for path in parts if not path.is_file()]
        if sbd is None or absent:
            raise ScribbleNotFoundError(
                f"D301 {self.root / 'ImageSets'}: no train_aug list (10,582 images; looked for "
                f"{', '.join(_LISTS['train'])}) and it cannot be derived"
                f"{' without ' + ', '.join(absent) if absent else ': SBD is not there'}; copy the "
                "list there, or pass `train_list: train` to use the 1,464 images of VOC train"
            )
        train, val, sbd_train, sbd_val = (voc_ids(path) for path in parts)
        return sorted((set(train) | set(sbd_train) | set(sbd_val)) - set(val))

    def _read_map(self, label: Label, record: Record) -> NDArray[np.uint8]:
        if label.path.suffix.lower() == ".mat":
            _, values = read_mat(label.path, ("GTcls.Segmentation",), _SBD_FILE)
            return encode_label(values, self.codings["mask"], label.path)
        return super()._read_map(label, record)
