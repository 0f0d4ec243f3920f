"""Pictures of the random walk of CC4S: where it goes, its eigenvalues, where it is certain."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from scribbleseg.errors import ConfigError
from scribbleseg.functional.images import compose_panel, overlay_labels
from scribbleseg.functional.intensity import rgb_view
from scribbleseg.functional.preprocess import preprocess
from scribbleseg.functional.superpixels import region_boundaries
from scribbleseg.methods.cc4s.similarity import transition_logits
from scribbleseg.methods.cc4s.views import Lattice
from scribbleseg.nn.modes import evaluation_mode

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from scribbleseg.methods.cc4s.walk import WalkingModule

__all__ = ["certainty_map", "eigenvalue_trace", "transition_eigenvalues", "walk_column"]

_MOST_CELLS = 1000  # of a matrix whose eigenvalues are wanted: a second on one core
_COLOURS = ((31, 119, 180), (214, 39, 40))
_MARGIN = 40
_PALE = 5  # times the share of a uniform walk that is still drawn as strong


@torch.no_grad()
def walk_column(
    module: WalkingModule,
    image: NDArray[np.uint8],
    pixel: tuple[int, int],
    *,
    tile_height: int = 240,
) -> NDArray[np.uint8]:
    """Where the random walk of one pixel comes from and goes to.

    Args:
        module: A trained module with a walk.
        image: Pixels as the data set reads them, uint8, shape ``(H, W, K)``.
        pixel: Row and column in the image.
        tile_height: Height of a tile in pixels.

    Returns:
        RGB picture, uint8, of three tiles: the image with the pixel circled; its row of the
        transition matrix, from where it takes features; its column, to where it gives them. Red is
        relative to the largest entry, or to five times that of a uniform walk if that is more.

    Raises:
        ConfigError: If the module has no walk.
        ValueError: If the pixel is outside the image.
    """
    height, width = image.shape[:2]
    if not (0 <= pixel[0] < height and 0 <= pixel[1] < width):
        raise ValueError(f"pixel {pixel} is outside the image of {height} rows, {width} columns")
    network_input = preprocess(image, module.data_info)[None]
    (query, key), lattice = _factors(module, network_input)
    matrix = transition_logits(query, key)[0].softmax(dim=1)
    grid, seen = (query.shape[2], query.shape[3]), (network_input.shape[2], network_input.shape[3])
    row, column = (
        lattice.cell(place * there / side)
        for place, side, there in zip(pixel, (height, width), seen, strict=True)
    )
    cell = row * grid[1] + column
    rgb = rgb_view(image, module.data_info.rgb_channels)
    tiles = [_circled(rgb, pixel)]
    for shares in (matrix[cell], matrix[:, cell]):
        # a walk that goes everywhere alike is pale, not as red as one that goes to one place
        scale = shares.max().clamp_min(_PALE / len(shares))
        map_ = _on_image((shares / scale).view(1, 1, *grid), lattice, seen, (height, width))
        tiles.append(_heat(rgb, map_))
    titles = ["pixel", "takes from (row)", "gives to (column)"]
    return compose_panel([tiles], titles, tile_height=tile_height)


@torch.no_grad()
def transition_eigenvalues(module: WalkingModule, image: Tensor) -> Tensor:
    """Eigenvalues of the transition matrix of an image, by falling magnitude.

    The grid is made smaller until it has at most 1000 cells: O(N³).

    Args:
        module: A module with a walk, in evaluation mode.
        image: Normalised, float, shape ``(1, K, H, W)``.

    Returns:
        Complex, shape ``(N,)``; the first is 1, their sum is the trace of the matrix.

    Raises:
        ConfigError: If the module has no walk.
    """
    (query, key), _ = _factors(module, image, most=_MOST_CELLS)
    matrix = transition_logits(query, key)[0].softmax(dim=1)
    values: Tensor = torch.linalg.eigvals(matrix.cpu().double())
    return values[values.abs().argsort(descending=True)]


@torch.no_grad()
def eigenvalue_trace(
    module: WalkingModule,
    image: NDArray[np.uint8],
    *,
    count: int = 30,
    size: tuple[int, int] = (300, 420),
) -> NDArray[np.uint8]:
    """Largest eigenvalues of the walks of an image and of its mirror image, and their sums.

    After the consistency stage both curves, and both traces, should be alike.

    Args:
        module: A trained module with a walk.
        image: Pixels as the data set reads them, uint8, shape ``(H, W, K)``.
        count: Eigenvalues to draw.
        size: Height and width of the picture in pixels.

    Returns:
        RGB picture, uint8: magnitude over rank; the image blue, its mirror image red.

    Raises:
        ConfigError: If the module has no walk.
    """
    pixels = preprocess(image, module.data_info)[None]
    spectra = [transition_eigenvalues(module, view) for view in (pixels, pixels.flip(-1))]
    picture = Image.new("RGB", (size[1], size[0]), "white")
    draw = ImageDraw.Draw(picture)
    right, bottom = size[1] - 10, size[0] - _MARGIN
    draw.line([(_MARGIN, 10), (_MARGIN, bottom), (right, bottom)], fill="black")
    for value in (0.0, 0.5, 1.0):
        draw.text((8, bottom - value * (bottom - 10) - 5), f"{value:.1f}", fill="black")
    draw.text((_MARGIN, bottom + 6), f"largest {count} eigenvalues", fill="black")
    for number, (name, values, colour) in enumerate(
        zip(("image", "mirror image"), spectra, _COLOURS, strict=True)
    ):
        shown = values.abs()[:count].clamp(max=1).tolist()
        step = (right - _MARGIN) / max(len(shown) - 1, 1)
        points = [
            (_MARGIN + step * rank, bottom - value * (bottom - 10))
            for rank, value in enumerate(shown)
        ]
        draw.line(points, fill=colour, width=2)
        text = f"{name}: trace {values.sum().real.item():.2f} of {len(values)} cells"
        draw.text((size[1] // 2 - 20, 14 + 14 * number), text, fill=colour)
    return np.asarray(picture, dtype=np.uint8)


@torch.no_grad()
def certainty_map(
    module: WalkingModule,
    image: NDArray[np.uint8],
    *,
    regions: NDArray[np.int32] | None = None,
    tile_height: int = 240,
) -> NDArray[np.uint8]:
    """Where predictions are certain: 1 less the entropy as share of its maximum.

    Args:
        module: A trained module.
        image: Pixels as the data set reads them, uint8, shape ``(H, W, K)``.
        regions: Superpixels, whose boundaries are drawn black: there certainty is not asked for;
            integer, shape ``(H, W)``.
        tile_height: Height of a tile in pixels.

    Returns:
        RGB picture, uint8: the image, its prediction, its certainty from dark to bright.
    """
    info, size = module.data_info, (image.shape[0], image.shape[1])
    with evaluation_mode(module):
        logits = module(preprocess(image, info)[None].to(module.device)).float()
    logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)[0]
    log_probs = logits.log_softmax(dim=0)
    entropy = -(log_probs.exp() * log_probs).sum(dim=0) / math.log(len(logits))
    levels = (255 * (1 - entropy)).clamp(0, 255).round().byte().cpu().numpy()
    coloured = cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS)
    certainty = np.asarray(coloured[..., ::-1], dtype=np.uint8)
    if regions is not None:
        certainty = np.where(region_boundaries(regions)[..., None], 0, certainty).astype(np.uint8)
    rgb = rgb_view(image, info.rgb_channels)
    labels = logits.argmax(dim=0).byte().cpu().numpy()
    palette = np.asarray(info.palette, dtype=np.uint8)
    tiles = [rgb, overlay_labels(rgb, labels, palette), certainty]
    return compose_panel([tiles], ["image", "prediction", "certainty"], tile_height=tile_height)


def _factors(
    module: WalkingModule, image: Tensor, *, most: int | None = None
) -> tuple[tuple[Tensor, Tensor], Lattice]:
    """Query and key of an image ``(1, K, H, W)`` on at most so many cells, and where these lie."""
    measurement = module.measurement
    if measurement is None:
        raise ConfigError("this module was built with walk=False: there is nothing to show")
    with evaluation_mode(module):
        plain = module.network.decoder(module.network.encode(image.to(module.device)))
    shrink = measurement.shrink_for(plain.shape[2], plain.shape[3])
    while most is not None and math.prod(-(-n // shrink) for n in plain.shape[2:]) > most:
        shrink += 1
    fine = module.lattice(plain, (image.shape[2], image.shape[3]))
    return measurement.factors(plain, shrink), Lattice(fine.stride * shrink, fine.overlap)


def _on_image(
    map_: Tensor, lattice: Lattice, seen: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.float32]:
    """A map of cells, shape ``(1, 1, h, w)``, at the size of the image."""
    corners = lattice.overlap == 1
    full = [lattice.pixels(n) for n in map_.shape[2:]]
    map_ = F.interpolate(map_, full, mode="bilinear", align_corners=corners)
    rest = [max(n - m, 0) for n, m in zip(seen, full, strict=True)]
    map_ = F.pad(map_, (0, rest[1], 0, rest[0]), mode="replicate")[..., : seen[0], : seen[1]]
    map_ = F.interpolate(map_, size, mode="bilinear", align_corners=False)
    return np.asarray(map_[0, 0].cpu().numpy(), dtype=np.float32)


def _heat(rgb: NDArray[np.uint8], share: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Red where a share in [0, 1] is large, over a pale image."""
    mixed = 0.5 * rgb * (1 - share[..., None])
    mixed[..., 0] += 255 * share
    return np.asarray(np.clip(mixed, 0, 255).round(), dtype=np.uint8)


def _circled(rgb: NDArray[np.uint8], pixel: tuple[int, int]) -> NDArray[np.uint8]:
    radius = max(min(rgb.shape[:2]) // 25, 2)
    marked = rgb.copy()
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 0), 1)):
        cv2.circle(marked, (pixel[1], pixel[0]), radius, colour, thickness, cv2.LINE_AA)
    return np.asarray(marked, dtype=np.uint8)
