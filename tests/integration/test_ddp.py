"""Training and validating on two processes."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scribbleseg import read_checkpoint

COMMAND = [
    *(sys.executable, "-m", "scribbleseg", "fit", "--model", "RegularizedModule"),
    *("--model.encoder", "tu-test_resnet.r160_in1k", "--model.encoder_weights", "null"),
    *("--data", "ScribbleDataModule", "--data.source", "SyntheticSource"),
    # 13 images, 5 for validation: neither divides by two ranks
    *("--data.source.num_train", "13", "--data.source.num_val", "5", "--data.source.size", "32"),
    *("--data.batch_size", "2", "--data.num_workers", "0", "--trainer.accelerator", "cpu"),
]


def fit(folder: Path, *words: str) -> None:
    run = subprocess.run(
        [*COMMAND, "--run_dir", str(folder), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder.parent,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]


def last_score(folder: Path, name: str) -> float:
    with (folder / "metrics.csv").open(newline="") as stream:
        return [float(row[name]) for row in csv.DictReader(stream) if row.get(name)][-1]


@pytest.mark.ddp
def test_two_ranks_train_score_and_resume(tmp_path) -> None:
    folder, ranks = tmp_path / "two", ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    fit(folder, *ranks, "--trainer.max_epochs", "1")
    last = folder / "checkpoints" / "last.ckpt"
    state = read_checkpoint(last)
    assert state["global_step"] == 3, "7 samples a rank, batches of 2, the last one dropped"
    assert all(
        torch.isfinite(v).all() for v in state["state_dict"].values() if v.is_floating_point()
    )

    # repeated samples must not count: one process scores the same weights the same
    single = tmp_path / "one"
    score = subprocess.run(
        [
            *(w if w != "fit" else "validate" for w in COMMAND),
            *("--ckpt_path", str(last), "--run_dir", str(single)),
        ],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout
    row = next(line for line in score.splitlines() if "val/miou" in line)
    assert float(row.split()[-1]) == pytest.approx(last_score(folder, "val/miou"), abs=1e-6)

    fit(folder, *ranks, "--trainer.max_epochs", "2", "--ckpt_path", str(last))
    assert read_checkpoint(last)["global_step"] == 6


@pytest.mark.ddp
def test_a_rank_with_nothing_of_its_own_to_validate_does_not_hang(tmp_path) -> None:
    ranks = ("--trainer.devices", "2", "--trainer.strategy", "ddp", "--trainer.max_epochs", "1")
    fit(tmp_path / "run", *ranks, "--data.source.num_val", "1")
    assert 0 <= last_score(tmp_path / "run", "val/miou") <= 1
