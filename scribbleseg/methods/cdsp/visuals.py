"""Pictures of what CDSP trusts: its distance maps, and where a cell's features are rebuilt from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.errors import ConfigError
from scribbleseg.functional.distance import boundary_distance_map, scribble_distance_map
from scribbleseg.functional.images import compose_panel, overlay_heat, overlay_labels
from scribbleseg.functional.intensity import rgb_view
from scribbleseg.functional.preprocess import preprocess
from scribbleseg.methods.cdsp.lorm import touched_cells
from scribbleseg.nn.modes import evaluation_mode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.methods.cdsp.module import CDSPModule

__all__ = ["attention_map", "distance_maps"]


def distance_maps(
    image: NDArray[np.uint8],
    scribble: NDArray[Any],
    pseudo_label: NDArray[Any],
    *,
    lambdas: tuple[float, float] = (math.e, math.e**6),
    background: int | None = 0,
    ignore_index: int = IGNORE_INDEX,
    rgb_channels: tuple[int, int, int] | None = None,
    tile_height: int = 200,
) -> NDArray[np.uint8]:
    """Both distance maps of an image beside the labels that they are made from.

    Args:
        image: Pixels, uint8, shape ``(H, W, K)``.
        scribble: Ids, ``ignore_index`` = not drawn, shape ``(H, W)``.
        pseudo_label: Ids, ``ignore_index`` = undecided, shape ``(H, W)``.
        lambdas: Sharpness of the maps, as ``distance_lambdas`` of the data module.
        background: Class that is no object, or ``None``.
        ignore_index: Value that is no class.
        rgb_channels: Channels of the image to show; see
            :func:`~scribbleseg.functional.intensity.rgb_view`.
        tile_height: Height of a tile in pixels.

    Returns:
        RGB picture, uint8: scribble, weight near it, pseudo-label, weight away from its boundaries;
        weights from 0 (blue) to 1 (red).
    """
    rgb = rgb_view(image, rgb_channels)
    near = scribble_distance_map(
        scribble, sharpness=lambdas[0], background=background, ignore_index=ignore_index
    )
    far = boundary_distance_map(
        pseudo_label, sharpness=lambdas[1], background=background, ignore_index=ignore_index
    )
    tiles = [
        overlay_labels(rgb, scribble, alpha=1.0, thicken=1),
        overlay_heat(rgb, near),
        overlay_labels(rgb, pseudo_label),
        overlay_heat(rgb, far),
    ]
    titles = ["scribble", "near it", "pseudo-label", "off boundaries"]
    return compose_panel([tiles], titles, tile_height=tile_height)


@torch.no_grad()
def attention_map(
    module: CDSPModule,
    image: NDArray[np.uint8],
    pixel: tuple[int, int],
    *,
    tile_height: int = 240,
) -> NDArray[np.uint8]:
    """From where in the image LoRM would rebuild the features of one pixel's cell.

    Args:
        module: A module with LoRM (``lorm_weight`` above 0).
        image: Pixels as the data set reads them, uint8, shape ``(H, W, K)``.
        pixel: Row and column in the image.
        tile_height: Height of a tile in pixels.

    Returns:
        RGB picture, uint8: the image with a cross on the pixel, then the attention. Attention is
        nearly alike everywhere at temperature 1, so it is stretched from its smallest value (blue)
        to its largest (red), both in the title as multiples of 1 / cells.

    Raises:
        ConfigError: If the module has no LoRM.
        ValueError: If the pixel is outside the image.
    """
    if module.lorm is None:
        raise ConfigError("lorm_weight=0: without LoRM there is no attention to show")
    size = (image.shape[0], image.shape[1])
    row, column = pixel
    if not (0 <= row < size[0] and 0 <= column < size[1]):
        raise ValueError(f"pixel={pixel} is outside of the image, {size[0]} rows × {size[1]}")
    network = module.network
    pixels = preprocess(image, module.data_info)[None].to(module.device)
    with evaluation_mode(module):
        deepest = network.encode(pixels)[-1]
    seen = (int(pixels.shape[2]), int(pixels.shape[3]))
    cells = (int(deepest.shape[2]), int(deepest.shape[3]))
    canvas, corners = network.padded_size(*seen), network.remainder == 1
    here = torch.ones(1, *seen, dtype=torch.bool, device=pixels.device)
    valid = touched_cells(network.on_canvas(here, fill=0), cells, align_corners=corners)[0]
    place = [
        _cell((at + 0.5) * shown / whole - 0.5, extent, count, corners)
        for at, whole, shown, extent, count in zip(pixel, size, seen, canvas, cells, strict=True)
    ]
    shares = module.lorm.attention(deepest, (place[0], place[1]), valid=valid[None])
    inside = shares[valid] * int(valid.sum())
    low, high = float(inside.min()), float(inside.max())
    relative = (shares * int(valid.sum()) - low) / max(high - low, 1e-12)
    # cells of padding must not darken the last ones of the image when enlarged
    relative = torch.where(valid, relative, relative[valid].mean())
    full = F.interpolate(relative[None, None], canvas, mode="bilinear", align_corners=corners)
    full = full[..., : seen[0], : seen[1]]
    heat = F.interpolate(full, size, mode="bilinear", align_corners=False)[0, 0].cpu().numpy()
    rgb = rgb_view(image, module.data_info.rgb_channels)
    tiles = [_with_cross(rgb, pixel), overlay_heat(rgb, heat)]
    titles = ["image", f"{low:.2f} to {high:.2f}"]
    return compose_panel([tiles], titles, tile_height=tile_height)


def _cell(at: float, extent: int, count: int, corners: bool) -> int:
    """Nearest of ``count`` cells on a canvas to a position in pixels."""
    scale = (count - 1) / max(extent - 1, 1) if corners else count / extent
    place = at * scale if corners else (at + 0.5) * scale - 0.5
    return min(max(round(place), 0), count - 1)


def _with_cross(rgb: NDArray[np.uint8], pixel: tuple[int, int]) -> NDArray[np.uint8]:
    """A white cross with a black rim, so that it shows on any image."""
    marked, (row, column) = rgb.copy(), pixel
    arm = max(3, max(rgb.shape[:2]) // 40)
    for colour, rim in ((0, 1), (255, 0)):
        length = arm + rim
        for up, across in ((rim, length), (length, rim)):
            rows = slice(max(row - up, 0), row + up + 1)
            marked[rows, max(column - across, 0) : column + across + 1] = colour
    return marked
