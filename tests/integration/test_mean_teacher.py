"""The mean teacher over whole runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.training import quiet_trainer
from lightning.pytorch import Callback, seed_everything

from scribbleseg.callbacks import ExactResume
from scribbleseg.data import ScribbleDataModule
from scribbleseg.data.sources import SyntheticSource
from scribbleseg.methods import MeanTeacherModule


class _SaveAt(Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step and not self.path.exists():
            trainer.save_checkpoint(self.path)


def make() -> tuple[MeanTeacherModule, ScribbleDataModule]:
    seed_everything(0)
    source = SyntheticSource(num_train=8, num_val=2, size=32)
    data = ScribbleDataModule(source, batch_size=2, num_workers=0)
    module = MeanTeacherModule(
        source.num_classes, encoder="tu-test_resnet.r160_in1k", encoder_weights=None, samples=1
    )
    return module, data


def fit(folder: Path, *callbacks: Callback, accumulate: int = 1, **resume) -> MeanTeacherModule:
    module, data = make()
    quiet_trainer(
        max_epochs=3,
        accumulate_grad_batches=accumulate,
        limit_val_batches=0,
        default_root_dir=folder,
        callbacks=[ExactResume(), *callbacks],
    ).fit(module, data, **resume)
    return module


@pytest.mark.parametrize(("step", "accumulate"), [(3, 1), (4, 1), (5, 1), (2, 2)])
def test_resuming_moves_the_teacher_as_without_interruption(tmp_path, step, accumulate) -> None:
    path = tmp_path / "middle.ckpt"
    whole = fit(tmp_path, _SaveAt(step, path), accumulate=accumulate)
    resumed = fit(tmp_path, accumulate=accumulate, ckpt_path=path)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


class _Follow(Callback):
    """Moves a teacher of its own after each step, from the beginning of the fit."""

    def on_train_start(self, trainer, module) -> None:
        self.own = [p.clone() for p in module.teacher.parameters()]

    def on_train_batch_end(self, trainer, module, *_) -> None:
        rate = min(1 - 1 / (trainer.global_step + 1), 0.99)
        for own, student in zip(self.own, module.network.parameters(), strict=True):
            own.copy_(rate * own + (1 - rate) * student.detach())


def test_a_second_fit_moves_the_teacher_again(tmp_path) -> None:
    module = fit(tmp_path)
    before, follow = [p.clone() for p in module.teacher.parameters()], _Follow()
    _, data = make()
    options = {"max_epochs": 1, "limit_val_batches": 0, "default_root_dir": tmp_path}
    quiet_trainer(callbacks=[follow], **options).fit(module, data)
    for old, own, found in zip(before, follow.own, module.teacher.parameters(), strict=True):
        assert not torch.equal(old, found)
        torch.testing.assert_close(found, own)
