"""Pictures of what PFA holds on to: the bank on a map, and the pixels a prototype is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from scribbleseg.functional.images import compose_panel
from scribbleseg.functional.intensity import rgb_view
from scribbleseg.functional.preprocess import preprocess, resized_shape
from scribbleseg.methods.pfa.prototypes import confidence_weights
from scribbleseg.nn.modes import evaluation_mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scribbleseg.methods.pfa.heads import AugmentedModule

__all__ = ["confident_pixels", "prototype_map"]

_MARGIN, _LEGEND = 24, 150
_SCALE = 2  # drawn large and shrunk: Pillow does not smooth edges


@torch.no_grad()
def prototype_map(module: AugmentedModule, *, size: int = 480) -> NDArray[np.uint8]:
    """The prototypes of the bank on their first two principal axes, in the colours of the classes.

    Prototypes of one class should lie together, and apart from those of the others.

    Args:
        module: A trained module.
        size: Side of the map in pixels; a legend is added at the right.

    Returns:
        RGB picture, uint8, ``size + 150`` wide and at least ``size`` high, as the legend needs; an
        empty map for an empty bank.
    """
    filled = module.bank.filled.cpu()
    vectors = module.bank.prototypes.cpu()[filled].float()
    owner = filled.nonzero()[:, 0].tolist()
    rows = max(size, 16 * module.num_classes + 16)
    picture = Image.new("RGB", (_SCALE * (size + _LEGEND), _SCALE * rows), "white")
    draw = ImageDraw.Draw(picture)
    info = module.data_info
    for (x, y), label in zip(_on_axes(vectors, size), owner, strict=True):
        box = [_SCALE * (value + step) for step in (-6, 6) for value in (x, y)]
        draw.ellipse(box, fill=info.palette[label], outline="black", width=_SCALE)
    counts = module.bank.count.tolist()
    for row, (name, count) in enumerate(zip(info.class_names, counts, strict=True)):
        top = _SCALE * (8 + 16 * row)
        draw.rectangle(
            [_SCALE * (size + 4), top, _SCALE * (size + 16), top + _SCALE * 12],
            fill=info.palette[row],
            outline="black",
        )
        draw.text((_SCALE * (size + 22), top), f"{name[:16]} ({count})", fill="black", font_size=24)
    shrunk = picture.resize((size + _LEGEND, rows), Image.Resampling.LANCZOS)
    return np.asarray(shrunk, dtype=np.uint8)


def _on_axes(vectors: torch.Tensor, size: int) -> list[tuple[float, float]]:
    """Principal coordinates, fitted into the map with one scale for both axes."""
    if not len(vectors):
        return []
    centred = vectors - vectors.mean(dim=0)
    axes = torch.linalg.svd(centred, full_matrices=False).Vh[:2]
    places = torch.zeros(len(vectors), 2)
    places[:, : len(axes)] = centred @ axes.T
    reach = places.abs().max().clamp_min(1e-6)
    scaled = size / 2 + places / reach * (size / 2 - _MARGIN)
    return [(float(x), float(y)) for x, y in scaled]


@torch.no_grad()
def confident_pixels(
    module: AugmentedModule,
    image: NDArray[np.uint8],
    *,
    classes: Sequence[int] | None = None,
    tile_height: int = 200,
) -> NDArray[np.uint8]:
    """Where the local prototype of each class comes from, one tile per class.

    Args:
        module: A trained module.
        image: Pixels as the data set reads them, uint8, shape ``(H, W, K)``.
        classes: Classes to show; all by default.
        tile_height: Height of a tile in pixels.

    Returns:
        RGB picture, uint8: the image, then every class with its pixels painted, the more confident
        the stronger. A class without a positive logit has none.
    """
    info = module.data_info
    with evaluation_mode(module):
        output = module.forward_features(preprocess(image, info)[None].to(module.device))
    scores = module.confidence(output.logits)
    found = confidence_weights(scores, ratio=module.hparams["topk_ratio"])
    seen = resized_shape(image.shape[0], image.shape[1], info.resize)
    shares = module.upsample_logits(found.weights * found.alive[..., None, None], seen)
    size = (image.shape[0], image.shape[1])
    shares = F.interpolate(shares, size, mode="bilinear", align_corners=False)[0]
    rgb = rgb_view(image, info.rgb_channels)
    shown = range(module.num_classes) if classes is None else classes
    tiles, titles = [rgb], ["image"]
    for label in shown:
        share = shares[label].clamp(0, 1).cpu().numpy()[..., None]
        colour = np.array(info.palette[label], dtype=np.float32)
        tiles.append((0.4 * rgb * (1 - share) + colour * share).round().astype(np.uint8))
        titles.append(info.class_names[label])
    return compose_panel([tiles], titles, tile_height=tile_height)
