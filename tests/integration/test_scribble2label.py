"""Scribble2Label with its bank, from training to resuming."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.training import quiet_trainer
from lightning.pytorch import Callback, seed_everything

from scribbleseg import ConfigError
from scribbleseg.callbacks import ExactResume
from scribbleseg.data import Augmentation, ScribbleDataModule
from scribbleseg.data.sources import SyntheticSource
from scribbleseg.methods import Scribble2LabelModule

TINY = {"encoder": "tu-test_resnet.r160_in1k", "encoder_weights": None}


def make(tmp_path, **options) -> tuple[Scribble2LabelModule, ScribbleDataModule, dict]:
    seed_everything(0)
    source = SyntheticSource(num_train=6, num_val=2, size=48)
    data = ScribbleDataModule(
        source,
        batch_size=2,
        num_workers=0,
        crop_size=32,
        augmentation=Augmentation(hflip=True, rot90=True),
    )
    module = Scribble2LabelModule(source.num_classes, **TINY, **options)
    return module, data, {"default_root_dir": tmp_path, "limit_val_batches": 0}


def test_labels_appear_where_the_prediction_is_confident(tmp_path, digest) -> None:
    module, data, options = make(
        # the weights stay: trained ones would differ with the order of sums
        tmp_path,
        lr=1e-9,
        bank_interval=0,
        pseudo_start=0.3,
        threshold=0.3,
        bias_correction=True,
    )
    trainer = quiet_trainer(max_epochs=3, **options)
    trainer.fit(module, data)
    assert module.bank.generation == 2  # after the first and the second epoch
    assert sorted(p.name for p in module.bank.path(0).parent.iterdir()) == [
        f"{index:07d}.npy" for index in range(6)
    ]
    logged = trainer.logged_metrics
    digest.check(
        "Scribble2Label/share of labels", float(logged["train/pseudo_label_fraction"]), atol=0.02
    )
    digest.check("Scribble2Label/loss", float(logged["train/loss_pseudo"]), rtol=0.03, atol=1e-3)
    assert logged["train/loss_pseudo"] > 0
    assert module.training


def test_the_bank_is_refreshed_in_evaluation_mode_which_ends_with_it(tmp_path) -> None:
    # frozen layers are in evaluation mode all the time, and stay so
    options = {"bank_interval": 2, "alpha": 1.0, "freeze_batchnorm": "encoder"}
    module, data, trainer = make(tmp_path, **options)
    refresh, modes, seen = module.refresh_bank, [], []

    def found() -> dict[str, bool]:
        return {name: part.training for name, part in module.named_modules()}

    def watched() -> None:
        before, weights = found(), {k: v.clone() for k, v in module.state_dict().items()}
        network = copy.deepcopy(module.network).eval()
        hook = module.network.register_forward_pre_hook(lambda *_: modes.append(found()))
        refresh()
        hook.remove()
        assert found() == before
        assert {True, False} == set(before.values())
        assert all(torch.equal(v, weights[k]) for k, v in module.state_dict().items())
        for batch in module.unaugmented_images():
            for index, image in zip(batch["index"].tolist(), batch["image"], strict=True):
                with torch.no_grad():
                    expected = network(image[None])[0].softmax(0).numpy()
                stored = np.load(module.bank.path(index)).astype(np.float32)
                np.testing.assert_allclose(stored, expected, rtol=0, atol=1e-3)
                seen.append(index)

    module.refresh_bank = watched
    quiet_trainer(max_epochs=2, **trainer).fit(module, data)
    assert sorted(seen) == sorted([*range(6)] * 2), "after steps 2 and 4 of 6"
    assert modes
    assert not any(training for mode in modes for training in mode.values())


class _SaveAt(Callback):
    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("step", [4, 5, 6])
def test_resuming_continues_with_the_bank_of_the_checkpoint(tmp_path, step: int) -> None:
    options = {"bank_interval": 2, "pseudo_start": 0.0, "threshold": 0.3, "bias_correction": True}
    path = tmp_path / "middle.ckpt"

    def fit(*callbacks: Callback, **resume) -> Scribble2LabelModule:
        module, data, trainer = make(tmp_path, **options)
        callbacks = [ExactResume(), *callbacks]
        quiet_trainer(max_epochs=4, callbacks=callbacks, **trainer).fit(module, data, **resume)
        return module

    whole = fit(_SaveAt(step, path))
    assert whole.bank.generation == 5  # steps 2, 4, 6, 8 and 10 of 12
    saved = torch.load(path, weights_only=True)["scribbleseg"]["bank"]["generation"]
    assert saved == (step - 1) // 2
    assert whole.bank.path(0, saved).exists()  # kept for the checkpoint
    resumed = fit(ckpt_path=path)
    assert resumed.bank.generation == 5
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_once_per_epoch_counts_optimiser_steps(tmp_path) -> None:
    module, data, options = make(tmp_path, bank_interval=0)
    trainer = quiet_trainer(max_epochs=4, accumulate_grad_batches=2, **options)
    trainer.fit(module, data)
    assert module.bank.generation == 3


def test_without_our_data_module_the_error_says_what_is_missing(tmp_path) -> None:
    module, data, options = make(tmp_path)
    data.setup("fit")
    trainer = quiet_trainer(max_epochs=1, **options)
    with pytest.raises(ConfigError, match="unaugmented"):
        trainer.fit(module, data.train_dataloader())
