from __future__ import annotations

import math

import pytest
import torch

from scribbleseg.functional import ramp_factor, schedule_factor


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


def test_poly_and_linear() -> None:
    assert schedule_factor(0, 10, schedule="poly") == 1
    assert schedule_factor(10, 10, schedule="poly") == 0
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


START, LENGTH, END = 0.25, 0.5, 0.75  # without rounding
BEFORE = math.nextafter(START, 0)


@pytest.mark.parametrize(
    ("shape", "first", "middle", "last"),
    [
        ("linear", 0.0, 0.5, 1.0),
        ("sigmoid", math.exp(-5), math.exp(-1.25), 1.0),
        ("cosine_down", 1.0, 0.5, 0.0),
    ],
)
def test_ends_of_a_ramp(shape: str, first: float, middle: float, last: float) -> None:
    def factor(progress: float) -> float:
        return ramp_factor(progress, start=START, length=LENGTH, shape=shape)

    assert factor(0.0) == factor(BEFORE) == 0, "off before the start"
    assert factor(START) == first, "the start belongs to it"
    assert factor(0.5) == pytest.approx(middle, rel=1e-12)
    assert factor(END) == factor(math.nextafter(END, 1)) == factor(1.0) == last, "and the end"
    inner = math.nextafter(END, 0)
    assert factor(inner) == pytest.approx(last, abs=1e-12)


@pytest.mark.parametrize("shape", ["linear", "sigmoid", "cosine_down"])
def test_a_ramp_without_length_is_on_from_its_start(shape: str) -> None:
    found = [ramp_factor(p, start=START, shape=shape) for p in (0.0, BEFORE, START, 1.0)]
    assert found == [0, 0, 1, 1]
    assert ramp_factor(0.0, shape=shape) == 1


def test_unknown_ramp_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown ramp 'cosine'"):
        ramp_factor(0.5, shape="cosine")


def test_warmup_ends_before_its_last_step() -> None:
    # the first step after it has the factor of the schedule alone
    for name in ("constant", "linear", "poly", "cosine"):
        options = {"schedule": name, "warmup_steps": 4, "warmup_start": 0.5}
        found = [schedule_factor(step, 100, **options) for step in range(5)]
        after = {"constant": 1.0, "linear": 0.96, "poly": 0.96**0.9, "cosine": 1.0}[name]
        assert found[:4] == [0.5, 0.625, 0.75, 0.875]
        assert found[4] == pytest.approx(after, rel=1e-12)
