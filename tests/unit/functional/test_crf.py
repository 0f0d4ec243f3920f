from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
import torch
import torch.nn.functional as F
from helpers.exact_kernel import exact_crf

from scribbleseg.functional import (
    CRF_PRESETS,
    CRFParams,
    dense_crf,
    mean_field,
    unary_from_labels,
    unary_from_probs,
)

PARAMS = CRFParams(2.0, 1.5, 6.0, 30.0, 2.0, 4)


@pytest.fixture
def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(2, 4, 7, 9, generator=generator, dtype=torch.float64)
    image = torch.randint(0, 256, (2, 3, 7, 9), generator=generator, dtype=torch.uint8)
    return scores.softmax(1), image


def _naive(unary: torch.Tensor, image: torch.Tensor, params: CRFParams) -> torch.Tensor:
    """Mean field with kernel matrices."""
    height, width = image.shape[1:]
    place = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
    colour = image.double().flatten(1).T

    def kernel(*features: torch.Tensor) -> torch.Tensor:
        f = torch.cat(features, dim=1)
        k = (-0.5 * (f[:, None] - f[None]).square().sum(-1)).exp()
        n = k.sum(1).rsqrt()
        return n[:, None] * k * n

    total = params.smooth_weight * kernel(place / params.smooth_xy) + params.weight * kernel(
        place / params.sigma_xy, colour / params.sigma_rgb
    )
    energy = unary.flatten(1)
    marginals = (-energy).softmax(0)
    for _ in range(params.iterations):
        marginals = (marginals @ total - energy).softmax(0)
    return marginals.view_as(unary)


@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_equals_kernel_matrices_with_exact_sums(iterations, example):
    probs, image = example
    params = replace(PARAMS, iterations=iterations)
    for p, x in zip(probs, image, strict=True):
        unary = unary_from_probs(p)
        with exact_crf():
            found = mean_field(unary, x, params=params)
        torch.testing.assert_close(found, _naive(unary, x, params))


def test_lattice_removes_noise_as_the_exact_sums_do():
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(20, 24, dtype=torch.long)
    truth[4:15, 6:17] = 1
    image = torch.where(truth == 1, 190, 60) + torch.randint(
        -9, 9, (3, 20, 24), generator=generator
    )
    noisy = F.one_hot(truth, 2).permute(2, 0, 1) + 1.5 * torch.rand(2, 20, 24, generator=generator)
    probs = (noisy / noisy.sum(0))[None]
    assert (probs[0].argmax(0) != truth).float().mean() > 0.04
    assert torch.equal(dense_crf(probs, image[None])[0].argmax(0), truth)
    with exact_crf():
        assert torch.equal(dense_crf(probs, image[None])[0].argmax(0), truth)


def test_probabilities_sum_to_one_and_classes_commute(example):
    probs, image = example
    refined = dense_crf(probs, image, params=PARAMS)
    torch.testing.assert_close(refined.sum(1), torch.ones(2, 7, 9).double())
    order = [2, 0, 3, 1]
    torch.testing.assert_close(dense_crf(probs[:, order], image, params=PARAMS), refined[:, order])


def test_pruned_classes_are_zero_and_change_little(example):
    probs, image = example
    probs = probs * torch.tensor([1.0, 1e-6, 1.0, 1.0])[:, None, None]
    probs = probs / probs.sum(1, keepdim=True)
    pruned = dense_crf(probs, image, params=PARAMS)
    full = dense_crf(probs, image, params=PARAMS, prune=None)
    assert torch.equal(pruned[:, 1], torch.zeros_like(pruned[:, 1]))
    torch.testing.assert_close(pruned, full, rtol=0, atol=1e-3)
    assert torch.equal(dense_crf(probs, image, params=PARAMS, prune=0.0), full)
    # the most probable class stays, however high the limit
    assert (dense_crf(probs, image, params=PARAMS, prune=2.0).sum(1) > 0.99).all()


def test_zero_weights_or_iterations_keep_the_probabilities(example):
    probs, image = example
    for params in (replace(PARAMS, iterations=0), replace(PARAMS, smooth_weight=0, weight=0)):
        torch.testing.assert_close(dense_crf(probs, image, params=params), probs)


def test_unary_of_labels():
    labels = torch.tensor([[[0, 2, 255]]])
    probs = (-unary_from_labels(labels, 3, confidence=0.7)).exp()[0, :, 0]
    expected = torch.tensor([[0.7, 0.15, 1 / 3], [0.15, 0.15, 1 / 3], [0.15, 0.7, 1 / 3]])
    torch.testing.assert_close(probs, expected)
    torch.testing.assert_close(
        unary_from_probs(torch.tensor([0.0, 0.5])), -torch.tensor([1e-5, 0.5]).log()
    )


def test_labels_are_refined(example):
    labels, image = example[0].argmax(1), example[1]
    with exact_crf():
        found = dense_crf(labels, image, params="irn", num_classes=4)
    unary = unary_from_labels(labels, 4).double()
    expected = torch.stack(
        [_naive(u, x, CRF_PRESETS["irn"]) for u, x in zip(unary, image, strict=True)]
    )
    torch.testing.assert_close(found, expected.float(), rtol=0, atol=1e-4)
    unknown = torch.full_like(labels, 255)
    even = dense_crf(unknown, image, params="irn", num_classes=4)
    torch.testing.assert_close(even, torch.full_like(even, 0.25))


def test_types_and_gradients(example):
    probs, image = example
    half = probs.bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        refined = dense_crf(half, image, params=PARAMS)
    assert refined.dtype == torch.float32
    assert not refined.requires_grad
    torch.testing.assert_close(
        refined, dense_crf(half.detach().float(), image.float(), params=PARAMS)
    )


def test_empty_image():
    empty = dense_crf(torch.zeros(1, 3, 0, 4), torch.zeros(1, 3, 0, 4))
    assert empty.shape == (1, 3, 0, 4)
    assert dense_crf(torch.zeros(0, 3, 2, 4), torch.zeros(0, 3, 2, 4)).shape == (0, 3, 2, 4)


def test_bad_input(example):
    probs, image = example
    for arguments, options, message in (
        ((probs, image[..., 1:]), {}, r"\(B, 3, H, W\)"),
        ((probs[0], image[0]), {}, r"\(B, 3, H, W\)"),
        ((probs, image), {"params": "voc"}, "irn, cc4s, spml, tel"),
        ((probs.argmax(1), image), {}, "num_classes"),
        ((probs.argmax(1), image), {"num_classes": 2}, "expected 0..1"),
    ):
        with pytest.raises(ValueError, match=message):
            dense_crf(*arguments, **options)
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        mean_field(probs, image, params=PARAMS)
    with pytest.raises(ValueError, match="probability"):
        unary_from_labels(probs.argmax(1), 4, confidence=1.0)


def test_scores_that_are_not_a_number_are_an_error_and_not_zero(example):
    probs, image = example
    for where in (slice(None), (1, 2, 3, 4)):
        bad = probs.clone()
        bad[where] = torch.nan
        for prune in (1e-3, None):
            with pytest.raises(ValueError, match="scores hold NaN"):
                dense_crf(bad, image, params=PARAMS, prune=prune)


def test_bad_parameters():
    for options in (
        {"smooth_xy": 0.0},
        {"sigma_rgb": -1.0},
        {"weight": -1.0},
        {"iterations": -1},
        {"label_confidence": 1.0},
    ):
        with pytest.raises(ValueError, match="expected"):
            CRFParams(**options)
    with pytest.raises(FrozenInstanceError):
        CRF_PRESETS["irn"].iterations = 5


@pytest.mark.gpu
def test_cuda_equals_cpu(example):
    probs, image = example
    expected = dense_crf(probs.float(), image, params=PARAMS)
    found = dense_crf(probs.float().cuda(), image.cuda(), params=PARAMS)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4)
