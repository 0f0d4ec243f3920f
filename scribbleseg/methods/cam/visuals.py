"""Pictures of activation maps, class by class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from scribbleseg.functional.images import compose_panel, overlay_heat
from scribbleseg.functional.intensity import rgb_view
from scribbleseg.functional.preprocess import preprocess
from scribbleseg.nn.modes import evaluation_mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.methods.cam.module import CAMModule

__all__ = ["class_map_panel"]


@torch.no_grad()
def class_map_panel(
    module: CAMModule,
    image: NDArray[np.uint8],
    *,
    classes: Sequence[int] | None = None,
    tile_height: int = 200,
) -> NDArray[np.uint8]:
    """The activation map of each class that an image shows, one tile per class.

    Args:
        module: A trained module.
        image: Pixels as the data set reads them, uint8, shape ``(H, W, K)``.
        classes: Ids of the classes to show, such as those of its scribble; by default those that
            the classifier finds.
        tile_height: Height of a tile in pixels.

    Returns:
        RGB picture, uint8: the image, then each map from 0 (blue) to 1 (red) with the name of the
        class and the probability that the image shows it.
    """
    info = module.data_info
    with evaluation_mode(module):
        found = module.class_maps(preprocess(image, info)[None].to(module.device))
    probabilities = found.scores[0].sigmoid().tolist()
    if classes is None:
        least = float(module.hparams["tag_threshold"])
        classes = [c for c in module.tag_classes if probabilities[c] > least]
    size = (image.shape[0], image.shape[1])
    maps = F.interpolate(found.maps, size, mode="bilinear", align_corners=False)[0].cpu().numpy()
    rgb = rgb_view(image, info.rgb_channels)
    tiles = [rgb, *(overlay_heat(rgb, maps[c]) for c in classes)]
    titles = ["image", *(f"{info.class_names[c]} {probabilities[c]:.2f}" for c in classes)]
    return compose_panel([tiles], titles, tile_height=tile_height)
