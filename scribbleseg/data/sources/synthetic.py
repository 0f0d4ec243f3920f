"""Textured shapes on textured backgrounds, drawn from a seed: no files, any number of images."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.annotations import Box
from scribbleseg.data.source import ScribbleSource
from scribbleseg.errors import ConfigError
from scribbleseg.functional.strokes import Stroke, rasterize
from scribbleseg.types import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scribbleseg.types import Split

__all__ = ["SyntheticSource"]


def _even(corners: int, *reach: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Angles and distances from the centre of evenly spread corners."""
    return np.linspace(0, 2 * np.pi, corners, endpoint=False), np.resize(reach or 1.0, corners)


_OUTLINES = {
    "disc": _even(40),
    "square": _even(4),
    "triangle": _even(3),
    "hexagon": _even(6),
    "bar": (np.array([0.3, np.pi - 0.3, np.pi + 0.3, -0.3]), np.ones(4)),
    "diamond": _even(4, 1, 0.6),
    "star": _even(10, 1, 0.55),
    "pentagon": _even(5),
}
_SPLITS = ("train", "val", "test", "predict")


class _Drawing(NamedTuple):
    """One picture and all labels of it."""

    image: NDArray[np.uint8]
    scribble: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    boxes: list[Box]


class SyntheticSource(ScribbleSource):
    """Shapes whose class shows in outline, hue and stripes; one stroke per object and background.

    Every image is a pure function of ``(seed, split, index)``. Objects overlap, colours vary, and
    scribbles touch about 3 % of the pixels, so that partial supervision matters.

    Args:
        num_train: Training images.
        num_val: Validation images; the test split has as many.
        num_classes: Classes including background, 2 to 9.
        size: Height and width in pixels; heights vary by up to 12 % between images.
        seed: Seed of the whole data set.
        scribble_width: Stroke width in pixels.
    """

    def __init__(
        self,
        *,
        num_train: int = 128,
        num_val: int = 24,
        num_classes: int = 5,
        size: int = 80,
        seed: int = 0,
        scribble_width: float = 3.0,
    ) -> None:
        if not 2 <= num_classes <= len(_OUTLINES) + 1:
            raise ConfigError(f"num_classes={num_classes}: SyntheticSource draws 2 to 9 classes")
        if size < 32:
            raise ConfigError(f"size={size}: shapes need at least 32 pixels")
        self.class_names = ("background", *list(_OUTLINES)[: num_classes - 1])
        self.num_train, self.num_val = num_train, num_val
        self.size, self.seed, self.scribble_width = size, seed, scribble_width
        self._last: tuple[str, _Drawing] | None = None

    def records(self, split: Split) -> list[Record]:
        """Samples of a split; ids are ``<split>_<number>``."""
        count = self.num_train if split == "train" else self.num_val
        return [Record(f"{split}_{index:05d}") for index in range(count)]

    def read_image(self, record: Record) -> NDArray[np.uint8]:
        """RGB image."""
        return self._render(record.image_id).image

    def read_scribble(self, record: Record) -> NDArray[np.uint8]:
        """Scribble ids, 255 = not drawn."""
        return self._render(record.image_id).scribble

    def read_mask(self, record: Record) -> NDArray[np.uint8]:
        """Dense ids."""
        return self._render(record.image_id).mask

    def boxes(self, record: Record) -> list[Box]:
        """One around what is to be seen of each object."""
        return self._render(record.image_id).boxes

    def _render(self, image_id: str) -> _Drawing:
        # an item reads image, then scribble or mask: remember one rendering
        if self._last is None or self._last[0] != image_id:
            split, number = image_id.rsplit("_", 1)
            rng = np.random.default_rng([self.seed, _SPLITS.index(split), int(number)])
            self._last = (image_id, self._draw(rng))
        return self._last[1]

    def _draw(self, rng: np.random.Generator) -> _Drawing:
        size = height, width = self.size - int(rng.integers(0, max(self.size // 8, 1))), self.size
        image = _clouds(rng, size, rng.uniform(60, 190, 3), 28)
        mask, owner = np.zeros((2, *size), np.uint8)
        strokes: list[tuple[int, NDArray[np.float64]]] = []
        for number in range(1, 1 + int(rng.integers(2, 5))):
            label = int(rng.integers(1, self.num_classes))
            radius = rng.uniform(0.14, 0.26) * self.size
            centre = rng.uniform(radius * 0.7, [width - radius * 0.7, height - radius * 0.7])
            angles, reach = _OUTLINES[self.class_names[label]]
            outline = _around(angles + rng.uniform(0, 2 * np.pi), reach) * radius + centre
            cv2.fillPoly(owner, [np.round(outline).astype(np.int32)], number)
            inside = owner == number
            mask[inside], image[inside] = label, _stripes(rng, size, label)[inside]
            # three points inside the core
            turns, away = rng.uniform(0, 2 * np.pi, 3), rng.uniform(0.2, 0.6, 3)
            strokes.append((label, centre + _around(turns, away * radius)))
        image = np.clip(image + rng.normal(0, 8, image.shape), 0, 255)
        scribble = np.full_like(mask, IGNORE_INDEX)
        across = np.stack([np.linspace(2, width - 3, 6), rng.uniform(2, height - 3, 6)], axis=1)
        for label, points in [(0, across), (0, across[::-1, ::-1] * 0.9), *strokes]:
            drawn = rasterize([Stroke(label, points)], size, width=self.scribble_width)
            # an annotator sees what is on top: strokes stop where another object begins
            scribble[(drawn == label) & (mask == label)] = label
        boxes = []
        for number, (label, _) in enumerate(strokes, start=1):
            x, y, columns, rows = cv2.boundingRect((owner == number).astype(np.uint8))
            if columns:  # else all of it is covered
                boxes.append(Box(label, x, y, x + columns, y + rows))
        return _Drawing(image.astype(np.uint8), scribble, mask, boxes)


def _around(angles: NDArray[np.float64], reach: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points around the origin, float, shape ``(n, 2)`` as (x, y)."""
    return np.stack([np.cos(angles) * reach, np.sin(angles) * reach], axis=1)


def _clouds(
    rng: np.random.Generator, size: tuple[int, int], colour: NDArray[np.float64], contrast: float
) -> NDArray[np.float64]:
    """Smooth colour clouds around a mean colour."""
    height, width = size
    coarse = rng.normal(0, 1, (height // 16 + 2, width // 16 + 2, 3)).astype(np.float32)
    clouds = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(colour + contrast * clouds, dtype=np.float64)


def _stripes(rng: np.random.Generator, size: tuple[int, int], label: int) -> NDArray[np.float64]:
    """A class's hue, with stripes of class-dependent period over clouds of varying brightness."""
    hue = (label * 47 + rng.normal(0, 6)) % 180
    tint = [hue, 170 + rng.integers(-30, 30), 180 + rng.integers(-50, 50)]
    hsv = np.array([[tint]], dtype=np.uint8)
    colour = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float64)
    angle = rng.uniform(0, np.pi)
    rows, columns = np.mgrid[: size[0], : size[1]]
    wave = np.sin((rows * np.sin(angle) + columns * np.cos(angle)) * 2 * np.pi / (4 + 2 * label))
    striped = _clouds(rng, size, colour, 22) + 25 * wave[..., None]
    return np.asarray(striped, dtype=np.float64)
