from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers.contract import TINY_ENCODER

from scribbleseg import ConfigError
from scribbleseg.functional import overlay_heat
from scribbleseg.methods import CDSPModule, attention_map, distance_maps


def build(arch: str = "unet", **options) -> CDSPModule:
    torch.manual_seed(0)
    return CDSPModule(3, arch=arch, encoder=TINY_ENCODER, encoder_weights=None, **options)


def is_warm(picture: np.ndarray) -> np.ndarray:
    """Where the colours are on the side of 1: more red than blue."""
    return picture[..., 0].astype(int) > picture[..., 2]


def test_both_maps_are_drawn_beside_their_labels() -> None:
    image = np.full((40, 60, 3), 128, np.uint8)
    scribble, pseudo = np.full((40, 60), 255, np.uint8), np.zeros((40, 60), np.uint8)
    scribble[20, 30], scribble[2, 2:9] = 1, 0
    pseudo[10:30, 20:40] = 1
    picture = distance_maps(image, scribble, pseudo, lambdas=(20.0**2, 40.0**2), tile_height=40)
    assert picture.shape == (26 + 44, 4 * 64, 3)
    near, far = picture[26:66, 64:124], picture[26:66, 192:252]
    y, x = np.indices((40, 60))
    distance = np.hypot(y - 20, x - 30)
    assert is_warm(near)[distance < 4].all(), "background strokes are no sources"
    assert not is_warm(near)[distance > 12].any()
    assert not is_warm(far)[10, 20:40].any()
    assert is_warm(far)[15:25, 26:34].all()
    assert is_warm(far)[:3].all()
    deep = np.zeros((40, 60, 5), np.uint8)
    deep[..., 4] = 200
    shown = distance_maps(deep, scribble, pseudo, rgb_channels=(4, 3, 2), tile_height=40)
    assert (shown[26, 59] == (200, 0, 0)).all()


@pytest.mark.parametrize(
    ("arch", "size", "pixel"),
    [
        ("unet", (64, 96), (50, 90)),
        ("aspp_v3plus", (65, 81), (3, 70)),
        ("unet", (50, 70), (40, 60)),
    ],
)
def test_attention_of_a_pixel_is_that_of_its_cell(arch, size, pixel) -> None:
    module = build(arch)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    asked = {}

    def attention(features, cell, *, valid):
        asked.update(cell=cell, valid=valid, grid=tuple(features.shape[2:]))
        shares = torch.zeros(features.shape[2:])
        shares[cell] = 1.0
        return shares

    module.lorm.attention = attention
    picture = attention_map(module, image, pixel, tile_height=size[0])
    seen = picture[26 : 26 + size[0], size[1] + 4 : 2 * size[1] + 4]
    y, x = np.nonzero(is_warm(seen))
    stride = module.network.divisor
    assert math.hypot(y.mean() - pixel[0], x.mean() - pixel[1]) < stride, "the cell of the pixel"
    centre = 0 if arch == "aspp_v3plus" else stride // 2
    rows, columns = (
        torch.arange(count) * stride + centre < side
        for side, count in zip(size, asked["grid"], strict=True)
    )
    assert torch.equal(asked["valid"][0], rows[:, None] & columns)
    marked = picture[26 : 26 + size[0], : size[1]]
    assert (marked[pixel] == 255).all()
    assert module.training


def test_attention_is_that_of_the_loss() -> None:
    module = build()
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = attention_map(module, image, (10, 10), tile_height=64)
    heat = picture[26:90, 68:132]
    assert is_warm(heat).any()
    assert (~is_warm(heat)).any()


def test_what_cannot_be_shown_is_refused() -> None:
    image = np.zeros((8, 9, 3), np.uint8)
    with pytest.raises(ConfigError, match="lorm_weight=0"):
        attention_map(build(lorm_weight=0.0), image, (0, 0))
    with pytest.raises(ValueError, match="8 rows"):
        attention_map(build(), image, (8, 0))
    with pytest.raises(ValueError, match="differ in size"):
        overlay_heat(image, np.zeros((9, 8)))


def test_heat_is_clipped_and_shows_the_brightness() -> None:
    image = np.zeros((1, 3, 3), np.uint8)
    image[0, 1] = 255
    same = overlay_heat(image, np.array([[-1.0, 0.0, 2.0]]))
    assert np.array_equal(same, overlay_heat(image, np.array([[0.0, 0.0, 1.0]])))
    assert (same[0, 1] > same[0, 0]).all()
    assert is_warm(same)[0].tolist() == [False, False, True]
