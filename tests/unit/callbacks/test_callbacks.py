from __future__ import annotations

import json
import logging
import random
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.contract import TINY_ENCODER
from helpers.internals import internal
from helpers.training import quiet_trainer
from lightning.pytorch import Callback, Trainer
from PIL import Image

from scribbleseg import ConfigError, NonFiniteLossError, RegularizedModule, ScribbleDataModule
from scribbleseg.callbacks import (
    ExactResume,
    NonFiniteGuard,
    PredictionPanel,
    PseudoLabelWriter,
    RunSummary,
    get_rng_state,
    set_rng_state,
)
from scribbleseg.data import read_image
from scribbleseg.data.sources import SyntheticSource
from scribbleseg.methods import PFAModule, SPMLModule


class Poisoned(RegularizedModule):
    """Its loss is NaN at the given steps."""

    bad: tuple[int, ...] = ()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.calls = getattr(self, "calls", -1) + 1
        if self.calls in self.bad:
            self.loss_terms["pce"] = torch.tensor(float("nan"))
            return loss * float("nan")
        return loss


def small_data() -> ScribbleDataModule:
    source = SyntheticSource(num_train=12, num_val=3, size=32)
    return ScribbleDataModule(
        source, batch_size=2, num_workers=0, crop_size=32, check=False, seed=0
    )


def fit(module, *callbacks, **options) -> Trainer:
    settings = {"max_epochs": 1, "num_sanity_val_steps": 0, **options}
    trainer = quiet_trainer(**settings, callbacks=list(callbacks))
    trainer.fit(module, small_data())
    return trainer


def build(cls=RegularizedModule, **options):
    torch.manual_seed(0)
    return cls(5, encoder=TINY_ENCODER, encoder_weights=None, **options)


class Forgetful(RegularizedModule):
    """Leaves the third batch out."""

    def training_step(self, batch, batch_idx):
        return None if batch_idx == 2 else super().training_step(batch, batch_idx)


def without_the_third_batch() -> RegularizedModule:
    module = build(Forgetful, schedule="constant")
    fit(module)
    return module


def assert_same(module, other) -> None:
    state = other.state_dict()
    for name, value in module.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_one_bad_step_is_skipped_as_if_it_had_not_been() -> None:
    module, guard = build(Poisoned, schedule="constant"), NonFiniteGuard()
    module.bad = (2,)
    fit(module, guard)
    assert guard.skipped == 1
    assert_same(module, without_the_third_batch())


def test_skipped_step_changes_no_weight() -> None:
    module, seen = build(Poisoned, weight_decay=0.5), []

    class Watch(NonFiniteGuard):
        def on_train_batch_end(self, trainer, pl_module, *_):
            seen.append([p.detach().clone() for p in pl_module.parameters()])

    module.bad = (1,)
    fit(module, Watch(), limit_train_batches=3, limit_val_batches=0)
    assert all(torch.equal(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(seen[1], seen[2], strict=True))


def test_a_non_finite_image_poisons_neither_weights_nor_statistics() -> None:
    class Broken(RegularizedModule):
        def training_step(self, batch, batch_idx):
            if batch_idx == 2:
                batch["image"][0, 0, 0, 0] = float("inf")
            return super().training_step(batch, batch_idx)

    module, guard = build(Broken, schedule="constant"), NonFiniteGuard()
    fit(module, guard)
    assert guard.skipped == 1
    assert_same(module, without_the_third_batch())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (PFAModule, {"arch": "unet", "num_prototypes": 3}),
        (SPMLModule, {"arch": "unet", "embedding_dim": 8, "memory_capacity": 100}),
    ],
)
def test_a_bad_step_leaves_banks_and_queues_alone(kind, options) -> None:
    class Bad(kind):
        def training_step(self, batch, batch_idx):
            if batch_idx == 1:
                batch["image"][:] = float("nan")
            return super().training_step(batch, batch_idx)

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            states.append({name: value.clone() for name, value in pl_module.state_dict().items()})

    states: list[dict[str, torch.Tensor]] = []
    data = ScribbleDataModule(
        small_data().source, batch_size=2, num_workers=0, check=False, superpixels="grid"
    )
    trainer = quiet_trainer(
        max_epochs=1, limit_val_batches=0, callbacks=[NonFiniteGuard(), Watch()], max_steps=3
    )
    trainer.fit(build(Bad, **options), data)
    changed = {name for name, value in states[1].items() if not torch.equal(value, states[0][name])}
    assert changed == set()
    assert any(not torch.equal(value, states[1][name]) for name, value in states[2].items())


def test_accumulated_batches_are_all_named() -> None:
    module, guard = build(Poisoned), NonFiniteGuard(max_consecutive=1)
    module.bad = (0,)
    with pytest.raises(NonFiniteLossError, match="pce=nan") as caught:
        fit(module, guard, accumulate_grad_batches=2)
    assert str(caught.value).count("train_000") == 4


def test_three_bad_steps_stop_with_term_step_and_images() -> None:
    module, guard = build(Poisoned), NonFiniteGuard()
    module.bad = tuple(range(1, 9))
    with pytest.raises(NonFiniteLossError) as caught:
        fit(module, guard)
    message = str(caught.value)
    assert "3 steps in a row" in message
    assert "pce=nan" in message
    assert "train_000" in message
    with pytest.raises(ConfigError):
        NonFiniteGuard(max_consecutive=0)


def test_rng_states_round_trip_through_plain_values(tmp_path) -> None:
    torch.save(get_rng_state(), tmp_path / "state.pt")
    draws = random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002
    set_rng_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draws == (random.random(), np.random.rand(), torch.rand(1).item())  # noqa: NPY002


def test_validation_does_not_move_the_training_generators() -> None:
    callback, trainer = ExactResume(), SimpleNamespace()
    torch.manual_seed(5)
    expected = torch.rand(1, generator=torch.Generator().manual_seed(5))
    callback.on_validation_start(trainer, None)
    torch.rand(17)
    # a checkpoint written during validation holds the training state
    saved = callback.state_dict()["ranks"][0]["torch"]
    assert torch.equal(saved, torch.Generator().manual_seed(5).get_state())
    callback.on_validation_end(trainer, None)
    assert torch.equal(torch.rand(1), expected)


def test_panel_shows_the_same_images_every_epoch(tmp_path) -> None:
    fit(build(), PredictionPanel(str(tmp_path), count=2), max_epochs=2)
    first, second = sorted(tmp_path.glob("*.png"))
    pixels = [read_image(path) for path in (first, second)]
    assert pixels[0].shape == pixels[1].shape
    width = pixels[0].shape[1] // 4
    # columns: image and scribble never change, prediction may
    np.testing.assert_array_equal(pixels[0][:, : 2 * width - 8], pixels[1][:, : 2 * width - 8])
    assert pixels[0].std() > 20, "an empty panel"


def test_predictions_are_written_as_ids_at_original_size(tmp_path) -> None:
    module, data = build(), small_data()
    trainer = quiet_trainer(callbacks=[PseudoLabelWriter(str(tmp_path))])
    trainer.predict(module, data, return_predictions=False)
    records = data.records("predict")
    assert len(list(tmp_path.glob("*.png"))) == len(records) == 3
    for record in records:
        labels = np.asarray(Image.open(tmp_path / f"{record.image_id}.png"))
        assert labels.shape == data.source.read_image(record).shape[:2]
        assert labels.max() < 5
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["files"], manifest["complete"], manifest["ranks"]) == (3, True, 1)
    assert manifest["class_names"] == list(data.source.class_names)
    assert manifest["module"].endswith("RegularizedModule")
    # another run with the same callback counts its own files
    trainer.predict(module, data, return_predictions=False)
    assert json.loads((tmp_path / "manifest.json").read_text())["files"] == 3


@pytest.mark.ddp
def test_manifest_counts_the_files_of_all_ranks(tmp_path) -> None:
    module, data = build(), small_data()
    trainer = quiet_trainer(
        devices=2, strategy="ddp_spawn", callbacks=[PseudoLabelWriter(str(tmp_path))]
    )
    trainer.predict(module, data, return_predictions=False)
    # three images on two ranks: one is predicted twice and counts once
    assert len(list(tmp_path.glob("*.png"))) == 3
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["files"], manifest["ranks"]) == (3, 2)


class _Losses(Callback):
    """What the progress lines are made of."""

    def __init__(self) -> None:
        self.losses: dict[int, str] = {}

    def on_train_batch_end(self, trainer, *_) -> None:
        terms = {n: float(v) for n, v in trainer.callback_metrics.items() if "train/loss" in n}
        shown = " ".join(f"{n.removeprefix('train/')} {v:.4f}" for n, v in terms.items())
        self.losses[trainer.global_step] = shown


def lines_of(caplog) -> list[str]:
    return [r.message for r in caplog.records if r.name.endswith("run_summary")]


def test_lines_of_a_run(caplog, monkeypatch) -> None:
    # two seconds per step
    clock = SimpleNamespace(monotonic=lambda: 100.0 + 2 * trainer.global_step)
    monkeypatch.setattr(internal("run summary"), "time", clock)
    module, seen = build(schedule="constant", dice_weight=0.5), _Losses()
    size = sum(p.numel() for p in module.parameters()) / 1e6
    trainer = quiet_trainer(
        max_epochs=4,
        num_sanity_val_steps=1,
        check_val_every_n_epoch=2,
        limit_val_batches=1,
        callbacks=[seen, RunSummary("runs/mine", every_n_steps=7)],
    )
    with caplog.at_level(logging.INFO, logger="scribbleseg"):
        trainer.fit(module, small_data())
    first, second, *lines, last = lines_of(caplog)
    assert first == f"RegularizedModule, {size:.1f} M parameters, cpu ×1, precision 32-true"
    images = "12 training images, 6 steps per epoch, 24 steps in all"
    assert second == f"{images}; writing to runs/mine"
    scores = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val/")}
    shown = ", ".join(f"{n} {scores[f'val/{n}']:.4f}" for n in ("miou", "acc", "mean_acc"))
    assert last == f"epoch 3 validation: {shown}"
    assert all(re.match(r"loss \d\.\d{4} loss_pce ", losses) for losses in seen.losses.values())
    steps = [
        f"epoch {epoch} step {step}/24: {seen.losses[step]} lr 1.00e-03, {left} left"
        for epoch, step, left in ((1, 7, "0:00:34"), (2, 14, "0:00:20"), (3, 21, "0:00:06"))
    ]
    assert [lines[0], lines[2], lines[4]] == steps
    assert re.fullmatch(r"epoch 1 validation: miou 0\.\d{4}, acc .*, mean_acc .*", lines[1])
    assert re.fullmatch(
        r"after 20 steps: about 0:00:08 left, peak memory \d+\.\d GiB, "
        r"\d+\.\d% of the pixels labelled",
        lines[3],
    )
    assert len(lines) == 5
    assert RunSummary("runs/mine").every_n_steps == 50


def test_a_terminal_has_a_progress_bar_instead_of_lines(caplog, monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with caplog.at_level(logging.INFO, logger="scribbleseg"):
        summary = RunSummary("runs/mine", every_n_steps=1)
        fit(build(), summary, limit_train_batches=2, limit_val_batches=0)
    assert len(lines_of(caplog)) == 2, "the first lines"
