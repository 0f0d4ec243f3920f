"""PASCAL VOC 2012 with the images, masks and lists of SBD."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from scribbleseg.data.labels import encode_label
from scribbleseg.data.lists import find_images, read_split, voc_stem
from scribbleseg.data.matlab import read_mat
from scribbleseg.data.sources.index import FileIndex, OnMissing, find_labels
from scribbleseg.data.sources.layouts import LayoutSource
from scribbleseg.data.strokes import SCRIBBLESUP_ALIASES
from scribbleseg.data.weak import LabelType, WeakLabels  # noqa: TC001  (the CLI resolves them)
from scribbleseg.errors import ScribbleNotFoundError
from scribbleseg.functional.strokes import Renderer  # noqa: TC001  (the CLI resolves it)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.data.classes import ClassTable
    from scribbleseg.types import Label, Record, Split

__all__ = ["VOCSource"]

_SBD_FILE = "a class file of SBD (GTcls.Segmentation): copy benchmark_RELEASE/dataset/cls again"


class VOCSource(LayoutSource):
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
        label_type: What trains, see :class:`~scribbleseg.data.sources.FolderSource`.
        pseudo_label_dir: Folder of pseudo-label PNGs, absolute or relative to ``VOC2012``.
        weak_labels: Where clicks, boxes and image-level labels are; boxes are those of
            ``Annotations/`` by default.

    Raises:
        ScribbleNotFoundError: If there is no ``JPEGImages`` at ``root``.
        ConfigError: If an option is out of range.
    """

    _names = ("voc",)

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
        self._sbd_root = None if sbd_root is None else Path(sbd_root)
        super().__init__(
            root,
            "voc",
            train_list=train_list,
            val_list=val_list,
            test_list=test_list,
            scribbles=scribbles,
            scribble_width=scribble_width,
            renderer=renderer,
            coordinate_offset=coordinate_offset,
            on_missing=on_missing,
            label_type=label_type,
            pseudo_label_dir=pseudo_label_dir,
            weak_labels=weak_labels,
        )

    def _class_table(self) -> ClassTable:
        names = self._layout.classes.names
        aliases = {short: names.index(name) for short, name in SCRIBBLESUP_ALIASES.items()}
        return replace(self._layout.classes, aliases=aliases)

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
        index, sbd = super()._list_files(), self.sbd_root
        if sbd is None:
            return index
        # what VOC has wins: its masks have void borders, those of SBD have not
        images = find_images(sbd / "img") if (sbd / "img").is_dir() else {}
        masks = find_labels(sbd / "cls", "mask", self.class_names, suffixes=(".mat",))
        return replace(
            index,
            images=dict(sorted({**images, **index.images}.items())),
            masks={**masks, **index.masks},
        )

    def _list_stems(self, split: Split) -> list[str]:
        if split == "train" and self._find_list(split) is None:
            return self._derive_train_aug()
        return super()._list_stems(split)

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
                f"{', '.join(self._facts['lists']['train'])}) and it cannot be derived"
                f"{' without ' + ', '.join(absent) if absent else ': SBD is not there'}; copy the "
                "list there, or pass `train_list: train` to use the 1,464 images of VOC train"
            )
        train, val, *others = ({voc_stem(stem) for stem in read_split(path)} for path in parts)
        return sorted(train.union(*others) - val)

    def _read_map(self, label: Label, record: Record) -> NDArray[np.uint8]:
        if label.path.suffix.lower() == ".mat":
            _, values = read_mat(label.path, ("GTcls.Segmentation",), _SBD_FILE)
            return encode_label(values, self.codings["mask"], label.path)
        return super()._read_map(label, record)
