"""A run that is stopped and resumed ends with exactly the weights of one that was not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from scribbleseg import (
    AtomicCheckpointIO,
    CheckpointError,
    LastCheckpoint,
    RegularizedModule,
    ScribbleDataModule,
    read_checkpoint,
)
from scribbleseg.callbacks import ExactResume, NonFiniteGuard
from scribbleseg.data import Augmentation
from scribbleseg.data.sources import SyntheticSource

EPOCHS, STEPS = 3, 4


class Restless(RegularizedModule):
    """Draws from every generator, in training and in validation."""

    def training_step(self, batch, batch_idx):
        noise = 0.1 * torch.randn_like(batch["image"]) * random.random() * np.random.rand()  # noqa: NPY002
        return super().training_step({**batch, "image": batch["image"] + noise}, batch_idx)

    def validation_step(self, batch, batch_idx):
        torch.rand(3)
        random.random()
        np.random.rand()  # noqa: NPY002
        return super().validation_step(batch, batch_idx)


class StopAt(Callback):
    """Asks the trainer to stop after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_) -> None:
        trainer.should_stop = trainer.global_step == self.step


def fit(
    *,
    callbacks: tuple[Callback, ...] = (),
    folder: Path | None = None,
    last: Path | None = None,
    after: Path | None = None,
    workers: int = 0,
    seed: int = 0,
    batch_size: int = 2,
    schedule: str = "poly",
    resume: Path | None = None,
    **limits: int,
):
    """Train; ``folder`` keeps every step and epoch, ``last`` the last, ``after`` is saved after."""
    seed_everything(seed, verbose=False)
    data = ScribbleDataModule(
        SyntheticSource(num_train=2 * STEPS, num_val=2, size=32),
        batch_size=batch_size,
        num_workers=workers,
        check=False,
        augmentation=Augmentation(scale=(0.8, 1.2), color_jitter=0.3),
        crop_size=32,
    )
    model = Restless(
        5, encoder="tu-test_resnet.r160_in1k", encoder_weights=None, lr=1e-3, schedule=schedule
    )
    keep = (
        []
        if folder is None
        else [
            ModelCheckpoint(folder, filename="{step}", save_top_k=-1, every_n_train_steps=1),
            ModelCheckpoint(
                folder,
                filename="end_{epoch}",
                save_top_k=-1,
                every_n_epochs=1,
                save_on_train_epoch_end=True,
            ),
        ]
    )
    if last is not None:
        keep = [LastCheckpoint(last, filename="last", save_on_train_epoch_end=True)]
    trainer = Trainer(
        **{"max_epochs": EPOCHS, **limits},
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        val_check_interval=2,
        callbacks=[ExactResume(), NonFiniteGuard(), *callbacks, *keep],
        enable_checkpointing=bool(keep),
        plugins=[AtomicCheckpointIO()],
    )
    trainer.fit(model, data, ckpt_path=resume, weights_only=True)
    if after is not None:
        trainer.save_checkpoint(after, weights_only=False)
    assert limits or callbacks or trainer.global_step == EPOCHS * STEPS
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    return folder, fit(folder=folder)


@pytest.mark.parametrize("step", [1, 2, 4, 7])
def test_resume_at_any_step_is_bitwise(step: int, uninterrupted) -> None:
    folder, weights = uninterrupted
    assert same(weights, fit(seed=99, resume=folder / f"step={step}.ckpt"))


def test_resume_from_an_epochs_end_is_bitwise(uninterrupted) -> None:
    folder, weights = uninterrupted
    assert same(weights, fit(seed=99, resume=folder / "end_epoch=1.ckpt"))


@pytest.fixture(scope="module")
def constant_rate():
    """Weights of a run whose learning rate does not depend on its planned length."""
    return fit(schedule="constant")


@pytest.mark.parametrize("stop", [6, 8])
def test_resume_after_a_stop_by_max_steps_is_bitwise(stop: int, constant_rate, tmp_path) -> None:
    # with a worker: its prefetching shows an order that is announced too late
    options = {"workers": 1, "schedule": "constant"}
    fit(last=tmp_path, max_steps=stop, **options)
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == stop
    assert same(constant_rate, fit(seed=99, resume=tmp_path / "last.ckpt", **options))


@pytest.mark.parametrize("stop", [5, 6])
def test_resume_after_should_stop_in_an_epoch_is_bitwise(
    stop: int, uninterrupted, tmp_path
) -> None:
    # a validation is due after step 6, which Lightning puts in after step 5 as well
    _, weights = uninterrupted
    fit(last=tmp_path, callbacks=(StopAt(stop),))
    state = read_checkpoint(tmp_path / "last.ckpt")
    assert (state["epoch"], state["global_step"]) == (1, stop)
    assert same(weights, fit(seed=99, resume=tmp_path / "last.ckpt"))


def test_resume_from_a_save_after_fit_is_bitwise(constant_rate, tmp_path) -> None:
    options = {"workers": 1, "schedule": "constant"}
    fit(after=tmp_path / "after.ckpt", max_epochs=2, **options)
    assert same(constant_rate, fit(seed=99, resume=tmp_path / "after.ckpt", **options))


def test_another_batch_size_in_the_middle_of_an_epoch_is_refused(uninterrupted) -> None:
    folder, _ = uninterrupted
    with pytest.raises(CheckpointError, match="2 images per step over all processes, now 4"):
        fit(resume=folder / "step=2.ckpt", batch_size=4)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_the_result(workers: int, uninterrupted) -> None:
    folder, weights = uninterrupted
    assert same(weights, fit(workers=workers))
    resumed = fit(workers=workers, seed=99, resume=folder / "step=6.ckpt")
    assert same(weights, resumed)


def test_two_seeds_differ_and_one_repeats(uninterrupted) -> None:
    _, weights = uninterrupted
    assert same(weights, fit())
    assert not same(weights, fit(seed=1))


def test_checkpoints_hold_plain_data_only(uninterrupted) -> None:
    state = read_checkpoint(uninterrupted[0] / "step=3.ckpt")
    assert state["scribbleseg"]["data"]["class_names"][0] == "background"
    assert state["scribbleseg"]["class_path"].endswith("Restless")
    assert len(state["scribbleseg"]["data"]["palette"]) == 256


COMMAND = [
    *(sys.executable, "-m", "scribbleseg", "fit", "--model", "RegularizedModule"),
    *("--model.encoder", "tu-test_resnet.r160_in1k", "--model.encoder_weights", "null"),
    *("--data", "ScribbleDataModule", "--data.source", "SyntheticSource"),
    *("--data.source.num_train", "16", "--data.source.num_val", "2", "--data.source.size", "32"),
    *("--data.batch_size", "2", "--data.check", "false", "--trainer.max_epochs", "3"),
    *("--trainer.accelerator", "cpu", "--save_every_n_steps", "1"),
]


def wait_for_step(process: subprocess.Popen, last: Path, step: int) -> None:
    """Until last.ckpt is of this step; reading it meanwhile proves it is never half written."""
    for _ in range(1200):
        if process.poll() is not None:
            return
        if last.exists() and read_checkpoint(last)["global_step"] >= step:
            return
        time.sleep(0.05)
    raise TimeoutError(f"step {step} was not reached")


def start(run_dir: Path, workers: int, log: Path, *more: str) -> subprocess.Popen:
    last = run_dir / "checkpoints" / "last.ckpt"
    resume = ["--ckpt_path", str(last)] if last.exists() else []
    arguments = ["--run_dir", str(run_dir), "--data.num_workers", str(workers), *resume, *more]
    with log.open("ab") as stream:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            stdout=stream,
            stderr=stream,
            cwd=run_dir.parent,
            env={**os.environ, "OMP_NUM_THREADS": "2"},
        )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_killed_five_times_ends_with_the_same_weights(workers: int, tmp_path) -> None:
    log = tmp_path / "log.txt"
    assert start(tmp_path / "full", workers, log).wait() == 0, log.read_text()
    steps = sorted(random.Random(workers).sample(range(1, 23), 5))
    killed = tmp_path / "killed"
    for step in steps:
        process = start(killed, workers, log)
        wait_for_step(process, killed / "checkpoints" / "last.ckpt", step)
        process.kill()
        process.wait()
    assert start(killed, workers, log).wait() == 0, log.read_text()
    expected, found = (
        read_checkpoint(folder / "checkpoints" / "last.ckpt")
        for folder in (tmp_path / "full", killed)
    )
    assert found["global_step"] == expected["global_step"] == 24
    assert same(expected["state_dict"], found["state_dict"])


@pytest.mark.slow
def test_sigterm_saves_prints_the_resume_command_and_exits_0(tmp_path) -> None:
    log, run_dir = tmp_path / "log.txt", tmp_path / "run"
    process = start(run_dir, 0, log, "--trainer.max_epochs", "2000")
    last = run_dir / "checkpoints" / "last.ckpt"
    wait_for_step(process, last, 2)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 0, log.read_text()
    assert time.monotonic() - sent < 30
    assert f"scribbleseg fit --ckpt_path {last}" in log.read_text()
    assert read_checkpoint(last)["global_step"] >= 2
