"""Time and memory of propagating strokes on large pictures: solved at full size, and reduced.

``random_walker_labels``, which ``python -m scribbleseg.data propagate`` calls for every image,
solves large pictures on blocks first; ``random_walker`` solves all pixels at once. Both get the
same enlarged pictures, one after the other in every round. Seconds are those of the processor, so
that other work on the machine counts little; memory is the highest one above that before the call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from ops_memory import peak_mib
from report import default_path, environment, write

from scribbleseg.data.sources import FolderSource, SyntheticSource
from scribbleseg.functional import random_walker, random_walker_labels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray


def pictures(options: argparse.Namespace) -> Iterator[tuple[str, NDArray, NDArray, int]]:
    """Name, image and strokes at the size that is asked for, and the number of classes."""
    if options.root is None:
        source = SyntheticSource(num_train=options.images, size=512)
    else:
        source = FolderSource(options.root)
    records = source.records("train")
    height, width = options.size
    for place in np.linspace(0, len(records) - 1, options.images).astype(int):
        record = records[place]
        image, scribble = source.read_image(record), source.read_scribble(record)
        yield (
            record.image_id,
            cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR),
            cv2.resize(scribble, (width, height), interpolation=cv2.INTER_NEAREST_EXACT),
            source.num_classes,
        )


def measure(solve: Callable[[], NDArray]) -> tuple[float, float | None, NDArray]:
    """Processor seconds, highest memory in MiB, and the labels."""
    found: list = []

    def run() -> None:
        start = time.process_time()
        labels = solve()
        found.extend((time.process_time() - start, labels))

    peak = peak_mib(run)
    return found[0], peak, found[1]


def compare(image: NDArray, scribble: NDArray, classes: int, rounds: int) -> dict:
    ways: dict[str, Callable[[], NDArray]] = {
        "full": lambda: random_walker(image, scribble, num_classes=classes).argmax(axis=0),
        "reduced": lambda: random_walker_labels(image, scribble),
    }
    times: dict[str, list] = {name: [] for name in ways}
    peaks: dict[str, list] = {name: [] for name in ways}
    labels: dict[str, NDArray] = {}
    for _ in range(rounds):
        for name, solve in ways.items():
            seconds, peak, labels[name] = measure(solve)
            times[name].append(seconds)
            peaks[name].append(peak)
    results: dict = {
        name: {
            "seconds": statistics.median(times[name]),
            "rounds": times[name],
            "peak_mib": None if None in peaks[name] else max(peaks[name]),
        }
        for name in ways
    }
    equal = labels["full"] == labels["reduced"]
    drawn = 100 * float((scribble != 255).mean())
    return {**results, "same_label_percent": 100 * float(equal.mean()), "drawn_percent": drawn}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=None, help="a plain folder with scribbles")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=(1536, 2048), metavar=("H", "W"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    strokes = np.full((600, 600), 255, np.uint8)
    strokes[0], strokes[-1] = 0, 1
    random_walker_labels(np.eye(600, dtype=np.uint8), strokes)  # warm-up
    results = {}
    for name, image, scribble, classes in pictures(options):
        results[name] = found = compare(image, scribble, classes, options.rounds)
        for way in ("full", "reduced"):
            peak = found[way]["peak_mib"]
            memory = "" if peak is None else f"  {peak:7,.0f} MiB"
            print(f"{name} {way:8} {found[way]['seconds']:6.1f} s{memory}")
        print(f"{name} same label on {found['same_label_percent']:.2f} % of the pixels")
    settings = {key: value for key, value in vars(options).items() if key != "output"}
    settings["root"] = options.root and options.root.name
    header = environment("propagate", seed=0, settings=settings)
    write(options.output or default_path("propagate"), header, results)


if __name__ == "__main__":
    main()
