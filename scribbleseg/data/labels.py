"""Label files to ids in the one internal coding, and what to say if a file does not hold ids."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scribbleseg.constants import IGNORE_INDEX, MAX_CLASSES, voc_palette
from scribbleseg.data.decode import orient
from scribbleseg.data.images import ImageHeader, Pixels, read_header, read_pixels
from scribbleseg.errors import LabelFormatError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from scribbleseg.types import Label

__all__ = ["LabelCoding", "encode_label", "read_label", "whole_numbers"]

logger = logging.getLogger(__name__)

_EXIF_SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp"}  # of formats that carry EXIF
_TURNED: set[Path] = set()  # folders that this process has warned about
_TOLERANCE = 1e-3  # of ids that a tool stored as scaled or floating-point numbers
_DOCUMENT = "scribbleseg/data/README.md documents the format of classes.yaml"


@dataclass(frozen=True)
class LabelCoding:
    """What the values and colours of a label file mean.

    255 and transparent pixels are unlabelled in every coding.

    Attributes:
        num_classes: Number of classes C, background included.
        ids: Value of the file to class index; ``None`` = they are the same.
        ignore: Values of the file that become 255.
        colours: RGB colour to class index, or to 255.

    Example:
        >>> coding = LabelCoding(2, ids={1: 0, 2: 1}, ignore=(0,))
        >>> encode_label(np.array([[0, 1, 2, 255]]), coding, "a.png").tolist()
        [[255, 0, 1, 255]]
    """

    num_classes: int
    ids: Mapping[int, int] | None = None
    ignore: tuple[int, ...] = ()
    colours: Mapping[tuple[int, int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the number of classes."""
        if not 1 <= self.num_classes <= MAX_CLASSES:
            raise ValueError(f"num_classes must be in 1..{MAX_CLASSES}, got {self.num_classes}")

    def index_of(self) -> dict[int, int]:
        """Every value that a file may hold, with its class index or 255."""
        own = dict(enumerate(range(self.num_classes))) if self.ids is None else dict(self.ids)
        return {IGNORE_INDEX: IGNORE_INDEX, **own, **dict.fromkeys(self.ignore, IGNORE_INDEX)}


def read_label(path: str | Path, coding: LabelCoding | int) -> NDArray[np.uint8]:
    """Class indices of a scribble, mask or pseudo-label file.

    Args:
        path: PNG, TIFF, BMP, GIF or WebP of ids or colours; see
            :func:`~scribbleseg.data.images.read_pixels`.
        coding: What its values mean; a number of classes for files of ids 0..C-1 and 255.

    Returns:
        Ids 0..C-1 and 255 = unlabelled or void, uint8, shape ``(H, W)``.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If the file cannot be decoded or holds anything else than such ids. The
            message starts with a code: D101 id out of range, D102 luminance of a palette, D103
            colours or lossy compression, D202 undecodable, D203 numbers that are no ids.
    """
    coding = LabelCoding(coding) if isinstance(coding, int) else coding
    pixels = read_pixels(path)
    if pixels.values.ndim == 3:
        return _ids_of_colours(pixels, coding, Path(path))
    if pixels.palette is not None and coding.colours:
        return _ids_of_palette(pixels.values, pixels.palette, coding, Path(path))
    return encode_label(pixels.values, coding, path)


@lru_cache(maxsize=1 << 16)
def _header(image: Path, channels: int, *_state: int) -> ImageHeader:
    """Header of a file in some state: every epoch asks for it again."""
    return read_header(image, channels=channels)


def orient_label(
    values: NDArray[np.uint8], label: Label, image: Path | None, *, channels: int = 3
) -> NDArray[np.uint8]:
    """The label in the orientation of its image, with a warning once per folder if it was turned.

    Labels carry no EXIF and should fit the rotated image; some tools export them in the stored
    frame. Only a size that fits that frame alone tells them: half turns and square images cannot be
    recognised, and fit as they are. Labels of other sizes are returned as they are.
    """
    (height, width), suffixes = values.shape, _EXIF_SUFFIXES
    # a square label fits both frames or neither
    if height == width or image is None or image.suffix.lower() not in suffixes:
        return values
    try:
        state = image.stat()
    except OSError:
        return values
    header = _header(image, channels, state.st_mtime_ns, state.st_size)
    if values.shape == header.size or values.shape != header.raw_size:
        return values
    if image.parent not in _TURNED:
        _TURNED.add(image.parent)
        stored, rotated = (f"{size[1]}x{size[0]}" for size in (header.raw_size, header.size))
        logger.warning(
            "D201 %s: label is %s (width x height), but %s is %s after its EXIF rotation and %s "
            "only before it; the label is rotated like the image. If it does not fit then, export "
            "labels of the rotated images (said once for this folder)",
            *(label, stored, image, rotated, stored),
        )
    return orient(values, header.orientation)


def encode_label(values: NDArray[Any], coding: LabelCoding, path: str | Path) -> NDArray[np.uint8]:
    """Values of a file to class indices, in one table look-up.

    Args:
        values: Integers, or numbers within 0.001 of integers, shape ``(H, W)``.
        coding: What they mean.
        path: File that they are from, for messages.

    Returns:
        Ids 0..C-1 and 255, uint8, shape ``(H, W)``.

    Raises:
        LabelFormatError: If a value is no id (D101, D102) or no whole number (D203).
        ValueError: If the values are not two-dimensional.
    """
    if values.ndim != 2:
        raise ValueError(f"{path}: labels must be of two dimensions, got shape {values.shape}")
    values = whole_numbers(values, path)
    if coding.ids is None and not coding.ignore:
        known = (values < coding.num_classes) & (values >= 0) | (values == IGNORE_INDEX)
        if not known.all():
            _complain(values, coding, Path(path))
        return values.astype(np.uint8)
    index_of = coding.index_of()
    low, high = min(index_of), max(index_of)
    table = np.full(high - low + 2, -1, np.int16)  # the last entry stands for all other values
    table[np.array(list(index_of)) - low] = list(index_of.values())
    inside = (values >= low) & (values <= high)
    ids = table[np.where(inside, values.astype(np.int64) - low, len(table) - 1)]
    if (ids < 0).any():
        _complain(values, coding, Path(path))
    return ids.astype(np.uint8)


def whole_numbers(values: NDArray[Any], path: str | Path) -> NDArray[np.integer]:
    """Label values as integers; many tools store ids as floating-point or scaled numbers.

    Raises:
        LabelFormatError: D203, if a value is not within 0.001 of a whole number.
    """
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if np.issubdtype(values.dtype, np.integer):
        return values
    if not np.issubdtype(values.dtype, np.floating):
        raise LabelFormatError(f"D203 {path}: holds {values.dtype}, expected one id per pixel")
    with np.errstate(invalid="ignore"):
        ids = np.rint(values)
        wrong = ~(np.abs(values - ids) <= _TOLERANCE) | (np.abs(values) > 1 << 30)
    if wrong.any():
        raise LabelFormatError(
            f"D203 {path}: holds values that are no ids, e.g. {values[wrong][0]:g} on "
            f"{int(wrong.sum()):,} px, expected whole numbers; a probability or distance map, or "
            "labels that were interpolated: export ids, and resample them by nearest neighbour"
        )
    whole: NDArray[np.integer] = ids.astype(np.int32)
    return whole


# -------------------------------------------------------------------------- colours


def _ids_of_colours(pixels: Pixels, coding: LabelCoding, path: Path) -> NDArray[np.uint8]:
    """Class indices of a colour file; transparent pixels are unlabelled."""
    rgb, alpha = pixels.values, pixels.alpha
    seen = np.ones(rgb.shape[:2], np.bool_) if alpha is None else alpha > 0
    packed = rgb.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    found, inverse, counts = np.unique(packed[seen], return_inverse=True, return_counts=True)
    colours = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in found]
    if all(colour in coding.colours for colour in colours):
        result = np.full(rgb.shape[:2], IGNORE_INDEX, np.uint8)
        ids = np.array([coding.colours[colour] for colour in colours], dtype=np.uint8)
        result[seen] = ids[inverse]
        return result
    if all(red == green == blue for red, green, blue in colours):  # three equal channels of ids
        values = np.where(seen, rgb[..., 0], np.uint8(IGNORE_INDEX))
        return encode_label(values, coding, path)
    raise _unknown_colours(colours, counts, coding, path)


def _ids_of_palette(
    values: NDArray[np.uint8], palette: NDArray[np.uint8], coding: LabelCoding, path: Path
) -> NDArray[np.uint8]:
    """By colour if the palette holds the colours of the classes, else by index."""
    table = np.zeros(256, np.uint8)
    unknown, agree, by_index = [], True, coding.index_of()
    for index in np.unique(values).tolist():
        colour = tuple(palette[index].tolist()) if index < len(palette) else (0, 0, 0, 255)
        label = IGNORE_INDEX if colour[3] == 0 else coding.colours.get(colour[:3])
        if label is None:
            unknown.append((int((values == index).sum()), index, list(colour[:3])))
        else:
            table[index] = label
            agree &= by_index.get(index) == label
    if not unknown:
        return table[values]
    if agree:
        return encode_label(values, coding, path)
    unknown.sort(reverse=True)
    listed = ", ".join(f"{colour} at index {index} on {n:,} px" for n, index, colour in unknown[:3])
    raise LabelFormatError(
        f"D103 {path}: the palette holds colours of the classes in another order than their ids, "
        f"and also colours of no class ({listed}), so neither index nor colour can be trusted. If "
        f"{unknown[0][2]} means unlabelled, set `unlabelled_color: {unknown[0][2]}` (dataset.yaml "
        f"or classes.yaml); else give its class this `color`; {_DOCUMENT}"
    )


def _unknown_colours(
    colours: list[tuple[int, int, int]],
    counts: NDArray[np.integer],
    coding: LabelCoding,
    path: Path,
) -> LabelFormatError:
    unknown = [index for index, colour in enumerate(colours) if colour not in coding.colours]

    # without a table of colours, grey pixels may be ids
    grey = [not coding.colours and len(set(colour)) == 1 for colour in colours]
    worst = sorted(unknown, key=lambda index: (grey[index], -int(counts[index])))[:3]
    examples = ", ".join(f"{colours[index]} on {counts[index]:,} px" for index in worst)
    if not coding.colours:
        return LabelFormatError(
            f"D103 {path}: holds {len(colours)} colours ({examples}), expected one channel of "
            "class ids; a colour picture cannot be mapped without its colour table: give every "
            f"class a `color` in classes.yaml, or export the labels as ids; {_DOCUMENT}"
        )
    top = list(colours[worst[0]])
    return LabelFormatError(
        f"D103 {path}: {len(unknown)} colours are not in the colour table: {examples}; many "
        "unknown colours come from JPEG compression or anti-aliasing: export the labels without "
        f"smoothing. Few come from a missing class: add its `color` to classes.yaml. If {top} "
        f"means unlabelled, set `unlabelled_color: {top}` (dataset.yaml or classes.yaml); "
        f"{_DOCUMENT}"
    )


# ------------------------------------------------------------------------- messages


def _complain(values: NDArray[np.integer], coding: LabelCoding, path: Path) -> None:
    """Raise for values that are no ids, with the likely cause."""
    found, counts = np.unique(values, return_counts=True)
    count_of = dict(zip(found.tolist(), counts.tolist(), strict=True))
    allowed, classes = coding.index_of(), coding.num_classes
    bad = sorted(count_of.keys() - allowed, key=lambda value: (-count_of[value], value))
    listed = ", ".join(
        f"value {value} on {count_of[value]:,} px ({100 * count_of[value] / values.size:.1f} %)"
        for value in bad[:5]
    )
    more = f" and {len(bad) - 5} further values" if len(bad) > 5 else ""
    expected = f"expected classes 0-{classes - 1} and 255"
    if coding.ids is not None:
        expected = f"expected the ids {_some(coding.ids)} of {classes} classes, and 255"
    tones = _luminance(classes)
    # the tones of many classes are most values there are, and prove nothing
    telling = 2 * len(tones - set(range(classes))) < IGNORE_INDEX - classes
    single_code = bad == [classes if coding.ids is None else max(coding.ids) + 1]
    if telling and not single_code and count_of.keys() - {IGNORE_INDEX} <= tones:
        raise LabelFormatError(
            f"D102 {path}: {listed}{more}, {expected}; all values are grey tones of the VOC "
            "palette: a palette PNG was converted to luminance (Pillow convert('L'), OpenCV "
            "IMREAD_GRAYSCALE). Ids 1/16 and 3/18 share a tone, so it cannot be undone: use the "
            "original palette file"
        )
    zeros = 0 if IGNORE_INDEX in count_of or 0 not in allowed else count_of.get(0, 0)
    cause = _likely_cause(bad, count_of[bad[0]] / values.size, single_code)
    if single_code and 2 * zeros > values.size:
        cause = (
            f"value 0 on {zeros:,} px is probably unlabelled and ids go from 1 to {classes}: set "
            "`unlabelled_value: 0` in dataset.yaml"
        )
    error = LabelFormatError(f"D101 {path}: {listed}{more}, {expected}; {cause}")
    error.values = count_of
    raise error


def _likely_cause(bad: list[int], share: float, single_code: bool) -> str:
    """Cause and cure of values that are no ids, the most frequent first, on a share of pixels."""
    top = bad[0]
    if len(bad) == 1 and (single_code or top == -1 or share > 0.5):
        return (
            f"{top} looks like an unlabelled or void code: set `unlabelled_value: {top}` if the "
            f"file is a scribble, `ignore: [{top}]` in classes.yaml if it is a mask"
        )
    if min(bad) < 0:
        return "negative ids cannot be stored in 8 bits: write unlabelled pixels as 255"
    if max(bad) > MAX_CLASSES:
        return (
            f"values above {MAX_CLASSES} are no ids of classes, so this may be no label file: "
            "export the labels again, or map the values with `ignore` or `id` in classes.yaml"
        )
    return (
        "the class list is too short or the file belongs to another data set: list "
        f"{max(bad) + 1} classes, or map the value with `ignore` or `id` in classes.yaml"
    )


def _some(ids: Iterable[int]) -> str:
    shown = sorted(ids)
    return ", ".join(map(str, shown[:8])) + (" …" if len(shown) > 8 else "")


def _luminance(num_classes: int) -> set[int]:
    """Values that ids 0..C-1 and 255 of a VOC palette become in a conversion to grey, ± 1."""
    colours = voc_palette()[[*range(num_classes), IGNORE_INDEX]].astype(np.float64)
    grey = np.round(colours @ [0.299, 0.587, 0.114]).astype(int)
    return {max(0, int(value) + step) for value in grey for step in (-1, 0, 1)}
