"""Pictures of SPML's segments: coloured by class, and which training segments a segment recalls."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.errors import ConfigError
from scribbleseg.functional.images import compose_panel, overlay_labels
from scribbleseg.functional.intensity import rgb_view
from scribbleseg.functional.preprocess import preprocess
from scribbleseg.functional.superpixels import region_boundaries
from scribbleseg.methods.spml.retrieval import nearest_segments
from scribbleseg.nn.modes import evaluation_mode

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from scribbleseg.methods.spml.module import SPMLModule

__all__ = ["retrieved_segments", "segments_by_class"]

_WHITE = (255, 255, 255)
_DARK = 64  # value below which a colour cannot be told from a darkened image


@torch.no_grad()
def segments_by_class(
    module: SPMLModule, image: NDArray[np.uint8], *, tile_height: int = 240
) -> NDArray[np.uint8]:
    """The segments of an image, each in the colour of its class.

    The class is that of the nearest segments where the module has a prototype file, else the one
    that the classifier gives most of the segment's pixels.

    Args:
        module: A module of either stage.
        image: Pixels as the data set reads them, uint8, shape ``(H, W, K)``.
        tile_height: Height of a tile in pixels.

    Returns:
        RGB picture, uint8: image, borders of the segments, segments by class, prediction.
    """
    rgb = rgb_view(image, module.data_info.rgb_channels)
    ids, _ = _segments(module, image)
    with evaluation_mode(module):
        logits = module(preprocess(image, module.data_info)[None].to(module.device))
    size = (rgb.shape[0], rgb.shape[1])
    full = F.interpolate(logits.float(), size, mode="bilinear", align_corners=False)
    labels = full.argmax(1)[0].cpu().numpy()
    votes = np.zeros((int(ids.max()) + 1, module.num_classes), np.int64)
    np.add.at(votes, (ids, labels), 1)
    palette = np.asarray(module.data_info.palette, np.uint8)
    tiles = [
        rgb,
        _with_borders(rgb, ids),
        _with_borders(overlay_labels(rgb, votes.argmax(1)[ids], palette), ids),
        overlay_labels(rgb, labels, palette),
    ]
    titles = ["image", f"{len(np.unique(ids))} segments", "by class", "prediction"]
    return compose_panel([tiles], titles, tile_height=tile_height)


@torch.no_grad()
def retrieved_segments(
    module: SPMLModule,
    image: NDArray[np.uint8],
    pixel: tuple[int, int],
    read_image: Callable[[str], NDArray[np.uint8]],
    *,
    count: int = 5,
    tile_height: int = 200,
) -> NDArray[np.uint8]:
    """The training segments that are nearest to the segment of one pixel, in their images.

    Args:
        module: A module with a prototype file (``retrieval``) of one scale.
        image: Pixels as the data set reads them, uint8, shape ``(H, W, K)``.
        pixel: Row and column in the image.
        read_image: Pixels of a training image by its id, as ``read_image`` of a source
            does for its record.
        count: Nearest segments, each in a picture of its own.
        tile_height: Height of a tile in pixels.

    Returns:
        RGB picture, uint8: the image with its segment, then the training images with theirs, the
        nearest first, in the colour of its class (white for dark ones), with class name and
        cosine in the title.

    Raises:
        ConfigError: If the module has no prototype file.
        ValueError: If the pixel is outside of the image, or ``count`` below 1.
    """
    memory, info = module.retriever, module.data_info
    if memory is None:
        raise ConfigError(
            "the module has no prototype file: set `retrieval`, or call use_retrieval(FILE)"
        )
    row, column = pixel
    if not (0 <= row < image.shape[0] and 0 <= column < image.shape[1]) or count < 1:
        raise ValueError(
            f"pixel={pixel}, count={count}: expected a pixel of {image.shape[0]} rows × "
            f"{image.shape[1]}, and at least 1"
        )
    ids, prototypes = _segments(module, image)
    chosen = int(ids[row, column])
    found = nearest_segments(prototypes[chosen][None], memory.prototypes, top_k=count)
    similarity, index = found.similarity[0].tolist(), found.row[0].tolist()
    palette = np.asarray(info.palette, np.uint8)
    tiles = [_highlighted(rgb_view(image, info.rgb_channels), ids == chosen, _WHITE)]
    titles = ["segment"]
    for cosine, place in zip(similarity, index, strict=True):
        name = memory.image_ids[int(memory.image[place])]
        pixels = read_image(name)
        theirs, _ = _segments(module, pixels)
        label = int(memory.labels[place])
        inside = theirs == int(memory.segment[place])
        colour = tuple(int(part) for part in palette[label])
        if max(colour) < _DARK:  # a black background would have no border to be seen
            colour = _WHITE
        tiles.append(_highlighted(rgb_view(pixels, info.rgb_channels), inside, colour))
        titles.append(f"{info.class_names[label]} {cosine:.2f}")
    width = max(tile.shape[1] / tile.shape[0] for tile in tiles)
    boxed = [_boxed(tile, tile_height, round(width * tile_height)) for tile in tiles]
    return compose_panel([boxed], titles, tile_height=tile_height)


def _segments(
    module: SPMLModule, image: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], torch.Tensor]:
    """Segment of every pixel at image size, and their prototypes."""
    pixels = preprocess(image, module.data_info)[None].to(module.device)
    with evaluation_mode(module):
        found = module.segments_of(pixels)
    numbers = torch.arange(len(found.prototypes), device=pixels.device)[:, None] + 1.0
    seen = (int(pixels.shape[2]), int(pixels.shape[3]))
    ids = module.segment_map(found.ids, numbers, seen)
    ids = F.interpolate(ids, (image.shape[0], image.shape[1]), mode="nearest")[0, 0]
    return ids.long().sub(1).cpu().numpy(), found.prototypes


def _with_borders(rgb: NDArray[np.uint8], ids: NDArray[np.int64]) -> NDArray[np.uint8]:
    drawn = rgb.copy()
    drawn[region_boundaries(ids)] = 255
    return drawn


def _highlighted(
    rgb: NDArray[np.uint8], inside: NDArray[np.bool_], colour: tuple[int, ...]
) -> NDArray[np.uint8]:
    """The image, darker outside of a segment, with a border in a colour."""
    shown = np.where(inside[..., None], rgb, rgb // 3).astype(np.uint8)
    labels = np.where(inside, 1, IGNORE_INDEX).astype(np.uint8)
    outline = cv2.morphologyEx(labels % 255, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    shown[outline] = colour
    return shown


def _boxed(tile: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A tile in a white box of a size, without distortion."""
    scale = min(height / tile.shape[0], width / tile.shape[1])
    size = (max(round(tile.shape[1] * scale), 1), max(round(tile.shape[0] * scale), 1))
    box = np.full((height, width, 3), 255, np.uint8)
    box[: size[1], : size[0]] = cv2.resize(tile, size, interpolation=cv2.INTER_NEAREST)
    return box
