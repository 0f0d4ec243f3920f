"""Options of sources whose scribbles are strokes."""

from __future__ import annotations

from typing import get_args

from scribbleseg.errors import ConfigError
from scribbleseg.functional.strokes import Renderer
from scribbleseg.options import check_choice

__all__ = ["stroke_options"]


def stroke_options(width: float, renderer: str, offset: float) -> tuple[float, Renderer, float]:
    """Checked options of :func:`~scribbleseg.functional.strokes.rasterize`.

    Raises:
        ConfigError: If the width is not positive or the renderer is unknown.
    """
    check_choice("renderer", renderer, get_args(Renderer))
    if not width > 0:
        raise ConfigError(f"scribble_width={width}: expected a positive number of pixels")
    return width, "pillow" if renderer == "pillow" else "distance", offset
