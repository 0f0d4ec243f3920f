"""The contact sheet that commands leave beside the files they make: a picture to judge them by."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scribbleseg.functional.images import compose_panel, overlay_labels, write_image
from scribbleseg.functional.intensity import rgb_view

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__ = [
    "draw_labels",
    "draw_strokes",
    "overview_path",
    "picture_of",
    "visible_palette",
    "write_overview",
]

_IMAGES, _TILE_HEIGHT = 8, 240
_BACKGROUND = (150, 150, 150)  # palettes have black, which does not show on dark images


def overview_path(output: Path, taken: Collection[str]) -> Path:
    """``overview.png`` in a folder, with underscores in front while a file is called so."""
    name = "overview"
    while name in taken:
        name = f"_{name}"
    return output / f"{name}.png"


def visible_palette(source: ScribbleSource) -> NDArray[np.uint8]:
    """Colours of the classes with a grey background, uint8, shape ``(256, 3)``."""
    palette = np.array(source.palette, dtype=np.uint8)
    if source.background is not None:
        palette[source.background] = _BACKGROUND
    return palette


def picture_of(source: ScribbleSource, record: Record) -> NDArray[np.uint8]:
    """The image as three channels that can be shown, shape ``(H, W, 3)``."""
    return rgb_view(source.read_image(record), source.rgb_channels)


def draw_labels(
    picture: NDArray[np.uint8], labels: NDArray[np.uint8], source: ScribbleSource
) -> NDArray[np.uint8]:
    """Dense labels over an image, half transparent."""
    return overlay_labels(picture, labels, visible_palette(source))


def draw_strokes(
    picture: NDArray[np.uint8], labels: NDArray[np.uint8], source: ScribbleSource
) -> NDArray[np.uint8]:
    """Scribbles over an image, grown so that they survive the reduction to a tile."""
    thicken = round(picture.shape[0] / _TILE_HEIGHT)
    return overlay_labels(picture, labels, visible_palette(source), alpha=1.0, thicken=thicken)


def write_overview(
    path: Path,
    records: Sequence[Record],
    tiles: Callable[[Record], Sequence[NDArray[np.uint8]]],
    titles: Sequence[str],
    *,
    caption: Callable[[Record], str] | None = None,
) -> Path:
    """Eight images spread evenly over the records, a row each.

    Args:
        path: Where the picture goes, see :func:`overview_path`.
        records: Images to choose from, at least one.
        tiles: RGB pictures of a record, uint8, one per title.
        titles: What the columns are.
        caption: Text on a row; the image id by default.

    Returns:
        ``path``.
    """
    chosen = np.unique(np.linspace(0, len(records) - 1, _IMAGES).round().astype(int))
    shown = [records[index] for index in chosen]
    rows = [tiles(record) for record in shown]
    names = [record.image_id if caption is None else caption(record) for record in shown]
    write_image(path, compose_panel(rows, titles, tile_height=_TILE_HEIGHT, captions=names))
    return path
