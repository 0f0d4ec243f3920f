"""PFA on two ranks, wrapped as Lightning wraps it: no phase leaves a parameter without gradient."""

from __future__ import annotations

import pytest
import torch
from helpers import ddp_pfa_workers as workers
from helpers.ddp import run_ddp

pytestmark = pytest.mark.ddp


def test_every_preset_trains_in_every_phase_and_ranks_stay_equal(tmp_path) -> None:
    first, second = run_ddp(workers.every_variant, out=tmp_path)
    assert set(first) == {f"{v} / {p}" for v in workers.VARIANTS for p in workers.PHASES}
    for case, state in first.items():
        for name, value in state.items():
            assert torch.equal(value, second[case][name]), f"{case}: {name}"
