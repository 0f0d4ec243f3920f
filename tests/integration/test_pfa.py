"""PFA over whole runs: through all phases, and resumed in the last one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.training import quiet_trainer
from lightning.pytorch import Callback, seed_everything

from scribbleseg.callbacks import ExactResume
from scribbleseg.data import ScribbleDataModule
from scribbleseg.data.sources import SyntheticSource
from scribbleseg.methods import PFAModule

SAVED = (3, 9, 25)


class _Watch(Callback):
    """Notes the phase of every step, and saves after one of them."""

    def __init__(self, steps: tuple[int, ...], folder: Path) -> None:
        self.steps, self.folder, self.phases = steps, folder, []

    def on_train_batch_end(self, trainer, *_) -> None:
        self.phases.append(int(trainer.callback_metrics["train/phase"]))
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def fit(folder: Path, *callbacks: Callback, **resume) -> PFAModule:
    seed_everything(0, verbose=False)
    source = SyntheticSource(num_train=8, num_val=2, size=32)
    data = ScribbleDataModule(source, batch_size=2, num_workers=0)
    module = PFAModule(
        source.num_classes,
        arch="unet",
        encoder="tu-test_resnet.r160_in1k",
        encoder_weights=None,
        warmup=0.2,
        num_prototypes=7,
        confidence="centred",
        lr=1e-3,
    )
    quiet_trainer(
        max_epochs=8,
        limit_val_batches=1,
        default_root_dir=folder,
        callbacks=[ExactResume(), *callbacks],
    ).fit(module, data, **resume)
    return module


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    watch = _Watch(SAVED, folder)
    return fit(folder, watch), watch


def test_a_run_passes_through_the_phases_in_order(whole) -> None:
    _, watch = whole
    assert watch.phases == sorted(watch.phases)
    assert watch.phases[:4] == [0] * 4, "less than a fifth of 32 steps"
    assert set(watch.phases) == {0, 1, 2}
    assert [watch.phases[step] for step in SAVED] == [0, 1, 2], "the next steps"


@pytest.mark.parametrize("step", SAVED)
def test_resuming_in_any_phase_is_bitwise(step: int, whole, tmp_path) -> None:
    module, watch = whole
    resumed = fit(tmp_path, ckpt_path=watch.folder / f"{step}.ckpt")
    for name, value in module.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
