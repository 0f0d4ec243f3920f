"""CC4S over whole runs: three stages that hand over by files, resumed, and without scribbles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.training import TRAINED, class_shares, quiet_trainer
from lightning.pytorch import Callback, Trainer, seed_everything
from PIL import Image

from scribbleseg import InferenceConfig, RegularizedModule
from scribbleseg.callbacks import ConfidentLabelWriter, ExactResume
from scribbleseg.data import ScribbleDataModule
from scribbleseg.data.sources import SyntheticSource
from scribbleseg.functional import write_label
from scribbleseg.methods import CC4SModule, ScribbleSegModule

STEPS, SAVED = 12, (2, 5, 9)
NETWORK = {"encoder": "tu-test_resnet.r160_in1k", "encoder_weights": None, "head_channels": 32}
SUPERPIXELS = {"superpixels": "grid"}


class _Watch(Callback):
    """Saves after some steps, and keeps the terms of every step."""

    def __init__(self, folder: Path, steps: tuple[int, ...] = ()) -> None:
        self.folder, self.steps, self.terms = folder, steps, []

    def on_train_batch_end(self, trainer, pl_module, *_) -> None:
        self.terms.append(dict(pl_module.loss_terms))
        if trainer.global_step in self.steps:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


def fit(
    folder: Path,
    module: ScribbleSegModule,
    *callbacks: Callback,
    data: dict[str, Any] | None = None,
    **resume: Any,
) -> Trainer:
    source = SyntheticSource(num_train=8, num_val=2, size=33)
    trainer = quiet_trainer(
        max_steps=STEPS,
        limit_val_batches=1,
        default_root_dir=folder,
        callbacks=[ExactResume(), *callbacks],
    )
    options = {"batch_size": 2, "num_workers": 0, "seed": 0, **(data or {})}
    trainer.fit(module, ScribbleDataModule(source, **options), **resume)
    return trainer


def build(**options: Any) -> CC4SModule:
    seed_everything(0, verbose=False)
    return CC4SModule(5, **{**NETWORK, "optimizer": "adamw", "lr": 1e-3, **options})


@pytest.fixture(scope="module")
def stages(tmp_path_factory) -> Path:
    """Folder of the first two stages' runs."""
    root = tmp_path_factory.mktemp("stages")
    trainer = fit(root / "1", build())
    trainer.save_checkpoint(root / "1.ckpt")
    writer = ConfidentLabelWriter(threshold=0.3, inference=InferenceConfig(scales=(1.0, 1.5)))
    second = build(stage="consistency", init_from=str(root / "1.ckpt"), lr=1e-4)
    fit(root / "2", second, writer)
    assert second.inference == InferenceConfig(), "of these predictions alone"
    return root


def plain(terms: list[dict]) -> list[dict[str, float]]:
    return [{name: float(value) for name, value in step.items()} for step in terms]


def labels(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def test_pseudo_labels_hold_sure_classes_and_the_scribbles(stages: Path, digest) -> None:
    folder = stages / "2" / "pseudo_labels"
    found, source = labels(folder), SyntheticSource(num_train=8, num_val=2, size=33)
    records = source.records("train")
    assert set(found) == {record.image_id for record in records}
    for record in records:
        scribble = source.read_scribble(record)
        drawn = scribble != 255
        assert (found[record.image_id][drawn] == scribble[drawn]).all()
    digest.check("CC4S/pseudo-labels", class_shares(found.values()), atol=0.05)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["complete"]
    assert manifest["files"] == 8
    assert manifest["module"].endswith("CC4SModule")
    assert manifest["class_names"] == list(source.class_names)
    assert manifest["made_by"]["threshold"] == 0.3


def test_the_third_stage_trains_on_them(stages: Path, tmp_path, digest) -> None:
    watch, folder = _Watch(tmp_path), str(stages / "2" / "pseudo_labels")
    module = build(stage="retrain", entropy_boundaries=True)
    fit(tmp_path, module, watch, data={"pseudo_label_dir": folder, **SUPERPIXELS})
    assert set(watch.terms[0]) == {"pce", "entropy", "colour"}
    assert set(watch.terms[-1]) == {"pce", "entropy", "colour", "consistency"}
    # later steps of Adam differ with the order of sums, and so do the labels of the second stage
    digest.check("CC4S/third stage", plain(watch.terms[:2]), rtol=0.03, atol=1e-3)


def test_the_third_stage_trains_on_a_folder_of_anybody(tmp_path) -> None:
    source = SyntheticSource(num_train=8, num_val=2, size=33)
    for record in source.records("train"):
        path = tmp_path / "labels" / f"{record.image_id}.png"
        write_label(path, source.read_mask(record), source.palette)
    module = build(stage="retrain", colour_weight=0.0)
    watch = _Watch(tmp_path)
    data = {"pseudo_label_dir": str(tmp_path / "labels"), "paste_scribbles": True}
    fit(tmp_path, module, watch, data=data)
    assert watch.terms[-1]["pce"] < watch.terms[0]["pce"]


def test_writing_goes_on_where_it_stopped_and_changed_options_begin_anew(tmp_path) -> None:
    def predict(threshold: float) -> None:
        writer = ConfidentLabelWriter(str(folder), threshold=threshold)
        trainer.callbacks = [writer]
        trainer.predict(module, data, return_predictions=False)

    folder = tmp_path / "labels"
    data = ScribbleDataModule(
        SyntheticSource(num_train=3, size=32), batch_size=2, num_workers=0, check=False
    )
    module = RegularizedModule(5, arch="unet", encoder=NETWORK["encoder"], encoder_weights=None)
    trainer = quiet_trainer()
    predict(0.0)
    whole = labels(folder)
    assert all((label != 255).all() for label in whole.values())
    names = sorted(whole)
    (folder / f"{names[0]}.png").unlink()
    marked = np.full((32, 32), 4, np.uint8)
    write_label(folder / f"{names[1]}.png", marked, data.source.palette)
    predict(0.0)
    again = labels(folder)
    assert (again[names[0]] == whole[names[0]]).all(), "made again"
    assert (again[names[1]] == 4).all(), "left alone"
    predict(1.0)
    sure = labels(folder)
    assert all((label == 255).any() for label in sure.values())
    # fewer scribbles to paste: labels of the whole ones are not taken for theirs
    data = ScribbleDataModule(
        SyntheticSource(num_train=3, size=32),
        batch_size=2,
        num_workers=0,
        check=False,
        scribble_drop=1.0,
    )
    predict(1.0)
    assert all((label == 255).all() for label in labels(folder).values())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[CC4SModule, _Watch]:
    folder = tmp_path_factory.mktemp("whole")
    watch = _Watch(folder, SAVED)
    module = build(stage="consistency", consistency_start=0.5, entropy_boundaries=True)
    fit(folder, module, watch, data=SUPERPIXELS)
    return module, watch


def test_the_consistency_sets_in_half_way(whole) -> None:
    terms = ["consistency" in found for found in whole[1].terms]
    assert terms == [False] * (STEPS // 2) + [True] * (STEPS // 2)
    assert whole[0].measurement.gamma != 0


@pytest.mark.parametrize("step", SAVED)
def test_resuming_in_any_phase_is_bitwise(step: int, whole, tmp_path) -> None:
    module, watch = whole
    other = build(
        stage="consistency",
        consistency_start=0.5,
        entropy_boundaries=True,
        init_from=str(tmp_path / "not needed when resuming.ckpt"),
    )
    path = watch.folder / f"{step}.ckpt"
    fit(tmp_path, other, data=SUPERPIXELS, ckpt_path=path)
    for name, value in module.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_a_data_set_whose_strokes_are_all_dropped_gives_no_nan(tmp_path, digest) -> None:
    watch = _Watch(tmp_path)
    module = build(stage="consistency", entropy_boundaries=True)
    fit(tmp_path, module, watch, data={"scribble_drop": 1.0, "check": False, **SUPERPIXELS})
    assert all(terms["pce"] == 0 for terms in watch.terms)
    # later steps of Adam differ with the order of sums
    digest.check("CC4S/no strokes", plain(watch.terms[:2]), **TRAINED)
    assert all(value.isfinite().all() for value in module.state_dict().values())
