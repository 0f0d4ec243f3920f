"""Weak labels besides scribbles: their options, where they are, how they become a label map.

Whatever trains, a batch has one form: ``scribble`` holds ids where the label is certain and 255
elsewhere, ``class_labels`` says which classes the whole image shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.annotations import read_boxes, read_click_file, read_clicks, read_devkit_boxes
from scribbleseg.data.images import LABEL_SUFFIXES
from scribbleseg.data.lists import find_images
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.manifest import made_by_library
from scribbleseg.functional.strokes import Stroke, rasterize
from scribbleseg.options import check_choice, check_flag, check_number, check_whole
from scribbleseg.types import Label

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scribbleseg.data.annotations import Box, ClassIds, Click
    from scribbleseg.data.strokes import StrokeOptions

__all__ = ["BoxFill", "LabelType", "TagOrigin", "WeakLabels", "render_boxes"]

LabelType = Literal["scribble", "point", "box", "tag", "mask", "pseudo"]
"""What trains: scribbles, clicks drawn as discs, boxes, image tags alone, dense masks (upper bound
of a comparison), or a folder of pseudo-labels that an earlier stage made."""

BoxFill = Literal["none", "center", "full"]
"""What is certain inside a box: nothing, an inner rectangle, or all of it."""

TagOrigin = Literal["file", "scribble", "annotations", "mask"]
"""Where image tags come from."""


@dataclass(frozen=True)
class WeakLabels:
    """Options of the label types ``point``, ``box`` and ``tag``.

    Files are relative to the root of the source, or absolute. Boxes can be read by
    ``source.boxes(record)`` whatever the label type is.

    Args:
        points: Clicks: a folder of ``STEM.json``, ``STEM.csv`` or label PNGs, or one JSON
            ``{stem: [{x, y, cls, rank}]}``; by default ``points/``, else ``points.json``.
        background_points: Second JSON with clicks of the background class (``cls`` may be left
            out); by default ``background_points.json`` if it exists.
        point_radius: Radius of the disc drawn around a click, pixels.
        max_rank: Use only clicks whose ``rank`` is at most this; by default all.
        boxes: ``{stem: [{box: [x0, y0, x1, y1], cls}]}`` as JSON, or a folder of devkit XML; by
            default ``boxes.json``, else ``Annotations/``.
        box_fill: What is certain inside a box. Outside of all boxes is background. ``"none"``
            leaves the inside undecided (255), ``"center"`` labels an inner rectangle, ``"full"``
            the whole box; where boxes overlap, the smaller one counts.
        box_center: Sides of the inner rectangle as a share of those of the box, in (0, 1].
        difficult: Keep objects that an XML marks as difficult.
        class_labels: Tags by stem, JSON or numeric ``.npz``; made there if the file is missing.
        tags_from: ``"file"`` takes the file as it is; ``"scribble"``, ``"annotations"`` (the
            boxes) and ``"mask"`` compute it. By default the file if there is one, else the
            scribbles. Tags of masks use the ground truth and are refused unless ``"mask"`` is set.
    """

    points: str | None = None
    background_points: str | None = None
    point_radius: float = 3.0
    max_rank: int | None = None
    boxes: str | None = None
    box_fill: BoxFill = "none"
    box_center: float = 0.3
    difficult: bool = True
    class_labels: str = "class_labels.json"
    tags_from: TagOrigin | None = None

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ConfigError: If one is out of range.
        """
        check_number(point_radius=self.point_radius, box_center=self.box_center)
        if self.point_radius <= 0:
            raise ConfigError(
                f"point_radius={self.point_radius}: expected a positive number of pixels"
            )
        if not 0 < self.box_center <= 1:
            raise ConfigError(f"box_center={self.box_center}: expected a share in (0, 1]")
        if self.max_rank is not None:
            check_whole(1, max_rank=self.max_rank)
        check_choice("box_fill", self.box_fill, get_args(BoxFill))
        check_choice("tags_from", self.tags_from, (None, *get_args(TagOrigin)))
        check_flag(difficult=self.difficult)


def check_weak_options(label_type: str, weak: WeakLabels | None, background: int | None) -> None:
    """Refuse (ConfigError) options that would not be used, and boxes without a background."""
    check_choice("label_type", label_type, get_args(LabelType))
    if label_type == "box" and background is None:
        raise ConfigError(
            "label_type='box' needs a background class: pixels outside of all boxes get its id; "
            "these classes have none: use another label type, or `label_type: tag`"
        )
    if weak is None:
        return
    used = dict.fromkeys(("points", "background_points", "max_rank"), "point")
    for name, needed in {**used, "tags_from": "tag"}.items():
        if getattr(weak, name) is not None and label_type != needed:
            raise ConfigError(
                f"{name}={getattr(weak, name)!r} with label_type={label_type!r} would not be used; "
                f"set `label_type: {needed}`, or remove it"
            )


# --------------------------------------------------------------------- where they are


class ClickFiles:
    """Clicks of a data set: one JSON of all images, or a folder with a file per image."""

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
        found = [(stem, click.label) for stem, of_image in clicks.items() for click in of_image]
        wrong = [(stem, label) for stem, label in found if label != self.background]
        if wrong:
            raise LabelFormatError(
                f"D101 {path}: {len(wrong)} clicks are not of the background (e.g. "
                f"{wrong[0][0]!r}: class {wrong[0][1]}), expected {self.background} only; is this "
                "the file of object clicks? Set it as `points`"
            )
        return clicks

    @cached_property
    def files(self) -> dict[str, Label]:
        """Clicks by stem, label PNGs as maps; an error (D301) if there are none."""
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
        own = made_by_library(self.where, self.class_names)
        coding: Literal["ids", "scribble"] = "ids" if own else "scribble"
        for stem, path in find_images(self.where, suffixes=suffixes, unique=False).items():
            pixels = path.suffix.lower() in LABEL_SUFFIXES
            files[stem] = Label(path, "map", coding=coding) if pixels else Label(path, "points")
        return files

    def read(self, label: Label, stem: str) -> list[Click]:
        """Clicks of an image, up to ``max_rank``."""
        clicks = self._table.get(stem, [])
        if not label.entry:
            clicks = [*clicks, *read_click_file(label.path, self.ids)]
        most = self.options.max_rank
        return [click for click in clicks if most is None or click.rank <= most]


class BoxFiles:
    """Boxes of a data set: one JSON of all images, or a folder of devkit XML."""

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
        """Boxes by stem; an error (D301) if there are none."""
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
        """Boxes of an image."""
        if label.entry:
            return self._table[label.entry]
        return read_devkit_boxes(label.path, self.ids, difficult=self.options.difficult)


# ------------------------------------------------------------------ as a map of ids


def render_boxes(
    boxes: Sequence[Box],
    size: tuple[int, int],
    *,
    background: int,
    fill: BoxFill = "none",
    center: float = 0.3,
) -> NDArray[np.uint8]:
    """What boxes say for certain about each pixel. Time O(pixels of the boxes).

    A pixel is inside a box if its centre is; a box too thin for that takes one row or column.
    Boxes are drawn from the largest to the smallest, equal ones in their order.

    Args:
        boxes: Boxes; parts outside the image are clipped.
        size: Height and width of the image in pixels.
        background: Id of the pixels outside all boxes.
        fill: ``"none"``: inside is undecided; ``"center"``: an inner rectangle has the class of
            the box, the rest is undecided; ``"full"``: all of it has.
        center: Sides of the inner rectangle as a share of those of the box, in (0, 1].

    Returns:
        Ids, uint8, shape ``(H, W)``, 255 = undecided.

    Example:
        >>> from scribbleseg.data.annotations import Box
        >>> render_boxes([Box(2, 1, 0, 3, 1)], (2, 4), background=0, fill="full").tolist()
        [[0, 2, 2, 0], [0, 0, 0, 0]]
    """
    label = np.full(size, background, dtype=np.uint8)
    for box in sorted(boxes, key=lambda b: (b.x0 - b.x1) * (b.y1 - b.y0)):
        label[box_pixels(box, size)] = box.label if fill == "full" else IGNORE_INDEX
        if fill == "center":
            y, x = (box.y0 + box.y1) / 2, (box.x0 + box.x1) / 2
            dy, dx = center * (box.y1 - box.y0) / 2, center * (box.x1 - box.x0) / 2
            inner = _span(y - dy, y + dy, size[0]), _span(x - dx, x + dx, size[1])
            label[inner] = box.label
    return label


def box_pixels(box: Box, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of an image whose centres are inside a box, at least one of each."""
    return _span(box.y0, box.y1, size[0]), _span(box.x0, box.x1, size[1])


def _span(low: float, high: float, length: int) -> slice:
    """Pixels whose centres are between two edges; at least the one in the middle."""
    first, last = int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5))
    if first >= last:
        first = int(np.floor((low + high) / 2))
        last = first + 1
    return slice(max(first, 0), max(min(last, length), 0))


def check_boxes(boxes: Sequence[Box], size: tuple[int, int], name: str) -> None:
    """Refuse (D201) boxes that are not on their image; its edge may be a few pixels off."""
    for box in boxes:
        for low, high, length in ((box.x0, box.x1, size[1]), (box.y0, box.y1, size[0])):
            slack = max(2.0, 0.05 * length)
            if low < -slack or high > length + slack or low >= length or high <= 0:
                raise _not_inside(f"box {list(box[1:])} of class {box.label}", size, name)


def render_clicks(
    clicks: Sequence[Click],
    size: tuple[int, int],
    path: Label,
    *,
    radius: float,
    strokes: StrokeOptions,
) -> NDArray[np.uint8]:
    """Discs around the clicks of an image as ids, later ones on top; 255 = unlabelled.

    A click that is not on the image is an error (D201) of ``path``.
    """
    for click in clicks:
        for value, length in ((click.x, size[1]), (click.y, size[0])):
            if not -radius <= value - strokes.offset <= length - 1 + radius:
                what = f"click at x={click.x:g}, y={click.y:g} of class {click.label}"
                raise _not_inside(what, size, path)
    return rasterize(
        [Stroke(click.label, [(click.x, click.y)]) for click in clicks],
        size,
        width=2 * radius,
        renderer=strokes.renderer,
        coordinate_offset=strokes.offset,
    )


def _not_inside(what: str, size: tuple[int, int], path: object) -> LabelFormatError:
    return LabelFormatError(
        f"D201 {path}: {what} reaches out of the image of {size[1]}x{size[0]} (width x height); "
        "the image was resized, or x and y are exchanged: correct the file"
    )
