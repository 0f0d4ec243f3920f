"""A picture of training samples as the network gets them, with every map that they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from scribbleseg.functional.images import compose_panel, overlay_labels
from scribbleseg.functional.superpixels import region_boundaries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["draw_samples"]

_LINE = (255, 221, 0)
_TITLES = {
    "superpixel": "superpixels",
    "pseudo_label": "pseudo-label",
    "scribble_distance": "near scribble",
    "pseudo_distance": "off boundary",
}


def draw_samples(
    items: Sequence[Mapping[str, Any]], palette: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """One row per sample: image, scribble, and superpixels, pseudo-label, distance maps if there.

    Distance maps are dark at 0 and bright at 255.

    Args:
        items: Samples of a training data set, with ``image_raw``.
        palette: 256 colours of the classes.

    Returns:
        RGB picture, uint8.
    """
    shown = [key for key in _TITLES if key in items[0]]
    rows: list[list[NDArray[np.uint8]]] = []
    for item in items:
        raw = item["image_raw"].permute(1, 2, 0).numpy()
        scribble = overlay_labels(raw, item["scribble"].numpy(), palette, alpha=1.0)
        rows.append(
            [raw, scribble, *(_draw(key, item[key].numpy(), raw, palette) for key in shown)]
        )
    titles = ["image", "scribble", *(_TITLES[key] for key in shown)]
    return compose_panel(rows, titles, captions=[item["image_id"] for item in items])


def _draw(
    key: str, values: NDArray[Any], raw: NDArray[np.uint8], palette: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    if key == "superpixel":
        lined = raw.copy()
        lined[region_boundaries(values)] = _LINE
        return lined
    if key == "pseudo_label":
        return overlay_labels(raw, values, palette)
    heat = cv2.applyColorMap(values, cv2.COLORMAP_VIRIDIS)
    return np.ascontiguousarray(heat[..., ::-1], dtype=np.uint8)
