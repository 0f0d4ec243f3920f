"""Writing label maps, and drawing them and maps of numbers over images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from scribbleseg.constants import IGNORE_INDEX, voc_palette
from scribbleseg.functional.image_files import write_atomic
from scribbleseg.functional.intensity import rgb_view

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "colorize",
    "compose_panel",
    "overlay_heat",
    "overlay_labels",
    "write_image",
    "write_label",
]


def _save(image: Image.Image, path: Path, **options: object) -> None:
    kind = Image.registered_extensions()[path.suffix.lower()]
    write_atomic(path, lambda stream: image.save(stream, format=kind, **options))


def write_label(
    path: str | Path, labels: NDArray[np.integer], palette: NDArray[np.uint8] | None = None
) -> None:
    """Write ids as an 8-bit palette PNG: viewable in colour *and* readable as ids.

    Args:
        path: Target; parent folders are made, the file appears atomically.
        labels: Ids 0..255, shape ``(H, W)``.
        palette: Up to 256 RGB colours; VOC colours by default.
    """
    colours = voc_palette()
    if palette is not None:
        colours[: len(palette)] = palette
    image = Image.fromarray(np.ascontiguousarray(labels, dtype=np.uint8))
    image = image.convert("L")
    image.putpalette(colours.tobytes())
    _save(image, Path(path), optimize=False)


def write_image(path: str | Path, pixels: NDArray[np.uint8]) -> None:
    """Write RGB pixels of shape ``(H, W, 3)``; the format follows the suffix; atomic."""
    path = Path(path)
    options = {"quality": 92} if path.suffix.lower() in {".jpg", ".jpeg"} else {}
    _save(Image.fromarray(np.ascontiguousarray(pixels)), path, **options)


def colorize(
    labels: NDArray[np.integer], palette: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """RGB picture of ids, shape ``(H, W)`` to ``(H, W, 3)``."""
    colours = voc_palette() if palette is None else np.asarray(palette, dtype=np.uint8)
    return np.asarray(colours[labels], dtype=np.uint8)


def overlay_labels(
    image: NDArray[np.uint8],
    labels: NDArray[np.integer],
    palette: NDArray[np.uint8] | None = None,
    *,
    alpha: float = 0.5,
    background: int | None = None,
    thicken: int = 0,
) -> NDArray[np.uint8]:
    """Blend label colours into an image; the ignore value and the background stay clear.

    Args:
        image: uint8, shape ``(H, W, 3)``; other channels are shown by
            :func:`~scribbleseg.functional.intensity.rgb_view`.
        labels: Ids, shape ``(H, W)``.
        palette: 256 colours.
        alpha: Opacity in [0, 1].
        background: Id that is not painted; ``None`` paints every class.
        thicken: Grow the labelled pixels by so many pixels, so that thin scribbles can be seen.
    """
    image, labels = rgb_view(image), np.asarray(labels, dtype=np.uint8)
    if thicken:
        # 255 - id turns "not drawn" into 0, which a dilation (maximum) overwrites by drawn ids
        kernel = np.ones((2 * thicken + 1, 2 * thicken + 1), np.uint8)
        labels = (255 - cv2.dilate(255 - labels, kernel)).astype(np.uint8)
    painted = labels != IGNORE_INDEX
    if background is not None:
        painted &= labels != background
    blended = (1 - alpha) * image.astype(np.float32) + alpha * colorize(labels, palette)
    return np.where(painted[..., None], np.round(blended), image).astype(np.uint8)


def compose_panel(
    tiles: Sequence[Sequence[NDArray[np.uint8]]],
    titles: Sequence[str],
    *,
    tile_height: int = 240,
    captions: Sequence[str] | None = None,
) -> NDArray[np.uint8]:
    """One picture from rows of RGB tiles, with a title above each column.

    Args:
        tiles: Rows of equally many images, uint8 of any channels; images of a row have one size.
        titles: Column titles.
        tile_height: Height in pixels to which every tile is scaled.
        captions: Text at the top left of each row, such as the image id.

    Returns:
        RGB picture, uint8.
    """
    gap, header, font = 4, 26, cv2.FONT_HERSHEY_SIMPLEX
    widths = [max(1, round(row[0].shape[1] * tile_height / row[0].shape[0])) for row in tiles]
    width = max(widths)
    canvas = np.full(
        (header + len(tiles) * (tile_height + gap), len(titles) * (width + gap), 3), 255, np.uint8
    )
    for column, title in enumerate(titles):
        place = (column * (width + gap) + 4, 18)
        cv2.putText(canvas, title, place, font, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    for number, (row, row_width) in enumerate(zip(tiles, widths, strict=True)):
        top = header + number * (tile_height + gap)
        for column, tile in enumerate(row):
            shrink = tile.shape[0] > tile_height
            scaled = cv2.resize(
                rgb_view(tile),
                (row_width, tile_height),
                interpolation=cv2.INTER_AREA if shrink else cv2.INTER_NEAREST,
            )
            left = column * (width + gap)
            canvas[top : top + tile_height, left : left + row_width] = scaled
        if captions is not None:
            text_width = cv2.getTextSize(captions[number], font, 0.4, 1)[0][0]
            scale = 0.4 * min(1.0, (row_width - 8) / max(text_width, 1))
            for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
                place = (4, top + 14)
                cv2.putText(
                    canvas, captions[number], place, font, scale, colour, thickness, cv2.LINE_AA
                )
    return canvas


def overlay_heat(
    image: NDArray[np.uint8], values: NDArray[np.floating[Any]], *, alpha: float = 0.6
) -> NDArray[np.uint8]:
    """Blend a map into an image: dark blue for 0, through green and yellow, to dark red for 1.

    Args:
        image: uint8, shape ``(H, W, K)``; only its brightness is shown.
        values: Clipped to [0, 1], float, shape ``(H, W)``.
        alpha: Opacity in [0, 1].

    Returns:
        RGB picture, uint8, shape ``(H, W, 3)``.

    Raises:
        ValueError: If the sizes differ.

    Example:
        >>> picture = overlay_heat(np.zeros((1, 2, 3), np.uint8), np.array([[0.0, 0.8]]), alpha=1)
        >>> [int(np.argmax(pixel)) for pixel in picture[0]]  # blue, red
        [2, 0]
    """
    if values.shape != image.shape[:2]:
        raise ValueError(
            f"image {image.shape} and values {values.shape} differ in size: resize the map first"
        )
    levels = np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_TURBO)[..., ::-1]
    grey = rgb_view(image).mean(axis=2, keepdims=True)
    return np.asarray(np.rint((1 - alpha) * grey + alpha * colours), dtype=np.uint8)
