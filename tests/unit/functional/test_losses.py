from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scribbleseg.functional.losses import partial_cross_entropy


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
