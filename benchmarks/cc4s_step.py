"""CC4S' walk and consistency against whole matrices, and what the consistency adds to a step.

Parts, on given features of an image and of its mirror image: ``walk`` is the similarity measurement
alone, ``ours`` the walk and the consistency from factors, ``dense`` both as in the literature, with
every N×N matrix kept and the mirror image turned back by products with a permutation matrix. Steps
of the whole network: ``certainty`` and ``consistency``. Each is a process of its own (peak memory
is a process's); they take turns. Values and gradients of ``ours`` and ``dense`` are compared.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings

import torch
from lightning.pytorch import seed_everything
from rounds import alternate, judge, parse, ratio, save
from train_step import peak_memory

from scribbleseg import CC4SModule
from scribbleseg.methods import SimilarityMeasurement, eigenspace_consistency

PARTS, STEPS = ("walk", "ours", "dense"), ("certainty", "consistency")
TRACE_WEIGHT, STRIDE = 0.01, 8


def cells(options: argparse.Namespace) -> int:
    """Cells along a side, at points 8 pixels apart."""
    return (options.size - 1) // STRIDE + 1


def features(options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of an image, and those of its mirror image, a little different."""
    generator = torch.Generator().manual_seed(0)
    side = cells(options)
    shape = (options.batch_size, options.channels, side, side)
    own = torch.randn(shape, generator=generator)
    return own, own.flip(-1) + 0.3 * torch.randn(shape, generator=generator)


def consistency_of_factors(
    module: SimilarityMeasurement, own: torch.Tensor, seen: torch.Tensor
) -> torch.Tensor:
    """Loss whose gradients are measured: of the walk and of the agreement."""
    out = module(own)
    with torch.no_grad():
        view = [m.flip(-1) for m in module.factors(seen)]
    terms = eigenspace_consistency(out.query, out.key, *view, chunk_size=module.chunk_size)
    return out.features.square().mean() + 30 * terms.loss(TRACE_WEIGHT)


def consistency_of_matrices(
    module: SimilarityMeasurement, own: torch.Tensor, seen: torch.Tensor
) -> torch.Tensor:
    """The same, as the released code computes it."""
    query, key = (m.flatten(2) for m in module.factors(own))
    energy = query.mT @ key
    walked = energy.softmax(2) @ module.value(own).flatten(2).mT
    z = module.gamma * walked.mT.view_as(own) + own
    with torch.no_grad():
        other = [m.flatten(2) for m in module.factors(seen)]
        count, width = energy.shape[1], own.shape[3]
        places = torch.arange(count).view(-1, width).flip(1).flatten()
        turn = torch.eye(count, device=own.device)[places].expand(len(own), -1, -1)
        target = turn @ (other[0].mT @ other[1]) @ turn
        target_matrix, log_target = target.softmax(1), target.log_softmax(1)
    matrix, log_matrix = energy.softmax(1), energy.log_softmax(1)
    kl = (target_matrix * (log_target - log_matrix)).mean()
    traces = [m.diagonal(dim1=1, dim2=2).sum(1) for m in (matrix, target_matrix)]
    trace = (traces[0] - traces[1]).abs().mean()
    return z.square().mean() + 30 * (kl + TRACE_WEIGHT * trace)


def part(options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Seconds and peak of one part, and its loss and gradient norm."""
    seed_everything(0, verbose=False)
    module = SimilarityMeasurement(options.channels, chunk_size=options.chunk_size).to(device)
    module.gamma.data.fill_(0.5)
    own, seen = (x.to(device) for x in features(options))
    own.requires_grad_()
    compute = {
        "walk": lambda *_: module(own).features.square().mean(),
        "ours": consistency_of_factors,
        "dense": consistency_of_matrices,
    }[options.variant]
    times = []
    for _ in range(options.warmup + options.steps):
        own.grad = None
        module.zero_grad()
        start = clock(device)
        loss = compute(module, own, seen)
        loss.backward()
        times.append(clock(device) - start)
    norm = torch.stack([p.grad.norm() for p in module.parameters()]).norm()
    return {
        "seconds": statistics.median(times[options.warmup :]),
        "peak_mib": peak_memory(),
        "loss": loss.item(),
        "gradient_norm": norm.item(),
    }


def step(options: argparse.Namespace, device: torch.device) -> dict[str, float]:
    """Seconds and peak of a training step of the whole network."""
    seed_everything(0, verbose=False)
    module = CC4SModule(
        21,
        stage=options.variant,
        encoder=options.encoder,
        encoder_weights=None,
        chunk_size=options.chunk_size,
        consistency_transform="flip",
    )
    module.log = module.log_dict = lambda *_, **__: None
    module.to(device).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    shape = (options.batch_size, options.size, options.size)
    scribble = torch.randint(0, 21, shape, generator=generator)
    scribble[torch.rand(shape, generator=generator) > 0.03] = 255
    batch = {
        "image": torch.randn(shape[0], 3, *shape[1:], generator=generator),
        "scribble": scribble,
        "valid": torch.ones(shape, dtype=torch.bool),
    }
    batch = {name: value.to(device) for name, value in batch.items()}
    times = []
    for number in range(options.warmup + options.steps):
        start = clock(device)
        loss = module.training_step(batch, number)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        times.append(clock(device) - start)
    return {"seconds": statistics.median(times[options.warmup :]), "peak_mib": peak_memory()}


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(options: argparse.Namespace) -> dict[str, float]:
    """One part, or one step."""
    warnings.simplefilter("ignore")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = part if options.variant in PARTS else step
    return run(options, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=465, help="side of the crop, pixels, 8m + 1")
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--chunk-size", type=int, default=512)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--steps", type=int, default=2)
    options = parse(parser, (*PARTS, *STEPS), measure)
    rounds = alternate(PARTS, options.rounds, once=STEPS)
    results = summary(rounds, options)
    print(json.dumps(results, indent=1))
    judge(results, {"time_ratio": 0.3, "part_extra_maps": 3.0, "step_extra_maps": 3.0})
    save("cc4s_step", options, {**results, "rounds": rounds})


def summary(rounds: list[dict], options: argparse.Namespace) -> dict[str, float]:
    """Ratios, and memory in N×N maps of one image."""
    number = cells(options) ** 2
    map_mib = 4 * number**2 / 2**20 * options.batch_size
    first = rounds[0]
    difference = abs(first["ours"]["loss"] - first["dense"]["loss"])

    def extra(row: dict, more: str, less: str) -> float:
        return (row[more]["peak_mib"] - row[less]["peak_mib"]) / map_mib

    return {
        "cells": number,
        "map_bytes": 4 * number**2,
        "time_ratio": ratio(rounds, "ours", "dense", "seconds"),
        "part_extra_maps": statistics.median(extra(row, "ours", "walk") for row in rounds),
        "dense_extra_maps": statistics.median(extra(row, "dense", "walk") for row in rounds),
        "step_extra_maps": extra(first, "consistency", "certainty"),
        "step_time_ratio": first["consistency"]["seconds"] / first["certainty"]["seconds"],
        "loss_difference": difference / abs(first["dense"]["loss"]),
        "gradient_difference": abs(
            first["ours"]["gradient_norm"] / first["dense"]["gradient_norm"] - 1
        ),
    }


if __name__ == "__main__":
    main()
