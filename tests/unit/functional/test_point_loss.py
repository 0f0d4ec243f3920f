from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers.internals import internal

from scribbleseg.functional import (
    bilinear_at_points,
    drawn_points,
    partial_cross_entropy,
    partial_cross_entropy_at_points,
)


def example(
    low: tuple[int, int], size: tuple[int, int], dtype: torch.dtype = torch.float64
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, *low, generator=generator, dtype=torch.float64).to(dtype)
    scribble = torch.randint(0, 4, (3, *size), generator=generator)
    scribble[torch.rand(scribble.shape, generator=generator) < 0.8] = 255
    scribble[:, 0, 0], scribble[:, -1, -1] = 1, 2  # both ends of both grids
    return logits, scribble


def full_form(
    logits: torch.Tensor, scribble: torch.Tensor, *, align_corners: bool, **options
) -> torch.Tensor:
    upsampled = F.interpolate(
        logits, scribble.shape[1:], mode="bilinear", align_corners=align_corners
    )
    return partial_cross_entropy(upsampled, scribble, **options)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    ("low", "size"),
    [((7, 9), (25, 33)), ((6, 5), (41, 38)), ((1, 4), (9, 13)), ((5, 3), (5, 3)), ((9, 8), (4, 1))],
)
def test_equals_upsampling_then_loss(low, size, align_corners) -> None:
    for dtype, tolerance in ((torch.float64, 1e-14), (torch.float32, 1e-6)):
        logits, scribble = example(low, size, dtype)
        logits.requires_grad_()
        expected = full_form(logits, scribble, align_corners=align_corners)
        found = partial_cross_entropy_at_points(logits, scribble, align_corners=align_corners)
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(
            torch.autograd.grad(found, logits)[0],
            torch.autograd.grad(expected, logits)[0],
            rtol=0,
            atol=tolerance,
        )


@pytest.mark.parametrize("align_corners", [True, False])
def test_values_at_points_are_those_of_interpolate(align_corners) -> None:
    features, scribble = example((6, 5), (41, 38))
    points = drawn_points(scribble)
    enlarged = F.interpolate(features, (41, 38), mode="bilinear", align_corners=align_corners)
    torch.testing.assert_close(
        bilinear_at_points(features, points, (41, 38), align_corners=align_corners),
        enlarged.permute(0, 2, 3, 1).flatten(0, 2)[points],
        rtol=1e-14,
        atol=1e-14,
    )


OPTIONS = {
    "class_weight": {"class_weight": torch.tensor([0.5, 2.0, 0.0, 1.5, 3.0])},
    "label_smoothing": {"label_smoothing": 0.2},
    "reduction": {"reduction": "image"},
    "all": {
        "class_weight": torch.tensor([0.5, 2.0, 0.0, 1.5, 3.0]),
        "label_smoothing": 0.1,
        "reduction": "image",
    },
}


def assert_equal_to_the_full_form(
    logits: torch.Tensor, scribble: torch.Tensor, options: dict
) -> None:
    given = dict(options)
    if "class_weight" in given:
        given["class_weight"] = given["class_weight"].to(logits.dtype)
    losses = (
        full_form(logits, scribble, align_corners=False, **given),
        partial_cross_entropy_at_points(logits, scribble, align_corners=False, **options),
        partial_cross_entropy_at_points(
            logits, scribble, align_corners=False, points=drawn_points(scribble).flip(0), **options
        ),
    )
    results = [(loss.detach(), torch.autograd.grad(loss, logits)[0]) for loss in losses]
    torch.testing.assert_close(results[1], results[0], rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(results[2], results[0], rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", list(OPTIONS))
def test_options_are_those_of_the_full_form(name) -> None:
    logits, scribble = example((6, 5), (41, 38))
    logits.requires_grad_()
    assert_equal_to_the_full_form(logits, scribble, OPTIONS[name])
    scribble[1] = 255  # an image without strokes
    scribble[2, 3:] = 255  # and one with few
    assert_equal_to_the_full_form(logits, scribble, OPTIONS[name])
    assert_equal_to_the_full_form(logits, torch.full_like(scribble, 255), OPTIONS[name])
    assert_equal_to_the_full_form(logits, scribble.masked_fill(scribble < 4, 2), OPTIONS[name])
    with torch.autocast("cpu", torch.bfloat16):
        found = partial_cross_entropy_at_points(
            logits.float(), scribble, align_corners=False, **OPTIONS[name]
        )
    assert found.dtype == torch.float32
    expected = partial_cross_entropy_at_points(
        logits.float(), scribble, align_corners=False, **OPTIONS[name]
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("reduction", ["pixel", "image"])
def test_ranks_average_to_the_loss_of_one_process(reduction, monkeypatch) -> None:
    logits, scribble = example((6, 5), (41, 38))
    scribble[1, 5:] = 255
    options = {"align_corners": True, "reduction": reduction, "label_smoothing": 0.1}
    options["class_weight"] = OPTIONS["class_weight"]["class_weight"]
    expected = partial_cross_entropy_at_points(logits, scribble, **options)
    counts = []
    for mean_over_ranks in (
        lambda count: counts.append(count) or count,
        lambda count: (counts[0] + counts[1]) / 2,
    ):
        monkeypatch.setattr(internal("losses"), "mean_over_ranks", mean_over_ranks)
        losses = [
            partial_cross_entropy_at_points(
                logits[rank], scribble[rank], across_ranks=True, **options
            )
            for rank in (slice(0, 1), slice(1, 3))
        ]
    torch.testing.assert_close(torch.stack(losses).mean(), expected)


def test_gradient() -> None:
    logits, scribble = example((3, 4), (7, 8))
    assert torch.autograd.gradcheck(
        lambda x: partial_cross_entropy_at_points(x, scribble, align_corners=False),
        logits.requires_grad_(),
    )


def test_invariances() -> None:
    logits, scribble = example((6, 5), (41, 38))
    loss = partial_cross_entropy_at_points(logits, scribble, align_corners=True)

    def again(x: torch.Tensor, y: torch.Tensor, **options: torch.Tensor) -> torch.Tensor:
        return partial_cross_entropy_at_points(x, y, align_corners=True, **options)

    torch.testing.assert_close(again(logits + 5, scribble), loss)
    torch.testing.assert_close(again(logits.flip(0, -1), scribble.flip(0, -1)), loss)
    torch.testing.assert_close(again(logits, scribble, points=drawn_points(scribble).flip(0)), loss)
    undrawn = torch.cat([scribble, torch.full_like(scribble[:1], 255)])
    torch.testing.assert_close(again(torch.cat([logits, logits[:1]]), undrawn), loss)


def test_nothing_drawn_is_an_exact_zero_with_gradient() -> None:
    logits, scribble = example((6, 5), (41, 38), torch.float32)
    logits.requires_grad_()
    loss = partial_cross_entropy_at_points(
        logits, torch.full_like(scribble, 255), align_corners=True
    )
    assert loss.item() == 0.0
    loss.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_precision_is_computed_in_float32() -> None:
    logits, scribble = example((6, 5), (41, 38), torch.bfloat16)
    loss = partial_cross_entropy_at_points(logits, scribble, align_corners=True)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(
        loss, partial_cross_entropy_at_points(logits.float(), scribble, align_corners=True)
    )
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(
            partial_cross_entropy_at_points(logits.float(), scribble, align_corners=True), loss
        )


def test_other_ignore_value() -> None:
    logits, scribble = example((6, 5), (41, 38))
    torch.testing.assert_close(
        partial_cross_entropy_at_points(
            logits, scribble.masked_fill(scribble == 255, -1), align_corners=True, ignore_index=-1
        ),
        partial_cross_entropy_at_points(logits, scribble, align_corners=True),
    )


def test_errors() -> None:
    with pytest.raises(ValueError, match="same B"):
        partial_cross_entropy_at_points(
            torch.zeros(2, 3, 4, 4), torch.zeros(1, 8, 8, dtype=torch.long), align_corners=True
        )
    with pytest.raises(ValueError, match="reduction='mean'"):
        partial_cross_entropy_at_points(
            torch.zeros(1, 3, 4, 4),
            torch.zeros(1, 8, 8, dtype=torch.long),
            align_corners=True,
            reduction="mean",
        )
    with pytest.raises(ValueError, match="flattened"):
        bilinear_at_points(
            torch.zeros(3, 4, 4), torch.zeros(1, dtype=torch.long), (8, 8), align_corners=True
        )


@pytest.mark.gpu
def test_cuda_agrees_with_cpu() -> None:
    logits, scribble = example((6, 5), (41, 38), torch.float32)
    results = []
    for device in ("cpu", "cuda"):
        x = logits.to(device, copy=True).requires_grad_()
        loss = partial_cross_entropy_at_points(x, scribble.to(device), align_corners=True)
        results.append((loss.cpu(), torch.autograd.grad(loss, x)[0].cpu()))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)
