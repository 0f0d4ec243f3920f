"""Weak labels besides scribbles: their options, and how they become a label map.

Whatever trains, a batch has one form: ``scribble`` holds ids where the label is certain and 255
elsewhere, ``class_labels`` says which classes the whole image shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.errors import ConfigError, LabelFormatError
from scribbleseg.functional.strokes import Stroke, rasterize
from scribbleseg.options import check_choice, check_flag, check_number, check_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scribbleseg.data.annotations import Box, Click
    from scribbleseg.data.strokes import StrokeOptions
    from scribbleseg.types import Label

__all__ = [
    "BoxFill",
    "LabelType",
    "TagOrigin",
    "WeakLabels",
    "check_boxes",
    "check_weak_options",
    "render_boxes",
    "render_clicks",
]

LabelType = Literal["scribble", "point", "box", "tag", "mask", "pseudo"]
"""What trains: scribbles, clicks drawn as discs, boxes, image tags alone, dense masks (upper bound
of a comparison), or a folder of pseudo-labels that an earlier stage made."""

_OUTSIDE = 0.05

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
    """Refuse options that would not be used, and boxes without a background class.

    Args:
        label_type: What trains.
        weak: Options, if any were given.
        background: Id of the background class, if there is one.

    Raises:
        ConfigError: Naming the option.
    """
    check_choice("label_type", label_type, get_args(LabelType))
    if label_type == "box" and background is None:
        raise ConfigError(
            "label_type='box' needs a background class: pixels outside of all boxes get its id; "
            "these classes have none: use another label type, or `label_type: tag`"
        )
    if weak is None:
        return
    used = {
        "points": "point",
        "background_points": "point",
        "max_rank": "point",
        "tags_from": "tag",
    }
    for name, needed in used.items():
        if getattr(weak, name) is not None and label_type != needed:
            raise ConfigError(
                f"{name}={getattr(weak, name)!r} with label_type={label_type!r} would not be used; "
                f"set `label_type: {needed}`, or remove it"
            )


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
    """Rows and columns whose centres are inside a box, at least one of each.

    Args:
        box: Box; parts outside the image are clipped.
        size: Height and width of the image in pixels.
    """
    return _span(box.y0, box.y1, size[0]), _span(box.x0, box.x1, size[1])


def _span(low: float, high: float, length: int) -> slice:
    """Pixels whose centres are between two edges; at least the one in the middle."""
    first, last = int(np.ceil(low - 0.5)), int(np.ceil(high - 0.5))
    if first >= last:
        first = int(np.floor((low + high) / 2))
        last = first + 1
    return slice(max(first, 0), max(min(last, length), 0))


def check_boxes(boxes: Sequence[Box], size: tuple[int, int], name: str) -> None:
    """Refuse boxes that are not on their image; a few pixels beyond its edge are accepted.

    Raises:
        LabelFormatError: D201, naming the box.
    """
    for box in boxes:
        for low, high, length in ((box.x0, box.x1, size[1]), (box.y0, box.y1, size[0])):
            slack = max(2.0, _OUTSIDE * length)
            if low < -slack or high > length + slack or low >= length or high <= 0:
                raise LabelFormatError(
                    f"D201 {name}: box {list(box[1:])} of class {box.label} reaches out of the "
                    f"image of {size[1]}x{size[0]} (width x height); the image was resized, or x "
                    "and y are exchanged: correct the boxes"
                )


def render_clicks(
    clicks: Sequence[Click],
    size: tuple[int, int],
    path: Label,
    *,
    radius: float,
    strokes: StrokeOptions,
) -> NDArray[np.uint8]:
    """Discs around clicks, later ones on top.

    Args:
        clicks: Clicks of one image.
        size: Height and width of the image in pixels.
        path: File of the clicks, for messages.
        radius: Radius of the discs in pixels.
        strokes: Renderer and coordinate offset.

    Returns:
        Ids, uint8, shape ``(H, W)``, 255 = unlabelled.

    Raises:
        LabelFormatError: If a click is not on the image (D201).
    """
    for click in clicks:
        for value, length in ((click.x, size[1]), (click.y, size[0])):
            if not -radius <= value - strokes.offset <= length - 1 + radius:
                raise LabelFormatError(
                    f"D201 {path}: click at x={click.x:g}, y={click.y:g} of class {click.label} is "
                    f"outside the image of {size[1]}x{size[0]} (width x height); the image was "
                    "resized, or x and y are exchanged: correct the clicks"
                )
    return rasterize(
        [Stroke(click.label, [(click.x, click.y)]) for click in clicks],
        size,
        width=2 * radius,
        renderer=strokes.renderer,
        coordinate_offset=strokes.offset,
    )
