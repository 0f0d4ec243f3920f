"""How good the training masks of each PtReCl stage are, on drawn pictures: one table.

    python benchmarks/ptrecl_masks.py --weights FILE [--variant tags] [--work DIR]

Runs the recipes of ``examples/ptrecl_shapes`` one after the other (seed, walk up to boundaries,
recovered, reclassified, refined again) at sizes for one processor core, scores the masks that each
leaves on the truth, which nothing else reads, and trains the last stage on several of them. Partial
cross-entropy on the scribbles is the row to compare with. Finished stages are kept: the same
command goes on after a stop. Writes JSON and Markdown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from report import default_path, environment, write

RECIPES = Path(__file__).parents[1] / "examples"
NAME = "ptrecl_shapes"
MASKS = {
    "1_cam": "activation maps, thresholded",
    "2_irn": "walk of these (IRN)",
    "3_recover": "recovered",
    "4_reclassify": "reclassified",
    "5_refine": "walk of these, boundaries learned again",
}
LAST = ("2_irn", "4_reclassify", "5_refine")


def config_text(stage: str, options: argparse.Namespace) -> str:
    """The recipe of a stage, with the folders of this call, for scribbles or for tags alone."""
    text = (RECIPES / NAME / f"{stage}.yaml").read_text()
    text = text.replace(f"runs/{NAME}", str(options.work / "runs"))
    if options.variant == "tags":
        for old, new in (
            ("seed_source: cam+scribble", "seed_source: cam"),
            ("paste_scribbles: true", "paste_scribbles: false"),
            ("scribbles: true", "scribbles: false"),
        ):
            text = text.replace(old, new)
    return text


def command(
    verb: str, config: Path, run_dir: Path, options: argparse.Namespace, **more: Any
) -> float:
    """One command of the library in a process of its own; its seconds."""
    source = "data.init_args.source.init_args"
    given: dict[str, Any] = {
        f"{source}.num_train": options.images,
        f"{source}.num_val": options.val_images,
        f"{source}.size": options.size,
        "data.init_args.num_workers": 0,
        "trainer.accelerator": "cpu",
        "trainer.check_val_every_n_epoch": 1000,
        "run_dir": run_dir,
        "seed_everything": options.seed,
        **more,
    }
    if options.weights is not None and verb == "fit":
        given["model.init_args.encoder_weights"] = options.weights
    elif verb == "fit":
        given["model.init_args.encoder_weights"] = "null"
    last = run_dir / "checkpoints" / "last.ckpt"
    if verb == "fit" and last.is_file():  # it was stopped
        given["ckpt_path"] = last
    words = [f"--{key}={value}" for key, value in given.items()]
    start = time.monotonic()
    with (options.work / "log.txt").open("a") as log:
        line = [sys.executable, "-m", "scribbleseg", verb, f"--config={config}", *words]
        done = subprocess.run(line, stdout=log, stderr=log, check=False)
    if done.returncode:
        tail = "\n".join((options.work / "log.txt").read_text().splitlines()[-6:])
        raise SystemExit(f"{verb} {config} ended with status {done.returncode}:\n{tail}")
    return time.monotonic() - start


def run_stage(stage: str, options: argparse.Namespace) -> dict[str, Any]:
    """Masks of one stage: their score, and the seconds it took."""
    folder = options.work / "runs" / stage
    result = folder / "result.json"
    if not result.is_file():
        config = options.work / f"{stage}.yaml"
        config.write_text(config_text(stage, options))
        more: dict[str, Any] = {"trainer.max_epochs": getattr(options, f"epochs_{stage[2:]}", 0)}
        verb = "fit"
        if stage == "4_reclassify":
            last = options.work / "runs" / "3_recover" / "checkpoints" / "last.ckpt"
            verb, more = "predict", {"ckpt_path": last}
        elif stage == "5_refine":
            more = {"trainer.max_epochs": options.epochs_irn}
        seconds = command(verb, config, folder, options, **more)
        quality = json.loads((folder / "pseudo_label_quality.json").read_text())
        result.write_text(json.dumps({**quality, "seconds": round(seconds, 1)}))
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def segment(name: str, labels: Path | None, options: argparse.Namespace) -> dict[str, Any]:
    """Validation score of the last stage on a folder of masks; ``None`` = partial cross-entropy."""
    folder = options.work / "runs" / f"6_segment_{name}"
    scores = folder / "scores_validate.json"
    if not scores.is_file():
        config = RECIPES / "pce_shapes.yaml"
        more: dict[str, Any] = {"trainer.max_epochs": options.epochs_segment}
        if labels is not None:
            config = options.work / "6_segment.yaml"
            config.write_text(config_text("6_segment", options))
            more["data.init_args.pseudo_label_dir"] = labels
        command("fit", config, folder, options, **more)
        last = folder / "checkpoints" / "last.ckpt"
        more["ckpt_path"] = last
        command("validate", config, folder, options, **more)
    return {"val_miou": json.loads(scores.read_text())["val/miou"]}


def table(stages: dict[str, Any], last: dict[str, Any]) -> str:
    """Markdown in percent."""
    lines = ["| masks | mIoU | decided | minutes |", "|---|---|---|---|"]
    for stage, found in stages.items():
        lines.append(
            f"| {MASKS[stage]} | {100 * found['miou']:.1f} | {100 * found['decided']:.0f} % | "
            f"{found['seconds'] / 60:.1f} |"
        )
    lines += ["", "| last stage trained on | validation mIoU |", "|---|---|"]
    for name, found in last.items():
        shown = MASKS.get(name, "scribbles (partial cross-entropy)")
        lines.append(f"| {shown} | {100 * found['val_miou']:.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, default=None, help="local encoder weights")
    parser.add_argument("--work", type=Path, default=Path("runs/ptrecl_masks"))
    parser.add_argument("--variant", choices=("scribbles", "tags"), default="scribbles")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--val-images", type=int, default=32)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs-cam", type=int, default=16)
    parser.add_argument("--epochs-irn", type=int, default=6)
    parser.add_argument("--epochs-recover", type=int, default=30)
    parser.add_argument("--epochs-segment", type=int, default=40)
    parser.add_argument("--masks-only", action="store_true", help="do not train the last stage")
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    options.work = options.work.absolute() / options.variant
    options.work.mkdir(parents=True, exist_ok=True)
    start, stages, last = time.monotonic(), {}, {}
    for stage in MASKS:
        stages[stage] = run_stage(stage, options)
        sys.stderr.write(f"{stage}: mIoU {100 * stages[stage]['miou']:.1f}\n")
    if not options.masks_only:
        last["partial CE"] = segment("scribbles", None, options)
        for stage in LAST:
            labels = options.work / "runs" / stage / "pseudo_labels"
            last[stage] = segment(stage, labels, options)
            sys.stderr.write(f"trained on {stage}: {100 * last[stage]['val_miou']:.1f}\n")
    settings = {
        key: value
        for key, value in vars(options).items()
        if key not in {"output", "work", "weights", "masks_only"}
    }
    settings["weights"] = options.weights.name if options.weights else None
    output = options.output or default_path(f"ptrecl_masks_{options.variant}")
    results = {
        "stages": stages,
        "last_stage": last,
        "gain": stages["4_reclassify"]["miou"] - stages["2_irn"]["miou"],
        "seconds": round(time.monotonic() - start, 1),
    }
    write(output, environment("ptrecl_masks", seed=options.seed, settings=settings), results)
    output.with_suffix(".md").write_text(table(stages, last))
    print(table(stages, last))


if __name__ == "__main__":
    main()
