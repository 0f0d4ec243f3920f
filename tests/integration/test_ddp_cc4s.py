"""CC4S on two ranks takes the steps that one process takes on the union of their batches."""

from __future__ import annotations

import pytest
from helpers import ddp_cc4s_workers as workers
from helpers.ddp import run_ddp

pytestmark = pytest.mark.ddp


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    return run_ddp(workers.every_variant, out=tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", workers.VARIANTS)
def test_losses_and_gradients_are_those_of_the_union(ranks, name: str) -> None:
    alone = workers.two_steps(name, slice(None))
    largest = max(value.abs().max() for key, value in alone.items() if "loss" not in key)
    for found in ranks:
        assert set(found[name]) == set(alone)
        for key, value in alone.items():
            error = (found[name][key] - value).abs().max()
            limit = 2e-3 * value.abs().max() + 2e-5 * largest
            assert error <= limit, f"{key}: {error:.3g} above {limit:.3g}"
