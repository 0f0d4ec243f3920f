"""PASCAL Context: 59 classes of things and stuff over VOC images, with scribbles for it."""

from __future__ import annotations

import logging
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from scribbleseg.data.classes import ClassTable
from scribbleseg.data.history import overlap_warning
from scribbleseg.data.images import LABEL_SUFFIXES
from scribbleseg.data.labels import LabelCoding, encode_label
from scribbleseg.data.lists import find_images, voc_stem
from scribbleseg.data.matlab import read_mat
from scribbleseg.data.sources.class_names import CONTEXT_CLASSES
from scribbleseg.data.sources.context_names import (
    NAMES_459,
    alias_ids,
    read_459_ids,
    unknown_names,
)
from scribbleseg.data.sources.devkit import (
    TRAIN_AUG_LISTS,
    find_list,
    find_scribbles,
    locate_devkit,
    voc_ids,
)
from scribbleseg.data.sources.files import FileSource
from scribbleseg.data.sources.index import FileIndex, OnMissing, find_labels
from scribbleseg.data.strokes import StrokeOptions, names_with_aliases, read_scribblesup
from scribbleseg.data.weak import LabelType, WeakLabels  # noqa: TC001  (the CLI resolves them)
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.degrade import StrokeDrawing
from scribbleseg.functional.strokes import Renderer  # noqa: TC001  (the CLI resolves it)
from scribbleseg.options import check_choice

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.data.source import FileRole
    from scribbleseg.types import Label, Record, Split

__all__ = ["PascalContextSource"]

logger = logging.getLogger(__name__)

_YEARS = ("VOC2010", "VOC2012")
_LISTS = {
    split: (
        f"SegmentationContext/{split}.txt",
        f"SegmentationContext/{split}_context.txt",
        f"Segmentation/{split}_context.txt",
        f"{split}_context.txt",
        f"../{split}_context.txt",
    )
    for split in ("train", "val")
}
_SCRIBBLE_FOLDERS = ("pascal_context", "pascal_context_scribble")
_LABEL_FOLDERS = ("SegmentationClassContext", "pascal_context_labels", "trainval")
_VOC_SCRIBBLES = ("pascal_2012", "pascal_2012_scribble", "pascal_2007")
_PICKLES = (".pth", ".pt", ".pkl", ".pickle", ".npy")


class PascalContextSource(FileSource):
    """PASCAL Context with scribbles: 60 classes, or 59 without background.

    ::

        root/JPEGImages/STEM.jpg  pascal_context/STEM.xml  SegmentationClassContext/STEM.png
             ImageSets/SegmentationContext/{train,val}.txt

    Label and scribble files hold the coding with background (0..59, 255 = void), whatever
    ``num_classes`` is. Most images are also in VOC's train_aug, 4,116 of the 5,105 of the
    validation list among them: weights trained on train_aug have seen them. A run that starts from
    such a checkpoint is warned of, see also :meth:`overlap_with`.

    Args:
        root: Folder with ``JPEGImages`` of VOC 2010 or 2012, ``VOCdevkit``, or its parent.
        num_classes: 60, background first; or 59, where background pixels become 255 and there is
            no background class.
        train_list: Split file, absolute or relative to ``ImageSets``, ``ImageSets/Segmentation`` or
            ``root``; by default 4,998 images of a list with a known name.
        val_list: Split file of validation images, 5,105 by default.
        scribbles: Folder or zip archive of scribbles (PNG or ScribbleSup XML); ``"auto"`` looks for
            ``pascal_context``. PNG is preferred.
        label_dir: Folder of dense labels, absolute or relative to ``root``: PNG of mode P or L, or
            ``.mat`` with ``LabelMap`` of 459 ids and ``labels.txt`` (``id: name`` a line) beside
            the folder or in it; classes that are none of the 59 become background. By default
            ``SegmentationClassContext``.
        aliases: Class name by further spelling of tags in XML files.
        scribble_width: Stroke width for XML scribbles in pixels.
        renderer: How XML scribbles are drawn, see
            :func:`~scribbleseg.functional.strokes.rasterize`.
        coordinate_offset: 1 draws XML coordinates as MATLAB does.
        on_missing: What to do with training images without scribble.
        label_type: ``"mask"`` trains on the dense labels, the upper bound of a comparison;
            ``"pseudo"`` on ``pseudo_label_dir``.
        pseudo_label_dir: Folder of pseudo-label PNGs with ids of ``num_classes``, absolute or
            relative to ``root``.
        weak_labels: Where clicks, boxes and tags are, for the label types ``"point"``, ``"box"``
            and ``"tag"``.

    Raises:
        ScribbleNotFoundError: If there is no ``JPEGImages`` at ``root``.
        ConfigError: If an option is out of range, or an alias is of no class.
    """

    layout = "JPEGImages/ with SegmentationClassContext/ or pascal_context/"

    def __init__(
        self,
        root: str | Path,
        *,
        num_classes: int = 60,
        train_list: str | None = None,
        val_list: str | None = None,
        scribbles: str = "auto",
        label_dir: str | None = None,
        aliases: dict[str, str] | None = None,
        scribble_width: float = 3.0,
        renderer: Renderer = "distance",
        coordinate_offset: float = 0.0,
        on_missing: OnMissing = "error",
        label_type: LabelType = "scribble",
        pseudo_label_dir: str | None = None,
        weak_labels: WeakLabels | None = None,
    ) -> None:
        check_choice("num_classes", num_classes, (60, 59))
        self.root = locate_devkit(Path(root), _YEARS)
        self.lists = {"train": train_list, "val": val_list}
        self.scribbles, self._label_dir = scribbles, label_dir
        first = 60 - num_classes
        further = alias_ids(aliases or {})
        known = {tag: label - first for tag, label in further.items() if label >= first}
        super().__init__(
            ClassTable(CONTEXT_CLASSES[first:], background=None if first else 0, aliases=known),
            label_type=label_type,
            pseudo_label_dir=None if pseudo_label_dir is None else self.root / pseudo_label_dir,
            on_missing=on_missing,
            strokes=StrokeOptions(scribble_width, renderer, coordinate_offset),
            weak_labels=weak_labels,
        )
        # strokes are drawn in the coding of the label files, then mapped as those are
        self._stroke_names = names_with_aliases(CONTEXT_CLASSES, further)
        self._warned = False

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it; reads no file."""
        for name in ("", *_YEARS, *(f"VOCdevkit/{year}" for year in _YEARS)):
            base = root / name
            if not (base / "JPEGImages").is_dir():
                continue
            if any((base / s).is_dir() for s in ("SegmentationClassContext", *_SCRIBBLE_FOLDERS)):
                # ScribbleSup holds strokes for both data sets: then the classes must be named
                return not any((base / other).is_dir() for other in _VOC_SCRIBBLES)
        return False

    def records(self, split: Split) -> list[Record]:
        """Samples of a split; warns once if VOC's train_aug beside them shares validation images.

        See :meth:`FileSource.records`.
        """
        records = super().records(split)
        if split == "val" and not self._warned:
            self._warned = True
            beside = next((p for p in self._voc_lists() if p.is_file()), None)
            finding = beside and overlap_warning(
                voc_ids(beside),
                [record.image_id for record in records],
                train_name=f"VOC's training list {beside}",
                val_name="Context's validation list",
            )
            if finding:
                logger.warning("%s", finding)
        return records

    def overlap_with(self, stems: Iterable[str]) -> list[str]:
        """Validation images that are among the images that some weights were trained on.

        Args:
            stems: Image names of that training list.

        Returns:
            Stems in the order of the validation list.
        """
        seen = {voc_stem(stem) for stem in stems}
        return [stem for stem in self._list_stems("val") if stem in seen]

    def _voc_lists(self) -> list[Path]:
        return [self.root / "ImageSets" / name for name in TRAIN_AUG_LISTS]

    def _list_files(self) -> FileIndex:
        place, scribbles = find_scribbles(
            self.root, self.scribbles, _SCRIBBLE_FOLDERS, self.class_names
        )
        folder = self.label_dir
        masks = {} if folder is None else self._find_labels(folder)
        return FileIndex(
            images=find_images(self.root / "JPEGImages"),
            scribbles=scribbles,
            masks=masks,
            places={
                "image": str(self.root / "JPEGImages"),
                "scribble": place,
                "mask": str(folder or self.root / _LABEL_FOLDERS[0]),
            },
        )

    @cached_property
    def label_dir(self) -> Path | None:
        """Folder of dense labels, ``None`` if there is none.

        Raises:
            ScribbleNotFoundError: If the option names no folder (D301).
            LabelFormatError: If labels are there as a pickle only (D501).
        """
        if self._label_dir is not None:
            path = self.root / self._label_dir
            if path.suffix.lower() in _PICKLES:
                raise _pickled(path)
            if not path.is_dir():
                raise ScribbleNotFoundError(f"D301 {path}: no such folder; correct `label_dir`")
            return path
        for name in _LABEL_FOLDERS:
            if (self.root / name).is_dir():
                return self.root / name
        pickles = [self.root / f"{s}{x}" for s in ("train", "val", "trainval") for x in _PICKLES]
        found = next((path for path in pickles if path.is_file()), None)
        if found is not None:
            raise _pickled(found)
        return None

    def _find_labels(self, folder: Path) -> dict[str, Label]:
        suffixes = (*LABEL_SUFFIXES, ".mat")
        files = find_labels(folder, "mask", self.class_names, suffixes=suffixes)
        if not files:
            refused = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in _PICKLES]
            if refused:
                raise _pickled(refused[0])
        return files

    def _list_stems(self, split: Split) -> list[str]:
        wanted = self.lists.get(split)
        if wanted is not None:
            return voc_ids(find_list(self.root, wanted), repeats=split == "train")
        sets = self.root / "ImageSets"
        for name in _LISTS.get(split, ()):
            if (sets / name).is_file():
                return voc_ids(sets / name, repeats=split == "train")
        if split not in self.lists:
            raise ScribbleNotFoundError(
                f"D301 {self.root}: PASCAL Context has no split {split!r}; use 'train' or 'val'"
            )
        raise ScribbleNotFoundError(
            f"D301 {sets}: no list of split {split!r} (looked for {', '.join(_LISTS[split])}); "
            f"copy it there, or pass `{split}_list`"
        )

    @cached_property
    def codings(self) -> dict[str, LabelCoding]:
        """Files hold the coding with background, whatever the number of classes is."""
        own, first = LabelCoding(self.num_classes), 60 - self.num_classes
        ids = {value: value - first for value in range(first, 60)}
        files = LabelCoding(self.num_classes, ids, (0,) if first else ())
        return {"scribble": files, "mask": files, "ids": own}

    @cached_property
    def _coding_459(self) -> LabelCoding:
        """Ids of the released ``.mat`` files; classes that are none of the 59 are background."""
        path = next(label.path for label in self.files.masks.values())
        places = (folder / NAMES_459 for folder in (path.parent, path.parent.parent))
        names = next((file for file in places if file.is_file()), None)
        if names is None:
            raise ScribbleNotFoundError(
                f"D301 {path.parent.parent / NAMES_459}: .mat labels hold 459 classes, and "
                f"{NAMES_459} says which; copy it there from the release (one `id: name` a "
                "line), or set `label_dir` to PNG labels of 60 classes"
            )
        table, of_60 = read_459_ids(names), self.codings["mask"].index_of()
        return LabelCoding(self.num_classes, {v: of_60[label] for v, label in table.items()})

    def inputs(self, record: Record, role: FileRole) -> list[Path]:
        """See :meth:`ScribbleSource.inputs`; ``labels.txt`` decides what ``.mat`` files mean."""
        paths = super().inputs(record, role)
        if role == "mask":
            folders = [f for p in paths if p.suffix.lower() == ".mat" for f in list(p.parents)[:2]]
            paths += [folder / NAMES_459 for folder in folders]
        return paths

    def _read_map(self, label: Label, record: Record) -> NDArray[np.uint8]:
        if label.path.suffix.lower() != ".mat":
            return super()._read_map(label, record)
        expected = "a label file of PASCAL Context (MATLAB 5 with LabelMap): download it again"
        _, values = read_mat(label.path, ("LabelMap",), expected)
        return encode_label(values, self._coding_459, label.path)

    def _read(self, label: Label, record: Record) -> NDArray[np.uint8]:
        if label.kind != "strokes":
            return super()._read(label, record)
        # strokes of the background are drawn too: they cover others
        values = self._drawing(label, record, 0).rasterize()
        return encode_label(values, self.codings["scribble"], str(label))

    def _read_drawing(self, label: Label, record: Record) -> StrokeDrawing:
        drawing, first = self._drawing(label, record, 60 - self.num_classes), 60 - self.num_classes
        strokes = [stroke._replace(label=stroke.label - first) for stroke in drawing.strokes]
        return drawing._replace(strokes=strokes)

    def _drawing(self, label: Label, record: Record, first: int) -> StrokeDrawing:
        """Strokes of the classes from ``first`` on, in the coding of the files."""
        size, drawn = self.image_size(record), self.strokes
        try:
            strokes = read_scribblesup(label, self._stroke_names, image_size=size)
        except LabelFormatError as error:
            if str(error).startswith("D401"):
                files = [label, *self.files.scribbles.values()]
                raise unknown_names(files, self._stroke_names) from error
            raise
        kept = [stroke for stroke in strokes if stroke.label >= first]
        return StrokeDrawing(kept, size, drawn.width, drawn.renderer, drawn.offset)


def _pickled(path: Path) -> LabelFormatError:
    return LabelFormatError(
        f"D501 {path}: labels in a pickle are refused, because reading one runs the code in it; "
        f"expected PNG labels of ids 0-59: convert them where you trust the file, into "
        f"{_LABEL_FOLDERS[0]}/, or use the released .mat files"
    )
