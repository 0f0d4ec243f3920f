"""Every recipe in examples/ runs, on synthetic data and for two batches, with the recorded losses.

``tests/digests/recipes_run.json`` holds the values of each run; ``--rewrite-digests`` records them.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.contract import TINY_ENCODER
from helpers.digests import Digests
from helpers.recipes import EXAMPLES, PRESETS, RECIPES, below_preset, name_of

from scribbleseg import main
from scribbleseg.data.sources import SyntheticSource
from scribbleseg.functional import write_label

RECORDED = Path(__file__).parents[1] / "digests" / "recipes_run.json"
# published networks, seconds to minutes each; the seven stages on other data than `ptrecl_shapes`
SLOW = ("voc", "context", "coco", "densepose", "ptrecl_acdc", "ptrecl_camvid")
# a hundred random layers, in half precision or after a step, make percents of the last digit
ROUGH = ("cc4s_context", "cc4s_voc", "cdsp_voc/2")


def recipes() -> list[Any]:
    """Every recipe, some of them slow."""
    return [
        pytest.param(
            path,
            id=name_of(path),
            marks=pytest.mark.slow if any(name in name_of(path) for name in SLOW) else (),
        )
        for path in RECIPES
    ]


def data_options(*configs: Path) -> dict[str, Any]:
    """Arguments of the data module in these files."""
    options: dict[str, Any] = {}
    for path in configs:
        options |= yaml.safe_load(path.read_text()).get("data", {}).get("init_args", {})
    return options


def small_crops(*configs: Path) -> list[str]:
    """Less padding around the synthetic images than the published crops have: 8m + 1 pixels."""
    return ["--data.init_args.crop_size=97"] if "crop_size" in data_options(*configs) else []


def no_stage_before(*configs: Path) -> list[str]:
    """Nothing to start from, and pseudo-labels from one scale, since seven take minutes."""
    texts, words = "".join(path.read_text() for path in configs), []
    if "RandomWalkWriter" in texts:
        options = {"seed_source": "scribble", "num_steps": 4}
        words.append(f"--trainer.callbacks={writer('RandomWalkWriter', options)}")
    if "AffinityLabelWriter" in texts and "SeedWriter" in texts:
        # without a dense CRF
        writers = [
            writer("SeedWriter")[1:-1],
            writer("AffinityLabelWriter", {"refine": "none"})[1:-1],
        ]
        words.append(f"--trainer.callbacks=[{','.join(writers)}]")
    if "scores: seeds" in texts:
        # no activation maps to spread
        writers = [
            writer("PropagatedLabelWriter", {"crf": None})[1:-1],
            writer("PrototypeWriter", {"labels": "pseudo_labels"})[1:-1],
        ]
        words.append(f"--trainer.callbacks=[{','.join(writers)}]")
    if "init_from:" in texts:
        words.append("--model.init_args.init_from=null")
    if "ConfidentLabelWriter" in texts:
        words.append('--trainer.callbacks=[{"class_path": "ConfidentLabelWriter"}]')
    return words


def small_encoder(*configs: Path) -> list[str]:
    """A ResNet of the same construction in place of SPML's, which would take minutes each."""
    if "encoder: tu-resnet101s" not in "".join(path.read_text() for path in configs):
        return []
    return [f"--model.init_args.encoder={TINY_ENCODER}"]


def writer(name: str, options: dict[str, Any] | None = None) -> str:
    """A callback as an argument."""
    return json.dumps([{"class_path": name, "init_args": options or {}}])


def pseudo_labels(folder: Path, *configs: Path) -> list[str]:
    """Arguments that replace the pseudo-labels of a recipe by those of the synthetic images."""
    if "pseudo_label_dir" not in data_options(*configs):
        return []
    source = SyntheticSource(size=48, num_train=6)
    for record in source.records("train"):
        write_label(folder / f"{record.image_id}.png", source.read_mask(record), source.palette)
    words = [f"--data.init_args.pseudo_label_dir={folder}"]
    if any("ReclassificationWriter" in path.read_text() for path in configs):
        options = {"mask_dir": str(folder)}
        words.append(f"--trainer.callbacks={writer('ReclassificationWriter', options)}")
    return words


def fit(run_dir: Path, *configs: Path) -> Path:
    """Two batches on synthetic data; the checkpoint that the run should leave."""
    main(
        [
            *("fit", *(f"--config={path}" for path in configs), "--run_dir", str(run_dir)),
            *pseudo_labels(run_dir.parent / "pseudo_labels", *configs),
            *(
                "--model.init_args.encoder_weights=null",
                # random weights diverge at rates that were chosen for trained ones
                "--model.init_args.lr=1e-4",
                "--data.init_args.source",
                "SyntheticSource",
            ),
            *("--data.init_args.source.init_args.size=48", "--data.init_args.batch_size=2"),
            *("--data.init_args.source.init_args.num_train=6", "--data.init_args.num_workers=0"),
            # not `limit_val_batches=1`, which the parser takes for all of them
            "--data.init_args.source.init_args.num_val=4",
            *small_crops(*configs),
            *no_stage_before(*configs),
            *small_encoder(*configs),
            *("--trainer.max_epochs=1", "--trainer.limit_train_batches=2"),
            *("--trainer.check_val_every_n_epoch=1", "--trainer.log_every_n_steps=1"),
            *("--trainer.accelerator=cpu", "--trainer.enable_model_summary=false"),
        ]
    )
    return run_dir / "checkpoints" / "last.ckpt"


@pytest.fixture
def digest(request: pytest.FixtureRequest) -> Digests:
    """Losses and scores of every run."""
    rewrite = request.config.getoption("--rewrite-digests")
    return Digests(RECORDED, rewrite=rewrite, tests="tests/integration/test_examples.py")


def values_of(run_dir: Path) -> dict[str, float]:
    """Last value of every training loss and validation score that a run has logged."""
    values: dict[str, float] = {}
    with (run_dir / "metrics.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            values |= {key: float(text) for key, text in row.items() if text}
    return {key: value for key, value in values.items() if key.startswith(("train/", "val/"))}


def check_run(digest: Digests, name: str, run_dir: Path) -> None:
    """Compare losses closely; a pixel near a border of classes may fall on either side."""
    values = values_of(run_dir)
    losses = {key: value for key, value in values.items() if key.startswith("train/")}
    scores = {key: value for key, value in values.items() if key.startswith("val/")}
    # clusters of an untrained network's pixels: rounding decides which of them stay empty
    rtol = 0.05 if "train/segments" in losses else 0.01
    rough = name.startswith(ROUGH)
    digest.check(
        f"{name}: losses", losses, rtol=0.1 if rough else rtol, atol=0.2 if rough else 1e-5
    )
    digest.check(f"{name}: scores", scores, atol=0.05 if rough else 5e-3)


@pytest.mark.parametrize("recipe", recipes())
def test_recipe_runs(recipe: Path, tmp_path, digest) -> None:
    assert fit(tmp_path / "run", recipe).is_file()
    check_run(digest, name_of(recipe), tmp_path / "run")


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_preset_runs_on_top_of_a_recipe(preset: Path, tmp_path, digest) -> None:
    assert fit(tmp_path / "run", *below_preset(preset), preset).is_file()
    check_run(digest, name_of(preset), tmp_path / "run")


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_recipe_leaves_nothing_important_to_defaults(recipe: Path) -> None:
    config = yaml.safe_load(recipe.read_text())
    assert {"seed_everything", "run_dir", "model", "data", "trainer"} <= set(config)
    assert {"encoder", "encoder_weights", "lr", "schedule"} <= set(config["model"]["init_args"])
    assert {"batch_size", "source"} <= set(config["data"]["init_args"])
    assert {"max_epochs", "precision"} <= set(config["trainer"])


def test_quickstart_leaves_pictures(tmp_path) -> None:
    run = subprocess.run(
        [
            *(sys.executable, str(EXAMPLES / "quickstart.py"), "--output", str(tmp_path / "shown")),
            *("--epochs", "2", "--images", "16"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert list((tmp_path / "shown" / "panels").glob("*.png"))
    assert len(list((tmp_path / "shown" / "predictions" / "labels").glob("*.png"))) == 8
    assert "0 of 8 predictions failed" in run.stdout
