from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from scribbleseg.methods import agreement_threshold, decode_margin, prototype_margin

COUNTS = {
    "num_foreground": torch.tensor([6, 4, 1, 0]),
    "num_background": torch.tensor([5, 5, 2, 0]),
}


@pytest.fixture
def example() -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    features = torch.rand(3, 8, 4, 5, generator=g, dtype=torch.float64)
    fg = F.normalize(torch.randn(4, 6, 8, generator=g, dtype=torch.float64), dim=2)
    bg = F.normalize(torch.randn(4, 5, 8, generator=g, dtype=torch.float64), dim=2)
    return features, fg, bg, torch.tensor([[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]])


def naive(features, fg, bg, labels, ms, mode):
    out = torch.zeros(3, 4, 4, 5, dtype=torch.float64)
    for b, c in labels.nonzero().tolist():
        n_f, n_b = int(COUNTS["num_foreground"][c]), int(COUNTS["num_background"][c])
        for y in range(4):
            for x in range(5):
                u = F.normalize(features[b, :, y, x], dim=0)
                a = sorted((fg[c, :n_f] @ u).tolist(), reverse=True)
                r = sorted((bg[c, :n_b] @ u).tolist(), reverse=True)
                values = []
                for m in ms:
                    if mode == "per_set":
                        mean_a, mean_r = (sum(t[:m]) / max(1, len(t[:m])) for t in (a, r))
                        values.append(mean_a - mean_r)
                    else:
                        top = sorted([(s, 1) for s in a] + [(s, 0) for s in r], reverse=True)[:m]
                        share = sum(max(s, 0) * f for s, f in top)
                        values.append(share / (sum(max(s, 0) for s, _ in top) + 1e-8))
                out[b, c, y, x] = sum(values) / len(ms)
    return out


@pytest.mark.parametrize("mode", ["per_set", "joint_vote"])
@pytest.mark.parametrize("ms", [(1,), (3,), (2, 4, 50)])
def test_equals_a_loop_over_pixels(example, mode, ms) -> None:
    features, fg, bg, labels = example
    options = {**COUNTS, "class_labels": labels, "mode": mode}
    found = prototype_margin(features, fg, bg, top_m=ms, **options)
    torch.testing.assert_close(found, naive(*example, ms, mode))
    if len(ms) == 1:
        single = prototype_margin(features, fg, bg, top_m=ms[0], **options)
        torch.testing.assert_close(single, found)


@pytest.mark.parametrize("mode", ["per_set", "joint_vote"])
def test_order_of_prototypes_and_what_lies_behind_them_do_not_matter(example, mode) -> None:
    features, fg, bg, labels = example
    options = {**COUNTS, "class_labels": labels, "top_m": (2, 4), "mode": mode}
    expected = prototype_margin(features, fg, bg, **options)
    fg = fg.clone()
    fg[0] = fg[0].flip(0)
    fg[1, :4] = fg[1, [2, 0, 3, 1]]
    fg[1, 4:] = 100.0
    torch.testing.assert_close(prototype_margin(features * 7, fg, bg, **options), expected)


def test_all_prototypes_are_mean_minus_mean(example) -> None:
    features, fg, bg, _ = example
    full = {"num_foreground": torch.full((4,), 6), "num_background": torch.full((4,), 5)}
    found = prototype_margin(features, fg, bg, top_m=20, **full)
    u = F.normalize(features, dim=1)
    expected = torch.einsum("bdhw,cd->bchw", u, fg.mean(1) - bg.mean(1))
    torch.testing.assert_close(found, expected)


def test_no_class_no_image_and_half_precision(example) -> None:
    features, fg, bg, labels = example
    none = prototype_margin(features, fg, bg, class_labels=labels * 0, **COUNTS)
    assert torch.equal(none, torch.zeros_like(none))
    assert prototype_margin(features[:0], fg, bg, **COUNTS).shape == (0, 4, 4, 5)
    strong = (features * 3e4).half()  # the squared norm exceeds the float16 range
    with torch.autocast("cpu", torch.bfloat16):
        found = prototype_margin(strong, fg, bg, class_labels=labels, **COUNTS)
    assert found.dtype == torch.float32
    expected = prototype_margin(strong.float(), fg, bg, class_labels=labels, **COUNTS)
    torch.testing.assert_close(found, expected)


def test_gradient(example) -> None:
    features, fg, bg, labels = example
    for mode in ("per_set", "joint_vote"):
        options = {**COUNTS, "class_labels": labels[:1], "top_m": (2, 3), "mode": mode}
        assert torch.autograd.gradcheck(
            lambda f, options=options: prototype_margin(f, fg, bg, **options),
            features[:1, :, :2, :2].clone().requires_grad_(),
        )


def test_decoding_takes_the_best_present_class_above_its_threshold(example) -> None:
    _, _, _, labels = example
    margin = torch.randn(3, 4, 4, 5, generator=torch.Generator().manual_seed(3))
    threshold = torch.tensor([0.1, -0.5, 0.9, 0.0])
    found = decode_margin(margin, labels, threshold=threshold)
    for b in range(3):
        for y in range(4):
            for x in range(5):
                classes = labels[b].nonzero()[:, 0].tolist()
                best = max(classes, key=lambda c: margin[b, c, y, x], default=None)
                keep = best is not None and margin[b, best, y, x] > threshold[best]
                assert found[b, y, x] == (best + 1 if keep else 0)
    assert decode_margin(torch.zeros(1, 1, 1, 1), torch.ones(1, 1)).item() == 0, "strictly above"


def test_errors_name_the_argument(example) -> None:
    features, fg, bg, labels = example
    with pytest.raises(ValueError, match=r"mode='typo', expected \"per_set\""):
        prototype_margin(features, fg, bg, mode="typo", **COUNTS)
    with pytest.raises(ValueError, match="top_m"):
        prototype_margin(features, fg, bg, top_m=(0, 3), **COUNTS)
    with pytest.raises(ValueError, match="background"):
        prototype_margin(features, fg, bg[:, :, :3], **COUNTS)
    with pytest.raises(ValueError, match="class_labels"):
        prototype_margin(features, fg, bg, class_labels=labels[:1], **COUNTS)
    with pytest.raises(ValueError, match=r"expected \(B, D, h, w\)"):
        prototype_margin(features[0], fg, bg, **COUNTS)
    with pytest.raises(ValueError, match="disagree"):
        decode_margin(torch.zeros(1, 2, 3, 3), labels)


def test_no_slots_at_all_is_zero_in_both_modes(example) -> None:
    features, fg, bg, _ = example
    none = torch.zeros(4, dtype=torch.int64)
    for mode in ("per_set", "joint_vote"):
        found = prototype_margin(
            features.requires_grad_(),
            fg[:, :0],
            bg[:, :0],
            num_foreground=none,
            num_background=none,
            mode=mode,
        )
        assert torch.equal(found, torch.zeros(3, 4, 4, 5, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(found.sum(), features)
        assert not gradient.any()


class TestThreshold:
    def test_separated_margins(self) -> None:
        margin = torch.cat([torch.linspace(-1, 0.1, 300), torch.linspace(0.3, 1, 300)])
        theta = agreement_threshold(margin, margin > 0.2)
        assert 0.08 < theta < 0.31

    def test_it_is_the_best_of_the_quantiles(self) -> None:
        generator = torch.Generator().manual_seed(0)
        is_class = torch.rand(2000, generator=generator) < 0.3
        margin = torch.randn(2000, generator=generator) + 1.5 * is_class
        theta = agreement_threshold(margin, is_class)

        def iou(level: float) -> float:
            above = margin > level
            return float((above & is_class).sum() / (above | is_class).sum())

        levels = margin.quantile(torch.linspace(0, 1, 99)[1:-1]).tolist()
        assert iou(theta) >= max(iou(level) for level in levels) - 0.005

    def test_weights_stand_for_repetitions(self) -> None:
        margin = torch.tensor([0.1, 0.2, 0.3, 0.4])
        is_class = torch.tensor([False, True, False, True])
        weights = torch.tensor([1.0, 5.0, 1.0, 5.0])
        repeated = margin.repeat_interleave(weights.long())
        expected = agreement_threshold(repeated, is_class.repeat_interleave(weights.long()))
        assert agreement_threshold(margin, is_class, weights=weights) == pytest.approx(expected)
        assert agreement_threshold(margin[:0], is_class[:0]) == 0
