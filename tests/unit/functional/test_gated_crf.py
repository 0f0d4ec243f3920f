from __future__ import annotations

import math

import pytest
import torch

from scribbleseg.functional import gated_crf_loss

KERNELS = [(1.0, 3.0, 0.4), (0.5, math.inf, 0.2)]


def example(height: int = 6, width: int = 7, classes: int = 3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, classes, height, width, generator=generator, dtype=dtype)
    image = torch.rand(2, 3, height, width, generator=generator, dtype=dtype)
    source = torch.rand(2, height, width, generator=generator) < 0.7
    destination = torch.rand(2, height, width, generator=generator) < 0.6
    return logits.softmax(1), image, source, destination


def naive(probs, image, radius, *, dilation=1, source=None, destination=None, cost=None):
    total = probs.new_zeros(())
    batch, classes, height, width = probs.shape
    if cost is None:
        cost = 1 - torch.eye(classes, dtype=probs.dtype)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                for dy in range(-radius, radius + 1):
                    for dx in range(-radius, radius + 1):
                        v, u = y + dy * dilation, x + dx * dilation
                        if (dy, dx) == (0, 0) or not (0 <= v < height and 0 <= u < width):
                            continue
                        if source is not None and not source[b, v, u]:
                            continue
                        if destination is not None and not destination[b, y, x]:
                            continue
                        colour = (image[b, :, y, x] - image[b, :, v, u]).square().sum()
                        place = float((y - v) ** 2 + (x - u) ** 2)
                        kernel = sum(
                            w * torch.exp(-0.5 * place / xy**2 - 0.5 * colour / rgb**2)
                            for w, xy, rgb in KERNELS
                        )
                        total = total + kernel * (probs[b, :, y, x] @ cost @ probs[b, :, v, u])
    given = destination if destination is not None else source
    return total / (given.sum() if given is not None else batch * height * width)


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("masks", ["none", "source", "destination", "both"])
def test_against_the_sum_over_all_pairs(masks: str, dilation: int) -> None:
    probs, image, source, destination = example()
    options = {
        "source": source if masks in ("source", "both") else None,
        "destination": destination if masks in ("destination", "both") else None,
    }
    found = gated_crf_loss(probs, image, kernels=KERNELS, radius=2, dilation=dilation, **options)
    torch.testing.assert_close(found, naive(probs, image, 2, dilation=dilation, **options))


def test_compatibility_matrix() -> None:
    probs, image, source, _ = example()
    cost = torch.tensor([[0.0, 1, 2], [1, 0, 3], [5, 1, 0]], dtype=torch.float64)
    found = gated_crf_loss(
        probs, image, kernels=KERNELS, radius=2, source=source, compatibility=cost
    )
    scaled = 2 * cost / cost.sum(1, keepdim=True)
    torch.testing.assert_close(found, naive(probs, image, 2, source=source, cost=scaled))


@pytest.mark.parametrize("cost", [None, torch.tensor([[0.0, 1, 2], [1, 0, 3], [5, 1, 0]])])
def test_gradient(cost: torch.Tensor | None) -> None:
    probs, image, source, destination = example(4, 5)

    def loss(p: torch.Tensor) -> torch.Tensor:
        return gated_crf_loss(
            p, image, kernels=KERNELS, radius=2, source=source, destination=destination,
            compatibility=cost,
        )  # fmt: skip

    assert torch.autograd.gradcheck(loss, probs.requires_grad_())


def test_rows_of_images_do_not_mix_and_their_order_is_free() -> None:
    probs, image, source, _ = example()
    both = gated_crf_loss(probs, image, radius=2, source=source)
    swapped = gated_crf_loss(probs.flip(0), image.flip(0), radius=2, source=source.flip(0))
    torch.testing.assert_close(both, swapped)
    mirrored = gated_crf_loss(probs.flip(3), image.flip(3), radius=2, source=source.flip(2))
    torch.testing.assert_close(both, mirrored)


def test_padding_changes_nothing() -> None:
    probs, image, _, _ = example()
    pad = torch.nn.functional.pad
    inside = pad(torch.ones(2, 6, 7, dtype=torch.bool), (0, 3, 0, 2))
    plain = gated_crf_loss(probs, image, radius=2)
    padded = gated_crf_loss(
        pad(probs, (0, 3, 0, 2), value=0.3), pad(image, (0, 3, 0, 2)), radius=2,
        source=inside, destination=inside,
    )  # fmt: skip
    torch.testing.assert_close(plain, padded)


def test_all_padding_is_a_differentiable_zero() -> None:
    probs, image, source, _ = example(dtype=torch.float32)
    probs.requires_grad_()
    loss = gated_crf_loss(probs, image, radius=2, source=torch.zeros_like(source))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(probs.grad, torch.zeros_like(probs))


def test_window_wider_than_the_image() -> None:
    probs, image, *_ = example(3, 4)
    found = gated_crf_loss(probs, image, kernels=KERNELS, radius=6)
    torch.testing.assert_close(found, naive(probs, image, 6))


def test_half_precision_and_autocast_agree_with_float32() -> None:
    probs, image, *_ = example(dtype=torch.float32)
    exact = gated_crf_loss(probs, image, radius=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(gated_crf_loss(probs, image, radius=2), exact)
    torch.testing.assert_close(
        gated_crf_loss(probs.bfloat16(), image, radius=2), exact, rtol=0.02, atol=0
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernels": []}, "kernels"),
        ({"kernels": [(1.0, 0.0, 0.1)]}, "sigma_xy"),
        ({"kernels": [(1.0, 5.0, 0.1), (1.0, 5.0, 0.0)]}, "sigma_rgb > 0"),
        ({"kernels": [(1.0, 5.0)]}, "expected rows"),
        ({"radius": 0}, "radius"),
        ({"dilation": 0}, "dilation of at least 1"),
        ({"compatibility": torch.zeros(2, 2)}, "compatibility"),
    ],
)
def test_bad_options_are_named(change: dict, message: str) -> None:
    probs, image, *_ = example()
    with pytest.raises(ValueError, match=message):
        gated_crf_loss(probs, image, **change)


def test_bad_shapes_are_named() -> None:
    probs, image, *_ = example()
    with pytest.raises(ValueError, match="smaller than the prediction"):
        gated_crf_loss(probs, image[..., :3, :3])
    with pytest.raises(ValueError, match="disagree"):
        gated_crf_loss(probs[0], image)


def test_compatibility_stays_in_float32_under_autocast() -> None:
    probs, image, *_ = example(dtype=torch.float32)
    cost = torch.tensor([[0.0, 1, 2], [1, 0, 3], [5, 1, 0]])
    exact = gated_crf_loss(probs, image, radius=2, compatibility=cost)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = gated_crf_loss(probs, image, radius=2, compatibility=cost)
    torch.testing.assert_close(inside, exact, rtol=1e-6, atol=0)
