from __future__ import annotations

import math

import pytest
import torch
from helpers.internals import internal

from scribbleseg.functional import filter_pseudo_labels

present_class_probabilities = internal("pseudo-labels")._present_class_probabilities


@pytest.fixture
def probs() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return (2 * torch.randn(2, 4, 5, 6, generator=generator, dtype=torch.float64)).softmax(1)


def naive_filter(probs, present, labels, valid, confidence, entropy) -> torch.Tensor:
    """Pixel by pixel, in Python numbers."""
    out = torch.full_like(labels, 255)
    for b in range(len(probs)):
        for y in range(probs.shape[2]):
            for x in range(probs.shape[3]):
                q = [
                    p if c == 0 or present[b, c] else 0.0
                    for c, p in enumerate(probs[b, :, y, x].tolist())
                ]
                q = [p / sum(q) for p in q]
                spread = -sum(p * math.log(p) for p in q if p > 0) / math.log(len(q))
                if valid[b, y, x] and max(q) >= confidence and spread <= entropy:
                    out[b, y, x] = q.index(max(q))
                if labels[b, y, x] != 255:
                    out[b, y, x] = labels[b, y, x]
    return out


def test_filter_is_its_definition(probs) -> None:
    generator = torch.Generator().manual_seed(1)
    present = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 0]])
    labels = torch.full((2, 5, 6), 255)
    labels[0, 1, 2:4] = 2
    valid = torch.rand(2, 5, 6, generator=generator) > 0.2
    for confidence, entropy in ((0.6, 1.0), (0.0, 0.5), (0.7, 0.4)):
        expected = naive_filter(probs, present, labels, valid, confidence, entropy)
        found = filter_pseudo_labels(
            probs,
            present=present,
            labels=labels,
            valid=valid,
            confidence=confidence,
            entropy=entropy,
        )
        assert torch.equal(found, expected)
        assert (found == 255).any()
        assert (found != 255).any()


def test_no_condition_keeps_every_pixel(probs) -> None:
    assert torch.equal(filter_pseudo_labels(probs), probs.argmax(1))
    assert torch.equal(filter_pseudo_labels(probs[0], confidence=0.0), probs[0].argmax(0))


def test_filter_treats_pixels_alike_and_is_monotone(probs) -> None:
    found = filter_pseudo_labels(probs, confidence=0.6)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(2))
    assert torch.equal(filter_pseudo_labels(probs[..., order], confidence=0.6), found[..., order])
    stricter = filter_pseudo_labels(probs, confidence=0.8)
    kept = stricter != 255
    assert torch.equal(stricter[kept], found[kept])
    assert kept.sum() < (found != 255).sum()


def test_equal_to_the_threshold_is_kept_and_ties_go_to_the_smallest_class() -> None:
    probs = torch.tensor([0.1, 0.45, 0.45, 0.0]).view(4, 1, 1)
    assert filter_pseudo_labels(probs, confidence=0.45).item() == 1
    assert filter_pseudo_labels(probs, confidence=0.46).item() == 255


def test_classes_that_are_absent() -> None:
    probs = torch.tensor([[0.2, 0.1, 0.7], [0.0, 0.0, 1.0]]).T.reshape(1, 3, 1, 2)
    none = torch.zeros(1, 3)
    assert filter_pseudo_labels(probs, present=none).tolist() == [[[0, 255]]]
    assert filter_pseudo_labels(probs, present=none, background=None).tolist() == [[[255, 255]]]
    assert filter_pseudo_labels(probs, present=none, entropy=0.5).tolist() == [[[0, 255]]]
    q = present_class_probabilities(probs, torch.tensor([[0, 1, 0]]))
    torch.testing.assert_close(q[0, :, 0, 0], torch.tensor([2 / 3, 1 / 3, 0]))
    assert q[0, :, 0, 1].eq(0).all()


def test_present_class_probabilities_gradient(probs) -> None:
    present = torch.tensor([[0, 1, 0, 1], [0, 1, 1, 0]])
    assert torch.autograd.gradcheck(
        lambda p: present_class_probabilities(p, present), probs[..., :2, :2].requires_grad_()
    )


def test_half_precision_is_computed_in_float32(probs) -> None:
    half, present = probs.to(torch.bfloat16), torch.ones(2, 4)
    for options in ({"confidence": 0.6}, {"entropy": 0.5}, {"present": present, "entropy": 0.5}):
        assert torch.equal(
            filter_pseudo_labels(half, **options), filter_pseudo_labels(half.float(), **options)
        )


def test_filter_errors(probs) -> None:
    with pytest.raises(ValueError, match="resize the probabilities"):
        filter_pseudo_labels(probs, labels=torch.zeros(2, 9, 9, dtype=torch.long))
    with pytest.raises(ValueError, match=r"present .* disagree"):
        filter_pseudo_labels(probs, present=torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"70 % is 0\.7"):
        filter_pseudo_labels(probs, confidence=70)
    with pytest.raises(ValueError, match=r"\(…, C, H, W\)"):
        filter_pseudo_labels(probs[0, 0])
