"""How the images of a data set are read: channels, window, colours of pictures, largest size."""

from __future__ import annotations

from dataclasses import dataclass, field

from scribbleseg.functional.intensity import Intensity, check_rgb_channels
from scribbleseg.options import check_whole

__all__ = ["ImageOptions"]


@dataclass(frozen=True)
class ImageOptions:
    """Options that every source of files understands.

    Attributes:
        channels: Channels K of every image: 3 = RGB, 1 = grey, others as the files have them.
        intensity: Window of images with more than 8 bits.
        rgb_channels: Three channels that stand for red, green and blue in pictures and where
            colours are compared; by default the first three.
        max_image_pixels: Larger images are refused, ``None`` = Pillow's limit (89 million).

    Raises:
        ConfigError: If an option is out of range.
    """

    channels: int = 3
    intensity: Intensity = field(default_factory=Intensity)
    rgb_channels: tuple[int, int, int] | None = None
    max_image_pixels: int | None = None

    def __post_init__(self) -> None:
        """Check the values; a window may be a mapping, as a YAML file holds it."""
        check_whole(1, channels=self.channels)
        if self.max_image_pixels is not None:
            check_whole(1, max_image_pixels=self.max_image_pixels)
        object.__setattr__(self, "intensity", Intensity.from_options(self.intensity))
        chosen = check_rgb_channels(self.rgb_channels, self.channels)
        object.__setattr__(self, "rgb_channels", chosen)
