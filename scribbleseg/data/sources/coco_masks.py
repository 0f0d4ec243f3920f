"""Pixels of COCO's objects, from polygons and run lengths that are checked before."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scribbleseg.data.documents import is_number
from scribbleseg.errors import MissingExtraError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__: list[str] = []

Crowd = Literal["background", "ignore"]
"""What pixels of crowd regions are where no object covers them: background, or 255."""

Overlap = Literal["order", "area"]
"""Which object is on top: the later one in the file, or the smaller one."""

_LONGEST = 2_000_000  # outline of a polygon in pixels: pycocotools allocates 80 bytes for each


def object_pixels(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels of an object, boolean, of an image's height and width.

    Args:
        segmentation: List of polygons, or run lengths of the whole image, as text or numbers.
        size: Height and width of the image.

    Raises:
        ValueError: What is wrong: pycocotools trusts its input and could crash.
        MissingExtraError: If pycocotools is not installed.
    """
    if isinstance(segmentation, dict):
        if segmentation.get("size") != list(size):
            raise ValueError(f"run lengths of size {shown(segmentation.get('size'))}")
        return _pixels_of_runs(segmentation.get("counts"), size)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError(f"polygons {shown(segmentation)}")
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise MissingExtraError("pycocotools", "coco", "painting COCO's polygons") from error
    polygons = [_polygon(part, number, size) for number, part in enumerate(segmentation, 1)]
    runs = coco.merge(coco.frPyObjects(polygons, *size))
    return np.asarray(coco.decode(runs), dtype=np.bool_)


def _polygon(part: Any, number: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """Coordinates x, y, x, y, … of a polygon on or near its image."""
    if not isinstance(part, list) or len(part) < 6 or len(part) % 2:
        what = f"{len(part)} numbers" if isinstance(part, list) else shown(part)
        raise ValueError(f"polygon {number} of {what}")
    wrong = [value for value in part if not is_number(value)]
    if wrong:
        raise ValueError(f"polygon {number} with coordinate {shown(wrong[0])}")
    points = np.array(part, dtype=np.float64).reshape(-1, 2)
    sides = np.array(size[::-1])
    outside = (points < -sides) | (points > 2 * sides)
    if outside.any():
        raise ValueError(f"polygon {number} with coordinate {points[outside][0]:g}")
    length = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum()
    if length > _LONGEST:
        raise ValueError(f"polygon {number} with an outline of {length:,.0f} pixels")
    return points.ravel()


def _pixels_of_runs(counts: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Columns of background and object in turns."""
    runs = _unpack(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list):
        raise ValueError(f"run lengths {shown(counts)}")
    wrong = [run for run in runs if not is_number(run) or isinstance(run, float) or run < 0]
    if wrong:
        raise ValueError(f"run lengths {shown(wrong[0])}")
    if sum(runs) != size[0] * size[1]:
        raise ValueError(f"run lengths of {sum(runs):,} pixels")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(size, order="F")


def _unpack(text: str) -> list[int]:
    """Run lengths from COCO's text: 5 bits a character, from the fourth on differences."""
    runs: list[int] = []
    value = bits = 0
    for character in text:
        if not "0" <= character <= "o":
            raise ValueError(f"character {character!r} in run lengths")
        code = ord(character) - ord("0")
        value |= (code & 31) << bits
        bits += 5
        if bits > 30:
            raise ValueError("a run length of more than 30 bits")
        if code & 32:  # the next character goes on
            continue
        if code & 16:  # negative
            value -= 1 << bits
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = bits = 0
    if bits:
        raise ValueError("run lengths that are cut off")
    return runs


def shown(value: Any) -> str:
    """A faulty value, shortened, as JSON calls it."""
    return "null" if value is None else reprlib.repr(value)
