"""Pictures of what prototypes say of an image."""

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

    from scribbleseg.methods.ptrecl.module import PtReClModule

__all__ = ["margin_panel"]


@torch.no_grad()
def margin_panel(
    module: PtReClModule,
    image: NDArray[np.uint8],
    classes: Sequence[int],
    *,
    tile_height: int = 200,
) -> NDArray[np.uint8]:
    """The reclassified map of each class that an image shows, one tile per class.

    Args:
        module: A module with prototypes.
        image: Pixels as the data set reads them, uint8, shape ``(H, W, K)``.
        classes: Ids of the classes that the image shows, such as those of its scribble.
        tile_height: Height of a tile in pixels.

    Returns:
        RGB picture, uint8: the image, then the positive margin of each class from 0 (blue) to its
        maximum (red), with the name of the class and that maximum.
    """
    info, size = module.data_info, (image.shape[0], image.shape[1])
    tags = torch.zeros(1, module.num_classes, device=module.device)
    tags[0, list(classes)] = 1
    with evaluation_mode(module):
        view = preprocess(image, info)[None].to(module.device)
        margin = module.reclassified_maps(view, tags).margin.relu()
    full = F.interpolate(margin, size, mode="bilinear", align_corners=False)[0]
    top = full.amax(dim=(1, 2))
    maps = (full / top.clamp_min(1e-12)[:, None, None]).cpu().numpy()
    rgb = rgb_view(image, info.rgb_channels)
    shown = [c for c in classes if c != info.background or module.hparams["model_background"]]
    tiles = [rgb, *(overlay_heat(rgb, maps[c]) for c in shown)]
    titles = ["image", *(f"{info.class_names[c]} {float(top[c]):.2f}" for c in shown)]
    return compose_panel([tiles], titles, tile_height=tile_height)
