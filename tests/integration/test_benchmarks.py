"""Benchmarks run, resume, and leave results that say how they were made."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from helpers.contract import TINY_ENCODER
from helpers.tiny_folders import plain_folder

ROOT = Path(__file__).parents[2]
RESULTS = sorted((ROOT / "benchmarks" / "results").rglob("*.json"))
REQUIRED = {"benchmark", "commit", "versions", "device", "seed", "date", "settings", "results"}


def complete(result: dict) -> bool:
    return result.keys() >= REQUIRED and all(result[key] for key in REQUIRED - {"seed"})


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.name)
def test_committed_results_say_how_they_were_made(path: Path) -> None:
    result = json.loads(path.read_text())
    assert complete(result)
    assert len(result["commit"].removesuffix("+changes")) == 40
    assert {"python", "torch", "lightning", "scribbleseg"} <= set(result["versions"])


def test_results_without_metadata_would_be_refused() -> None:
    assert RESULTS
    result = json.loads(RESULTS[0].read_text())
    for key in REQUIRED - {"seed"}:
        assert not complete({k: v for k, v in result.items() if k != key})
        assert not complete({**result, key: ""})


def run(script: str, *words: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / script), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.mark.slow
def test_compare_runs_once_and_tables_mean_and_deviation(tmp_path) -> None:
    plain_folder(tmp_path / "data" / "tiny")
    plan = {
        "seeds": [0, 1],
        "metrics": {"val/miou": "mIoU"},
        "data": {
            "Tiny": {
                "config": "examples/folder.yaml",
                "folder": "tiny",
                "steps": 2,
                "overrides": {
                    "model.init_args.arch": "unet",
                    "model.init_args.output_stride": None,
                    "model.init_args.encoder": TINY_ENCODER,
                    "model.init_args.encoder_weights": None,
                    "data.init_args.batch_size": 2,
                    "data.init_args.crop_size": 32,
                },
            }
        },
        "recipes": {"partial CE": {}},
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    words = ["plan.yaml", "--data-root", "data", "--work", "work", "--workers", "0"]
    words += ["--output", "result.json"]
    shown = run("compare.py", *words, cwd=tmp_path).stdout
    result = json.loads((tmp_path / "result.json").read_text())
    assert complete(result)
    runs = result["results"][0]["runs"]
    assert [r["steps"] for r in runs] == [2, 2]
    assert all(0 <= r["scores"]["val/miou"] <= 1 for r in runs)
    assert "| Tiny | partial CE |" in shown
    assert "±" in shown
    stamps = [p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("last.ckpt"))]
    run("compare.py", *words, cwd=tmp_path)
    assert stamps == [p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("last.ckpt"))]
    # a plan that shares a baseline takes its runs over, and trains what is not known
    plan["recipes"]["other rate"] = {"overrides": {"model.init_args.lr": 1e-4}}
    (tmp_path / "wider.yaml").write_text(yaml.safe_dump(plan))
    words = ["wider.yaml", *words[1:-1], "wider.json", "--known", "result.json", "--seeds", "0"]
    run("compare.py", *words, cwd=tmp_path)
    cells = json.loads((tmp_path / "wider.json").read_text())["results"]
    (baseline,) = (cell for cell in cells if cell["recipe"] == "partial CE")
    assert baseline["runs"] == runs[:1]
    assert len(sorted(tmp_path.rglob("last.ckpt"))) == len(stamps) + 1


@pytest.mark.slow
def test_loader_and_train_step_report_ratios(tmp_path) -> None:
    run(
        "loader.py",
        *("--images", "8", "--size", "64", "--crop", "48", "--batch-size", "2", "--rounds", "1"),
        *("--epochs", "1", "--workers", "0", "--output", "loader.json"),
        cwd=tmp_path,
    )
    loader = json.loads((tmp_path / "loader.json").read_text())
    assert complete(loader)
    assert loader["results"][0]["ratio"] > 0
    run(
        "train_step.py",
        *("--encoder", TINY_ENCODER, "--batch-size", "2", "--size", "64", "--rounds", "1"),
        *("--warmup", "1", "--steps", "3", "--output", "step.json"),
        cwd=tmp_path,
    )
    step = json.loads((tmp_path / "step.json").read_text())
    assert complete(step)
    assert step["results"]["time_ratio"] > 0
    assert step["results"]["memory_ratio"] > 0


@pytest.mark.slow
def test_synthesis_reports_rates_of_a_folder(tmp_path) -> None:
    plain_folder(tmp_path / "set")
    words = ["--root", "set", "--images", "2", "--size", "24", "32", "--rounds", "1"]
    shown = run("synthesis.py", *words, "--output", "rates.json", cwd=tmp_path).stdout
    result = json.loads((tmp_path / "rates.json").read_text())
    assert complete(result)
    assert result["settings"]["root"] == "set"
    assert all(found["images_per_second"] > 0 for found in result["results"].values())
    assert "bar 20 images/s" in shown


@pytest.mark.slow
def test_propagate_compares_both_solutions(tmp_path) -> None:
    plain_folder(tmp_path / "set")
    words = ["--root", "set", "--images", "2", "--size", "600", "700", "--rounds", "1"]
    shown = run("propagate.py", *words, "--output", "found.json", cwd=tmp_path).stdout
    result = json.loads((tmp_path / "found.json").read_text())
    assert complete(result)
    for found in result["results"].values():
        assert min(found[way]["seconds"] for way in ("reduced", "full")) > 0
        assert 95 < found["same_label_percent"] <= 100
    assert shown.count("same label on") == len(result["results"]) == 2


def test_peak_memory_counts_what_a_call_allocates() -> None:
    code = "from ops_memory import peak_mib; print(peak_mib(lambda: len(b'x' * (64 << 20))))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT / "benchmarks",
    )
    if done.stdout == "None\n":
        pytest.skip("no /proc")
    assert 63 < float(done.stdout) < 70


@pytest.mark.slow
def test_ops_finds_that_all_ways_agree(tmp_path) -> None:
    words = ["--quick", "--rounds", "2", "--seconds", "0", "--no-memory"]
    run("ops.py", *words, "--output", "ops.json", cwd=tmp_path)
    result = json.loads((tmp_path / "ops.json").read_text())
    assert complete(result)
    table = (tmp_path / "ops.md").read_text()
    labels = {}
    for case in result["results"]["cases"]:
        assert f"`{case['name']}`" in table
        labels[case["name"]] = [way["label"] for way in case["ways"]]
        # the lattice is an approximation, and coarse for images of so few pixels
        lattice = any("lattice" in label for label in labels[case["name"]])
        for way in case["ways"]:
            if "skipped" in way:
                assert way["skipped"]
                continue
            assert way["min_s"] > 0
            assert (way.get("deviation") or 0) < (0.3 if lattice else 0.01), way
    bars = result["results"]["bars"]
    assert bars
    for bar in bars:
        assert bar["met"] is None  # nothing is judged at these sizes
        assert bar["against"] is None or bar["against"] in labels[bar["case"]]
    assert all(row["min_s"] or row["skipped"] for row in result["results"]["growth"])


@pytest.mark.slow
def test_ops_measures_memory_of_each_way(tmp_path) -> None:
    words = ["--quick", "--rounds", "1", "--only", "distance_map", "--output", "ops.json"]
    run("ops.py", *words, cwd=tmp_path)
    result = json.loads((tmp_path / "ops.json").read_text())
    ways = result["results"]["cases"][0]["ways"]
    assert [way["kind"] for way in ways] == ["ours", "peer"]
    assert all(0 <= way["peak_mib"] < 100 for way in ways)
    assert result["settings"]["threads"] == 1
    command = [sys.executable, str(ROOT / "benchmarks" / "ops.py"), "--only", "nonsense"]
    refused = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert refused.returncode
    assert "expected some of" in refused.stderr


def test_pseudo_labels_of_each_data_set_are_found_and_recorded_without_the_machine(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from compare import arguments, portable

    plan = yaml.safe_load((ROOT / "benchmarks" / "plans" / "cdsp_mini.yaml").read_text())
    options = SimpleNamespace(
        data_root=tmp_path / "data", weights=None, workers=None, pseudo_labels=tmp_path / "made"
    )
    key = "data.init_args.pseudo_label_dir"
    for data in plan["data"].values():
        given = arguments(plan, data, plan["recipes"]["cdsp"], options)
        assert given[key] == str(tmp_path / "made" / f"cam_{data['folder']}" / "pseudo_labels")
        recorded = portable(given, options)[key]
        assert recorded == f"PSEUDO_LABELS/cam_{data['folder']}/pseudo_labels"
        assert key not in arguments(plan, data, plan["recipes"]["partial CE"], options)
    options.pseudo_labels = None
    with pytest.raises(SystemExit, match="--pseudo-labels"):
        arguments(plan, data, plan["recipes"]["cdsp"], options)


@pytest.mark.slow
def test_cdsp_blocks_agree_with_the_dense_equations(tmp_path) -> None:
    words = ["--height", "24", "--width", "32", "--repeats", "2", "--batch", "2"]
    words += ["--channels", "32", "--side", "9", "--rounds", "1", "--output", "b.json"]
    run("cdsp_blocks.py", *words, cwd=tmp_path)
    result = json.loads((tmp_path / "b.json").read_text())
    assert complete(result)
    assert result["results"]["maps"]["boundary_ms"] > 0
    assert result["results"]["rectification"]["time_ratio"] > 0


@pytest.mark.slow
def test_spml_blocks_agree_with_the_written_equation(tmp_path) -> None:
    words = ["--pixels", "300", "--segments", "40", "--dim", "8", "--chunk", "64", "--side", "16"]
    words += ["--repeats", "1", "--rounds", "1", "--output", "b.json"]
    run("spml_blocks.py", *words, cwd=tmp_path)
    result = json.loads((tmp_path / "b.json").read_text())
    assert complete(result)
    assert result["results"]["segments"]["kmeans_s"] > 0
    assert result["results"]["loss"]["seconds_ratio_to_written"] > 0


def test_boxes_surround_the_objects(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from boxes import boxes_of

    mask = np.zeros((8, 10), np.uint8)
    mask[1:4, 2:7], mask[5:7, 8] = 2, 1
    mask[7, 0], mask[0, 0] = 3, 255
    found = boxes_of(mask, background=0, min_area=2)
    assert sorted(found, key=lambda box: box["cls"]) == [
        {"box": [8, 5, 9, 7], "cls": 1},
        {"box": [2, 1, 7, 4], "cls": 2},
    ]


def test_boxes_of_a_folder(tmp_path) -> None:
    root, output = plain_folder(tmp_path / "data"), tmp_path / "made" / "boxes.json"
    run("boxes.py", str(root), str(output), "--min-area", "1", cwd=tmp_path)
    boxes = json.loads(output.read_text())
    assert set(boxes) == set((root / "train.txt").read_text().split())
    assert any(boxes.values())


def test_a_recipe_may_score_the_run_of_another_one_again(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import compare

    plan = yaml.safe_load((ROOT / "benchmarks" / "plans" / "spml_mini.yaml").read_text())
    for spec in plan["recipes"].values():
        assert ("validate" in spec) == ("of" in spec)
        assert spec.get("of", "spml") in plan["recipes"]
        assert set(spec.get("data") or []) <= set(plan["data"])
    again, trained = tmp_path / "again", tmp_path / "spml"
    options, wanted = plan["recipes"]["spml, retrieval"]["validate"], {"seed": 0}
    with pytest.raises(SystemExit, match="run it first"):
        compare.validated_again(again, trained, options, wanted)
    trained.mkdir()
    (trained / "result.json").write_text(json.dumps({"steps": 3, "scores": {}, "settings": {}}))
    asked = []

    def logged(command: list[str], folder: Path) -> None:
        asked.append(command)
        scores = {"val/miou": 0.5, "test/miou": 0.1}
        (trained / "scores_validate.json").write_text(json.dumps(scores))

    monkeypatch.setattr(compare, "logged", logged)
    for _ in range(2):  # a finished one is not repeated
        result = compare.validated_again(again, trained, options, wanted)
        assert result == {"steps": 3, "scores": {"val/miou": 0.5}, "settings": wanted}
    (command,) = asked
    assert f"--model.init_args.retrieval={trained}/prototypes/prototypes.npz" in command


def test_a_sweep_shares_the_unchanged_recipe_and_draws_curves(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from sweep import expand_sweep, plot_sweep

    plan = yaml.safe_load((ROOT / "benchmarks" / "plans" / "robustness_mini.yaml").read_text())
    shrink, drop = plan["sweep"]
    expanded = expand_sweep(plan)
    assert len(expanded["recipes"]) == 2 * (1 + 4 + 2)
    assert expanded["recipes"]["pce"]["overrides"] == {}
    assert expanded["recipes"]["pce scribble_drop 0.25"]["overrides"] == {drop: 0.25}
    assert expanded["recipes"]["kernel_cut scribble_shrink 1"]["overrides"] == {shrink: 1}
    assert expand_sweep({"recipes": {"pce": {}}}) == {"recipes": {"pce": {}}}
    results = [
        {"data": "ACDC-mini", "recipe": name, "runs": [{"scores": {"val/dice": 0.1 * n}}]}
        for n, name in enumerate(expanded["recipes"])
    ]
    plot_sweep(expanded, results, tmp_path / "curves.png")
    from PIL import Image

    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > 400
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 50, "curves, not an empty sheet"


@pytest.mark.slow
def test_irn_blocks_agree_with_the_dense_walk(tmp_path) -> None:
    words = ["--side", "24", "--batch", "1", "--radius", "4", "--height", "48", "--width", "64"]
    words += ["--dense-side", "10", "--rounds", "1", "--output", "b.json"]
    run("irn_blocks.py", *words, cwd=tmp_path)
    result = json.loads((tmp_path / "b.json").read_text())
    assert complete(result)
    assert result["results"]["difference"] < 1e-4
    assert result["results"]["walk_s"] > 0


@pytest.mark.slow
def test_memory_of_a_feature_stream_is_bounded(tmp_path) -> None:
    words = ["--images", "600", "--capacity", "50", "--set-rows", "300", "--set-dim", "16"]
    run("ptrecl_scale.py", *words, "--dim", "8", "--output", "s.json", cwd=tmp_path)
    result = json.loads((tmp_path / "s.json").read_text())
    assert complete(result)
    stream = result["results"]["stream"]
    assert stream["rows"] <= 2 * 21 * 50
    assert stream["growth_mib"] < 30
    paper = result["results"]["on_paper"]
    assert paper["voc_store_gb"] < 3.3
    assert paper["coco_store_gb"] < 13.2


@pytest.mark.slow
def test_masks_of_every_ptrecl_stage_are_tabled(tmp_path) -> None:
    words = ["--images", "6", "--val-images", "2", "--size", "64", "--work", str(tmp_path / "work")]
    words += [f"--epochs-{stage}=1" for stage in ("cam", "irn", "recover", "segment")]
    run("ptrecl_masks.py", *words, "--masks-only", "--output", "m.json", cwd=tmp_path)
    result = json.loads((tmp_path / "m.json").read_text())
    assert complete(result)
    stages = result["results"]["stages"]
    assert len(stages) == 5
    assert all(0 <= found["miou"] <= 1 for found in stages.values())
    assert (tmp_path / "m.md").read_text().count("|\n") >= 7


def test_plan_of_ptrecl_names_masks_of_every_stage(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from compare import arguments

    plan = yaml.safe_load((ROOT / "benchmarks" / "plans" / "ptrecl_mini.yaml").read_text())
    options = SimpleNamespace(
        data_root=tmp_path, weights=None, workers=None, pseudo_labels=tmp_path / "runs"
    )
    key, folders = "data.init_args.pseudo_label_dir", set()
    for data in plan["data"].values():
        for recipe in plan["recipes"].values():
            folders.add(arguments(plan, data, recipe, options).get(key))
    root = tmp_path / "runs"
    assert str(root / "ptrecl_acdc" / "5_refine" / "pseudo_labels") in folders
    assert str(root / "ptrecl_camvid" / "2_irn" / "pseudo_labels") in folders
    assert len(folders) == 2 * 4 + 1


def test_a_preset_value_that_is_overridden_decides_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import compare

    def settings(weight: float, **overrides: float) -> dict:
        preset = {"model": {"init_args": {"a": weight, "b": 1}}, "data": None}
        return {"seed": 0, "overrides": overrides, "presets": {"p.yaml": preset}}

    key, run = "model.init_args.a", {"steps": 1}
    run["settings"] = settings(1.0, **{key: 0.0})
    path = tmp_path / "known.json"
    path.write_text(json.dumps({"results": [{"runs": [run]}]}))
    known = compare.known_runs([path])
    assert known[compare._digest(settings(0.1, **{key: 0.0}))] == run
    assert compare._digest(settings(0.1, **{key: 0.5})) not in known
    assert compare._digest(settings(0.1)) != compare._digest(settings(1.0))
    other = {"data.init_args.c": 2.0}
    assert compare._digest(settings(0.1, **other)) != compare._digest(settings(1.0, **other))
