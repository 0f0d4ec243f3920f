"""CDSP on two ranks, of which one has nothing to learn from: no parameter lacks a gradient."""

from __future__ import annotations

import pytest
import torch
from helpers import ddp_cdsp_workers as workers
from helpers.ddp import run_ddp

pytestmark = pytest.mark.ddp


def test_an_empty_rank_trains_with_the_other_and_both_stay_equal(tmp_path) -> None:
    first, second = run_ddp(workers.every_case, out=tmp_path)
    assert set(first) == set(workers.CASES)
    for case, state in first.items():
        for name, value in state.items():
            assert torch.isfinite(value).all(), f"{case}: {name}"
            assert torch.equal(value, second[case][name]), f"{case}: {name}"
