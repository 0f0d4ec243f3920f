from __future__ import annotations

import pytest
import torch

from scribbleseg.methods import confident_prototypes, predicted_class_labels


@pytest.fixture
def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    features = torch.rand(2, 5, 6, 7, generator=g, dtype=torch.float64)
    logits = torch.randn(2, 4, 6, 7, generator=g, dtype=torch.float64)
    return features, logits, torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0]])


def naive_prototype(f, logit, k, eps=1e-5):
    """One image and class: features (D, N), logit (N,)."""
    a = logit.clamp_min(0)
    low, high = a.min(), a.max()
    a = torch.where(a < low + eps, torch.zeros_like(a), a)
    s = (a - low - eps) / (high - low + eps)
    best = s.argsort(descending=True)[:k]
    p = (s[best] * f[:, best]).sum(1) / s[best].sum()
    return p / p.norm()


def test_confident_prototypes_equal_the_loop(example) -> None:
    features, logits, present = example
    for ratio, k in ((1 / 12, 3), (0.25, 10), (1 / 42, 1), (0.001, 1)):
        found = confident_prototypes(features, logits, present, ratio=ratio)
        assert torch.equal(found.valid, present.bool())
        for b in range(2):
            for c in range(4):
                expected = torch.zeros(5, dtype=torch.float64)
                if present[b, c]:
                    expected = naive_prototype(features[b].flatten(1), logits[b, c].flatten(), k)
                torch.testing.assert_close(found.prototypes[b, c], expected)


def test_confident_prototypes_do_not_depend_on_pixel_order_or_feature_scale(example) -> None:
    features, logits, present = example
    expected = confident_prototypes(features, logits, present, ratio=0.3).prototypes
    order = torch.randperm(42, generator=torch.Generator().manual_seed(1))

    def moved(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(2)[..., order].view_as(x)

    found = confident_prototypes(moved(features), moved(logits), present, ratio=0.3)
    torch.testing.assert_close(found.prototypes, expected)
    found = confident_prototypes(features * 1e3, logits, present, ratio=0.3)
    torch.testing.assert_close(found.prototypes, expected)


def test_classes_without_a_positive_logit_are_skipped(example) -> None:
    features, logits, present = example
    logits = logits.clone()
    logits[0, 1] = -1.0
    logits[0, 3] = 2.0  # constant: no pixel stands out, the mean of some is still a direction
    found = confident_prototypes(features, logits, present)
    assert found.valid.tolist() == [[True, False, False, True], [True, False, False, False]]
    assert found.prototypes[0, 1].abs().max() == 0
    assert (found.prototypes[0, 3] >= 0).all(), "the sign survives a negative sum of scores"
    torch.testing.assert_close(found.prototypes[0, 3].norm(), torch.tensor(1.0).double())
    nothing = confident_prototypes(features, logits, torch.zeros(2, 4))
    assert not nothing.valid.any()
    assert nothing.prototypes.abs().max() == 0


def test_confident_prototypes_are_float32_constants_under_autocast(example) -> None:
    features, logits, present = (t.float() for t in example)
    features.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = confident_prototypes(features, logits, present).prototypes
    assert found.dtype == torch.float32
    assert not found.requires_grad
    torch.testing.assert_close(found, confident_prototypes(features, logits, present).prototypes)


def test_predicted_classes_count_strictly_more_pixels() -> None:
    logits = torch.zeros(2, 4, 10, 10)
    logits[0, 3, :2] = 5  # 20 pixels
    logits[0, 2, 2:] = 5
    found = predicted_class_labels(logits, (10, 10), min_pixels=19)
    assert found.tolist() == [[1, 0, 1, 1], [1, 0, 0, 0]]
    found = predicted_class_labels(logits, (10, 10), min_pixels=20, always=())
    assert found.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    with pytest.raises(ValueError, match="expected"):
        predicted_class_labels(logits[0], (10, 10))


def test_bad_options_are_named(example) -> None:
    features, logits, present = example
    with pytest.raises(ValueError, match="ratio=0"):
        confident_prototypes(features, logits, present, ratio=0)
    with pytest.raises(ValueError, match="class_labels"):
        confident_prototypes(features, logits, present[:, :2])
    with pytest.raises(ValueError, match="resize logits"):
        confident_prototypes(features, logits[..., :3], present)


def test_what_is_not_finite_is_not_valid_and_zero(example) -> None:
    features, logits, _ = example
    present = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 1]])
    expected = confident_prototypes(features, logits, present)
    for value in (torch.nan, torch.inf):
        bad = logits.clone()
        bad[0, 1, 2, 3] = bad[0, 2, 2, 3] = value  # class 2 of image 0 is absent
        found = confident_prototypes(features, bad, present)
        assert found.valid.tolist() == [[True, False, False, True], [True, False, False, True]]
        assert torch.equal(found.prototypes[0, 1:3], torch.zeros(2, 5, dtype=torch.float64))
        torch.testing.assert_close(found.prototypes[0, ::3], expected.prototypes[0, ::3])
        torch.testing.assert_close(found.prototypes[1], expected.prototypes[1])
        bad = features.clone()
        bad[1, :, 0, 0] = value
        found = confident_prototypes(bad, logits, present)
        assert not found.valid[1].any()
        assert torch.equal(found.prototypes[1], torch.zeros_like(found.prototypes[1]))
        torch.testing.assert_close(found.prototypes[0], expected.prototypes[0])
