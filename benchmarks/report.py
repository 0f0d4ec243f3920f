"""What every result file holds besides its numbers: commit, versions, device, seed, time."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

REQUIRED = ("benchmark", "commit", "versions", "device", "seed", "date", "settings", "results")
_PACKAGES = (
    "scribbleseg",
    "torch",
    "lightning",
    "segmentation-models-pytorch",
    "albumentations",
    "numpy",
)


def environment(
    benchmark: str, *, seed: int | list[int], settings: dict[str, Any]
) -> dict[str, Any]:
    """Header of a result file."""
    git = ["git", "-C", str(Path(__file__).parent)]
    commit = subprocess.run(
        [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    dirty = subprocess.run(
        [*git, "status", "--porcelain", "--", "../scribbleseg"],
        capture_output=True,
        text=True,
        check=False,
    )
    if torch.cuda.is_available():
        device = f"{torch.cuda.get_device_name()} ×{torch.cuda.device_count()}"
    else:
        device = f"{_cpu()}, {torch.get_num_threads()} threads"
    return {
        "benchmark": benchmark,
        "commit": commit.stdout.strip() + ("+changes" if dirty.stdout.strip() else ""),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in _PACKAGES}},
        "device": device,
        "seed": seed,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": settings,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def write(path: Path, header: dict[str, Any], results: Any) -> None:
    """Write a result file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({**header, "results": results}, indent=1) + "\n")
    partial.replace(path)
    sys.stderr.write(f"wrote {path}\n")


def default_path(name: str) -> Path:
    """``results/<version>/<name>.json``."""
    return Path(__file__).parent / "results" / version("scribbleseg") / f"{name}.json"
