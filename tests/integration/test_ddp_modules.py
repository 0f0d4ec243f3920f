"""Two ranks take the training step that one process takes on the union of their batches."""

from __future__ import annotations

import pytest
import torch
from helpers import ddp_module_workers as workers
from helpers.ddp import run_ddp

pytestmark = pytest.mark.ddp


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict]:
    return run_ddp(workers.every_module, out=tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", workers.MODULES)
def test_loss_and_gradients_are_those_of_the_union(ranks, name: str) -> None:
    alone = workers.step(name, slice(None))
    assert set(ranks[0][name]) == set(alone)
    largest = max(value.abs().max() for key, value in alone.items() if key != "loss")
    for found in ranks:
        torch.testing.assert_close(found[name]["loss"], alone["loss"], rtol=1e-4, atol=1e-6)
        for key, value in alone.items():
            error = (found[name][key] - value).abs().max()
            limit = 2e-3 * value.abs().max() + 2e-5 * largest
            assert error <= limit, f"{key}: {error:.3g} above {limit:.3g}"
