from __future__ import annotations

import math

import pytest
import torch

from scribbleseg.functional import schedule_factor


def test_one_cycle_is_torchs() -> None:
    total = 40
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.AdamW([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=total)
    for step in range(total):
        expected = optimizer.param_groups[0]["lr"]
        ours = 2e-3 * schedule_factor(step, total, schedule="onecycle")
        assert ours == pytest.approx(expected, rel=1e-9, abs=1e-12)
        if step < total - 1:
            optimizer.step()
            reference.step()


def test_poly_and_linear_end_at_the_final_factor() -> None:
    assert schedule_factor(0, 10, schedule="poly") == 1
    assert schedule_factor(10, 10, schedule="poly", final=0.1) == pytest.approx(0.1)
    assert schedule_factor(5, 10, schedule="linear") == pytest.approx(0.5)
    assert schedule_factor(7, 10, schedule="constant") == 1


def test_warmup_caps_the_decay() -> None:
    values = [
        schedule_factor(t, 100, schedule="poly", warmup_steps=10, warmup_start=0.1)
        for t in range(12)
    ]
    assert values[0] == pytest.approx(0.1)
    assert values[:9] == sorted(values[:9])
    assert values[9] < 0.91 < values[9] + 0.01
    assert values[10] == pytest.approx(0.9**0.9)


def test_cosine_after_warmup() -> None:
    factor = schedule_factor(21, 200, schedule="cosine", warmup_steps=20)
    assert factor == pytest.approx(0.5 * (1 + math.cos(math.pi / 180)))
    assert schedule_factor(10, 200, schedule="cosine", warmup_steps=20) == pytest.approx(0.5)


def test_factors_stay_in_range_and_bad_input_is_refused() -> None:
    for name in ("constant", "linear", "poly", "cosine", "onecycle"):
        for step in range(35):
            assert 0 <= schedule_factor(step, 30, schedule=name, warmup_steps=3) <= 1
    with pytest.raises(ValueError, match="unknown schedule 'step'"):
        schedule_factor(0, 10, schedule="step")
    with pytest.raises(ValueError, match="at least 1"):
        schedule_factor(0, 0)
