from __future__ import annotations

import pytest
import torch
from helpers.internals import internal

from scribbleseg.functional import exact_gaussian_filter, pixel_features, window_gaussian_filter


def _image(batch: int = 2, height: int = 6, width: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 60 * torch.rand(batch, 3, height, width, generator=generator, dtype=torch.float64)


def _values(batch: int = 2, pixels: int = 42, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, pixels, channels, generator=generator, dtype=torch.float64)


def test_features_are_position_and_colour_over_bandwidths():
    image = _image()
    features = pixel_features(image, sigma_xy=3.0, sigma_rgb=5.0)
    assert features.shape == (2, 42, 5)
    row, column = 4, 2
    expected = torch.cat(
        (torch.tensor([column / 3, row / 3], dtype=torch.float64), image[1, :, row, column] / 5)
    )
    torch.testing.assert_close(features[1, row * 7 + column], expected)
    torch.testing.assert_close(pixel_features(image, sigma_xy=3.0), features[..., :2])
    assert pixel_features(image.byte(), sigma_xy=3.0, sigma_rgb=5.0).dtype == torch.float32


def test_exact_equals_the_double_sum(monkeypatch):
    features, values = pixel_features(_image(), sigma_xy=3.0, sigma_rgb=20.0), _values()
    pairs = features[:, :, None] - features[:, None]
    expected = (-0.5 * pairs.square().sum(-1)).exp() @ values
    torch.testing.assert_close(exact_gaussian_filter(features, values), expected)
    monkeypatch.setattr(internal("gaussian"), "_CHUNK_ELEMENTS", 500)
    torch.testing.assert_close(exact_gaussian_filter(features, values), expected)
    with torch.autocast("cpu", torch.bfloat16):
        single = exact_gaussian_filter(features.float(), values.float())
    torch.testing.assert_close(single, expected.float())


def test_exact_gradient_and_empty():
    features = pixel_features(_image(), sigma_xy=3.0)
    values = _values().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: exact_gaussian_filter(features, v), values)
    assert exact_gaussian_filter(features[:, :0], values[:, :0]).shape == (2, 0, 3)


@pytest.mark.parametrize("radius", [0, 1, 2, 9])
def test_window_is_the_exact_sum_cut_off(radius):
    image, values = _image(), _values()
    found = window_gaussian_filter(image, values, sigma_xy=3.0, sigma_rgb=20.0, radius=radius)
    features = pixel_features(image, sigma_xy=3.0, sigma_rgb=20.0)
    kernel = (-0.5 * (features[:, :, None] - features[:, None]).square().sum(-1)).exp()
    place = torch.cartesian_prod(torch.arange(6), torch.arange(7))
    near = (place[:, None] - place[None]).abs().amax(-1) <= radius
    torch.testing.assert_close(found, (kernel * near) @ values)


def test_bad_input():
    image, values = _image(), _values()
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        pixel_features(image[0], sigma_xy=1.0)
    for options in ({"sigma_xy": 0.0}, {"sigma_xy": 1.0, "sigma_rgb": -1.0}):
        with pytest.raises(ValueError, match="positive bandwidths"):
            pixel_features(image, **options)
    with pytest.raises(ValueError, match=r"\(B, N, K\)"):
        exact_gaussian_filter(values, values[:, 1:])
    for options in ({"radius": -1}, {"radius": 1, "values": values[:, 1:]}):
        with pytest.raises(ValueError, match="radius"):
            window_gaussian_filter(
                image, **{"values": values, "sigma_xy": 1.0, "sigma_rgb": 1.0, **options}
            )
