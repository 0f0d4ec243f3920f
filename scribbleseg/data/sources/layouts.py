"""Data sets that differ from a plain folder by names and classes only: their layouts as YAML."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.classes import CLASS_FILES, CLASS_KEYS, ClassTable, read_classes, table_of
from scribbleseg.data.documents import read_yaml
from scribbleseg.data.images import read_pixels
from scribbleseg.data.labels import LabelCoding, encode_label
from scribbleseg.data.lists import find_images, read_split
from scribbleseg.data.sources.files import FileSource
from scribbleseg.data.sources.index import FileIndex, OnMissing, find_labels
from scribbleseg.data.weak import LabelType, WeakLabels  # noqa: TC001  (the CLI resolves them)
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scribbleseg.types import Label, Split

__all__ = [
    "LAYOUTS",
    "LabelIds",
    "Layout",
    "LayoutSource",
    "detect_label_ids",
    "id_coding",
    "own_classes",
    "read_layout",
]

FOLDER = Path(__file__).parents[1] / "layouts"
LAYOUTS = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))
"""Layouts that are part of the package."""

LabelIds = Literal["auto", "label", "train"]
"""Values of files: the ids that the layout lists, class indices, or found out from the files."""

_KEYS = {
    *("title", "places", "marker", "named", "images", "masks", "scribbles", "lists"),
    *("list_places", "stems", "strip", "skip", "allow_dense_scribbles", "label_ids"),
}
_SAMPLE, _COMPARED = 32, 4  # files that are read to find out what their values are


class Layout:
    """What a YAML file says about a data set; see :class:`LayoutSource`.

    Attributes:
        path: The file.
        options: Its content.
        classes: Its classes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            content = read_yaml(path, "layout")
        except ValueError as error:
            raise LabelFormatError(f"D202 {path}: layout cannot be read: {error}") from error
        absent = {"places", "marker", "images", "classes"} - set(content or ())
        unknown = set(content or ()) - _KEYS - CLASS_KEYS
        if absent or unknown:
            wrong = f"lacks {sorted(absent)}" if absent else f"has unknown keys {sorted(unknown)}"
            raise LabelFormatError(
                f"D401 {path}: layout {wrong}; known keys are {sorted(_KEYS | CLASS_KEYS)}"
            )
        self.options: dict[str, Any] = content
        classes = {key: value for key, value in content.items() if key in CLASS_KEYS}
        self.classes: ClassTable = table_of(classes, path)

    def locate(self, root: Path) -> Path | None:
        """The folder of this layout at or below ``root``, ``None`` if there is none."""
        for place in self.options["places"]:
            if any((root / place / marker).is_dir() for marker in self.options["marker"]):
                return root / place if place != "." else root
        return None

    def matches(self, root: Path) -> bool:
        """Whether a folder has this layout, told by the names in it and its own name."""
        found, name = self.locate(root), self.options.get("named", "")
        return found is not None and name in found.resolve().name.casefold()


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
    return Layout(path)


class LayoutSource(FileSource):
    """A data set whose folders, lists and classes a YAML file describes.

    Layouts of the package: ``camvid``, ``densepose``, ``cityscapes_blocks``, ``ade20k_blocks``. A
    file of one's own has these keys, and those of ``classes.yaml``::

        places: [., CamVid]            # where below root; the first that holds a marker counts
        marker: [trainannot]           # folders that tell the layout
        images: {train: [train], val: [val]}  # folders by split, of each the first that exists
        masks: [trainannot, valannot]
        scribbles: scribbles
        lists: {train: [train.txt]}    # names or patterns; without a list, all of the folder
        list_places: [., lists]        # where lists are
        stems: name                    # name = without folders; path (default) = with folders
        strip: _leftImg8bit$           # pattern that is taken off stems
        skip: [_color]                 # ends of stems that are no labels
        label_ids: {ids: [7, 8], last: 33}    # values of classes where files hold no indices
        allow_dense_scribbles: true
        classes: [sky, road]           # see classes.yaml

    Args:
        root: Folder of the data set.
        layout: Name of a layout, or path of a YAML file.
        train_list: Split file of training images, relative to ``root`` or absolute.
        val_list: Split file of validation images.
        test_list: Split file of test images.
        scribble_dir: Folder of scribbles in place of the layout's, such as
            ``train/sparse_label/block20``.
        mask_dir: Folder of dense labels in place of the layout's.
        label_ids: Values of the files where the layout lists ids: ``"label"`` = these ids,
            ``"train"`` = class indices; ``"auto"`` = names that end in ``labelIds`` or
            ``labelTrainIds``, else values beyond the indices mean ids.
        unlabelled_value: Value of scribbles that means unlabelled, besides 255.
        group_regex: Pattern searched in the stem that gives its group.
        on_missing: What to do with training images without scribble.
        label_type: What trains, see :class:`~scribbleseg.data.sources.FolderSource`.
        pseudo_label_dir: Folder of pseudo-label PNGs, relative to ``root`` or absolute.
        weak_labels: Where clicks, boxes and image-level labels are.

    Raises:
        ScribbleNotFoundError: If ``root`` does not have the layout (D301).
        ConfigError: If an option is out of range, or there is no such layout.
        LabelFormatError: If the layout, or a class file in ``root``, is faulty.
    """

    layout = "a layout"

    def __init__(
        self,
        root: str | Path,
        layout: str,
        *,
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        scribble_dir: str | None = None,
        mask_dir: str | None = None,
        label_ids: LabelIds = "auto",
        unlabelled_value: int | None = None,
        group_regex: str | None = None,
        on_missing: OnMissing = "error",
        label_type: LabelType = "scribble",
        pseudo_label_dir: str | None = None,
        weak_labels: WeakLabels | None = None,
    ) -> None:
        self._layout = read_layout(layout)
        options = self._options = self._layout.options
        found = self._layout.locate(Path(root))
        if found is None:
            places = " or ".join(f"in {place}" for place in options["places"] if place != ".")
            raise ScribbleNotFoundError(
                f"D301 {root}: no {' or '.join(options['marker'])} here{places and f' or {places}'}"
                f"; set `root` to the folder of {options.get('title', layout)}"
            )
        self.root = found
        self.lists = {"train": train_list, "val": val_list, "test": test_list}
        self.label_ids = label_ids
        self._strip = re.compile(options.get("strip") or r"\Z")
        scribbles = scribble_dir or options.get("scribbles")
        self.scribble_dir = None if scribbles is None else self.root / scribbles
        self.mask_dirs = [mask_dir] if mask_dir is not None else options.get("masks") or []
        super().__init__(
            own_classes(self.root, self._layout.classes),
            label_type=label_type,
            pseudo_label_dir=None if pseudo_label_dir is None else self.root / pseudo_label_dir,
            weak_labels=weak_labels,
            on_missing=on_missing,
            unlabelled_value=unlabelled_value,
            group_regex=group_regex,
            allow_dense_scribbles=bool(options.get("allow_dense_scribbles")),
        )

    @classmethod
    def matches(cls, root: Path) -> bool:
        """Whether a folder has one of the package's layouts, told by the names in it."""
        return any(read_layout(name).matches(root) for name in LAYOUTS)

    def _stem(self, stem: str) -> str:
        name = PurePosixPath(stem).name if self._options.get("stems") == "name" else stem
        return self._strip.sub("", name)

    def _images_of(self, split: str) -> dict[str, Path]:
        folders = [self.root / name for name in self._options["images"].get(split, ())]
        folder = next((folder for folder in folders if folder.is_dir()), None)
        if folder is None:
            if split != "train" or not folders:
                return {}
            folder = folders[0]
        return {self._stem(stem): path for stem, path in find_images(folder).items()}

    def _list_files(self) -> FileIndex:
        images: dict[str, Path] = {}
        for split in self._options["images"]:
            found = self._images_of(split)
            both = sorted(found.keys() & images.keys())
            if both:
                raise LabelFormatError(
                    f"D303 {self.root}: {len(both)} images of split {split!r} are also in another "
                    f"split (e.g. {', '.join(both[:5])}), expected each once; remove one of each"
                )
            images |= found
        scribbles = {} if self.scribble_dir is None else self._labels(self.scribble_dir, "scribble")
        masks: dict[str, Label] = {}
        for name in self.mask_dirs:
            masks |= self._labels(self.root / name, "mask")
        folders = {"image": self._options["images"].values(), "mask": [self.mask_dirs]}
        places = {
            role: ", ".join(str(self.root / name) for names in lists for name in names[:1])
            for role, lists in folders.items()
        }
        return FileIndex(images, scribbles, masks, {**places, "scribble": str(self.scribble_dir)})

    def _labels(self, folder: Path, coding: Literal["scribble", "mask"]) -> dict[str, Label]:
        skip = self._options.get("skip", ())
        return find_labels(folder, coding, self.class_names, stem_of=self._stem, skip=skip)

    def _list_stems(self, split: Split) -> list[str]:
        wanted = self.lists.get(split)
        path = self._find_list(split) if wanted is None else self.root / wanted
        if path is not None:
            return [self._stem(stem) for stem in read_split(path, repeats=split == "train")]
        stems = list(self._images_of(split))
        if not stems:
            known = sorted({*self._options["images"], *self._options.get("lists", {})})
            raise ScribbleNotFoundError(
                f"D301 {self.root}: no images and no list of split {split!r}; the layout has "
                f"{', '.join(known)}: copy the images there, or pass `{split}_list`"
            )
        return stems

    def _find_list(self, split: str) -> Path | None:
        for pattern in self._options.get("lists", {}).get(split, ()):
            for place in self._options.get("list_places", ["."]):
                found = sorted((self.root / place).glob(pattern))
                if len(found) > 1:
                    names = ", ".join(path.name for path in found)
                    raise ConfigError(
                        f"{self.root / place}: several lists could be split {split!r}: {names}; "
                        f"name one with `{split}_list`"
                    )
                if found:
                    return Path(found[0])
        return None

    @cached_property
    def codings(self) -> dict[str, LabelCoding]:
        """What values of files mean: what the classes say, or the ids that the layout lists."""
        codings = dict(super().codings)
        facts = self._options.get("label_ids")
        if facts is None:
            return codings
        raw = id_coding(facts["ids"], facts["last"])
        files = self.files
        scribble, mask = detect_label_ids(files.scribbles, files.masks, raw, self.label_ids)
        for name, coding in (("scribble", scribble), ("mask", mask)):
            if coding == "label":
                codings[name] = raw
        return codings


def id_coding(ids: list[int], last: int) -> LabelCoding:
    """Coding in which the values ``ids`` are the classes 0, 1, … and others are unlabelled.

    Args:
        ids: Value of every class.
        last: Largest value that may occur.
    """
    others = tuple(sorted(set(range(last + 1)) - set(ids)))
    return LabelCoding(len(ids), {value: index for index, value in enumerate(ids)}, others)


def own_classes(root: Path, table: ClassTable) -> ClassTable:
    """Classes of a class file in the data set, if there is one; else those of the layout.

    Raises:
        LabelFormatError: If the class file lists another number of classes (D401).
    """
    if table.colours or not any((root / name).is_file() for name in CLASS_FILES):
        return table
    own = read_classes(root)
    if len(own.names) != len(table.names):
        raise LabelFormatError(
            f"D401 {root}: the class file lists {len(own.names)} classes, expected the "
            f"{len(table.names)} of the layout; correct it, or remove it to use the built-in names"
        )
    return ClassTable(
        own.names, table.background, own.colours, own.aliases, table.ignore, ids=table.ids
    )


# ----------------------------------------------------------------- which values files hold


def detect_label_ids(
    scribbles: Mapping[str, Label],
    masks: Mapping[str, Label],
    raw: LabelCoding,
    wanted: LabelIds = "auto",
) -> tuple[str, str]:
    """Whether files hold ids or class indices: by their names, else by their largest value.

    A value beyond the indices settles it for a folder. Scribbles or blocks alone may miss such
    classes: if only one of the two folders has one, the other is read both ways, and the way that
    agrees with the first on the images of both counts.

    Args:
        scribbles: Files that train; up to 32 of them are read.
        masks: Dense files; up to 32 of them are read.
        raw: Coding of the ids.
        wanted: Answer, or ``"auto"``.

    Returns:
        ``"label"`` or ``"train"`` for scribbles and for masks.

    Raises:
        LabelFormatError: If a file cannot be read.
    """
    if wanted != "auto":
        return wanted, wanted
    folders, last = (scribbles, masks), raw.num_classes - 1
    found = [_named(f) or ("label" if _beyond(f, last) else None) for f in folders]
    for own, other in ((0, 1), (1, 0)):
        if found[own] is None and found[other] == "label":
            found[own] = _agreeing(folders[own], folders[other], raw)
    return found[0] or "train", found[1] or "train"


def _values(label: Label) -> NDArray[Any]:
    values = read_pixels(label.path).values
    return values[..., 0] if values.ndim == 3 else values


def _named(files: Mapping[str, Label]) -> str | None:
    ends = {label.path.stem.rsplit("_", 1)[-1] for label in list(files.values())[:1]}
    return "label" if "labelIds" in ends else "train" if "labelTrainIds" in ends else None


def _beyond(files: Mapping[str, Label], last: int) -> bool:
    labels = list(files.values())
    for label in labels[:: max(1, len(labels) // _SAMPLE)][:_SAMPLE]:
        values = _values(label)
        if (values[values != IGNORE_INDEX] > last).any():
            return True
    return False


def _agreeing(
    files: Mapping[str, Label], known: Mapping[str, Label], raw: LabelCoding
) -> Literal["label", "train"]:
    """Coding under which files say most often what others, which hold ids, say."""
    score = {"label": 0, "train": 0}
    for stem in sorted(files.keys() & known.keys())[:_COMPARED]:
        own, other = _values(files[stem]), encode_label(_values(known[stem]), raw, known[stem].path)
        if own.shape != other.shape:
            continue
        label = np.full(256, IGNORE_INDEX, np.uint8)
        for value, index in raw.index_of().items():
            label[value] = index
        train = np.arange(256)
        for way, table in (("label", label), ("train", train)):
            ids = table[own]
            score[way] += int(((ids == other) & (ids != IGNORE_INDEX)).sum())
    return "label" if score["label"] >= score["train"] else "train"
