"""IRN and PtReCl on two ranks: as one process on all images, with or without labels on a rank."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import ddp_ptrecl_workers as workers
from helpers.ddp import run_ddp

from scribbleseg.functional import read_manifest

RECIPE = Path(__file__).parents[2] / "examples" / "ptrecl_tiny" / "1_cam.yaml"

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


def test_a_writer_reads_what_another_has_just_written_on_two_ranks(tmp_path) -> None:
    """Seeds, and certain labels of them, in one run."""
    options = [
        *("--data.init_args.source.init_args.num_train=5", "--data.init_args.num_workers=0"),
        *("--data.init_args.source.init_args.num_val=2", "--data.init_args.check=false"),
        *("--data.init_args.source.init_args.size=64", "--trainer.accelerator=cpu"),
        *("--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=1"),
        *("--data.init_args.batch_size=2", f"--run_dir={tmp_path / 'run'}"),
    ]
    line = [sys.executable, "-m", "scribbleseg", "fit", f"--config={RECIPE}", *options]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    for name, suffix in (("seeds", "npz"), ("affinity_labels", "png")):
        manifest = read_manifest(tmp_path / "run" / name)
        assert manifest["complete"]
        assert manifest["files"] == 5
        assert len(list((tmp_path / "run" / name).glob(f"*.{suffix}"))) == 5
