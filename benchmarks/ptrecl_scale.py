"""Time and memory of PtReCl's feature sets and clusters, and what follows for VOC and COCO.

A stream of simulated images (labels in blocks, features of a unit length) goes through what the
stage does: cells are chosen from labels alone, features of these are written to a memory-mapped
file, sets are clustered. The resident memory is sampled while the stream passes, so that its bound
shows at any number of images; sizes are options. Then one set of full size is clustered. Bars are
for VOC (10,582 images, 20 classes) and COCO (82,783, 80): the store follows from its shape, the
clustering from the time of one full set; both are arithmetic, and said to be so in the result.
Times are processor seconds: with one thread and nothing else running, those on the clock.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rounds import judge, save

from scribbleseg.functional import (
    FeatureFile,
    FeaturePlanner,
    cluster_set,
    foreground_background_cells,
)

SETS = {"voc": (10_582, 20, 768), "coco": (82_783, 80, 1_200)}  # images, classes, cells an image
BARS = {
    **{"voc_store_gb": 3.3, "coco_store_gb": 13.2},  # decimal: 2·C·N·2048·2 bytes
    **{"voc_clustering_min": 3.0, "coco_clustering_min": 15.0},
}


def resident_mib() -> float:
    """Memory of this process without the pages of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def labels(index: int, side: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells of one image and its classes: one to three of them in blocks."""
    rng = np.random.default_rng(index)
    cells = torch.zeros(side, side, dtype=torch.int64)
    for label in rng.choice(np.arange(1, classes + 1), int(rng.integers(1, 4)), replace=False):
        top, left = rng.integers(0, side - side // 3, 2)
        cells[top : top + side // 3, left : left + side // 3] = int(label)
    tags = torch.zeros(classes + 1)
    tags[cells.unique()] = 1
    tags[0] = 0
    return cells, tags


def stream(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Choose, write and cluster; what it took."""
    side, classes = options.side, options.classes
    planner = FeaturePlanner(2 * (classes + 1), capacity=options.capacity)
    memory, marks = [], max(options.images // 10, 1)
    start = time.process_time()
    for index in range(options.images):
        cells, tags = labels(index, side, classes)
        pair = foreground_background_cells(cells[None], tags[None])
        planner.add(torch.stack(pair, dim=2)[0], uid=index)
        if index % marks == 0:
            memory.append(round(resident_mib(), 1))
    plan = planner.plan()
    chosen = time.process_time() - start
    file = FeatureFile(folder, plan, dim=options.dim, images=options.images)
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(options.dim, side, side, generator=generator)
    start, passes = time.process_time(), 0
    for index in range(options.images):
        if not file.is_done(index):
            file.write(index, features)
            passes += 1
        if index % marks == 0:
            memory.append(round(resident_mib(), 1))
    written = time.process_time() - start
    return {
        "images": options.images,
        "images_with_chosen_cells": passes,
        "rows": len(plan.uid),
        "store_mib": len(plan.uid) * options.dim * 2 / 2**20,
        "plan_ms_per_image": 1000 * chosen / options.images,
        "write_ms_per_image": 1000 * written / options.images,
        "resident_mib": memory,
        "growth_mib": max(memory[1:]) - memory[1],
    }


def one_set(options: argparse.Namespace) -> dict[str, float]:
    """K-means of one full set of the real size."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(40, options.set_dim, generator=generator)
    rows = torch.randint(0, 40, (options.set_rows,), generator=generator)
    x = torch.randn(options.set_rows, options.set_dim, generator=generator) + centres[rows]
    x = F.normalize(x.relu_(), dim=1)
    start, clock = time.process_time(), time.perf_counter()
    cluster_set(x, options.prototypes, redo=options.redo)
    return {
        "seconds": time.process_time() - start,
        "seconds_on_the_clock": time.perf_counter() - clock,
        "set_mib": x.numel() * 4 / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=16, help="cells along a side of an image")
    parser.add_argument("--classes", type=int, default=20)
    parser.add_argument("--dim", type=int, default=64, help="channels of the streamed features")
    parser.add_argument("--capacity", type=int, default=5_000)
    parser.add_argument("--set-rows", type=int, default=20_000)
    parser.add_argument("--set-dim", type=int, default=2_048)
    parser.add_argument("--prototypes", type=int, default=20)
    parser.add_argument("--redo", type=int, default=3)
    parser.add_argument("--cores", type=int, default=2, help="that share the sets, on paper")
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        streamed = stream(options, Path(folder))
    print(streamed)
    clustered = one_set(options)
    print(clustered)
    found, extrapolated = {}, {}
    for name, (images, classes, cells) in SETS.items():
        found[f"{name}_store_gb"] = 2 * classes * 20_000 * 2_048 * 2 / 1e9
        minutes = 2 * classes * clustered["seconds"] / options.cores / 60
        found[f"{name}_clustering_min"] = minutes
        # labels of an image of so many cells cost as much more to choose from
        factor = cells / options.side**2
        extrapolated[f"{name}_plan_min"] = (
            images * float(streamed["plan_ms_per_image"]) * factor / 6e4
        )
    judge(found, BARS)
    results = {"stream": streamed, "one_set": clustered, "on_paper": {**found, **extrapolated}}
    save("ptrecl_scale", options, results)


if __name__ == "__main__":
    main()
