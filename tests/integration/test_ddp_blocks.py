"""Two ranks compute what one process computes on the union of their batches."""

from __future__ import annotations

import pytest
import torch
from helpers import ddp_block_workers as workers
from helpers.ddp import run_ddp


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> list[dict[str, dict]]:
    return run_ddp(workers.every_block, out=tmp_path_factory.mktemp("ranks"))


@pytest.mark.parametrize("name", ["gather", "gather_detached"])
def test_gathered_rows_and_averaged_gradients(ranks, name) -> None:
    alone = workers.gather_loss(None, with_grad=name == "gather")
    torch.testing.assert_close(sum(r[name]["loss"] for r in ranks) / 2, alone["loss"])
    for r in ranks:
        assert r[name]["sizes"] == workers.SIZES
        torch.testing.assert_close(r[name]["rows"], alone["rows"])
        torch.testing.assert_close(r[name]["grad"], alone["grad"])


def test_reduced_sums_and_averaged_gradients(ranks) -> None:
    alone = workers.reduce_loss(None)
    for r in ranks:
        torch.testing.assert_close(r["reduce"]["loss"], alone["loss"])
        torch.testing.assert_close(r["reduce"]["grad"], alone["grad"])
    assert [r["mean"].item() for r in ranks] == [3.0, 3.0], "of 2 and 4"


def test_a_rank_without_rows(ranks) -> None:
    first, second = (r["empty"] for r in ranks)
    rows = torch.arange(6.0).view(3, 2)
    for r in (first, second):
        assert torch.equal(r["rows"], rows)
        assert r["offset"] == 0
        assert r["flags"].tolist() == [True, True, False]
        assert r["nothing"].shape == (0, 2)
    assert first["grad"].shape == (0, 2)
    assert torch.equal(second["grad"], 2 * 2 * rows), "both ranks' losses ask for it"


def test_banks_are_those_of_one_process(ranks) -> None:
    alone = workers.update_bank(None)
    first, second = (r["bank"] for r in ranks)
    for name, expected in alone.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected)
    assert torch.equal(first["near_prototypes"], alone["near_prototypes"])


def test_merged_plans_are_that_of_one_process(ranks) -> None:
    alone = workers.fill_store(None)
    for r in ranks:
        for found, expected in zip(r["store"]["plan"], alone["plan"], strict=True):
            assert torch.equal(found, expected)
        torch.testing.assert_close(r["store"]["step"], alone["step"])
