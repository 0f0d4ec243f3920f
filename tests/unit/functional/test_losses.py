from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from scribbleseg.functional import (
    absent_class_loss,
    class_weights_from_histogram,
    entropy_loss,
    masked_mean,
    partial_cross_entropy,
    partial_dice_loss,
)


@pytest.fixture
def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 4, 7, 9, generator=generator, dtype=torch.float64)
    scribble = torch.randint(0, 4, (3, 7, 9), generator=generator)
    scribble[torch.rand(scribble.shape, generator=generator) < 0.7] = 255
    return logits, scribble


def test_gradient(example) -> None:
    logits, scribble = example
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    for options in ({}, {"class_weight": weight}, {"reduction": "image"}, {"label_smoothing": 0.1}):
        assert torch.autograd.gradcheck(
            lambda x, options=options: partial_cross_entropy(x, scribble, **options),
            logits.requires_grad_(),
        )


def test_equals_torch_where_something_is_drawn(example) -> None:
    logits, scribble = example
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    torch.testing.assert_close(
        partial_cross_entropy(logits, scribble), F.cross_entropy(logits, scribble, ignore_index=255)
    )
    torch.testing.assert_close(
        partial_cross_entropy(logits, scribble, class_weight=weight),
        F.cross_entropy(logits, scribble, ignore_index=255, weight=weight),
    )


def test_invariances(example) -> None:
    logits, scribble = example
    loss = partial_cross_entropy(logits, scribble)
    torch.testing.assert_close(partial_cross_entropy(logits + 5, scribble), loss)
    order = torch.randperm(logits.shape[-1], generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        partial_cross_entropy(logits[..., order], scribble[..., order]), loss
    )
    padded = F.pad(logits, (0, 5)), F.pad(scribble, (0, 5), value=255)
    torch.testing.assert_close(partial_cross_entropy(*padded), loss)


def test_nothing_drawn_is_an_exact_zero_with_gradient(example) -> None:
    logits, scribble = example
    for reduction in ("pixel", "image"):
        x = logits.clone().requires_grad_()
        loss = partial_cross_entropy(x, torch.full_like(scribble, 255), reduction=reduction)
        assert loss.item() == 0.0
        loss.backward()
        assert torch.equal(x.grad, torch.zeros_like(x))


def test_image_reduction_skips_images_without_labels(example) -> None:
    logits, scribble = example
    scribble = scribble.clone()
    scribble[1] = 255
    means = [
        F.cross_entropy(logits[i : i + 1], scribble[i : i + 1], ignore_index=255) for i in (0, 2)
    ]
    torch.testing.assert_close(
        partial_cross_entropy(logits, scribble, reduction="image"), torch.stack(means).mean()
    )


def test_half_precision_is_computed_in_float32(example) -> None:
    logits, scribble = example
    half = logits.to(torch.bfloat16)
    torch.testing.assert_close(
        partial_cross_entropy(half, scribble), partial_cross_entropy(half.float(), scribble)
    )


def test_shapes_that_disagree_are_named() -> None:
    with pytest.raises(ValueError, match=r"resize the logits"):
        partial_cross_entropy(torch.zeros(1, 3, 4, 4), torch.zeros(1, 8, 8, dtype=torch.long))


def test_dice_masks_each_image_on_its_own(example) -> None:
    logits, scribble = example
    probs, found = logits.softmax(1), partial_dice_loss(logits, scribble)
    terms = []
    for c in range(4):
        overlap = size = 0.0
        for b in range(3):
            drawn = scribble[b] != 255
            p, t = probs[b, c][drawn], (scribble[b][drawn] == c).double()
            overlap = overlap + (p * t).sum()
            size = size + p.square().sum() + t.sum()
        terms.append(1 - (2 * overlap + 1e-5) / (size + 1e-5))
    torch.testing.assert_close(found, torch.stack(terms).mean())


def test_entropy_of_known_distributions() -> None:
    uniform = torch.zeros(1, 5, 2, 2)
    assert entropy_loss(uniform).item() == pytest.approx(math.log(5), rel=1e-4)
    assert entropy_loss(uniform, eps=0).item() == pytest.approx(math.log(5), rel=1e-6)
    certain = torch.tensor([100.0, 0, 0]).view(1, 3, 1, 1)
    assert abs(entropy_loss(certain).item()) < 1e-5
    assert abs(entropy_loss(certain, eps=0).item()) < 1e-5


def test_entropy_weights_pixels_by_the_mask(example) -> None:
    logits, _ = example
    weights = torch.rand(3, 7, 9, dtype=torch.float64)
    p = logits.softmax(1)
    per_pixel = -(p * p.log()).sum(1)
    expected = (per_pixel * weights).sum() / weights.sum()
    torch.testing.assert_close(entropy_loss(logits, mask=weights, eps=0), expected)


def test_absent_classes_only(example) -> None:
    logits, _ = example
    present = torch.tensor([[1.0, 1, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]], dtype=torch.float64)
    p = logits.softmax(1)
    per_pixel = -((1 - present)[:, :, None, None] * (1 - p).log()).sum(1)
    found = absent_class_loss(logits, present, eps=0)
    torch.testing.assert_close(found, per_pixel.mean())
    everything = absent_class_loss(logits, torch.ones_like(present))
    assert everything.item() == 0


LOSSES = {
    "dice": lambda x: partial_dice_loss(x, torch.full(x[:, 0].shape, 255)),
    "entropy": lambda x: entropy_loss(x, mask=torch.zeros_like(x[:, 0])),
    "absent": lambda x: absent_class_loss(
        x, torch.zeros(x.shape[:2]), mask=torch.zeros_like(x[:, 0])
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_to_do_is_a_differentiable_zero(name: str) -> None:
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    loss = LOSSES[name](logits)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_gradients_of_the_other_losses(example) -> None:
    logits, scribble = example
    logits.requires_grad_()
    tags = torch.tensor([[1.0, 1, 0, 1]] * 3, dtype=torch.float64)
    for loss in (
        lambda x: partial_dice_loss(x, scribble),
        lambda x: entropy_loss(x, mask=scribble == 255),
        lambda x: absent_class_loss(x, tags),
    ):
        assert torch.autograd.gradcheck(loss, logits)


def test_shifting_all_logits_changes_nothing(example) -> None:
    logits, scribble = example
    for loss in (entropy_loss, lambda x: partial_dice_loss(x, scribble)):
        torch.testing.assert_close(loss(logits), loss(logits + 5))


def test_half_precision_gives_float32() -> None:
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    mask, tags = torch.ones(1, 4, 4, dtype=torch.bool), torch.tensor([[1.0, 0, 1]])
    for loss in (
        lambda x: partial_dice_loss(x, mask.long()),
        lambda x: entropy_loss(x, mask=mask),
        lambda x: absent_class_loss(x, tags, mask=mask),
    ):
        half, single = loss(logits), loss(logits.float())
        assert half.dtype == torch.float32
        assert half.item() == single.item() > 0.1


def test_mean_over_small_weights_is_a_mean() -> None:
    values, weights = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[0.1, 0.1]]])
    assert masked_mean(values, weights).item() == pytest.approx(2.0)


def test_rare_classes_weigh_more() -> None:
    weights = class_weights_from_histogram(torch.tensor([900, 100, 0]))
    assert weights.sum().item() == pytest.approx(1.0)
    assert weights[0] < weights[1] < weights[2]
    assert (weights[1] / weights[0]).item() == pytest.approx(math.log(2.0) / math.log(1.2))


def test_unknown_options_are_named(example) -> None:
    logits, scribble = example
    with pytest.raises(ValueError, match="'sum'"):
        partial_cross_entropy(logits, scribble, reduction="sum")
    with pytest.raises(ValueError, match="'bits'"):
        entropy_loss(logits, base="bits")
    with pytest.raises(ValueError, match="1 classes"):
        entropy_loss(logits[:, :1], base="classes")
