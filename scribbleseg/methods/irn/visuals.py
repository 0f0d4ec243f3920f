"""Pictures of learned boundaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from scribbleseg.functional.images import compose_panel, overlay_heat
from scribbleseg.functional.intensity import rgb_view
from scribbleseg.functional.preprocess import preprocess
from scribbleseg.nn.modes import evaluation_mode

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.methods.irn.module import IRNModule

__all__ = ["boundary_panel"]


@torch.no_grad()
def boundary_panel(
    module: IRNModule, image: NDArray[np.uint8], *, tile_height: int = 200
) -> NDArray[np.uint8]:
    """An image, and where the module sees boundaries between classes.

    Args:
        module: A trained module.
        image: Pixels as the data set reads them, uint8, shape ``(H, W, K)``.
        tile_height: Height of a tile in pixels.

    Returns:
        RGB picture, uint8: the image, then the probability of a boundary from 0 (blue) to 1 (red),
        and the length of the displacement as a share of the largest one, if there are any.
    """
    size = (image.shape[0], image.shape[1])
    rgb = rgb_view(image, module.data_info.rgb_channels)
    tiles, titles = [rgb], ["image"]
    with evaluation_mode(module):
        view = preprocess(image, module.data_info)[None].to(module.device)
        maps = [("boundary", module.boundaries(view)[:, None])]
        if module.displacement is not None:
            length = module.displacements(view).norm(dim=1, keepdim=True)
            maps.append(("displacement", length / length.amax().clamp_min(1e-6)))
    for title, found in maps:
        full = F.interpolate(found, size, mode="bilinear", align_corners=False)[0, 0]
        tiles.append(overlay_heat(rgb, full.cpu().numpy()))
        titles.append(title)
    return compose_panel([tiles], titles, tile_height=tile_height)
