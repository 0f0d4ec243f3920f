"""Factors on a learning rate or a loss weight as pure functions of the step."""

from __future__ import annotations

import math
from typing import Literal

__all__ = ["RampShape", "ScheduleName", "ramp_factor", "schedule_factor"]

ScheduleName = Literal["constant", "linear", "poly", "cosine", "onecycle"]
RampShape = Literal["linear", "sigmoid", "cosine_down"]


def schedule_factor(
    step: int,
    total_steps: int,
    *,
    schedule: ScheduleName = "poly",
    power: float = 0.9,
    warmup_steps: int = 0,
    warmup_start: float = 0.0,
) -> float:
    r"""Factor in [0, 1] by which the base value is multiplied at a step.

    With :math:`t` the step, :math:`T` the total and :math:`w` the warm-up length:

    ========== ==========================================================================
    constant   1
    linear     :math:`1 - t/T`
    poly       :math:`(1 - t/T)^{power}`
    cosine     :math:`\tfrac12 (1 + \cos(\pi (t-w)/(T-w)))` after the warm-up
    onecycle   cosine rise from 1/25 over the warm-up (default 30 % of T), cosine fall to 1e-4/25
    ========== ==========================================================================

    Linear, poly and constant are capped during warm-up by the line from ``warmup_start`` to 1: the
    decay counts from step 0 as DeepLab's does (SPML's released schedule). The function has no
    state, so a resumed run needs none.

    Args:
        step: Optimiser step, 0 for the first.
        total_steps: Steps of the whole run, at least 1.
        schedule: Name from the table.
        power: Exponent of ``poly``.
        warmup_steps: Length of the warm-up in steps; 0 = none (``onecycle``: its default 30 %).
        warmup_start: Factor at step 0 of the warm-up.

    Raises:
        ValueError: If the name is unknown or ``total_steps`` is not positive.

    Example:
        >>> [round(schedule_factor(t, 100, schedule="poly"), 3) for t in (0, 50, 99)]
        [1.0, 0.536, 0.016]
    """
    if total_steps < 1:
        raise ValueError(f"total_steps is {total_steps}, expected at least 1")
    progress = min(max(step / total_steps, 0.0), 1.0)
    if schedule == "onecycle":
        return _one_cycle(step, total_steps, warmup_steps)
    ramp = warmup_start + (1 - warmup_start) * step / warmup_steps if warmup_steps else 1.0
    if schedule == "cosine":
        if step < warmup_steps:
            return ramp
        span = max(total_steps - warmup_steps, 1)
        decay = 0.5 * (1 + math.cos(math.pi * min((step - warmup_steps) / span, 1.0)))
    elif schedule == "poly":
        decay = (1 - progress) ** power
    elif schedule == "linear":
        decay = 1 - progress
    elif schedule == "constant":
        decay = 1.0
    else:
        raise ValueError(f"unknown schedule {schedule!r}; expected one of {ScheduleName}")
    return min(decay, ramp) if step < warmup_steps else decay


def ramp_factor(
    progress: float, *, start: float = 0.0, length: float = 0.0, shape: RampShape = "linear"
) -> float:
    r"""Factor in [0, 1] on the weight of a loss term.

    With :math:`s = (\text{progress} - \text{start}) / \text{length}` clipped to [0, 1]:

    =========== ===================================================================
    linear      :math:`s`
    sigmoid     :math:`e^{-5 (1 - s)^2}` (Laine & Aila, ICLR 2017)
    cosine_down :math:`\tfrac12 (1 + \cos \pi s)`, from 1 to 0
    =========== ===================================================================

    It is 0 before ``start`` and has no state, so a resumed run needs none.

    Args:
        progress: Share of the training that is done, in [0, 1].
        start: Share at which the term sets in.
        length: Share over which it is ramped; 0 = at once.
        shape: Row of the table.

    Raises:
        ValueError: If the shape is unknown.

    Example:
        >>> [ramp_factor(p, start=0.2, length=0.4) for p in (0.1, 0.4, 0.8)]
        [0.0, 0.5, 1.0]
    """
    if progress < start:
        return 0.0
    share = min((progress - start) / length, 1.0) if length > 0 else 1.0
    if shape == "linear":
        return share
    if shape == "sigmoid":
        return math.exp(-5 * (1 - share) ** 2)
    if shape == "cosine_down":
        return 0.5 * (1 + math.cos(math.pi * share)) if length > 0 else 1.0
    raise ValueError(f"unknown ramp {shape!r}; expected linear, sigmoid or cosine_down")


def _one_cycle(step: int, total_steps: int, warmup_steps: int) -> float:
    """Torch's OneCycleLR with its default divisors 25 and 1e4, relative to the peak."""
    start, end = 1 / 25, 1e-4 / 25
    rise = max(float(warmup_steps or 0.3 * total_steps) - 1, 1e-9)
    last = total_steps - 1

    def cosine(low: float, high: float, share: float) -> float:
        return high + (low - high) / 2 * (math.cos(math.pi * share) + 1)

    if step <= rise:
        return cosine(start, 1.0, step / rise)
    return cosine(1.0, end, min((step - rise) / max(last - rise, 1e-12), 1.0))
