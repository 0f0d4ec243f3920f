"""Compare recipes on data sets over seeds at equal optimiser steps: JSON and a Markdown table.

    python benchmarks/compare.py benchmarks/plans/bounds_mini.yaml --data-root DIR [--weights FILE]

A plan names data sets (a recipe file, its folder under the data root, the number of steps), recipes
(one or several presets on top of that file, overrides of single values, or both) and seeds. Every
run is an ordinary ``scribbleseg fit`` in a folder of its own: a finished run is never repeated, an
interrupted one resumes. Runs that the output file already holds with the same settings are kept,
so that a table can grow over days and machines; ``--known`` takes them from other result files, so
that plans share their baselines. Scores are those of the last step, never of a selected checkpoint.
A plan with ``sweep: {option: [values]}`` runs every recipe at every value, and draws the curves
beside the table. A recipe with ``data: [names]`` runs on these data sets only; one with
``of: recipe`` and ``validate: {option: value}`` scores that recipe's runs again under other
test-time options.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from report import default_path, environment, write
from sweep import expand_sweep, plot_sweep

from scribbleseg import read_checkpoint

HERE = Path(__file__).parent


def arguments(plan: dict, data: dict, recipe: dict, options: argparse.Namespace) -> dict[str, Any]:
    """Overrides of one cell; later ones win."""
    source = "data.init_args.source.init_args"
    given: dict[str, Any] = {}
    if not data.get("built_in"):  # else drawn by the library; the folder is that of pseudo-labels
        given[f"{source}.root"] = str(options.data_root / data["folder"])
    if options.weights is not None:
        given["model.init_args.encoder_weights"] = str(options.weights)
    if options.workers is not None:
        given["data.init_args.num_workers"] = options.workers
    # scored once, at the end: validation in between would only cost time
    steps = {"trainer.max_steps": data["steps"], "trainer.max_epochs": -1}
    steps["trainer.limit_val_batches"] = 0
    if recipe.get("pseudo_labels"):
        if options.pseudo_labels is None:
            raise SystemExit("a recipe trains on pseudo-labels: pass their folder, --pseudo-labels")
        given[f"{source}.label_type"] = "pseudo"
        given[f"{source}.pseudo_label_dir"] = str(options.pseudo_labels.absolute() / data["folder"])
    layers = [plan.get("overrides"), data.get("overrides"), recipe.get("overrides"), steps, given]
    merged = {key: value for layer in layers if layer for key, value in layer.items()}
    for key, value in merged.items():  # labels that another command made, in a folder of their own
        if str(value).startswith("PSEUDO_LABELS/"):
            if options.pseudo_labels is None:
                raise SystemExit(f"{key}={value}: pass that folder, --pseudo-labels")
            name = str(value).removeprefix("PSEUDO_LABELS/").replace("{folder}", data["folder"])
            merged[key] = str(options.pseudo_labels.absolute() / name)
    return merged


def logged(command: list[str], folder: Path) -> None:
    """Run a command into the folder's log; end with the log's tail if it fails."""
    with (folder / "log.txt").open("a") as log:
        code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
    if code:
        tail = "\n".join((folder / "log.txt").read_text().splitlines()[-5:])
        raise SystemExit(f"run {folder} ended with status {code}:\n{tail}")


def portable(overrides: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Overrides as they are recorded: without the folders of this machine."""
    folders = {"DATA_ROOT": options.data_root}
    if options.pseudo_labels is not None:
        folders["PSEUDO_LABELS"] = options.pseudo_labels.absolute()
    recorded = dict(overrides)
    for key, value in overrides.items():
        for name, folder in folders.items():
            if str(value).startswith(str(folder)):
                recorded[key] = name + str(value).removeprefix(str(folder))
        if key.endswith("encoder_weights"):
            recorded[key] = Path(str(value)).name
    return recorded


def run(
    folder: Path,
    configs: list[Path],
    overrides: dict[str, Any],
    wanted: dict[str, Any],
    *,
    seed: int,
) -> dict[str, Any]:
    """One fit; its scores, steps and seconds. ``wanted`` is how its settings are recorded."""
    done = folder / "result.json"
    if done.exists():
        result = json.loads(done.read_text())
        if _digest(result["settings"]) != _digest(wanted):
            raise SystemExit(f"{done} was made with other settings; choose another --work folder")
        return result
    last = folder / "checkpoints" / "last.ckpt"
    command = [sys.executable, "-m", "scribbleseg", "fit"]
    command += [f"--config={path}" for path in configs]
    for key, value in overrides.items():
        command.append(f"--{key}={value if isinstance(value, str) else json.dumps(value)}")
    command += ["--seed_everything", str(seed), "--run_dir", str(folder)]
    command += ["--ckpt_path", str(last)] if last.exists() else []
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    logged(command, folder)
    spent = folder / "seconds.txt"  # of training, over all attempts
    seconds = time.monotonic() - start + (float(spent.read_text()) if spent.exists() else 0.0)
    spent.write_text(str(seconds))
    validate = [sys.executable, "-m", "scribbleseg", "validate", "--ckpt_path", str(last)]
    logged([*validate, "--trainer.limit_val_batches=1.0"], folder)
    scores = json.loads((folder / "scores_validate.json").read_text())
    result = {
        "settings": wanted,
        "scores": {k: v for k, v in scores.items() if k.startswith("val/")},
        "steps": int(read_checkpoint(last)["global_step"]),
        "seconds": round(seconds, 1),
        "commit": environment("compare", seed=seed, settings={})["commit"],
    }
    done.write_text(json.dumps(result, indent=1))
    return result


def validated_again(
    folder: Path, trained: Path, options: dict[str, Any], wanted: dict[str, Any]
) -> dict[str, Any]:
    """Scores of a run that another recipe made, under other options; ``RUN`` is its folder."""
    done = trained / "result.json"
    if not done.exists():
        raise SystemExit(f"{trained} is to be validated again and is not there: run it first")
    again = folder / "result.json"
    if again.exists() and _digest(json.loads(again.read_text())["settings"]) == _digest(wanted):
        return json.loads(again.read_text())
    folder.mkdir(parents=True, exist_ok=True)
    last = trained / "checkpoints" / "last.ckpt"
    command = [sys.executable, "-m", "scribbleseg", "validate", "--ckpt_path", str(last)]
    command += [f"--{k}={str(v).replace('RUN', str(trained))}" for k, v in options.items()]
    logged([*command, "--trainer.limit_val_batches=1.0"], folder)
    scores = json.loads((trained / "scores_validate.json").read_text())
    kept = {k: v for k, v in scores.items() if k.startswith("val/")}
    result = {**json.loads(done.read_text()), "settings": wanted, "scores": kept}
    again.write_text(json.dumps(result, indent=1))
    return result


def recorded_runs(output: Path) -> dict[tuple[str, str], dict[int, dict[str, Any]]]:
    """Runs that the output file holds already, by cell and seed: none is repeated or lost."""
    if not output.is_file():
        return {}
    cells = json.loads(output.read_text())["results"]
    return {
        (cell["data"], cell["recipe"]): {r["settings"]["seed"]: r for r in cell["runs"]}
        for cell in cells
    }


def known_runs(paths: list[Path]) -> dict[str, dict[str, Any]]:
    """Runs of other result files by their settings, which say everything that decides a score."""
    cells = [cell for path in paths for cell in json.loads(path.read_text())["results"]]
    return {_digest(run["settings"]): run for cell in cells for run in cell["runs"]}


def _digest(settings: dict[str, Any]) -> str:
    """Settings as text, without what decides nothing: preset values that an override replaces."""
    kept: dict[str, Any] = copy.deepcopy(settings)
    for preset in kept.get("presets", {}).values():
        for key in kept.get("overrides", {}):
            *path, name = key.split(".")
            at: Any = preset
            for step in path:
                at = at.get(step) if isinstance(at, dict) else None
            if isinstance(at, dict):
                at.pop(name, None)
    return json.dumps(kept, sort_keys=True)


def table(results: list[dict], metrics: dict[str, str]) -> str:
    """Markdown: a row per data set and recipe, mean ± sd over seeds in percent."""
    lines = [
        "| data | recipe | " + " | ".join(metrics.values()) + " | steps | seeds | minutes a run |",
        "|---|---|" + "---|" * (len(metrics) + 3),
    ]
    for cell in results:
        texts = []
        for metric in metrics:
            values = [100 * r["scores"][metric] for r in cell["runs"] if metric in r["scores"]]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            texts.append(f"{statistics.mean(values):.1f}{spread}" if values else "–")
        minutes = statistics.mean(r["seconds"] for r in cell["runs"]) / 60
        lines.append(
            f"| {cell['data']} | {cell['recipe']} | {' | '.join(texts)} | "
            f"{cell['runs'][0]['steps']} | {len(cell['runs'])} | {minutes:.1f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--weights", type=Path, default=None, help="local encoder weights")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/compare"), help="folder of the runs"
    )
    parser.add_argument(
        "--pseudo-labels", type=Path, default=None, help="holds a folder per data set"
    )
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--only", nargs="+", default=None, help="names of data sets or recipes")
    parser.add_argument("--seeds", type=int, nargs="+", default=None)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument(
        "--known", type=Path, nargs="+", default=[], help="result files whose runs are not repeated"
    )
    options = parser.parse_args()
    plan = expand_sweep(yaml.safe_load(options.plan.read_text()))
    seeds = options.seeds or plan["seeds"]
    groups = _groups(plan, options.only or [])
    cells = [
        (data, recipe)
        for data in plan["data"]
        for recipe, spec in plan["recipes"].items()
        if data in (spec.get("data") or plan["data"])
        if all({data, recipe} & group for group in groups)
    ]
    total, count, begun = len(cells) * len(seeds), 0, time.monotonic()
    output = options.output or default_path(options.plan.stem)
    found, known = recorded_runs(output), known_runs(options.known)
    for data, recipe in cells:
        spec, again = plan["data"][data], plan["recipes"][recipe].get("validate")
        trained = plan["recipes"][recipe]["of"] if again else recipe
        presets = plan["recipes"][trained].get("preset") or []
        names = [spec["config"], *([presets] if isinstance(presets, str) else presets)]
        configs = [HERE.parent / name for name in names]
        overrides = arguments(plan, spec, plan["recipes"][trained], options)
        for seed in seeds:
            folder, source = (
                options.work / options.plan.stem / data / name.replace(" ", "_") / f"seed{seed}"
                for name in (recipe, trained)
            )
            wanted = {
                "config": configs[0].name,
                "seed": seed,
                "overrides": portable(overrides, options),
            }
            if len(configs) > 1:
                contents = {path.name: yaml.safe_load(path.read_text()) for path in configs[1:]}
                wanted["presets"] = contents
            if again:
                wanted["validate"] = again
            runs = found.setdefault((data, recipe), {})
            if seed not in runs or _digest(runs[seed]["settings"]) != _digest(wanted):
                earlier = known.get(_digest(wanted))
                if again:
                    runs[seed] = earlier or validated_again(folder, source, again, wanted)
                else:
                    runs[seed] = earlier or run(folder, configs, overrides, wanted, seed=seed)
            if runs[seed]["steps"] != spec["steps"]:
                raise SystemExit(
                    f"{data}/{recipe}: {runs[seed]['steps']} steps, not {spec['steps']}"
                )
            count += 1
            left = (time.monotonic() - begun) / count * (total - count)
            sys.stderr.write(
                f"{count}/{total} {data} / {recipe} / seed {seed}: "
                f"{runs[seed]['scores'].get('val/miou', float('nan')):.4f} mIoU, "
                f"about {left / 60:.0f} min left\n"
            )
            # after every run, so that hours of them are never lost to the last one
            results = _in_order(found, plan)
            settings = {"plan": plan, "weights": options.weights.name if options.weights else None}
            shown = sorted({seed for runs in found.values() for seed in runs})
            write(output, environment("compare", seed=shown, settings=settings), results)
            output.with_suffix(".md").write_text(table(results, plan["metrics"]))
            if "sweep" in plan:
                plot_sweep(plan, results, output.with_suffix(".png"))
    print(table(_in_order(found, plan), plan["metrics"]))


def _in_order(found: dict[tuple[str, str], dict[int, dict]], plan: dict) -> list[dict]:
    """Cells in the order of the plan; those it no longer names are dropped."""
    return [
        {"data": data, "recipe": recipe, "runs": [runs[seed] for seed in sorted(runs)]}
        for data in plan["data"]
        for recipe in plan["recipes"]
        if (runs := found.get((data, recipe)))
    ]


def _groups(plan: dict, only: list[str]) -> list[set[str]]:
    """The parts of ``--only`` that restrict data sets and recipes, each if it names any."""
    parts = [set(only) & set(plan["data"]), set(only) & set(plan["recipes"])]
    unknown = set(only) - parts[0] - parts[1]
    if unknown:
        raise SystemExit(f"--only names nothing in the plan: {', '.join(sorted(unknown))}")
    return [part for part in parts if part]


if __name__ == "__main__":
    main()
