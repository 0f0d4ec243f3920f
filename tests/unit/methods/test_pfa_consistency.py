from __future__ import annotations

import math

import pytest
import torch

from scribbleseg.methods import consistency_loss, mean_teacher_consistency

FORMS = ["l1", "l2", "kl", "cosine", "soft_ce", "prob_ce"]


def pair(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 4, 5, 6)
    return tuple(torch.randn(shape, generator=generator, dtype=dtype) for _ in range(2))


@pytest.mark.parametrize("form", FORMS)
def test_against_the_written_formula(form: str) -> None:
    a, b = pair()
    p, q = a.softmax(1), b.softmax(1)
    expected = {
        "l1": (p - q).abs().sum(1),
        "l2": (p - q).pow(2).sum(1),
        "kl": (q * (q / p).log()).sum(1),
        "cosine": 1 - (p * q).sum(1) / (p.norm(dim=1) * q.norm(dim=1)),
        "soft_ce": -(q * p.log()).sum(1),
        "prob_ce": -(q * (p.exp() / p.exp().sum(1, keepdim=True)).log()).sum(1),
    }[form].mean()
    torch.testing.assert_close(consistency_loss(a, b, form=form), expected)


@pytest.mark.parametrize("form", FORMS)
def test_only_the_mask_counts_and_shifts_do_not(form: str) -> None:
    a, b = pair()
    mask = torch.zeros(2, 5, 6, dtype=torch.bool)
    mask[0, 1:3] = True
    full = consistency_loss(a, b, form=form, mask=mask)
    changed = a.clone()
    changed[1] += torch.randn_like(changed[1])
    torch.testing.assert_close(consistency_loss(changed + 3, b, form=form, mask=mask), full)


@pytest.mark.parametrize("form", FORMS)
def test_empty_mask_is_a_differentiable_zero(form: str) -> None:
    a, b = pair(torch.float32)
    a.requires_grad_()
    loss = consistency_loss(a, b, form=form, mask=torch.zeros(2, 5, 6, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(a.grad, torch.zeros_like(a))


def test_detached_target_gets_no_gradient() -> None:
    a, b = (x.requires_grad_() for x in pair())
    consistency_loss(a, b, detach_target=True).backward()
    assert b.grad is None
    assert a.grad.abs().sum() > 0


def test_bad_input_is_named() -> None:
    a, b = pair()
    with pytest.raises(ValueError, match="differ"):
        consistency_loss(a, b[..., :3])
    with pytest.raises(ValueError, match="'l3'"):
        consistency_loss(a, b, form="l3")


def test_half_precision_is_computed_in_float32() -> None:
    a, b = pair(torch.float32)
    half = consistency_loss(a.bfloat16(), b.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, consistency_loss(a, b), rtol=0.05, atol=0)


def test_uncertain_teacher_pixels_do_not_count() -> None:
    student, teacher = pair()
    samples = torch.stack([teacher, teacher])
    samples[:, :, :, 2:] = 0  # uniform: entropy log C
    loss, uncertainty = mean_teacher_consistency(student, teacher, samples, threshold=1.38)
    certain = uncertainty < 1.38
    assert not certain[:, 2:].any()
    difference = (student.softmax(1) - teacher.softmax(1)).square().sum(1)
    torch.testing.assert_close(loss, difference[certain].mean() / 2)
    torch.testing.assert_close(
        uncertainty[:, 2:], torch.full_like(uncertainty[:, 2:], math.log(4)), rtol=1e-4, atol=0
    )


def test_no_certain_pixel_is_zero_with_gradient() -> None:
    student, teacher = pair()
    student.requires_grad_()
    loss, _ = mean_teacher_consistency(student, teacher, teacher[None] * 0, threshold=0.1)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(student.grad, torch.zeros_like(student))
