"""The command line as a person uses it; in one process, on synthetic data."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from helpers.contract import TINY_ENCODER
from helpers.internals import internal
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

import scribbleseg
from scribbleseg import (
    AtomicCheckpointIO,
    BestCheckpoint,
    ConfigError,
    load,
    main,
    read_checkpoint,
    run_callbacks,
    run_loggers,
)
from scribbleseg.__main__ import main as run_console_script
from scribbleseg.data import ScribbleDataModule, read_image
from scribbleseg.data.sources import FolderSource, SyntheticSource
from scribbleseg.functional import write_image

CONFIG = {
    "seed_everything": 1,
    "model": {
        "class_path": "RegularizedModule",
        "init_args": {"encoder": TINY_ENCODER, "encoder_weights": None, "lr": 3e-3},
    },
    "data": {
        "class_path": "ScribbleDataModule",
        "init_args": {
            "source": {
                "class_path": "SyntheticSource",
                "init_args": {"num_train": 8, "num_val": 2, "size": 32},
            },
            "batch_size": 4,
            "num_workers": 0,
        },
    },
    "trainer": {"max_epochs": 2, "accelerator": "cpu", "enable_model_summary": False},
}


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("config") / "run.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture(scope="module")
def run_dir(config: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    main(
        ["fit", "--config", str(config), "--run_dir", str(folder), "--trainer.log_every_n_steps=1"]
    )
    return folder


def fails(capsys, *words: str) -> str:
    """Message of a command that must end with status 2 and without a stack trace."""
    with pytest.raises(SystemExit) as caught:
        main(list(words))
    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def test_a_run_leaves_its_record(run_dir: Path) -> None:
    names = {str(p.relative_to(run_dir)) for p in run_dir.rglob("*") if p.is_file()}
    assert {"config_fit.yaml", "metrics.csv", "checkpoints/best.ckpt"} <= names
    assert {"checkpoints/last.ckpt", "panels/epoch_0000.png", "panels/epoch_0001.png"} <= names
    with (run_dir / "metrics.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    keys = set(rows[0])
    assert {
        "train/loss",
        "train/loss_pce",
        "train/labelled_fraction",
        "val/miou",
        "val/acc",
    } <= keys
    assert "val/iou/background" in keys
    assert {"lr", "lr/head", "time/step"} <= keys
    trained = [row for row in rows if row["train/loss"]]
    assert [row["step"] for row in trained] == ["0", "1", "2", "3"]
    assert all(row["lr"] for row in trained), "one row holds all values of a step"


def test_without_masks_the_best_checkpoint_is_that_of_the_scribbles(
    config: Path, tmp_path, caplog
) -> None:
    from helpers.tiny_folders import plain_folder

    root, run = plain_folder(tmp_path / "data", masks=False), tmp_path / "run"
    words = [
        *("fit", "--config", str(config), "--data.init_args.source", "FolderSource"),
        *("--data.init_args.source.init_args.root", str(root), "--run_dir", str(run)),
        "--data.init_args.crop_size=32",
    ]
    with caplog.at_level("INFO"):
        main(words)
    assert "best.ckpt is chosen by val/miou_scribble" in caplog.text
    with (run / "metrics.csv").open(newline="") as stream:
        scores = [float(row["val/miou_scribble"] or "nan") for row in csv.DictReader(stream)]
    state = read_checkpoint(run / "checkpoints" / "best.ckpt")
    (own,) = (v for k, v in state["callbacks"].items() if "val/miou_scribble" in k)
    assert float(own["best_model_score"]) == pytest.approx(np.nanmax(scores), abs=1e-6)
    # the best of an earlier part counts when a run goes on
    last = run / "checkpoints" / "last.ckpt"
    caplog.clear()
    with caplog.at_level("INFO"):
        main([*words, "--ckpt_path", str(last), "--trainer.max_epochs=3"])
    (own,) = (v for k, v in read_checkpoint(last)["callbacks"].items() if "val/miou_scribble" in k)
    assert float(own["best_model_score"]) >= np.nanmax(scores) - 1e-6


@pytest.mark.parametrize(
    ("monitor", "masks", "expected"),
    [
        ("val/miou", False, "val/miou_scribble"),
        ("val/miou", True, "val/miou"),
        ("val/miou_scribble", False, "val/miou_scribble"),
        ("train/labelled_fraction", False, "train/labelled_fraction"),
    ],
)
def test_what_chooses_the_best_checkpoint(monitor, masks, expected, tmp_path, monkeypatch) -> None:
    from helpers.tiny_folders import plain_folder

    source = FolderSource(plain_folder(tmp_path, masks=masks))
    trainer = SimpleNamespace(datamodule=ScribbleDataModule(source, num_workers=0))
    monkeypatch.setattr(ModelCheckpoint, "setup", lambda *_: None)
    best = BestCheckpoint(monitor=monitor, mode="max")
    best.setup(trainer, None, "fit")
    assert best.monitor == expected


def test_two_fits_do_not_write_into_one_folder(config: Path, tmp_path, capsys) -> None:
    run = tmp_path / "run"
    code = "import sys, pathlib; from scribbleseg import lock_run\n"
    code += f"lock = lock_run(pathlib.Path({str(run)!r})); print('held', flush=True); input()"
    words = ["fit", "--config", str(config), "--run_dir", str(run), "--trainer.max_epochs=1"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        message = fails(capsys, *words)
        assert f"{run}: another fit is writing there now" in message
        assert [path.name for path in run.iterdir()] == [".lock"]
        other.kill()  # as a scheduler does
    main(words)
    assert (run / "checkpoints" / "last.ckpt").is_file()


def test_a_second_fit_never_overwrites(run_dir: Path, config: Path, capsys) -> None:
    message = fails(capsys, "fit", "--config", str(config), "--run_dir", str(run_dir))
    assert "already holds a run" in message
    assert "--ckpt_path" in message


def test_resume_appends_and_keeps_earlier_rows(run_dir: Path, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run_dir, copy)
    before = (copy / "metrics.csv").read_text().count("\n")
    last = copy / "checkpoints" / "last.ckpt"
    main(["fit", "--ckpt_path", str(last), "--run_dir", str(copy), "--trainer.max_epochs=3"])
    after = (copy / "metrics.csv").read_text()
    assert after.count("\n") > before
    with (copy / "metrics.csv").open(newline="") as stream:
        scored = [row["epoch"] for row in csv.DictReader(stream) if row["val/miou"]]
    assert scored == ["0", "1", "2"]
    assert (copy / "config_fit_2.yaml").exists()


def test_the_last_step_is_saved_whenever_validation_happens(config: Path, tmp_path) -> None:
    folder = tmp_path / "run"
    words = ["--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=2"]
    main(["fit", "--config", str(config), "--run_dir", str(folder), *words])
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 6


def test_validate_and_test_need_only_the_checkpoint(run_dir: Path, capsys) -> None:
    for stage in ("validate", "test"):
        main([stage, "--ckpt_path", str(run_dir / "checkpoints" / "best.ckpt")])
    scores = json.loads((run_dir / "scores_validate.json").read_text())
    with (run_dir / "metrics.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["val/miou"]]
    best = max(rows, key=lambda row: float(row["val/miou"]))
    names = [name for name in scores if name != "checkpoint"]
    assert {name for name in best if name.startswith("val/")} == set(names)
    for name in names:
        given = float("nan") if scores[name] is None else scores[name]
        assert given == pytest.approx(float(best[name] or "nan"), abs=1e-6, nan_ok=True), name
    shown = capsys.readouterr().out
    assert "val/miou" in shown
    assert "test/miou" in shown


def test_predict_with_a_source_writes_label_files(run_dir: Path) -> None:
    main(["predict", "--ckpt_path", str(run_dir / "checkpoints" / "best.ckpt")])
    module = load(run_dir / "checkpoints" / "best.ckpt")
    data = ScribbleDataModule(SyntheticSource(num_train=8, num_val=2, size=32), num_workers=0)
    data.setup("predict")
    expected = {}
    for batch in data.predict_dataloader():
        for index, name in enumerate(batch["image_id"]):
            height, width = batch["orig_size"][index].tolist()
            with torch.no_grad():
                logits = module(batch["image"][index, None, :, :height, :width])
            expected[name] = logits[0].argmax(0)
    assert {p.stem for p in (run_dir / "predictions").glob("*.png")} == set(expected)
    for name, labels in expected.items():
        with Image.open(run_dir / "predictions" / f"{name}.png") as image:
            assert np.array_equal(np.asarray(image), labels.numpy())
    assert (run_dir / "predictions" / "manifest.json").exists()


WRITTEN = {
    "validate": {"config_validate.yaml", "scores_validate.json"},
    "test": {"config_test.yaml", "scores_test.json"},
    "predict": {
        *("config_predict.yaml", "predictions/manifest.json"),
        *("predictions/predict_00000.png", "predictions/predict_00001.png"),
    },
}


def files_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("given", [False, True], ids=["its config", "given config"])
@pytest.mark.parametrize("stage", WRITTEN)
def test_results_of_a_checkpoint_go_to_its_run_wherever_that_is_now(
    stage: str, given: bool, run_dir: Path, config: Path, tmp_path, monkeypatch
) -> None:
    moved, here = tmp_path / "moved", tmp_path / "here"
    (moved / "checkpoints").mkdir(parents=True)
    here.mkdir()
    monkeypatch.chdir(here)
    shutil.copy(run_dir / "config_fit.yaml", moved)
    shutil.copy(run_dir / "checkpoints" / "last.ckpt", moved / "checkpoints" / "any.ckpt")
    before, old = files_in(moved), files_in(run_dir)
    path = str(moved / "checkpoints" / "any.ckpt")
    main([stage, *(["--config", str(config)] if given else []), "--ckpt_path", path])
    assert files_in(moved) - before == WRITTEN[stage]
    assert files_in(run_dir) == old
    assert not files_in(here)


@pytest.mark.parametrize("stage", WRITTEN)
def test_a_checkpoint_outside_of_a_run_starts_a_folder_of_its_own(
    stage: str, run_dir: Path, config: Path, tmp_path, monkeypatch
) -> None:
    here, folder = tmp_path / "here", tmp_path / "downloads"
    for path in (here, folder):
        path.mkdir()
    monkeypatch.chdir(here)
    shutil.copy(run_dir / "checkpoints" / "last.ckpt", folder / "model.ckpt")
    main([stage, "--config", str(config), "--ckpt_path", str(folder / "model.ckpt")])
    (made,) = (here / "runs").iterdir()
    assert re.fullmatch(r"RegularizedModule_\d{8}-\d{6}", made.name)
    assert files_in(made) == WRITTEN[stage]
    assert files_in(folder) == {"model.ckpt"}


def test_predict_with_a_dense_crf(run_dir: Path, tmp_path, capsys) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8)).save(photos / "a.png")
    words = ["predict", f"--ckpt_path={run_dir / 'checkpoints' / 'best.ckpt'}"]
    for crf in ("tel", "off"):
        out = tmp_path / crf
        with pytest.raises(SystemExit) as caught:
            main([*words, f"--images={photos}", f"--output={out}", f"--crf={crf}"])
        assert caught.value.code == 0
        assert len(list(out.rglob("a.png"))) >= 1
    message = fails(capsys, *words, f"--images={photos}", f"--output={tmp_path}", "--crf=best")
    assert "cc4s" in message


def test_predict_refuses_links_out_of_the_folder(run_dir: Path, tmp_path, capsys) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "private.png")
    (photos / "b.png").symlink_to(tmp_path / "private.png")
    words = ["predict", f"--ckpt_path={run_dir / 'checkpoints' / 'best.ckpt'}"]
    message = fails(capsys, *words, f"--images={photos}", f"--output={out}")
    assert f"D501 {photos / 'b.png'}: link leaves the folder {photos}" in message
    assert not out.exists()


def test_predict_with_a_method_of_ones_own(run_dir: Path, tmp_path, capsys, monkeypatch) -> None:
    state = read_checkpoint(run_dir / "checkpoints" / "last.ckpt")
    state["scribbleseg"]["class_path"] = "my_lab.Mine"
    state["hyper_parameters"].pop("_class_path", None)  # of Lightning's command line
    AtomicCheckpointIO().save_checkpoint(state, tmp_path / "own.ckpt")
    text = "from scribbleseg import RegularizedModule\nclass Mine(RegularizedModule): pass\n"
    (tmp_path / "my_lab.py").write_text(text)
    write_image(tmp_path / "photos" / "a.png", np.zeros((32, 40, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    words = ["predict", "--ckpt_path=own.ckpt", "--images=photos", "--output=out", "--device=cpu"]
    assert "predict --import my_lab" in fails(capsys, *words)
    assert "--import my_lap: cannot be imported" in fails(capsys, *words, "--import", "my_lap")
    with pytest.raises(SystemExit) as caught:
        main([*words, "--import", "my_lab"])
    assert caught.value.code == 0
    assert (tmp_path / "out" / "labels" / "a.png").is_file()
    monkeypatch.delitem(sys.modules, "my_lab")


def test_predict_on_a_bare_folder(run_dir: Path, tmp_path, capsys) -> None:
    rng = np.random.default_rng(0)
    sizes = {"a.png": (20, 31), "sub/b.jpg": (64, 45), "sub/deep/c.png": (7, 9)}
    for name, (height, width) in sizes.items():
        write_image(tmp_path / "in" / name, rng.integers(0, 255, (height, width, 3), np.uint8))
    (tmp_path / "in" / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    words = ["predict", f"--ckpt_path={run_dir / 'checkpoints' / 'best.ckpt'}"]
    words += [f"--images={tmp_path / 'in'}", f"--output={tmp_path / 'out'}", "--flip=true"]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 1, "one image failed"
    for name, size in sizes.items():
        path = (tmp_path / "out" / "labels" / name).with_suffix(".png")
        with Image.open(path) as image:
            assert image.mode == "P"
            assert np.asarray(image).shape == size
        overlay = (tmp_path / "out" / "overlays" / name).with_suffix(".jpg")
        assert read_image(overlay).shape[:2] == size
    assert "broken.jpg" in (tmp_path / "out" / "report.json").read_text()
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "labels").rglob("*.png")}
    with pytest.raises(SystemExit):
        main(words)
    assert stamps == {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "labels").rglob("*.png")}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--trainer.max_epoch=3"], "did you mean 'trainer.max_epochs'"),
        (["--model.init_args.encodr=x"], "did you mean 'encoder'"),
        (["--model", "RegularisedModule"], "did you mean 'RegularizedModule'"),
        (["--data.init_args.batchsize=3"], "did you mean 'batch_size'"),
        (["--data.init_args.source", "FoldrSource"], "did you mean 'FolderSource'"),
        (["--model.init_args.encoder=resnet43"], "did you mean resnet34"),
        (["--model.init_args.inference.scale=[1]"], "did you mean 'scales'"),
        (["--model.init_args.inference.scales=[-1]"], "inference.scales"),
        (["--model.init_args.lr=fast"], "float"),
        (["--trainer.accelerator=gpu"], "gpu"),
        (["--ckpt_path=/no/such.ckpt"], "/no/such.ckpt does not exist"),
        (["--data.init_args.source.init_args.num_classes=77"], "num_classes=77"),
        (["--model.init_args.encoder_weights=/no/w.safetensors"], "/no/w.safetensors do not exist"),
    ],
)
def test_mistakes_are_answered_in_a_line(
    words, expected, config, capsys, tmp_path, monkeypatch
) -> None:
    if "gpu" in expected and __import__("torch").cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.chdir(tmp_path)
    assert expected in fails(capsys, "fit", "--config", str(config), *words)


def test_misspelt_command_and_missing_file(capsys, tmp_path) -> None:
    assert "did you mean 'fit'" in fails(capsys, "fti")
    message = fails(capsys, "fit", "--config", str(tmp_path / "nope.yaml"))
    assert "nope.yaml" in message


def test_an_error_that_nobody_foresaw_leaves_its_stack_trace_in_a_file(capsys, monkeypatch) -> None:
    def crash(_: object) -> int:
        raise ZeroDivisionError("of this test")

    monkeypatch.setattr(internal("command line"), "predict_images", crash)
    with pytest.raises(SystemExit) as caught:
        main(["predict", "--images", "folder"])
    assert caught.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ZeroDivisionError: of this test\nstack trace: ")
    trace = Path(re.search(r"stack trace: (\S+) \(or --traceback\)", message)[1])
    assert 'raise ZeroDivisionError("of this test")' in trace.read_text()
    trace.unlink()
    with pytest.raises(ZeroDivisionError, match="of this test"):
        main(["predict", "--images", "folder", "--traceback"])


def test_missing_data_is_one_message(config, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = fails(
        capsys,
        *("fit", "--config", str(config), "--data.init_args.source", "FolderSource"),
        *("--data.init_args.source.init_args.root", str(tmp_path / "nowhere")),
    )
    assert "nowhere" in message


def test_an_error_in_a_loader_process_is_one_message(config, capsys, tmp_path, monkeypatch) -> None:
    from helpers.tiny_folders import plain_folder

    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data"
    plain_folder(root)
    first = (root / "train.txt").read_text().split()[0]
    victim = root / "scribbles" / f"{first}.png"
    victim.write_bytes(victim.read_bytes()[:40])
    message = fails(
        capsys,
        *("fit", "--config", str(config), "--data.init_args.source", "FolderSource"),
        *("--data.init_args.source.init_args.root", str(root), "--data.init_args.check=false"),
        *("--data.init_args.num_workers=1", "--data.init_args.crop_size=32"),
    )
    assert victim.name in message
    assert "D202" in message


def test_wandb_offline_needs_no_account(config, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    folder = tmp_path / "run"
    noted: dict[str, object] = {}
    monkeypatch.setattr(WandbLogger, "log_hyperparams", lambda _, given: noted.update(given))
    main(["fit", "--config", str(config), "--run_dir", str(folder), "--wandb=true"])
    import wandb

    wandb.finish()
    assert (
        noted["config"]["data"]["init_args"]["batch_size"]
        == CONFIG["data"]["init_args"]["batch_size"]
    )
    media = {p.name.split("_")[0] for p in (folder / "wandb").rglob("media/**/*.png")}
    assert media >= {"panel", "masks"}, "the composed picture and the images with masks"
    masks = list((folder / "wandb").rglob("*.mask.png"))
    assert len(masks) >= 3, "scribble, prediction and truth of at least one image"
    assert list((folder / "wandb").rglob("*.wandb"))
    assert (folder / "panels" / "epoch_0001.png").exists()


@pytest.mark.parametrize(
    ("mode", "key", "netrc", "expected"),
    [
        (None, None, "", "offline"),
        (None, None, "machine github.com login a", "offline"),
        (None, None, "machine api.wandb.ai login user", None),
        (None, "0123456789", "", None),
        ("online", None, "", "online"),
        ("disabled", "0123456789", "", "disabled"),
    ],
)
def test_a_job_never_waits_for_a_login(monkeypatch, tmp_path, mode, key, netrc, expected) -> None:
    for name, value in (("WANDB_MODE", mode), ("WANDB_API_KEY", key)):
        monkeypatch.setenv(name, value or "")
    monkeypatch.setenv("HOME", str(tmp_path))
    if netrc:
        (tmp_path / ".netrc").write_text(netrc)
    monkeypatch.setenv("LOCAL_RANK", "1")  # only the first process opens a run
    run_loggers(tmp_path / "run", wandb=True, tensorboard=False, project="test")
    assert (os.environ["WANDB_MODE"] or None) == expected


def test_tensorboard_by_one_flag(config, tmp_path) -> None:
    folder = tmp_path / "run"
    main(["fit", "--config", str(config), "--run_dir", str(folder), "--tensorboard=true"])
    assert list(folder.rglob("events.out.tfevents*"))
    assert (folder / "metrics.csv").exists()


def test_version_and_help_are_answered_without_torch() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['scribbleseg', sys.argv[1]]\n"
        "runpy.run_module('scribbleseg', run_name='__main__')\n"
        "print([name for name in ('torch', 'lightning', 'numpy') if name in sys.modules])"
    )

    def answer(word: str) -> str:
        line = [sys.executable, "-c", code, word]
        return subprocess.run(line, capture_output=True, text=True, check=True).stdout

    assert answer("--version") == f"scribbleseg {scribbleseg.__version__}\n[]\n"
    shown = answer("--help")
    assert shown.endswith("[]\n")
    assert shown == answer("-h")


def test_help_lists_every_command(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["scribbleseg", "--help"])
    run_console_script()
    shown = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--help"])
    full = capsys.readouterr().out
    for command in ("fit", "validate", "test", "predict"):
        assert f"\n  {command} " in shown
        assert f"\n    {command} " in full
    for command in ("check", "convert", "synthesize", "propagate", "superpixels"):
        assert command in shown


def test_the_console_script_passes_commands_on(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["scribbleseg", "validate"])
    with pytest.raises(SystemExit) as stop:
        run_console_script()
    assert stop.value.code == 2
    assert "arguments are required: validate.data" in capsys.readouterr().err


def test_no_checkpoint_is_chosen_by_an_oracle(tmp_path) -> None:
    with pytest.raises(ConfigError, match="monitor='oracle/miou_global'"):
        run_callbacks(tmp_path, save_every_n_steps=1, monitor="oracle/miou_global")
