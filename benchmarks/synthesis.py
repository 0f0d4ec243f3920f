"""Images per second and core of what is drawn from masks and taken away from scribbles.

Pictures of the built-in source by default; ``--root`` measures the masks of a plain folder. Seconds
are those of the processor, so that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
from report import default_path, environment, write

from scribbleseg.data.sources import FolderSource, SyntheticSource
from scribbleseg.functional import (
    Degradation,
    degrade_scribble,
    synthesize_points,
    synthesize_scribbles,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

BAR = 20.0  # scribbles, images per second


def masks_of(options: argparse.Namespace) -> list[np.ndarray]:
    height, width = options.size
    if options.root is None:
        source = SyntheticSource(num_train=options.images, size=max(height, width))
        records = source.records("train")
        return [source.read_mask(record)[:height, :width].copy() for record in records]
    source = FolderSource(options.root)
    records = source.records_with_masks("train")[: options.images]
    masks = (source.read_mask(record) for record in records)
    return [cv2.resize(m, (width, height), interpolation=cv2.INTER_NEAREST_EXACT) for m in masks]


def rate(work: Callable[[np.ndarray], object], inputs: list[np.ndarray], rounds: int) -> dict:
    work(inputs[0])
    rates = []
    for _ in range(rounds):
        start = time.process_time()
        for item in inputs:
            work(item)
        rates.append(len(inputs) / (time.process_time() - start))
    return {"images_per_second": statistics.median(rates), "rounds": rates}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=None, help="a plain folder with masks")
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--size", type=int, nargs=2, default=(360, 480), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    masks = masks_of(options)
    scribbles = [synthesize_scribbles(mask) for mask in masks]
    ways = {
        "scribbles": (synthesize_scribbles, masks),
        "points": (synthesize_points, masks),
        "shrink 0.5": (
            lambda s: degrade_scribble(s, Degradation(shrink=0.5), image_id="a"),
            scribbles,
        ),
        "drop 0.5": (lambda s: degrade_scribble(s, Degradation(drop=0.5), image_id="a"), scribbles),
    }
    results = {name: rate(work, given, options.rounds) for name, (work, given) in ways.items()}
    for name, found in results.items():
        print(f"{name:12} {found['images_per_second']:7.1f} images/s")
    met = "met" if results["scribbles"]["images_per_second"] >= BAR else "MISSED"
    print(f"scribbles: bar {BAR:g} images/s: {met}")
    settings = {key: value for key, value in vars(options).items() if key != "output"}
    settings["root"] = options.root and options.root.name
    header = environment("synthesis", seed=0, settings=settings)
    write(options.output or default_path("synthesis"), header, results)


if __name__ == "__main__":
    main()
