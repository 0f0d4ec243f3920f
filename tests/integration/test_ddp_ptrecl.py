"""IRN and PtReCl on two ranks: as one process on all images, with or without labels on a rank."""

from __future__ import annotations

import pytest
import torch
from helpers import ddp_ptrecl_workers as workers
from helpers.ddp import run_ddp

pytestmark = pytest.mark.ddp


def test_an_empty_rank_trains_with_the_other_as_one_process_would(tmp_path) -> None:
    first, second = run_ddp(workers.every_case, out=tmp_path)
    assert set(first) == set(workers.CASES)
    for case, state in first.items():
        alone = workers.three_steps(case, slice(0, 4))
        for name, value in state.items():
            assert torch.isfinite(value).all(), f"{case}: {name}"
            assert torch.equal(value, second[case][name]), f"{case}: {name}"
            torch.testing.assert_close(
                value, alone[name], rtol=1e-3, atol=1e-6, msg=f"{case}: {name}"
            )


@pytest.mark.parametrize("clustering", ["sample", "streaming"])
def test_features_collected_on_two_ranks_are_those_of_one(tmp_path, clustering: str) -> None:
    (tmp_path / "two").mkdir()
    first, second = run_ddp(
        workers.collect, str(tmp_path / "two"), clustering, out=tmp_path / "two"
    )
    alone = workers.collect(0, str(tmp_path / "one"), clustering)
    assert alone["num_foreground"].sum() > 0
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, msg=name)
        assert torch.equal(first[name], second[name]), name
