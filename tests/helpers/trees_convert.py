"""What tests of data commands share: running one command, and what a folder holds."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from scribbleseg.data import main

if TYPE_CHECKING:
    from pathlib import Path


def run_command(name: str, *arguments: object) -> int:
    """Exit status of one data command, as ``python -m scribbleseg.data`` would give it."""
    return main([name, *map(str, arguments)])


def times(folder: Path) -> dict[str, int]:
    """Time of the last change of every file, in nanoseconds."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }


def labels_of(folder: Path, stem: str) -> np.ndarray:
    """Ids of one label file that a command wrote: a palette PNG."""
    with Image.open(folder / f"{stem}.png") as image:
        assert image.mode == "P"
        return np.array(image)


def manifest_of(folder: Path) -> dict[str, Any]:
    """What a command noted about the files that it wrote."""
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
