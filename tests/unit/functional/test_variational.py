from __future__ import annotations

import pytest
import torch

from scribbleseg.functional import (
    contour_length_loss,
    intensity_variance,
    level_set_loss,
    total_variation_loss,
)


def example(channels: int = 3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(2, 4, 6, 7, generator=generator, dtype=dtype).softmax(1)
    return probs, torch.rand(2, channels, 6, 7, generator=generator, dtype=dtype)


def written_level_set(probs: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    p, i = probs[:, :, None], image[:, None]  # (B, C, 1, H, W), (B, 1, K, H, W)
    centre = (p * i).sum((3, 4), keepdim=True) / p.sum((3, 4), keepdim=True)
    return (p * (i - centre).square()).sum()


@pytest.mark.parametrize("channels", [1, 3])
def test_level_set_is_the_weighted_variance(channels: int) -> None:
    probs, image = example(channels)
    found = level_set_loss(probs, image, reduction="sum")
    torch.testing.assert_close(found, written_level_set(probs, image))
    mean = level_set_loss(probs, image)
    torch.testing.assert_close(mean, found / (2 * 6 * 7))


def test_level_set_ignores_a_constant_added_to_the_image() -> None:
    probs, image = example(dtype=torch.float32)
    shifted = level_set_loss(probs, image + 100)
    torch.testing.assert_close(shifted, level_set_loss(probs, image), rtol=1e-3, atol=0)


def test_masked_pixels_do_not_count() -> None:
    probs, image = example()
    mask = torch.ones(2, 6, 7, dtype=torch.bool)
    mask[:, :, 4:] = False
    changed = image.clone()
    changed[..., 4:] = 9
    found = level_set_loss(probs, changed, mask=mask, reduction="sum")
    torch.testing.assert_close(found, written_level_set(probs[..., :4], image[..., :4]))


def test_nothing_valid_is_a_differentiable_zero() -> None:
    probs, image = example(dtype=torch.float32)
    probs.requires_grad_()
    loss = level_set_loss(probs, image, mask=torch.zeros(2, 6, 7, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(probs.grad, torch.zeros_like(probs))


def energy(probs: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return level_set_loss(probs, image) + total_variation_loss(probs)


def test_gradients() -> None:
    probs, image = example()
    probs.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: energy(p, image), probs)


def test_total_variation_of_a_step() -> None:
    probs = torch.zeros(1, 2, 3, 4)
    probs[:, 0, :, :2], probs[:, 1, :, 2:] = 1, 1
    assert total_variation_loss(probs, reduction="sum").item() == 6  # 3 rows, both classes
    assert total_variation_loss(probs / 2, norm="l2", reduction="sum").item() == 1.5


def test_contour_length_is_the_rim_of_an_object() -> None:
    probs = torch.zeros(1, 2, 9, 9)
    probs[:, 1, 2:7, 2:7] = 1
    probs[:, 0] = 1 - probs[:, 1]
    # eroded 3x3, opened 5x5: a rim of 16 pixels
    assert contour_length_loss(probs).item() == pytest.approx(16 / 81)


def test_intensity_variance_by_hand() -> None:
    probs, image = example(1)
    products = probs * image
    intra, inter = intensity_variance(probs, image)
    torch.testing.assert_close(intra, products.flatten(2).std(2).mean())
    torch.testing.assert_close(inter, products.mean((2, 3)).std(1).mean())
    with pytest.raises(ValueError, match="one channel"):
        intensity_variance(probs, image.expand(2, 3, 6, 7))


def test_bad_reduction_is_named() -> None:
    probs, image = example()
    with pytest.raises(ValueError, match="'max'"):
        level_set_loss(probs, image, reduction="max")


def test_half_precision_is_computed_in_float32() -> None:
    probs, image = example(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = energy(probs, image)
    torch.testing.assert_close(inside, energy(probs, image))
    assert energy(probs.bfloat16(), image).dtype == torch.float32


def test_masked_terms_are_those_of_the_cut_out_part() -> None:
    probs, image = example(1)
    mask = torch.ones(2, 6, 7, dtype=torch.bool)
    mask[:, :, 5:] = False
    inner, part = probs[..., :5], image[..., :5]
    changed = probs.clone()
    changed[..., 5:] = torch.rand(2, 4, 6, 2, dtype=torch.float64)
    torch.testing.assert_close(
        total_variation_loss(changed, mask=mask, reduction="sum"),
        total_variation_loss(inner, reduction="sum"),
    )
    torch.testing.assert_close(contour_length_loss(changed, mask=mask), contour_length_loss(inner))
    for found, expected in zip(
        intensity_variance(changed, image, mask=mask), intensity_variance(inner, part), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_masked_gradients_stay_inside() -> None:
    probs, image = example(1)
    mask = torch.ones(2, 6, 7, dtype=torch.bool)
    mask[:, :, 5:] = False
    for loss in (
        lambda p: total_variation_loss(p, mask=mask),
        lambda p: contour_length_loss(p, mask=mask),
        lambda p: sum(intensity_variance(p, image, mask=mask)),
    ):
        p = probs.clone().requires_grad_()
        loss(p).backward()
        assert p.grad[..., 5:].abs().sum() == 0
        assert p.grad.isfinite().all()
        assert p.grad.abs().sum() > 0
        assert torch.autograd.gradcheck(loss, probs.clone().requires_grad_())


def test_one_pixel_is_zero_with_gradient() -> None:
    probs = torch.rand(1, 3, 1, 1, requires_grad=True)
    intra, inter = intensity_variance(probs, torch.rand(1, 1, 1, 1))
    (intra + inter).backward()
    assert intra.item() == 0
    assert probs.grad.isfinite().all()


def test_unknown_options_are_named() -> None:
    probs, image = example(1)
    with pytest.raises(ValueError, match="'L1'"):
        total_variation_loss(probs, norm="L1")
    with pytest.raises(ValueError, match="at least 2"):
        contour_length_loss(probs[:, :1])
    with pytest.raises(ValueError, match="at least 2"):
        intensity_variance(probs[:, :1], image)
