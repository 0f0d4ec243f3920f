"""PASCAL Context: 60 or 59 classes, MATLAB labels of 459 classes, spellings in its strokes."""

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
from scribbleseg.data.lists import read_split
from scribbleseg.data.matlab import read_mat
from scribbleseg.data.sources.layouts import LayoutSource, read_layout
from scribbleseg.data.strokes import names_with_aliases, read_scribblesup
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.degrade import StrokeDrawing
from scribbleseg.options import check_choice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.data.source import FileRole
    from scribbleseg.data.sources.index import FileIndex
    from scribbleseg.types import Label, Record, Split

__all__ = ["PascalContextSource"]

logger = logging.getLogger(__name__)

_MAT_FILE = "a label file of PASCAL Context (MATLAB 5 with LabelMap): download it again"
_PICKLES = (".pth", ".pt", ".pkl", ".pickle", ".npy")
_SCANNED = 2000  # stroke files that are searched for further unknown names


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

    _names = ("context",)
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
        self._first, self._aliases = 60 - num_classes, aliases or {}
        super().__init__(root, "context", **kwargs)
        self._warned = False

    def _class_table(self) -> ClassTable:
        table, ids = self._layout.classes, dict(self._layout.classes.aliases)
        for tag, name in self._aliases.items():
            if normalise_name(name) not in ids:
                raise ConfigError(
                    f"aliases={{{tag!r}: {name!r}}}: no class has this name, expected one of "
                    f"{', '.join(table.names)}"
                )
            ids[normalise_name(tag)] = ids[normalise_name(name)]
        # strokes are drawn in the coding of the label files, then mapped as those are
        self._stroke_names = names_with_aliases(table.names, ids)
        if not self._first:
            return replace(table, aliases=ids)
        ids = {name: label - 1 for name, label in ids.items() if label}
        return ClassTable(table.names[1:], None, aliases=ids, ignore=(0,), ids=tuple(range(1, 60)))

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
        try:
            index = super()._list_files()
        except ScribbleNotFoundError:
            self._refuse_pickles(self.root / (self.mask_dir or ""))
            raise
        if not index.masks:
            for name in (self.mask_dir,) if self.mask_dir else (*self._facts["masks"], "."):
                self._refuse_pickles(self.root / name)
        return index

    def _refuse_pickles(self, place: Path) -> None:
        """Say what a pickle of labels is, or one in a folder that has no labels."""
        paths = sorted(place.iterdir()) if place.is_dir() else [place]
        if place == self.root:
            paths = [p for p in paths if p.stem in ("train", "val", "trainval")]
        for path in paths:
            if path.suffix.lower() in _PICKLES:
                raise LabelFormatError(
                    f"D501 {path}: labels in a pickle are refused, because reading one runs the "
                    "code in it; expected PNG labels of ids 0-59: convert them where you trust the "
                    "file, into SegmentationClassContext/, or use the released .mat files"
                )

    def inputs(self, record: Record, role: FileRole) -> list[Path]:
        """See :meth:`ScribbleSource.inputs`; ``labels.txt`` decides what ``.mat`` files mean."""
        paths = super().inputs(record, role)
        if role == "mask":
            paths += [f for p in paths if p.suffix.lower() == ".mat" for f in _files_of_names(p)]
        return paths

    def _read_map(self, label: Label, record: Record) -> NDArray[np.uint8]:
        if label.path.suffix.lower() != ".mat":
            return super()._read_map(label, record)
        _, values = read_mat(label.path, ("LabelMap",), _MAT_FILE)
        return encode_label(values, self._coding_459, label.path)

    @cached_property
    def _coding_459(self) -> LabelCoding:
        """Ids of the released ``.mat`` files; classes that are none of the 59 are background."""
        masks = (label.path for label in self.files.masks.values())
        places = _files_of_names(next(path for path in masks if path.suffix.lower() == ".mat"))
        names = next((file for file in places if file.is_file()), None)
        if names is None:
            raise ScribbleNotFoundError(
                f"D301 {places[-1]}: .mat labels hold 459 classes, and labels.txt says which; copy "
                "it there from the release (one `id: name` a line), or set `mask_dir` to PNG "
                "labels of 60 classes"
            )
        table, of_60 = _read_459_ids(names), self.codings["mask"].index_of()
        return LabelCoding(self.num_classes, {v: of_60[label] for v, label in table.items()})

    def _read(self, label: Label, record: Record) -> NDArray[np.uint8]:
        if label.kind != "strokes":
            return super()._read(label, record)
        # strokes of the background are drawn too: they cover others
        values = self._drawing(label, record).rasterize()
        return encode_label(values, self.codings["scribble"], str(label))

    def _read_drawing(self, label: Label, record: Record) -> StrokeDrawing:
        drawing, first = self._drawing(label, record), self._first
        strokes = [s._replace(label=s.label - first) for s in drawing.strokes if s.label >= first]
        return drawing._replace(strokes=strokes)

    def _drawing(self, label: Label, record: Record) -> StrokeDrawing:
        """Strokes in the coding of the files."""
        size, drawn = self.image_size(record), self.strokes
        try:
            strokes = read_scribblesup(label, self._stroke_names, image_size=size)
        except LabelFormatError as error:
            if str(error).startswith("D401"):
                files = [label, *self.files.scribbles.values()]
                raise _unknown_names(files, self._stroke_names) from error
            raise
        return StrokeDrawing(strokes, size, drawn.width, drawn.renderer, drawn.offset)


class _Names(dict[str, int]):
    """Classes by name that note the names that they do not hold."""

    def __init__(self, known: Mapping[str, int]) -> None:
        super().__init__(known)
        self.unknown: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        if name not in self:
            self.unknown.add(name)
        return super().get(name, 0)


def _unknown_names(files: Sequence[Label], known: Mapping[str, int]) -> LabelFormatError:
    """One error for the unknown names of all stroke files: they are corrected once."""
    scanned = list(dict.fromkeys(label for label in files if label.kind == "strokes"))[:_SCANNED]
    names = _Names(known)
    for label in scanned:
        # another fault is reported when the file is used
        with suppress(LabelFormatError, ScribbleNotFoundError):
            read_scribblesup(label, names)
    listed = ", ".join(repr(name) for name in sorted(names.unknown))
    return LabelFormatError(
        f"D401 {files[0]}: {len(names.unknown)} class names in {len(scanned):,} stroke files are "
        f"unknown: {listed}; expected names of the 60 classes or of their known short forms: name "
        "the class of each in `aliases`, such as `aliases: {TAG: wall}`"
    )


def _files_of_names(label: Path) -> list[Path]:
    """Where the file may be that names the ids of a ``.mat`` file."""
    return [folder / "labels.txt" for folder in list(label.parents)[:2]]


def _read_459_ids(path: Path) -> dict[int, int]:
    """Id of the 60 classes by id of the released files; classes that are none of them are 0.

    Args:
        path: Text file of ``id: name`` lines.

    Raises:
        LabelFormatError: If a line is no ``id: name`` or a name is absent (D401), or the file is
            not text (D202).
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise LabelFormatError(
            f"D202 {path}: is not UTF-8 text ({error.reason} at byte {error.start}); take the file "
            "from the release again"
        ) from error
    names: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*(\d{1,4})\s*:\s*(.+?)\s*", line)
        if match is None:
            raise LabelFormatError(
                f"D401 {path}: line {number} is {line[:60]!r}, expected `id: name`; take the file "
                "from the release again"
            )
        names[normalise_name(match[2])] = int(match[1])
    wanted = [normalise_name(name) for name in read_layout("context").classes.names[1:]]
    absent = [name for name in wanted if name not in names]
    if absent:
        raise LabelFormatError(
            f"D401 {path}: names {len(names)} classes, but not {', '.join(absent)}; expected all "
            f"{len(wanted)}: take the file with 459 names from the release"
        )
    table = dict.fromkeys([0, *names.values()], 0)
    return table | {names[name]: index for index, name in enumerate(wanted, 1)}
