"""PASCAL VOC 2012 with the extra SBD images, and PASCAL-Scribble annotations for it."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scribbleseg.data import io
from scribbleseg.data.readers.scribblesup import SCRIBBLESUP_ALIASES, list_zip
from scribbleseg.data.sources.base import (
    FileIndex,
    FileSource,
    LabelRole,
    LabelType,
    OnMissing,
    stroke_options,
)
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scribbleseg.functional.strokes import Renderer
    from scribbleseg.types import Record, Split

__all__ = ["VOC_CLASSES", "VOCSource"]

VOC_CLASSES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)

_LISTS: dict[str, tuple[str, ...]] = {
    "train": (
        "SegmentationAug/train.txt",
        "SegmentationAug/train_aug.txt",
        "Segmentation/train_aug.txt",
        "Segmentation/trainaug.txt",
        "SegmentationAug/trainaug.txt",
        "train_aug.txt",
    ),
    "val": ("Segmentation/val.txt", "SegmentationAug/val.txt", "val.txt"),
    "test": ("Segmentation/test.txt", "SegmentationAug/test.txt", "test.txt"),
}
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
    ) -> None:
        self.root = _locate_devkit(Path(root))
        self.lists = {"train": train_list, "val": val_list, "test": test_list}
        self.scribbles = scribbles
        self._sbd_root = None if sbd_root is None else Path(sbd_root)
        aliases = {short: VOC_CLASSES.index(name) for short, name in SCRIBBLESUP_ALIASES.items()}
        super().__init__(
            io.ClassTable(VOC_CLASSES, background=0, aliases=aliases),
            label_type=label_type,
            pseudo_label_dir=None if pseudo_label_dir is None else self.root / pseudo_label_dir,
            on_missing=on_missing,
            strokes=stroke_options(scribble_width, renderer, coordinate_offset),
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
        images = io.find_images(self.root / "JPEGImages")
        sbd = self.sbd_root
        if sbd is not None and (sbd / "img").is_dir():
            images = {**io.find_images(sbd / "img"), **images}
        masks: dict[str, Path] = {}
        if sbd is not None and (sbd / "cls").is_dir():
            masks.update(io.find_images(sbd / "cls", suffixes=(".mat",)))
        # later entries win: VOC masks have void borders, SBD masks do not
        for name in ("SegmentationClassAug", "SegmentationClass"):
            if (self.root / name).is_dir():
                masks.update(io.find_images(self.root / name, suffixes=io.LABEL_SUFFIXES))
        place, scribbles = self._find_scribbles()
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

    def _find_scribbles(self) -> tuple[str, dict[str, Path]]:
        if self.scribbles != "auto":
            path = self.root / self.scribbles
            if path.suffix.lower() == ".zip" and path.is_file():
                return str(path), list_zip(path)
            if not path.is_dir():
                raise ScribbleNotFoundError(
                    f"D301 {path}: no such folder or zip archive; correct `scribbles`"
                )
            return str(path), _label_files(path)
        candidates = [
            folder
            for base in (self.root, *list(self.root.parents)[:2])
            for folder in (base / name for name in _SCRIBBLE_FOLDERS)
            if folder.is_dir()
        ]
        found = [(folder, files) for folder in candidates if (files := _label_files(folder))]
        # drawings of different origin are not mixed: one folder, the first that holds PNGs
        for folder, files in found:
            if any(path.suffix.lower() != ".xml" for path in files.values()):
                return str(folder), files
        if found:
            return str(found[0][0]), found[0][1]
        expected = " or ".join(str(self.root / name) for name in _SCRIBBLE_FOLDERS[:1])
        return f"{expected} (folder does not exist)", {}

    def _list_stems(self, split: Split) -> list[str]:
        wanted = self.lists[split]
        if wanted is not None:
            return _voc_ids(self._given_list(wanted))
        sets = self.root / "ImageSets"
        for name in _LISTS[split]:
            if (sets / name).is_file():
                return _voc_ids(sets / name)
        if split == "train":
            return self._derive_train_aug()
        raise ScribbleNotFoundError(
            f"D301 {sets}: no list of split {split!r} (looked for {', '.join(_LISTS[split])}); "
            f"copy it from the devkit, or pass `{split}_list`"
        )

    def _given_list(self, wanted: str) -> Path:
        sets = self.root / "ImageSets"
        for base in (sets, sets / "Segmentation", self.root):
            for name in (wanted, f"{wanted}.txt"):
                if (base / name).is_file():
                    return base / name
        return sets / wanted

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
        train, val, sbd_train, sbd_val = (_voc_ids(path) for path in parts)
        return sorted((set(train) | set(sbd_train) | set(sbd_val)) - set(val))

    def _decode(self, path: Path, role: LabelRole, record: Record) -> NDArray[np.uint8]:
        if path.suffix.lower() == ".mat":
            return io.encode_label(_read_mat(path), self.num_classes, path=path)
        return super()._decode(path, role, record)


def _locate_devkit(root: Path) -> Path:
    for name in ("", "VOC2012", "VOCdevkit/VOC2012"):
        if (root / name / "JPEGImages").is_dir():
            return root / name
    raise ScribbleNotFoundError(
        f"D301 {root}: no JPEGImages here, in VOC2012 or in VOCdevkit/VOC2012; set `root` to the "
        "folder into which the VOC 2012 archive was unpacked"
    )


def _label_files(folder: Path) -> dict[str, Path]:
    return io.find_images(folder, suffixes=(*io.LABEL_SUFFIXES, ".xml"), unique=False)


def _voc_ids(path: Path) -> list[str]:
    """Stems of a list whose lines may be paths below any folder, or ids without underscore."""
    return [io.voc_stem(stem) for stem in io.read_split(path)]


def _read_mat(path: Path) -> NDArray[np.integer]:
    """``GTcls.Segmentation`` of an SBD file, uint8, shape ``(H, W)``."""
    # SciPy's reader is slow to import and only SBD needs it
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(str(path))
        return np.asarray(content["GTcls"][0]["Segmentation"][0], dtype=np.uint8)
    except FileNotFoundError as error:
        raise ScribbleNotFoundError(f"mask {path} does not exist") from error
    except (
        MatReadError,
        zlib.error,
        KeyError,
        IndexError,
        ValueError,
        TypeError,
        NotImplementedError,
        OSError,
    ) as error:
        raise LabelFormatError(
            f"D202 {path}: is not a class file of SBD ({error}); expected MATLAB 5 with "
            "GTcls.Segmentation: copy benchmark_RELEASE/dataset/cls again"
        ) from error
