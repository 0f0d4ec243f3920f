"""SPML on two ranks is SPML on one with the whole batch: gradients, queue and parameters."""

from __future__ import annotations

import pytest
import torch
from helpers import ddp_spml_workers as workers
from helpers.ddp import run_ddp

pytestmark = pytest.mark.ddp


def test_two_ranks_are_one_process_on_the_whole_batch(tmp_path) -> None:
    first, second = run_ddp(workers.every_case, out=tmp_path)
    for case, found in first.items():
        for name, value in found["state"].items():
            assert torch.isfinite(value).all(), f"{case}: {name}"
            assert torch.equal(value, second[case]["state"][name]), f"{case}: {name}"
    everything = slice(None)
    for case in workers.CASES:
        if case == "own prototypes only":
            continue
        compare(first[case], workers.three_steps(case, everything, wrap=False), case)
    for empty in workers.EMPTY:
        alone = workers.three_steps("all relations", everything, empty, wrap=False)
        compare(first[f"empty {empty}"], alone, empty)
    # without the gradient of the other rank it is another method
    mine, theirs = (first[c]["gradients"] for c in ("own prototypes only", "all relations"))
    name = "network.decoder.embed.weight"
    assert not torch.allclose(mine[name], theirs[name], rtol=1e-3)


def compare(found: dict, alone: dict, case: str) -> None:
    for kind in ("gradients", "state"):
        for name, value in alone[kind].items():
            torch.testing.assert_close(
                found[kind][name],
                value,
                rtol=1e-3,
                atol=1e-5,
                msg=lambda text, name=name: f"{case}: {name}: {text}",
            )
