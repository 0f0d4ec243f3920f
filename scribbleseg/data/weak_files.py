"""Where the clicks and boxes of a data set are."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Literal

from scribbleseg.data.annotations import (
    Box,
    ClassIds,
    Click,
    read_boxes,
    read_click_file,
    read_clicks,
    read_devkit_boxes,
)
from scribbleseg.data.images import LABEL_SUFFIXES
from scribbleseg.data.lists import find_images
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.manifest import made_by_library
from scribbleseg.types import Label

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scribbleseg.data.weak import WeakLabels

__all__ = ["BoxFiles", "ClickFiles"]


class ClickFiles:
    """Clicks of a data set: one JSON of all images, or a folder with a file per image.

    Args:
        root: Folder of the data set.
        options: Where the clicks are.
        ids: Classes.
        class_names: One name per class.
        background: Id of the background class, ``None`` if there is none.
    """

    def __init__(
        self,
        root: Path,
        options: WeakLabels,
        ids: ClassIds,
        class_names: Sequence[str],
        background: int | None,
    ) -> None:
        self.root, self.options, self.ids = root, options, ids
        self.class_names, self.background = class_names, background
        folder = root / "points"
        default = folder if folder.is_dir() else root / "points.json"
        self.where = default if options.points is None else root / options.points

    @cached_property
    def _background_file(self) -> Path | None:
        named = self.options.background_points
        path = self.root / (named or "background_points.json")
        return path if named is not None or path.is_file() else None

    @cached_property
    def _table(self) -> dict[str, list[Click]]:
        """Clicks of the JSON files by stem, the background first, so that objects win."""
        clicks: dict[str, list[Click]] = {}
        if self._background_file is not None:
            clicks = self._background_clicks(self._background_file)
        if not self.where.is_dir():
            for stem, found in read_clicks(self.where, self.ids).items():
                clicks[stem] = [*clicks.get(stem, ()), *found]
        return clicks

    def _background_clicks(self, path: Path) -> dict[str, list[Click]]:
        if self.background is None:
            raise ConfigError(
                f"{path}: clicks of the background, but these classes have none; remove the file, "
                "or add a background class"
            )
        clicks = read_clicks(path, self.ids, default_label=self.background)
        wrong = [(s, c.label) for s, found in clicks.items() for c in found]
        wrong = [(stem, label) for stem, label in wrong if label != self.background]
        if wrong:
            raise LabelFormatError(
                f"D101 {path}: {len(wrong)} clicks are not of the background (e.g. "
                f"{wrong[0][0]!r}: class {wrong[0][1]}), expected {self.background} only; is this "
                "the file of object clicks? Set it as `points`"
            )
        return clicks

    @cached_property
    def files(self) -> dict[str, Label]:
        """Clicks by stem; label PNGs among them are of the kind ``"map"``.

        Raises:
            ScribbleNotFoundError: If there are none (D301).
        """
        if not self.where.exists():
            looked = self.where if self.options.points else f"{self.root}/points and points.json"
            raise ScribbleNotFoundError(
                f"D301 {looked}: no clicks there; make them from masks with `python -m "
                f"scribbleseg.data synthesize {self.root} --mode points --out {self.root}/points`, "
                "or name the file or folder with `points`"
            )
        place = self._background_file or self.where
        if not self.where.is_dir():
            return {stem: Label(self.where, "points", stem) for stem in self._table}
        files = {stem: Label(place, "points", stem) for stem in self._table}
        suffixes = (".json", ".csv", *LABEL_SUFFIXES)
        coding: Literal["ids", "scribble"] = "scribble"
        if made_by_library(self.where, self.class_names):
            coding = "ids"
        for stem, path in find_images(self.where, suffixes=suffixes, unique=False).items():
            pixels = path.suffix.lower() in LABEL_SUFFIXES
            files[stem] = Label(path, "map", coding=coding) if pixels else Label(path, "points")
        return files

    def read(self, label: Label, stem: str) -> list[Click]:
        """Clicks of an image, up to ``max_rank``.

        Raises:
            LabelFormatError: If the file is faulty.
        """
        clicks = self._table.get(stem, [])
        if not label.entry:
            clicks = [*clicks, *read_click_file(label.path, self.ids)]
        most = self.options.max_rank
        return [click for click in clicks if most is None or click.rank <= most]


class BoxFiles:
    """Boxes of a data set: one JSON of all images, or a folder of devkit XML.

    Args:
        root: Folder of the data set.
        options: Where the boxes are.
        ids: Classes.
    """

    def __init__(self, root: Path, options: WeakLabels, ids: ClassIds) -> None:
        self.options, self.ids = options, ids
        folder, file = root / "Annotations", root / "boxes.json"
        default = folder if folder.is_dir() and not file.is_file() else file
        self.where = default if options.boxes is None else root / options.boxes

    @cached_property
    def _table(self) -> dict[str, list[Box]]:
        return read_boxes(self.where, self.ids)

    @cached_property
    def files(self) -> dict[str, Label]:
        """Boxes by stem.

        Raises:
            ScribbleNotFoundError: If there are none (D301).
        """
        if self.where.is_dir():
            found = find_images(self.where, suffixes=(".xml",))
            return {stem: Label(path, "boxes") for stem, path in found.items()}
        if not self.where.is_file():
            raise ScribbleNotFoundError(
                f"D301 {self.where}: no boxes there; put boxes.json ({{stem: [{{box: [x0, y0, x1, "
                "y1], cls}]}) or a folder Annotations of devkit XML beside the images, or name "
                "either with `boxes`"
            )
        return {stem: Label(self.where, "boxes", stem) for stem in self._table}

    def read(self, label: Label) -> list[Box]:
        """Boxes of an image.

        Raises:
            LabelFormatError: If the file is faulty.
        """
        if label.entry:
            return self._table[label.entry]
        return read_devkit_boxes(label.path, self.ids, difficult=self.options.difficult)
