"""What a run leaves where: fit, validate, test and predict, each with and without ``--run_dir``.

Names of all files relative to the working folder, their modes, and what is in them: the columns of
``metrics.csv``, the names of scores, the keys of a checkpoint and of the saved configuration. No
value that training decides is recorded here.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from helpers.contract import TINY_ENCODER

from scribbleseg import main, read_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG: dict[str, Any] = {
    "seed_everything": 1,
    "model": {
        "class_path": "RegularizedModule",
        "init_args": {"encoder": TINY_ENCODER, "encoder_weights": None, "arch": "unet"},
    },
    "data": {
        "class_path": "ScribbleDataModule",
        "init_args": {
            "source": {
                "class_path": "SyntheticSource",
                "init_args": {"num_train": 4, "num_val": 2, "size": 32},
            },
            "batch_size": 2,
            "num_workers": 0,
        },
    },
    "trainer": {
        **{"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1},
        **{"enable_model_summary": False, "enable_progress_bar": False},
    },
}


def config_file(folder: Path) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture(scope="module", autouse=True)
def _umask() -> Iterator[None]:
    """Modes of files are recorded: not those of who runs the tests."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Working folder of a fit with ``--run_dir runs/first``; shared, so left as it is."""
    folder = tmp_path_factory.mktemp("trained")
    config, before = config_file(folder), Path.cwd()
    os.chdir(folder)
    try:
        main(["fit", "--config", str(config), "--run_dir", "runs/first"])
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def work(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the working folder."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> dict[str, str]:
    """Mode of every file and folder by relative path; a time in a name is ``TIME``."""
    return {
        re.sub(r"\d{8}-\d{6}", "TIME", path.relative_to(folder).as_posix()): (
            f"{'folder' if path.is_dir() else 'file'} {path.stat().st_mode & 0o777:o}"
        )
        for path in sorted(folder.rglob("*"))
    }


def new_files(folder: Path, before: dict[str, str]) -> dict[str, str]:
    return {name: mode for name, mode in files(folder).items() if before.get(name) != mode}


def checkpoint_words(name: str, folder: str | None) -> list[str]:
    """By its path, or by its name where the folder of the run is given."""
    if folder == "runs/first":
        return ["--config", "run.yaml", "--ckpt_path", name, "--run_dir", folder]
    own = [] if folder is None else ["--run_dir", folder]
    # another folder than that of the run: its configuration is not looked for
    return ["--ckpt_path", f"runs/first/checkpoints/{name}.ckpt", *own]


def dotted(content: Any, prefix: str = "") -> list[str]:
    """Names of all entries of nested dictionaries; those of lists by ``[]``."""
    if isinstance(content, dict) and content:
        return [name for key, v in content.items() for name in dotted(v, f"{prefix}.{key}")]
    if isinstance(content, list) and any(isinstance(item, dict) for item in content):
        return sorted({name for item in content for name in dotted(item, f"{prefix}[]")})
    return [prefix.removeprefix(".")]


def config_names(path: Path) -> list[str]:
    """Names of a saved configuration, apart from those that are Lightning's own."""
    names = dotted(yaml.safe_load(path.read_text(encoding="utf-8")))
    return [n for n in names if not n.startswith("trainer.") and n != "weights_only"]


def scores(path: Path, folder: Path) -> dict[str, Any]:
    """Names of scores in their order, and what is said of the checkpoint."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    checkpoint = Path(stored["checkpoint"])
    inside = checkpoint.relative_to(folder) if checkpoint.is_absolute() else checkpoint
    return {
        "names": list(stored),
        "checkpoint": inside.as_posix(),
        "absolute": checkpoint.is_absolute(),
    }


# ---------------------------------------------------------------------------------- fit


def test_files_of_a_fit(trained: Path, digest) -> None:
    digest.check("fit with a folder", files(trained))


def test_metrics(trained: Path, digest) -> None:
    with (trained / "runs" / "first" / "metrics.csv").open(newline="") as stream:
        reader = csv.DictReader(stream)
        rows = list(reader)
    filled = [
        {
            "epoch": row["epoch"],
            "step": row["step"],
            "groups": sorted({name.split("/")[0] for name, value in row.items() if value}),
        }
        for row in rows
    ]
    digest.check("metrics.csv", {"columns": reader.fieldnames, "rows": filled})


def test_checkpoint(trained: Path, digest) -> None:
    folder = trained / "runs" / "first" / "checkpoints"
    facts = {}
    for name in ("best", "last"):
        stored = read_checkpoint(folder / f"{name}.ckpt")
        own = stored["scribbleseg"]
        facts[name] = {
            "keys": sorted(stored),
            "hyper_parameters": sorted(stored["hyper_parameters"]),
            "callbacks": sorted(key.split("{")[0] for key in stored["callbacks"]),
            "data module": sorted(stored["ScribbleDataModule"]),
            "scribbleseg": sorted(own),
            "scribbleseg.data": sorted(own["data"]),
            "scribbleseg.inference": own["inference"],
            "class": own["class_path"].rsplit(".", 1)[-1],
            "groups": [g["name"] for g in stored["optimizer_states"][0]["param_groups"]],
            "parts": sorted({".".join(key.split(".")[:2]) for key in stored["state_dict"]}),
        }
    facts["last"] |= {"epoch": stored["epoch"], "step": stored["global_step"]}
    digest.check("checkpoint", facts)


def test_configuration(trained: Path, digest) -> None:
    path = trained / "runs" / "first" / "config_fit.yaml"
    stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    classes = {part: stored[part]["class_path"].rsplit(".", 1)[-1] for part in ("model", "data")}
    chosen = {
        name: stored[name]
        for name in ("run_dir", "seed_everything", "ckpt_path", "monitor", "save_every_n_steps")
    }
    chosen["trainer.default_root_dir"] = stored["trainer"]["default_root_dir"]
    digest.check(
        "config_fit.yaml", {"names": config_names(path), "classes": classes, "run": chosen}
    )


def test_fit_without_a_folder(tmp_path, monkeypatch, digest) -> None:
    monkeypatch.chdir(tmp_path)
    short = ["--trainer.max_steps=1", "--trainer.limit_val_batches=1", "--monitor=val/acc"]
    main(["fit", "--config", str(config_file(tmp_path)), *short])
    digest.check("fit without a folder", files(tmp_path))


@pytest.mark.parametrize("folder", ["runs/first", "runs/second"])
def test_resumed_fit(folder: str | None, work: Path, digest) -> None:
    before = files(work)
    rows = (work / "runs/first/metrics.csv").read_text().count("\n")
    main(["fit", *checkpoint_words("last", folder), "--trainer.max_epochs=3"])
    facts = {
        # whether an epoch is better than those before depends on what is learned
        "new": {n: m for n, m in new_files(work, before).items() if "best" not in n},
        "rows": (work / "runs/first/metrics.csv").read_text().count("\n") - rows,
        "last": read_checkpoint(work / (folder or "runs/first") / "checkpoints/last.ckpt")["epoch"],
    }
    digest.check(f"resumed, folder {folder}", facts)


# ---------------------------------------------------------- validate, test and predict


@pytest.mark.parametrize(
    ("stage", "folder"),
    [
        *(("validate", None), ("validate", "runs/first"), ("validate", "runs/second")),
        *(("test", None), ("predict", None), ("predict", "runs/first"), ("predict", "runs/second")),
    ],
)
def test_other_stages(stage: str, folder: str | None, work: Path, capsys, digest) -> None:
    """From ``checkpoints/`` of a run, files go to that run, or to the folder that is asked for."""
    before = files(work)
    main([stage, *checkpoint_words("best", folder)])
    facts: dict[str, Any] = {"new": new_files(work, before)}
    run = work / (folder or "runs/first")
    if stage == "predict":
        manifest = json.loads((run / "predictions" / "manifest.json").read_text())
        facts["manifest"] = sorted(manifest)
    else:
        facts["scores"] = scores(run / f"scores_{stage}.json", work)
        assert "/miou" in capsys.readouterr().out
    saved = config_names(run / f"config_{stage}.yaml")
    facts["configuration beyond that of fit"] = sorted(
        {*saved} ^ {*config_names(work / "runs/first/config_fit.yaml")}
    )
    digest.check(f"{stage}, folder {folder}", facts)


@pytest.mark.parametrize(
    ("stage", "checkpoint"),
    [
        *(("validate", "moved.ckpt"), ("predict", "moved.ckpt")),
        ("validate", "runs/first/checkpoints/last.ckpt"),
    ],
)
def test_with_a_configuration_and_no_folder(stage: str, checkpoint: str, work, digest) -> None:
    """The folder is that of a checkpoint in ``checkpoints/``; else a new one is made."""
    shutil.copyfile(work / "runs/first/checkpoints/last.ckpt", work / "moved.ckpt")
    before = files(work)
    main([stage, "--config", "run.yaml", "--ckpt_path", checkpoint])
    digest.check(f"{stage}, configuration, {checkpoint}", new_files(work, before))


def test_what_cannot_run_leaves_nothing(work: Path, capsys, digest) -> None:
    before, facts = files(work), {}
    for name, words in {
        "fit into a run": ["fit", "--config", "run.yaml", "--run_dir", "runs/first"],
        "validate without a checkpoint": ["validate", "--config", "run.yaml"],
        "a name without a folder": ["validate", "--config", "run.yaml", "--ckpt_path", "best"],
        "a checkpoint that is not there": [
            *("test", "--config", "run.yaml", "--ckpt_path", "runs/first/checkpoints/x.ckpt")
        ],
        "monitor of an oracle": [
            *("fit", "--config", "run.yaml", "--run_dir", "new", "--monitor=oracle/miou")
        ],
    }.items():
        with pytest.raises(SystemExit) as caught:
            main(words)
        said = capsys.readouterr().err.strip().splitlines()[-1]
        facts[name] = {"status": caught.value.code, "said": said, "new": new_files(work, before)}
    digest.check("refused", facts)
