"""Views of an image whose random walk is known: mirrored, or moved by whole cells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "GeometricView",
    "HorizontalFlipView",
    "Lattice",
    "Transform",
    "TranslationView",
    "random_view",
]

Transform = Literal["flip", "translation", "random"]


@dataclass(frozen=True)
class Lattice:
    """Where the cells of a feature map lie in the image.

    Attributes:
        stride: Pixels between neighbouring cells.
        overlap: 1 if cells are points and the first one is the first pixel, as behind padded
            strided convolutions; 0 if every cell covers ``stride`` pixels.
    """

    stride: int
    overlap: int = 0

    def cells(self, pixels: int) -> int:
        """Whole cells on so many pixels, at least one.

        Example:
            >>> Lattice(8, 1).cells(465), Lattice(8).cells(464)
            (59, 58)
        """
        return max((pixels - self.overlap) // self.stride + self.overlap, 1)

    def pixels(self, cells: int) -> int:
        """Pixels that so many cells cover."""
        return (cells - self.overlap) * self.stride + self.overlap

    def cell(self, pixel: float) -> int:
        """Cell that holds a pixel, or the point nearest to it.

        Example:
            >>> Lattice(8, 1).cell(13), Lattice(8).cell(13)
            (2, 1)
        """
        return int((pixel + self.overlap * self.stride / 2) // self.stride)


class GeometricView(Protocol):
    """An image seen otherwise, and how maps of both are brought together."""

    def apply(self, images: Tensor) -> Tensor:
        """Pixels ``(B, …, H, W)`` of the view."""

    def align_view(self, map_: Tensor, lattice: Lattice) -> Tensor:
        """Feature map of the view, cells where both have one, in the order of the image."""

    def crop_reference(self, map_: Tensor, lattice: Lattice) -> Tensor:
        """Feature map of the image, the same cells."""


@dataclass(frozen=True)
class HorizontalFlipView:
    """Left and right exchanged.

    Attributes:
        size: Height and width of the image in pixels.
        lattice: Coarsest lattice of the maps to compare: what is beyond its last whole cell is cut
            off, so that the cells of the mirror image fall on those of the image.
    """

    size: tuple[int, int]
    lattice: Lattice

    def apply(self, images: Tensor) -> Tensor:
        """Mirror image ``(B, …, H, W')``."""
        return images[..., : self._width()].flip(-1)

    def align_view(self, map_: Tensor, lattice: Lattice) -> Tensor:
        """Cells of the mirror image, turned back."""
        return self.crop_reference(map_, lattice).flip(-1)

    def crop_reference(self, map_: Tensor, lattice: Lattice) -> Tensor:
        """Cells of the image, without those of padding."""
        return map_[..., : lattice.cells(self.size[0]), : lattice.cells(self._width())]

    def _width(self) -> int:
        return self.lattice.pixels(self.lattice.cells(self.size[1]))


@dataclass(frozen=True)
class TranslationView:
    """All but a strip at one side, so that every pixel changes its place against the frame.

    Attributes:
        size: Height and width of the image in pixels.
        offset: Width of the strip in pixels, a multiple of the strides of all maps to compare.
        last: Leave out the first ``offset`` pixels, or the last ones.
        axis: Cut rows (``"vertical"``, as released) or columns (``"horizontal"``).
    """

    size: tuple[int, int]
    offset: int
    last: bool = False
    axis: Literal["vertical", "horizontal"] = "vertical"

    def apply(self, images: Tensor) -> Tensor:
        """The part of the image."""
        length = images.shape[self._dim()]
        return images.narrow(self._dim(), self._start(), length - self.offset)

    def align_view(self, map_: Tensor, lattice: Lattice) -> Tensor:
        """Cells of the part, without those of padding."""
        rows, columns = self._cells(lattice)
        return map_[..., :rows, :columns]

    def crop_reference(self, map_: Tensor, lattice: Lattice) -> Tensor:
        """Cells of the image that are in the part."""
        cells = self._cells(lattice)
        starts = [0, 0]
        starts[self._dim()] = self._start() // lattice.stride
        (top, left), (rows, columns) = starts, cells
        return map_[..., top : top + rows, left : left + columns]

    def _dim(self) -> int:
        return -2 if self.axis == "vertical" else -1

    def _start(self) -> int:
        return self.offset if self.last else 0

    def _cells(self, lattice: Lattice) -> tuple[int, int]:
        sides = list(self.size)
        sides[self._dim()] -= self.offset
        return lattice.cells(sides[0]), lattice.cells(sides[1])


def random_view(
    transform: Transform,
    size: tuple[int, int],
    lattice: Lattice,
    *,
    shift: float = 10 / 59,
    generator: torch.Generator,
) -> GeometricView:
    """A view, drawn once for a batch.

    Args:
        transform: ``flip``, ``translation`` (half of them without the last, half without the first
            rows), or ``random``: either with equal probability.
        size: Height and width of the image in pixels.
        lattice: Coarsest lattice of the maps to compare.
        shift: Share of the rows that a translation leaves out; rounded to whole cells, at least one
            (10 of 59 as released).
        generator: Source of the draws; always two, so that results do not depend on the transform.

    Returns:
        The view; a flip where an image has a single row of cells.

    Example:
        >>> view = random_view(
        ...     "translation", (465, 465), Lattice(8, 1), generator=torch.Generator()
        ... )
        >>> view.offset
        80
    """
    first, second = torch.rand(2, generator=generator).tolist()
    rows = lattice.cells(size[0])
    if transform == "flip" or rows < 2 or (transform == "random" and first < 0.5):
        return HorizontalFlipView(size, lattice)
    cells = min(max(round(shift * rows), 1), rows - 1)
    return TranslationView(size, cells * lattice.stride, last=second >= 0.5)
