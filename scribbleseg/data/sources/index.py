"""Files of a data set by stem: which there are, and which values they hold."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.images import LABEL_SUFFIXES, read_pixels
from scribbleseg.data.labels import LabelCoding
from scribbleseg.data.lists import find_images, voc_stem
from scribbleseg.errors import (
    ConfigError,
    LabelFormatError,
    ScribbleNotFoundError,
    ScribbleSegError,
)
from scribbleseg.functional.manifest import check_manifest, made_by_library
from scribbleseg.types import Label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scribbleseg.data.classes import ClassTable

__all__ = ["FileIndex", "LabelIds", "OnMissing", "find_labels"]

LabelIds = Literal["auto", "label", "train"]
"""Values of files: the ids that the layout lists, class indices, or found out from the files."""

OnMissing = Literal["error", "skip", "unlabelled"]
"""What to do with training images that have no scribble."""

_COMPARED = 4  # images whose labels in two folders are compared
_CURE = "add them, remove the names from the list, or set `on_missing: skip`"
_CURES = {
    "image": "copy the files there, or remove the names from the list",
    "mask": "add them, or remove the names from the list; unlabelled images can only be predicted",
    "pseudo-label": "run the stage that makes them again, remove the names from the list, or set "
    "`on_missing: skip`",
}


@dataclass(frozen=True)
class FileIndex:
    """Files of a data set by stem.

    Attributes:
        images: All images, labelled or not, in the order in which they are predicted.
        scribbles: Scribbles.
        masks: Dense labels; empty if the data set has none.
        places: Where files of a role are, for messages: images, scribbles, masks and others.
    """

    images: dict[str, Path]
    scribbles: dict[str, Label] = field(default_factory=dict)
    masks: dict[str, Label] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)

    def match(self, listed: Sequence[str], split: str) -> list[str]:
        """Names of a list as stems of images; VOC ids may have lost their underscore.

        Raises:
            ScribbleNotFoundError: If images are missing (D301).
        """
        found = [stem if stem in self.images else voc_stem(stem) for stem in listed]
        self.require(found, self.images, "image", split)
        return found

    def require(
        self, stems: Sequence[str], files: Mapping[str, object], role: str, split: str
    ) -> None:
        """One error for all files that are missing, not one per file.

        Args:
            stems: Stems that need a file.
            files: Files by stem.
            role: What they are.
            split: Split that lists the stems.

        Raises:
            ScribbleNotFoundError: If there are any (D301).
        """
        missing = [stem for stem in stems if stem not in files]
        if missing:
            # the command checks the data set's own files only
            more = "; `python -m scribbleseg.data check` lists all problems"
            raise ScribbleNotFoundError(
                f"D301 {len(missing)} of {len(stems)} {role}s of split {split!r} missing in "
                f"{self.place(role)} (e.g. {', '.join(missing[:5])}); {_CURES.get(role, _CURE)}"
                f"{'' if role == 'pseudo-label' else more}"
            )

    def place(self, role: str) -> str:
        """Where files of a role are, for messages."""
        return self.places.get(role, f"the {role} folder")


def find_labels(
    folder: Path,
    coding: Literal["scribble", "mask"],
    class_names: Sequence[str],
    *,
    suffixes: Sequence[str] = (*LABEL_SUFFIXES, ".xml"),
    stem_of: Callable[[str], str | None] = str,
    skip: Sequence[str] = (),
    within: Path | None = None,
) -> dict[str, Label]:
    """Label maps and stroke files of a folder by stem; empty if there is no such folder.

    Files that a command of this library wrote hold ids, whatever coding the data set's own files
    have; the ``manifest.json`` of their folder tells.

    Args:
        folder: Where to look, sub-folders included.
        coding: What the values of the files mean.
        class_names: Classes of the data set.
        suffixes: Suffixes to accept, preferred first.
        stem_of: Stem of an image from the path of its label without suffix; ``None`` = no label.
        skip: Ends of such paths that are no labels, such as ``"_color"``; where names end in
            ``_labelIds``, those in ``_labelTrainIds`` are left out as well.
        within: Folder that links may not leave; by default ``folder``.

    Raises:
        LabelFormatError: If files of this library were made for other classes (D401), two files
            are of one image (D303), or there are pickles only (D501).
    """
    if not folder.is_dir():
        refuse_pickles([folder])
        return {}
    own = made_by_library(folder, class_names)
    found = find_images(folder, suffixes=suffixes, unique=False, within=within)
    if not found:
        refuse_pickles(sorted(folder.iterdir()))
    ends = tuple(skip)
    if any(name.endswith("_labelIds") for name in found):
        ends += ("_labelTrainIds",)
    labels: dict[str, Label] = {}
    for name, path in found.items():
        stem = None if ends and name.endswith(ends) else stem_of(name)
        if stem is None:
            continue
        if stem in labels:
            raise LabelFormatError(
                f"D303 {path}: {labels[stem]} is of the same image, expected one label an image; "
                "remove or move one of them"
            )
        strokes = path.suffix.lower() in (".xml", ".h5")
        plain = own and path.suffix == ".png"
        labels[stem] = Label(
            path, "strokes" if strokes else "map", coding="ids" if plain else coding
        )
    return labels


def refuse_pickles(paths: Iterable[Path]) -> None:
    """Say that labels in a pickle are not read, if one of some paths is one.

    Raises:
        LabelFormatError: Naming the first (D501).
    """
    for path in paths:
        if path.suffix.lower() in (".pth", ".pt", ".pkl", ".pickle"):
            raise LabelFormatError(
                f"D501 {path}: labels in a pickle are refused, because reading one runs the code "
                "in it; expected label PNGs: convert them where you trust the file"
            )


def check_pseudo_options(label_type: str, folder: Path | None) -> None:
    """Refuse pseudo-labels without a folder, and a folder that would not be used.

    Raises:
        ConfigError: If one of the two options is missing.
    """
    if label_type == "pseudo" and folder is None:
        raise ConfigError(
            "label_type='pseudo' without `pseudo_label_dir`: set it to a folder of label PNGs, "
            "such as `python -m scribbleseg.data propagate` or a predict run writes"
        )
    if label_type != "pseudo" and folder is not None:
        raise ConfigError(
            f"pseudo_label_dir={str(folder)!r} with label_type={label_type!r}: the folder would "
            "not be used; set `label_type: pseudo`, or remove it"
        )


def find_pseudo_labels(folder: Path, class_names: Sequence[str]) -> dict[str, Label]:
    """Pseudo-labels of a folder by stem.

    Args:
        folder: Folder of PNGs, with or without ``manifest.json``.
        class_names: Classes of the data set that is to train on them.

    Raises:
        ScribbleNotFoundError: If the folder is missing (D301).
        LabelFormatError: If its manifest names other classes (D401), is incomplete or stale (D403),
            or cannot be read (D202).
    """
    if not folder.is_dir():
        raise ScribbleNotFoundError(
            f"D301 {folder}: folder of pseudo-labels does not exist; make them, or correct "
            "`pseudo_label_dir`"
        )
    check_manifest(folder, class_names, complete=True)
    found = find_images(folder, suffixes=(".png",))
    return {stem: Label(path, "pseudo_label") for stem, path in found.items()}


# ----------------------------------------------------------------- which values files hold


def stored_values(label: Label) -> NDArray[Any]:
    """Values of a map as they are in the file."""
    return read_pixels(label.path).values


def some_hold(
    labels: Mapping[str, Label],
    wanted: Callable[[NDArray[Any]], NDArray[np.bool_]],
    values_of: Callable[[Label], NDArray[Any]] = stored_values,
    most: int = 128,
) -> bool:
    """Whether one of at most so many maps, spread over all, holds a value that is wanted."""
    maps = [label for label in labels.values() if label.kind == "map"]
    for label in maps[:: max(1, -(-len(maps) // most))]:
        with suppress(ScribbleSegError):  # a faulty file is reported when it is read
            if wanted(values_of(label)).any():
                return True
    return False


def file_codings(
    classes: ClassTable,
    unlabelled: int | None,
    colour: tuple[int, int, int] | None,
    first: tuple[int, int] = (0, 0),
) -> dict[str, LabelCoding]:
    """What values of files mean, by :attr:`~scribbleseg.types.Label.coding`.

    ``first`` is the value of the first class in scribbles and in masks, see :func:`first_ids`.
    """
    return {
        "scribble": classes.coding(unlabelled, colour=colour, first=first[0]),
        "mask": classes.coding(unlabelled if first[1] else None, first=first[1]),
        "ids": LabelCoding(len(classes.names)),
    }


def first_ids(
    files: FileIndex,
    names: Sequence[str],
    given: int | None,
    values_of: Callable[[Label], NDArray[Any]],
) -> tuple[int, int]:
    """Value of the first class in scribbles and in masks where 0 is unlabelled in scribbles.

    Files that hold as large a value as there are classes count from 1, masks that hold 0 but not
    that value from 0; scribbles that tell nothing count as the masks do.

    Args:
        files: Files of the data set.
        names: Classes, of which the class file gives names only.
        given: What the user says of the scribbles; wins over what they hold.
        values_of: Values of a map as they are stored.

    Raises:
        LabelFormatError: If the files do not tell and nothing is given (D401).
    """
    scribbles, masks = (
        1 if some_hold(labels, lambda values: values == len(names), values_of) else None
        for labels in (files.scribbles, files.masks)
    )
    if masks is None and some_hold(files.masks, lambda values: values == 0, values_of):
        masks = 0
    told = (value for value in (given, scribbles, masks) if value is not None)
    first = next(told, None)
    if first is None and any(label.kind == "map" for label in files.scribbles.values()):
        raise LabelFormatError(
            f"D401 {files.place('scribble')}: 0 is unlabelled and no file holds {len(names)}, so "
            f"it is not known whether 1 means {names[0]!r} or {names[min(1, len(names) - 1)]!r}: "
            "set `first_id: 1` or `first_id: 0` (a line of dataset.yaml in a plain folder)"
        )
    return first or 0, (first or 0) if masks is None else masks


def which_ids(
    scribbles: Mapping[str, Label], masks: Mapping[str, Label], raw: LabelCoding, wanted: LabelIds
) -> dict[str, LabelIds]:
    """Whether files hold ids or class indices: by their names, else by their largest value.

    A value beyond the indices settles it for a folder. Scribbles or blocks alone may miss such
    classes: if only one of the two folders has one, the other is read both ways, and the way that
    agrees with the first on the images of both counts.

    Args:
        scribbles: Files that train. Stroke files are coded as the masks that they are made from.
        masks: Dense files.
        raw: Coding of the ids.
        wanted: Answer, or ``"auto"``.

    Returns:
        ``"label"`` or ``"train"`` by ``"scribble"`` and ``"mask"``.
    """
    if wanted != "auto":
        return {"scribble": wanted, "mask": wanted}
    maps = {stem: label for stem, label in scribbles.items() if label.kind == "map"} or masks
    own, dense = _told(maps, raw.num_classes), _told(masks, raw.num_classes)
    if own is None and dense == "label":
        own = _agreeing(maps, masks, raw)
    elif dense is None and own == "label":
        dense = _agreeing(masks, maps, raw)
    return {"scribble": own or "train", "mask": dense or "train"}


def _told(files: Mapping[str, Label], number: int) -> LabelIds | None:
    ends = {label.path.stem.rsplit("_", 1)[-1] for label in list(files.values())[:1]}
    if "labelIds" in ends:
        return "label"
    if "labelTrainIds" in ends:
        return "train"
    beyond = some_hold(files, lambda v: (v >= number) & (v != IGNORE_INDEX), most=32)
    return "label" if beyond else None


def _agreeing(files: Mapping[str, Label], known: Mapping[str, Label], raw: LabelCoding) -> LabelIds:
    """Reading under which files say most often what others, which hold ids, say."""
    score: dict[LabelIds, int] = {"label": 0, "train": 0}
    index_of = {value: index for value, index in raw.index_of().items() if index != IGNORE_INDEX}
    for stem in sorted(files.keys() & known.keys())[:_COMPARED]:
        own, other = (np.atleast_3d(stored_values(x[stem]))[..., 0] for x in (files, known))
        for value, index in index_of.items() if own.shape == other.shape else ():
            score["label"] += int(((own == value) & (other == value)).sum())
            score["train"] += int(((own == index) & (other == value)).sum())
    return "label" if score["label"] >= score["train"] else "train"
