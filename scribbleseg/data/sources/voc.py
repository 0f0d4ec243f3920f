"""PASCAL VOC 2012 and PASCAL Context: what their releases need beyond folders, lists and names."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scribbleseg.data.classes import ClassTable, normalise_name
from scribbleseg.data.history import overlap_warning
from scribbleseg.data.images import LABEL_SUFFIXES
from scribbleseg.data.labels import LabelCoding, encode_label
from scribbleseg.data.lists import find_images, read_split, voc_stem
from scribbleseg.data.matlab import read_mat
from scribbleseg.data.sources.index import FileIndex, find_labels, refuse_pickles
from scribbleseg.data.sources.layouts import LayoutSource, read_layout
from scribbleseg.data.strokes import SCRIBBLESUP_ALIASES, names_with_aliases, read_scribblesup
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.options import check_choice

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.data.source import FileRole
    from scribbleseg.functional.degrade import StrokeDrawing
    from scribbleseg.types import Label, Record, Split

__all__ = ["PascalContextSource", "VOCSource"]

logger = logging.getLogger(__name__)

_SBD = ("benchmark_RELEASE/dataset", "SBD/benchmark_RELEASE/dataset", "SBD")
_SBD_FILE = "a class file of SBD (GTcls.Segmentation): copy benchmark_RELEASE/dataset/cls again"
_CONTEXT_FILE = "a label file of PASCAL Context (MATLAB 5 with LabelMap): download it again"
_SCANNED = 2000  # stroke files that are searched for further unknown names


class VOCSource(LayoutSource):
    """PASCAL VOC 2012 segmentation with scribbles; 21 classes, background first.

    Args:
        root: ``VOCdevkit``, the folder ``VOC2012`` in it, or the folder that holds ``VOCdevkit``.
        sbd_root: ``benchmark_RELEASE/dataset``; by default looked for beside and above ``VOC2012``.
        kwargs: See :class:`~scribbleseg.data.sources.LayoutSource`. ``train_list`` is by default
            that of the 10,582 images of train_aug in ``ImageSets``, or (VOC train ∪ SBD train ∪ SBD
            val) − VOC val if the SBD lists are there; ``val_list`` is VOC val (1,449 images).
            Scribbles in PNGs are preferred over XML, because published numbers use them. Boxes are
            those of ``Annotations/``.

    Raises:
        ScribbleNotFoundError: If there is no ``JPEGImages`` at ``root``.
        ConfigError: If an option is out of range.
    """

    _layouts = ("voc",)

    def __init__(
        self,
        root: str | Path,
        *,
        sbd_root: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, "voc", **kwargs)
        self._sbd_root = None if sbd_root is None else Path(sbd_root)

    def _class_table(self) -> ClassTable:
        names = self._layout.classes.names
        aliases = {short: names.index(name) for short, name in SCRIBBLESUP_ALIASES.items()}
        return replace(self._layout.classes, aliases=aliases)

    @property
    def sbd_root(self) -> Path | None:
        """Folder of the SBD release with ``img/`` and ``cls/``, or ``None``."""
        bases = (self.root, *list(self.root.parents)[:3])
        places = (base / name for base in bases for name in _SBD)
        return self._sbd_root or next((p for p in places if (p / "cls").is_dir()), None)

    def _list_files(self) -> FileIndex:
        index, sbd = super()._list_files(), self.sbd_root
        if sbd is None:
            return index
        # what VOC has wins: its masks have void borders, those of SBD have not
        images = find_images(sbd / "img") if (sbd / "img").is_dir() else {}
        masks = {}
        if self.mask_dir is None:
            masks = find_labels(sbd / "cls", "mask", self.class_names, suffixes=(".mat",))
        images = dict(sorted({**images, **index.images}.items()))
        return replace(index, images=images, masks={**masks, **index.masks})

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


class PascalContextSource(LayoutSource):
    """PASCAL Context with scribbles: 60 classes, or 59 without background.

    ::

        root/JPEGImages/STEM.jpg  pascal_context/STEM.xml  SegmentationClassContext/STEM.png
             ImageSets/SegmentationContext/{train,val}.txt

    Label and scribble files hold the coding with background (0..59, 255 = void), whatever
    ``num_classes`` is. Most images are also in VOC's train_aug, 4,116 of the 5,105 of the
    validation list among them: weights trained on train_aug have seen them. A run that starts from
    such a checkpoint is warned of.

    Args:
        root: Folder with ``JPEGImages`` of VOC 2010 or 2012, ``VOCdevkit``, or its parent.
        num_classes: 60, background first; or 59, where background pixels become 255 and there is
            no background class.
        aliases: Class name by further spelling of tags in XML files.
        kwargs: See :class:`~scribbleseg.data.sources.LayoutSource`. Lists are those of 4,998 and
            5,105 images by default. ``mask_dir`` may hold PNGs, or ``.mat`` with ``LabelMap`` of
            459 ids and ``labels.txt`` (``id: name`` a line) beside it or in it; classes that are
            none of the 59 become background.

    Raises:
        ScribbleNotFoundError: If there is no ``JPEGImages`` at ``root``.
        ConfigError: If an option is out of range, or an alias is of no class.
    """

    _layouts = ("context",)
    _mask_suffixes = (*LABEL_SUFFIXES, ".mat")

    def __init__(
        self,
        root: str | Path,
        *,
        num_classes: int = 60,
        aliases: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        check_choice("num_classes", num_classes, (60, 59))
        table = read_layout("context").classes
        ids = dict(table.aliases)
        for tag, name in (aliases or {}).items():
            if normalise_name(name) not in ids:
                raise ConfigError(
                    f"aliases={{{tag!r}: {name!r}}}: no class has this name, expected one of "
                    f"{', '.join(table.names)}"
                )
            ids[normalise_name(tag)] = ids[normalise_name(name)]
        self._table = replace(table, aliases=ids)
        if num_classes == 59:
            own = {name: label - 1 for name, label in ids.items() if label}
            number = tuple(range(1, 60))
            self._table = ClassTable(table.names[1:], None, aliases=own, ignore=(0,), ids=number)
        super().__init__(root, "context", **kwargs)
        # strokes are drawn in the coding of the label files, then mapped as those are
        self._stroke_names = names_with_aliases(table.names, ids)
        self._warned = False

    def _class_table(self) -> ClassTable:
        return self._table

    def records(self, split: Split) -> list[Record]:
        """Samples of a split; warns once if VOC's train_aug beside them shares validation images.

        See :meth:`FileSource.records`.
        """
        records = super().records(split)
        if split == "val" and not self._warned:
            self._warned = True
            lists = read_layout("voc").facts["lists"]["train"]
            beside = next(filter(Path.is_file, (self.root / "ImageSets" / p for p in lists)), None)
            finding = beside and overlap_warning(
                read_split(beside),
                [record.image_id for record in records],
                train_name=f"VOC's training list {beside}",
                val_name="Context's validation list",
            )
            if finding:
                logger.warning("%s", finding)
        return records

    def _list_files(self) -> FileIndex:
        index = super()._list_files()
        if not index.masks and self.mask_dir is None:
            names = ("train", "val", "trainval")
            refuse_pickles(path for path in self.root.iterdir() if path.stem in names)
        return index

    def inputs(self, record: Record, role: FileRole) -> list[Path]:
        """See :meth:`ScribbleSource.inputs`; ``labels.txt`` decides what ``.mat`` files mean."""
        paths = super().inputs(record, role)
        if role == "mask":
            paths += [f for p in paths if p.suffix.lower() == ".mat" for f in _files_of_names(p)]
        return paths

    def _read_map(self, label: Label, record: Record) -> NDArray[np.uint8]:
        if label.path.suffix.lower() != ".mat":
            return super()._read_map(label, record)
        _, values = read_mat(label.path, ("LabelMap",), _CONTEXT_FILE)
        return encode_label(values, self._coding_459, label.path)

    @cached_property
    def _coding_459(self) -> LabelCoding:
        """Ids of the released ``.mat`` files; classes that are none of the 59 are background."""
        masks = (label.path for label in self.files.masks.values())
        places = _files_of_names(next(path for path in masks if path.suffix.lower() == ".mat"))
        path = next((file for file in places if file.is_file()), None)
        if path is None:
            raise ScribbleNotFoundError(
                f"D301 {places[-1]}: .mat labels hold 459 classes, and labels.txt says which; copy "
                "it there from the release (one `id: name` a line), or set `mask_dir` to PNG "
                "labels of 60 classes"
            )
        names, of_60 = _read_459_names(path), self.codings["mask"].index_of()
        wanted = [normalise_name(name) for name in read_layout("context").classes.names]
        absent = [name for name in wanted[1:] if name not in names]
        if absent:
            raise LabelFormatError(
                f"D401 {path}: names {len(names)} classes, but not {', '.join(absent)}; expected "
                "all 59: take the file with 459 names from the release"
            )
        found = {names[name]: of_60[label] for label, name in enumerate(wanted[1:], 1)}
        return LabelCoding(
            self.num_classes, {**dict.fromkeys([0, *names.values()], of_60[0]), **found}
        )

    def _read(self, label: Label, record: Record) -> NDArray[np.uint8]:
        if label.kind != "strokes":
            return super()._read(label, record)
        # strokes of the background are drawn too: they cover others
        values = self._drawing(label, record).rasterize()
        return encode_label(values, self.codings["scribble"], str(label))

    def _read_drawing(self, label: Label, record: Record) -> StrokeDrawing:
        drawing, first = self._drawing(label, record), 60 - self.num_classes
        strokes = [s._replace(label=s.label - first) for s in drawing.strokes if s.label >= first]
        return drawing._replace(strokes=strokes)

    def _drawing(self, label: Label, record: Record) -> StrokeDrawing:
        """Strokes in the coding of the files."""
        try:
            return super()._read_drawing(label, record)
        except LabelFormatError as error:
            if not str(error).startswith("D401"):
                raise
            raise self._unknown_names(label) from error

    def _unknown_names(self, first: Label) -> LabelFormatError:
        """One error for the unknown names of all stroke files: they are corrected once."""
        labels = dict.fromkeys([first, *self.files.scribbles.values()])
        strokes = [label for label in labels if label.kind == "strokes"][:_SCANNED]
        unknown: set[str] = set()

        class Names(dict[str, int]):
            def get(self, tag: str, default: Any = None) -> Any:
                if tag not in self:
                    unknown.add(tag)
                return super().get(tag, 0)

        for label in strokes:
            # another fault is reported when the file is used
            with suppress(LabelFormatError, ScribbleNotFoundError):
                read_scribblesup(label, Names(self._stroke_names))
        return LabelFormatError(
            f"D401 {first}: {len(unknown)} class names in {len(strokes):,} stroke files are "
            f"unknown: {', '.join(map(repr, sorted(unknown)))}; expected names of the 60 classes "
            "or of their known short forms: name the class of each in `aliases`, such as "
            "`aliases: {TAG: wall}`"
        )


def _files_of_names(label: Path) -> list[Path]:
    """Where the file may be that names the ids of a ``.mat`` file."""
    return [folder / "labels.txt" for folder in list(label.parents)[:2]]


def _read_459_names(path: Path) -> dict[str, int]:
    """Ids of the released files by class name."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise LabelFormatError(
            f"D202 {path}: is not UTF-8 text ({error.reason} at byte {error.start}); take the file "
            "from the release again"
        ) from error
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"\s*(\d{1,4})\s*:\s*(.+?)\s*", line)
        if match is not None:
            names[normalise_name(match[2])] = int(match[1])
        elif line.strip():
            raise LabelFormatError(
                f"D401 {path}: line {number} is {line[:60]!r}, expected `id: name`; take the file "
                "from the release again"
            )
    return names
