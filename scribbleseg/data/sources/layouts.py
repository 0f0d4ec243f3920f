"""Data sets that differ from a plain folder by names and classes only: their layouts as YAML."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from scribbleseg.data.classes import CLASS_FILES, CLASS_KEYS, ClassTable, read_classes, table_of
from scribbleseg.data.documents import read_yaml
from scribbleseg.data.images import LABEL_SUFFIXES
from scribbleseg.data.labels import LabelCoding
from scribbleseg.data.lists import find_images, read_split
from scribbleseg.data.sources.files import FileSource
from scribbleseg.data.sources.index import FileIndex, LabelIds, OnMissing, find_labels, which_ids
from scribbleseg.data.strokes import StrokeOptions, list_zip
from scribbleseg.data.weak import LabelType, WeakLabels  # noqa: TC001  (the CLI resolves them)
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.strokes import Renderer  # noqa: TC001  (the CLI resolves it)
from scribbleseg.options import check_choice
from scribbleseg.types import Label

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scribbleseg.types import Split

__all__ = ["COCO_CATEGORIES", "LAYOUTS", "Layout", "LayoutSource", "read_layout"]

FOLDER = Path(__file__).parents[1] / "layouts"
LAYOUTS = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
"""Layouts that are part of the package."""

COCO_CATEGORIES: dict[int, str] = read_yaml(FOLDER / "coco" / "categories.yaml", "table")
"""MS COCO: the 80 object categories by ``category_id``; ids have gaps."""

_KEYS = {
    *("base", "title", "release", "places", "marker", "also", "unless", "named", "images", "masks"),
    *("scribbles", "above", "sbd", "lists", "list_places", "starts", "stems", "strip", "skip"),
    *("allow_dense_scribbles", "label_ids"),
}


@dataclass(frozen=True)
class Layout:
    """What a YAML file says about a data set; see :class:`LayoutSource`.

    Attributes:
        facts: Content of the file.
        classes: Classes in it.
    """

    facts: dict[str, Any]
    classes: ClassTable

    @property
    def needs(self) -> str:
        """Folders that tell the layout, for messages."""
        also = " or ".join(f"{name}/" for name in self.facts.get("also", ()))
        markers = " or ".join(f"{name}/" for name in self.facts["marker"])
        return f"{markers} with {also}" if also else markers

    def _found(self, root: Path) -> Iterator[Path]:
        for place in self.facts["places"]:
            if any((root / place / marker).is_dir() for marker in self.facts["marker"]):
                yield root / place

    def locate(self, root: Path) -> Path:
        """The folder of this layout at or below ``root``.

        Raises:
            ScribbleNotFoundError: If there is none (D301).
        """
        for folder in self._found(root):
            return folder
        markers, title = " or ".join(self.facts["marker"]), self.facts.get("title", "the data set")
        places = " or in ".join(["here", *(p for p in self.facts["places"] if p != ".")])
        raise ScribbleNotFoundError(
            f"D301 {root}: no {markers} {places}; set `root` to the folder of {title}"
        )

    def matches(self, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it and its own name."""
        for folder in self._found(root):
            also, unless = self.facts.get("also", ["."]), self.facts.get("unless", ())
            if any((folder / name).is_dir() for name in also):
                named = self.facts.get("named", "") in folder.resolve().name.casefold()
                return named and not any((folder / name).is_dir() for name in unless)
        return False


def read_layout(layout: str) -> Layout:
    """Layout of the package by name, or of a YAML file by path.

    Raises:
        ConfigError: If there is no such layout.
        LabelFormatError: If the file is faulty.
    """
    path = FOLDER / f"{layout}.yaml" if layout in LAYOUTS else Path(layout)
    if not path.is_file():
        raise ConfigError(
            f"layout={layout!r}: expected one of {', '.join(LAYOUTS)}, or a YAML file"
        )
    try:
        facts = read_yaml(path, "layout")
    except ValueError as error:
        raise LabelFormatError(f"D202 {path}: layout cannot be read: {error}") from error
    facts = facts if isinstance(facts, dict) else {}
    if "base" in facts:
        facts = {**read_layout(facts["base"]).facts, **facts}
    absent = {"places", "marker", "images", "classes"} - set(facts)
    unknown = set(facts) - _KEYS - CLASS_KEYS
    if absent or unknown:
        wrong = f"lacks {sorted(absent)}" if absent else f"has unknown keys {sorted(unknown)}"
        raise LabelFormatError(
            f"D401 {path}: layout {wrong}; known keys are {sorted(_KEYS | CLASS_KEYS)}"
        )
    return Layout(facts, table_of({key: facts[key] for key in CLASS_KEYS & set(facts)}, path))


class LayoutSource(FileSource):
    """A data set whose folders, lists and classes a YAML file describes.

    Layouts of the package: ``camvid``, ``densepose``, ``cityscapes_blocks``, ``ade20k_blocks``. A
    file of one's own has these keys, and those of ``classes.yaml``; the first four are needed::

        places: [., CamVid]            # where below root; the first that holds a marker counts
        marker: [trainannot]           # folders that tell the layout
        images: {train: [train], val: [val]}  # folders by split, of each the first that exists;
                                       # {all: [images]} if lists alone tell the splits
        classes: [sky, road]           # see classes.yaml
        masks: [trainannot, valannot]  # where two hold an image, the later counts
        scribbles: [drawn, strokes]    # the first with label PNGs, else the first with strokes
        above: 2                       # scribbles may be in up to two folders above as well
        lists: {train: [train.txt]}    # names or patterns; without a list, all of the folder
        list_places: [., lists]        # where lists are
        starts: {train: train/}        # how the stems of a split start
        stems: name                    # name = without folders; path (default) = with folders
        strip: _leftImg8bit$           # pattern that is taken off stems
        skip: [_color]                 # ends of stems that are no labels
        label_ids: {ids: [7, 8], last: 33}    # values of classes where files hold no indices
        allow_dense_scribbles: true
        base: camvid                   # layout whose keys count where this file has none

    Args:
        root: Folder of the data set.
        layout: Name of a layout, or path of a YAML file.
        train_list: Split file of training images, absolute or relative to ``list_places`` or the
            folder of the data set, with or without ``.txt``.
        val_list: Split file of validation images.
        test_list: Split file of test images.
        scribbles: Folder or zip archive of scribbles, absolute or relative to the folder of the
            data set, such as ``train/sparse_label/block20``; ``"auto"`` = those of the layout.
        mask_dir: Folder of dense labels in place of the layout's.
        label_ids: Values of the files where the layout lists ids: ``"label"`` = these ids,
            ``"train"`` = class indices; ``"auto"`` = names that end in ``labelIds`` or
            ``labelTrainIds``, else values beyond the indices mean ids.
        scribble_width: Width of strokes in files of polylines, pixels.
        renderer: How they are drawn, see :func:`~scribbleseg.functional.strokes.rasterize`.
        coordinate_offset: 1 draws coordinates of XML as MATLAB does.
        unlabelled_value: Value of scribbles that means unlabelled, besides 255.
        group_regex: Pattern searched in the stem that gives its group.
        on_missing: What to do with training images without scribble.
        label_type: What trains, see :class:`~scribbleseg.data.sources.FolderSource`.
        pseudo_label_dir: Folder of pseudo-label PNGs, relative to the folder of the data set or
            absolute.
        weak_labels: Where clicks, boxes and image-level labels are.

    Raises:
        ScribbleNotFoundError: If ``root`` does not have the layout (D301).
        ConfigError: If an option is out of range, or there is no such layout.
        LabelFormatError: If the layout, or a class file in ``root``, is faulty.
    """

    _names: ClassVar[tuple[str, ...]] = LAYOUTS  # of which a folder may be one
    _mask_suffixes: Sequence[str] = LABEL_SUFFIXES
    _scribble_suffixes: Sequence[str] = (*LABEL_SUFFIXES, ".xml")

    def __init__(
        self,
        root: str | Path,
        layout: str,
        *,
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        scribbles: str = "auto",
        mask_dir: str | None = None,
        label_ids: LabelIds = "auto",
        scribble_width: float = 3.0,
        renderer: Renderer = "distance",
        coordinate_offset: float = 0.0,
        unlabelled_value: int | None = None,
        group_regex: str | None = None,
        on_missing: OnMissing = "error",
        label_type: LabelType = "scribble",
        pseudo_label_dir: str | None = None,
        weak_labels: WeakLabels | None = None,
    ) -> None:
        check_choice("label_ids", label_ids, get_args(LabelIds))
        self._layout = read_layout(layout)
        self._facts = self._layout.facts
        self.root = self._layout.locate(Path(root))
        self.lists = {"train": train_list, "val": val_list, "test": test_list}
        self.scribbles, self.mask_dir, self.label_ids = scribbles, mask_dir, label_ids
        super().__init__(
            self._class_table(),
            label_type=label_type,
            pseudo_label_dir=None if pseudo_label_dir is None else self.root / pseudo_label_dir,
            weak_labels=weak_labels,
            on_missing=on_missing,
            unlabelled_value=unlabelled_value,
            group_regex=group_regex,
            allow_dense_scribbles=bool(self._facts.get("allow_dense_scribbles")),
            strokes=StrokeOptions(scribble_width, renderer, coordinate_offset),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has one of the layouts, told by the names in it."""
        return any(read_layout(name).matches(root) for name in cls._names)

    def _class_table(self) -> ClassTable:
        """Classes of a class file in the data set, if there is one; else those of the layout."""
        table = self._layout.classes
        if table.colours or not any((self.root / name).is_file() for name in CLASS_FILES):
            return table
        own = read_classes(self.root)
        if len(own.names) != len(table.names):
            raise LabelFormatError(
                f"D401 {self.root}: the class file lists {len(own.names)} classes, expected the "
                f"{len(table.names)} of the layout; correct it, or remove it to use the built-in "
                "names"
            )
        return ClassTable(
            own.names, table.background, own.colours, own.aliases, table.ignore, ids=table.ids
        )

    # ------------------------------------------------------------------- files

    def _stem(self, name: str, role: str) -> str | None:
        """Stem of an image, or of a label of it, from its path without suffix; ``None`` = none."""
        stem = PurePosixPath(name).name if self._facts.get("stems") == "name" else name
        return re.sub(self._facts.get("strip", r"\Z"), "", stem)

    @cached_property
    def _images(self) -> dict[str, dict[str, Path]]:
        """Images by split, or all of them as ``"all"``, and stem."""
        images: dict[str, dict[str, Path]] = {}
        for split, names in self._facts["images"].items():
            folders = [self.root / name for name in names]
            folder = next((folder for folder in folders if folder.is_dir()), None)
            if folder is None and split not in ("train", "all"):
                continue
            found = images[split] = {}
            for name, path in find_images(folder or folders[0]).items():
                stem = self._stem(name, "image")
                if stem is not None:
                    twice = next((own[stem] for own in images.values() if stem in own), None)
                    if twice is not None:
                        raise LabelFormatError(
                            f"D303 {path}: {twice} has the same name {stem!r}, expected each image "
                            "once; remove or rename one of them"
                        )
                    found[stem] = path
        return images

    def _list_files(self) -> FileIndex:
        place, scribbles = self._find_scribbles()
        names = self._facts.get("masks", ()) if self.mask_dir is None else [self.mask_dir]
        folders, masks = [self.root / name for name in names], dict[str, Label]()
        for folder in folders:
            masks |= self._labels(folder, "mask")
        if self.mask_dir is not None and not folders[0].is_dir():
            raise ScribbleNotFoundError(f"D301 {folders[0]}: no such folder; correct `mask_dir`")
        images = {stem: path for found in self._images.values() for stem, path in found.items()}
        where = ", ".join(str(self.root / names[0]) for names in self._facts["images"].values())
        places = {"image": where, "scribble": place, "mask": ", ".join(map(str, folders))}
        return FileIndex(images, scribbles, masks, places)

    def _labels(self, folder: Path, role: Literal["scribble", "mask"]) -> dict[str, Label]:
        return find_labels(
            folder,
            role,
            self.class_names,
            suffixes=self._mask_suffixes if role == "mask" else self._scribble_suffixes,
            stem_of=lambda name: self._stem(name, role),
            skip=self._facts.get("skip", ()),
        )

    def _find_scribbles(self) -> tuple[str, dict[str, Label]]:
        """Where scribbles are, for messages, and the files by stem."""
        if self.scribbles != "auto":
            path = self.root / self.scribbles
            if path.suffix.lower() == ".zip" and path.is_file():
                return str(path), list_zip(path)
            if not path.is_dir():
                raise ScribbleNotFoundError(
                    f"D301 {path}: no such folder or zip archive; correct `scribbles`"
                )
            return str(path), self._labels(path, "scribble")
        named = self._facts.get("scribbles", "scribbles")
        names = [named] if isinstance(named, str) else named
        bases = [self.root, *list(self.root.parents)[: self._facts.get("above", 0)]]
        folders = [base / name for base in bases for name in names]
        found = {str(folder): self._labels(folder, "scribble") for folder in folders}
        # drawings of different origin are not mixed: one folder, the first that holds pixels
        for kinds in (("map",), ("map", "strokes")):
            for place, files in found.items():
                if any(label.kind in kinds for label in files.values()):
                    return place, files
        return str(folders[0]), {}

    # ------------------------------------------------------------------- lists

    def _list_stems(self, split: Split) -> list[str]:
        start, path = self._facts.get("starts", {}).get(split, ""), self._find_list(split)
        if path is not None:
            listed = [
                self._stem(n, "image") or n for n in read_split(path, repeats=split == "train")
            ]
            return [stem if stem.startswith(start) else start + stem for stem in listed]
        stems = list(self._images.get(split, ()))
        if start:
            stems = [stem for stem in self.files.images if stem.startswith(start)]
        if stems:
            return stems
        lists, folders = self._facts.get("lists", {}), self._facts["images"]
        looked = [*folders.get(split, ()), *lists.get(split, ())]
        if not looked:
            known = " and ".join({**folders, **lists, **self._facts.get("starts", {})})
            raise ScribbleNotFoundError(
                f"D301 {self.root}: there is no split {split!r}, only {known}; use one of them, or "
                f"pass `{split}_list`"
            )
        what = "no images and no list" if split in folders else "no list"
        raise ScribbleNotFoundError(
            f"D301 {self.root / self._facts.get('list_places', ['.'])[0]}: {what} of split "
            f"{split!r} (looked for {', '.join(looked)}); copy it from "
            f"{self._facts.get('release', 'its release')}, or pass `{split}_list`"
        )

    def _find_list(self, split: str) -> Path | None:
        places = [self.root / place for place in self._facts.get("list_places", ["."])]
        wanted = self.lists[split]
        if wanted is not None:
            bases = [
                base / name for base in (*places, self.root) for name in (wanted, f"{wanted}.txt")
            ]
            return next((path for path in bases if path.is_file()), self.root / wanted)
        for pattern in self._facts.get("lists", {}).get(split, ()):
            for place in places:
                found = sorted(place.glob(pattern))
                if len(found) > 1:
                    raise ConfigError(
                        f"{place}: several lists could be split {split!r}: "
                        f"{', '.join(path.name for path in found)}; name one with `{split}_list`"
                    )
                if found:
                    return Path(found[0])
        return None

    # ------------------------------------------------------------------- values

    @cached_property
    def codings(self) -> dict[str, LabelCoding]:
        """What values of files mean: what the classes say, or the ids that the layout lists."""
        codings = dict(super().codings)
        if "label_ids" in self._facts:
            ids, last = self._facts["label_ids"]["ids"], self._facts["label_ids"]["last"]
            others = tuple(sorted(set(range(last + 1)) - set(ids)))
            raw = LabelCoding(len(ids), {value: index for index, value in enumerate(ids)}, others)
            which = which_ids(self.files.scribbles, self.files.masks, raw, self.label_ids)
            codings |= {name: raw for name, found in which.items() if found == "label"}
        return codings
