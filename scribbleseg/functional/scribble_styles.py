"""How synthetic scribbles and points look: checked options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from scribbleseg.errors import ConfigError
from scribbleseg.options import check_choice, check_number, check_whole

__all__ = ["PointStyle", "PointsPer", "ScribbleStyle"]

PointsPer = Literal["class", "component"]
"""What gets the asked number of points: every class of an image, or every object."""


@dataclass(frozen=True)
class ScribbleStyle:
    """How scribbles are drawn.

    Args:
        width: Stroke width in pixels.
        length_ratio: Share in (0, 1] of each region's longest path that is drawn.
        erosion: Distance in pixels that strokes keep from boundaries where there is room.
        min_area: Regions of fewer pixels get nothing.
        jitter: How far a hand strays from the middle, as a share in [0, 1] of the room there.
        max_strokes: Strokes per class, the largest parts first; by default no limit.
        skip: Classes that get none, such as the background.

    Raises:
        ConfigError: If an option is out of range.
    """

    width: float = 3.0
    length_ratio: float = 0.7
    erosion: float = 3.0
    min_area: int = 100
    jitter: float = 0.3
    max_strokes: int | None = None
    skip: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_number(
            width=self.width,
            length_ratio=self.length_ratio,
            erosion=self.erosion,
            jitter=self.jitter,
        )
        check_whole(0, min_area=self.min_area)
        if self.max_strokes is not None:
            check_whole(1, max_strokes=self.max_strokes)
        if self.width <= 0:
            raise ConfigError(f"width={self.width}: expected a positive number of pixels")
        if not 0 < self.length_ratio <= 1:
            raise ConfigError(f"length_ratio={self.length_ratio}: expected a share in (0, 1]")
        if self.erosion < 0:
            raise ConfigError(f"erosion={self.erosion}: expected at least 0 pixels")
        if not 0 <= self.jitter <= 1:
            raise ConfigError(
                f"jitter={self.jitter}: expected a share in [0, 1]; 0 draws without wobble"
            )


@dataclass(frozen=True)
class PointStyle:
    """How points are placed.

    Args:
        count: Points per class or region, at different pixels.
        radius: Radius of the discs in pixels, at least 0; 0 labels one pixel.
        per: Whether each class or each connected region gets ``count`` points.
        min_area: Regions of fewer pixels get none.
        skip: Classes that get none.

    Raises:
        ConfigError: If an option is out of range.
    """

    count: int = 1
    radius: float = 3.0
    per: PointsPer = "class"
    min_area: int = 100
    skip: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_whole(1, count=self.count)
        check_whole(0, min_area=self.min_area)
        check_number(radius=self.radius)
        check_choice("per", self.per, get_args(PointsPer))
        if self.radius < 0:
            raise ConfigError(f"radius={self.radius}: expected at least 0 pixels")
