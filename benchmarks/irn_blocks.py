"""IRN's pair loss, and the random walk against the dense form of the literature.

``loss``: the heads' part of a training step, forward and backward, at the sizes of the published
recipe: affinities of all pairs of cells within the radius, their labels, both losses. ``walk``:
maps of one image by shifts. ``dense``: the same as in the published code, by a matrix of all pairs
of cells, on a smaller grid (it grows with the square of the cells), and the largest difference.
Each is a process of its own (peak memory is a process's); they take turns. Times are processor
seconds: with one thread and nothing else running, those on the clock.
"""

from __future__ import annotations

import argparse
import json
import time

import torch
import torch.nn.functional as F
from ops_memory import peak_mib
from rounds import alternate, judge, median, parse, save

from scribbleseg.functional import boundary_to_affinity, sparse_random_walk
from scribbleseg.methods import (
    affinity_loss,
    affinity_targets,
    displacement_loss,
    pair_displacement,
    pair_offsets,
)

VARIANTS = ("loss", "walk", "dense")
BARS = {"loss_peak_mib": 2048.0, "walk_s": 0.8, "difference": 1e-4}


def inputs(height: int, width: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Smooth maps and boundaries."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, classes + 1, 8, 8, generator=generator)
    fine = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0]
    return fine[:classes], (fine[classes] - 0.5).abs().lt(0.05).float() * 0.95 + 0.02


def pair_loss(options: argparse.Namespace) -> float:
    """Forward and backward of both losses."""
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch, options.side, options.side)
    logits = torch.randn(shape, generator=generator).requires_grad_()
    field = torch.randn(shape[0], 2, *shape[1:], generator=generator).requires_grad_()
    labels = torch.randint(0, 4, (options.batch, 1, 8, 8), generator=generator).float()
    labels = F.interpolate(labels, shape[1:])[:, 0].long()
    labels[torch.rand(shape, generator=generator) < 0.3] = 255
    radius = options.radius
    affinity = boundary_to_affinity(logits.sigmoid(), radius=radius)
    background, foreground, different = affinity_targets(labels, radius=radius)
    loss = affinity_loss(affinity, background, foreground, different).loss()
    if options.displacement:
        difference = pair_displacement(field, radius=radius)
        loss = loss + displacement_loss(difference, background, foreground, radius=radius).loss()
    loss.backward()
    return float(loss)


def dense_walk(x: torch.Tensor, boundary: torch.Tensor, *, radius: int, steps: int) -> torch.Tensor:
    """The walk with a matrix of all pairs, which is squared until it holds all steps."""
    height, width = boundary.shape
    affinity = boundary_to_affinity(boundary[None], radius=radius, crop=False)[0] ** 10
    cells = height * width
    matrix = torch.eye(cells)
    index = torch.arange(cells).reshape(height, width)
    for weights, (down, right) in zip(affinity, pair_offsets(radius).T.tolist(), strict=True):
        rows = slice(0, height - down)
        columns = slice(max(-right, 0), width - max(right, 0))
        source = index[rows, columns].flatten()
        target = source + down * width + right
        value = weights[rows, columns].flatten()
        matrix[source, target] = value
        matrix[target, source] = value
    matrix /= matrix.sum(dim=1, keepdim=True)
    while steps > 1:
        matrix = matrix @ matrix
        steps //= 2
    return (matrix @ (x * (1 - boundary)).flatten(1).T).T.reshape(x.shape)


def measure(options: argparse.Namespace) -> dict[str, float]:
    """One variant."""
    found: dict[str, float] = {}
    if options.variant == "loss":
        call = lambda: found.update(loss=pair_loss(options))  # noqa: E731
    elif options.variant == "walk":
        cells = (-(-options.height // 4), -(-options.width // 4))
        x, boundary = inputs(*cells, options.classes)

        def call() -> None:
            walked = sparse_random_walk(x, boundary, num_steps=options.steps)
            found.update(mass=float(walked.sum()))
    else:
        x, boundary = inputs(options.dense_side, options.dense_side, options.classes)

        def call() -> None:
            exact = dense_walk(x, boundary, radius=5, steps=options.steps)
            ours = sparse_random_walk(x, boundary, num_steps=options.steps)
            found.update(difference=float((exact - ours).abs().max()))

    start = time.process_time()
    peak = peak_mib(call)
    return {"seconds": time.process_time() - start, "peak_mib": peak or 0.0, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=128, help="cells along a side of the loss")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--radius", type=int, default=10)
    parser.add_argument("--displacement", type=json.loads, default=True)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--classes", type=int, default=3, help="maps that walk")
    parser.add_argument("--steps", type=int, default=256)
    parser.add_argument("--dense-side", type=int, default=40)
    torch.set_num_threads(1)
    options = parse(parser, VARIANTS, measure)
    rounds = alternate(VARIANTS, options.rounds)
    found = {
        "loss_peak_mib": median(rounds, "loss", "peak_mib"),
        "loss_s": median(rounds, "loss", "seconds"),
        "walk_s": median(rounds, "walk", "seconds"),
        "walk_peak_mib": median(rounds, "walk", "peak_mib"),
        "dense_peak_mib": median(rounds, "dense", "peak_mib"),
        "difference": max(row["dense"]["difference"] for row in rounds),
    }
    judge(found, BARS)
    save("irn_blocks", options, {**found, "rounds": rounds})


if __name__ == "__main__":
    main()
