"""Data sets that differ from a plain folder by names and classes only: their layouts as YAML."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from scribbleseg.data.classes import CLASS_FILES, CLASS_KEYS, ClassTable, read_classes, table_of
from scribbleseg.data.documents import read_yaml
from scribbleseg.data.groups import check_pattern
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

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scribbleseg.types import Label, Split

__all__ = ["COCO_CATEGORIES", "LAYOUTS", "Layout", "LayoutSource", "read_layout"]

FOLDER = Path(__file__).parents[1] / "layouts"
LAYOUTS = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
"""Layouts that are part of the package."""

COCO_CATEGORIES: dict[int, str] = read_yaml(FOLDER / "coco" / "categories.yaml", "table")
"""MS COCO: the 80 object categories by ``category_id``; ids have gaps."""

_DEFAULTS: dict[str, Any] = {
    "title": "the data set",
    "release": "its release",
    "also": [],
    "unless": [],
    "named": "",
    "masks": [],
    "scribbles": ["scribbles"],
    "above": 0,
    "lists": {},
    "list_places": ["."],
    "starts": {},
    "stems": "path",
    "strip": r"\Z",
    "skip": [],
    "allow_dense_scribbles": False,
    "label_ids": None,
    "base": "",
}
_NEEDED = {"places", "marker", "images", "classes"}
_OF_NAMES = {"places", "marker", "also", "unless", "images", "masks", "scribbles", "lists"}
_OF_NAMES |= {"list_places", "skip"}


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
        parts = [self.facts["marker"], self.facts["also"]]
        return " with ".join(" or ".join(f"{n}/" for n in names) for names in parts if names)

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
        places = " or in ".join(["here", *(p for p in self.facts["places"] if p != ".")])
        raise ScribbleNotFoundError(
            f"D301 {root}: no {' or '.join(self.facts['marker'])} {places}; set `root` to the "
            f"folder of {self.facts['title']}"
        )

    def matches(self, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it and its own name."""
        for folder in self._found(root):
            also, unless = (
                [(folder / name).is_dir() for name in self.facts[key]] for key in ("also", "unless")
            )
            if any(also) or not also:
                return not any(unless) and self.facts["named"] in folder.resolve().name.casefold()
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
        content = read_yaml(path, "layout")
    except ValueError as error:
        raise LabelFormatError(f"D202 {path}: layout cannot be read: {error}") from error
    own = content if isinstance(content, dict) else {}
    own = {key: _in_lists(value) if key in _OF_NAMES else value for key, value in own.items()}
    base = read_layout(own["base"]).facts if own.get("base") else _DEFAULTS
    known = {*_DEFAULTS} | _NEEDED | CLASS_KEYS
    facts = {**base, **own}
    absent, unknown = sorted(_NEEDED - set(facts)), sorted(map(str, set(facts) - known))
    if absent or unknown:
        wrong = f"lacks {absent}" if absent else f"has unknown keys {unknown}"
        raise LabelFormatError(f"D401 {path}: layout {wrong}; known keys are {sorted(known)}")
    return Layout(facts, table_of({key: facts[key] for key in CLASS_KEYS & set(facts)}, path))


def _in_lists(value: Any) -> Any:
    """Names in lists: a single name may stand without its list."""
    if isinstance(value, dict):
        return {key: _in_lists(names) for key, names in value.items()}
    return [value] if isinstance(value, str) else value


class LayoutSource(FileSource):
    """A data set whose folders, lists and classes a YAML file describes.

    Layouts of the package: :data:`LAYOUTS`. ``scribbleseg/data/README.md`` documents the keys of a
    file of one's own.

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
        others: See :class:`~scribbleseg.data.sources.FolderSource`.

    Raises:
        ScribbleNotFoundError: If ``root`` does not have the layout (D301).
        ConfigError: If an option is out of range, or there is no such layout.
        LabelFormatError: If the layout, or a class file in ``root``, is faulty.
    """

    _layouts: ClassVar[tuple[str, ...]] = LAYOUTS  # of which a folder may be one
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
        self._layout = read_layout(layout)
        self._facts, self.root = self._layout.facts, self._layout.locate(Path(root))
        known = get_args(LabelIds) if self._facts["label_ids"] else ("auto",)
        check_choice("label_ids", label_ids, known)
        check_pattern(strip=self._facts["strip"])
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
            allow_dense_scribbles=bool(self._facts["allow_dense_scribbles"]),
            strokes=StrokeOptions(scribble_width, renderer, coordinate_offset),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has one of the layouts, told by the names in it."""
        return any(read_layout(name).matches(root) for name in cls._layouts)

    def _class_table(self) -> ClassTable:
        """Classes of a class file in the data set, if there is one; else those of the layout."""
        table = self._layout.classes
        if table.colours or not any((self.root / name).is_file() for name in CLASS_FILES):
            return table
        own = read_classes(self.root)
        if len(own.names) != len(table.names):
            raise LabelFormatError(
                f"D401 {self.root}: the class file lists {len(own.names)} classes, expected the "
                f"{len(table.names)} of the layout; correct it, or remove it"
            )
        return replace(table, names=own.names, colours=own.colours, aliases=own.aliases)

    def _stem(self, name: str, role: str) -> str | None:
        """Stem of an image, or of a label of it, from its path without suffix; ``None`` = none."""
        stem = PurePosixPath(name).name if self._facts["stems"] == "name" else name
        return re.sub(self._facts["strip"], "", stem)

    @cached_property
    def _images(self) -> dict[str, dict[str, Path]]:
        """Images by split, or all of them as ``"all"``, and stem."""
        images: dict[str, dict[str, Path]] = {}
        for split, names in self._facts["images"].items():
            folders = (self.root / name for name in names)
            folder = next((folder for folder in folders if folder.is_dir()), None)
            found = images[split] = {}
            for name, path in (find_images(folder, within=self.root) if folder else {}).items():
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
        names = self._facts["masks"] if self.mask_dir is None else [self.mask_dir]
        folders = [self.root / name for name in names]
        masks = {s: label for f in folders for s, label in self._labels(f, "mask").items()}
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
            skip=self._facts["skip"],
            within=self.root,
        )

    def _find_scribbles(self) -> tuple[str, dict[str, Label]]:
        """Where scribbles are, for messages, and the files by stem."""
        if self.scribbles != "auto":
            path = self.root / self.scribbles
            if path.suffix.lower() == ".zip" and path.is_file():
                return str(path), list_zip(path)
            if path.is_dir():
                return str(path), self._labels(path, "scribble")
            raise ScribbleNotFoundError(
                f"D301 {path}: no such folder or zip archive; correct `scribbles`"
            )
        bases = [self.root, *list(self.root.parents)[: self._facts["above"]]]
        folders = [base / name for base in bases for name in self._facts["scribbles"]]
        found = {str(folder): self._labels(folder, "scribble") for folder in folders}
        # drawings of different origin are not mixed: one folder, the first that holds pixels
        drawn = [place for place, labels in found.items() if labels]
        pixels = [p for p in drawn if any(label.kind == "map" for label in found[p].values())]
        place = next(iter([*pixels, *drawn, *found]))
        return place, found[place]

    def _list_stems(self, split: Split) -> list[str]:
        start, path = self._facts["starts"].get(split, ""), self._find_list(split)
        if path is not None:
            names = read_split(path, repeats=split == "train")
            listed = [self._stem(name, "image") or name for name in names]
            return [stem if stem.startswith(start) else start + stem for stem in listed]
        stems = list(self._images.get(split, ()))
        if start:
            stems = [stem for stem in self.files.images if stem.startswith(start)]
        if stems:
            return stems
        looked = [name for key in ("images", "lists") for name in self._facts[key].get(split, ())]
        raise ScribbleNotFoundError(
            f"D301 {self.root / self._facts['list_places'][0]}: no list of split {split!r} (looked "
            f"for {', '.join(looked) or 'none'}); copy it from {self._facts['release']}, or pass "
            f"`{split}_list`"
        )

    def _find_list(self, split: str) -> Path | None:
        places = [self.root / place for place in self._facts["list_places"]]
        wanted = self.lists[split]
        if wanted is not None:
            names = (wanted, f"{wanted}.txt")
            named = (base / name for base in (*places, self.root) for name in names)
            return next((path for path in named if path.is_file()), self.root / wanted)
        for pattern in self._facts["lists"].get(split, ()):
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

    def _find_codings(self) -> dict[str, LabelCoding]:
        codings = super()._find_codings()
        if self._facts["label_ids"] is not None:
            ids, last = self._facts["label_ids"]["ids"], self._facts["label_ids"]["last"]
            others = tuple(value for value in range(last + 1) if value not in ids)
            raw = LabelCoding(len(ids), {value: index for index, value in enumerate(ids)}, others)
            which = which_ids(self.files.scribbles, self.files.masks, raw, self.label_ids)
            codings |= {name: raw for name, found in which.items() if found == "label"}
        return codings
