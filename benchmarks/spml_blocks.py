"""What SPML adds to a training step: the contrast of pixels with segments, and the segments.

The loss, forward and backward: ``chunked`` (some pixels at a time, computed again for the gradient)
against ``whole`` (the same with all pixels at once) and ``written`` (the equation with whole
matrices, masks and logarithms of sums, left to autograd). Each is a process of its own (peak memory
is a process's); they take turns. Peaks are above the embeddings, prototypes and sets. Then in-image
k-means, the split by labels and regions, and the prototypes of a batch. Times are processor
seconds: with one thread and nothing else running, those on the clock.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from ops_memory import peak_mib
from rounds import alternate, judge, median, parse, ratio, save

from scribbleseg.methods import (
    annotation_sets,
    grid_clusters,
    image_kmeans,
    join_local_features,
    location_features,
    segment_index,
    segment_prototypes,
    segsort_loss,
)

VARIANTS = ("chunked", "whole", "written")
BARS = {"peak_mb": 1200.0, "kmeans_s": 0.5}


def written(
    z: torch.Tensor,
    mu: torch.Tensor,
    own: torch.Tensor,
    positive: torch.Tensor,
    negative: torch.Tensor,
    kappa: float,
) -> torch.Tensor:
    """The equation with every matrix whole."""
    s = kappa * z @ mu.T
    others = positive.scatter(1, own[:, None], False)
    others = others.scatter(1, own[:, None], ~others.any(1, keepdim=True))
    above = s.masked_fill(~others, -torch.inf).logsumexp(1)
    below = s.masked_fill(~negative, -torch.inf).logsumexp(1)
    return (torch.logaddexp(above, below) - above).mean()


def measure(options: argparse.Namespace) -> dict[str, float]:
    """One step of one variant."""
    generator = torch.Generator().manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def unit(count: int) -> torch.Tensor:
        x = torch.randn(count, options.dim, generator=generator)
        return F.normalize(x, dim=1).to(device).requires_grad_()

    z, mu = unit(options.pixels), unit(options.segments)
    own = torch.randint(0, options.segments, (options.pixels,), generator=generator).to(device)
    labels = torch.randint(0, options.classes, (options.segments,), generator=generator).to(device)
    sets, group = annotation_sets(labels, options.classes), labels[own]
    found = {}

    def step() -> None:
        if options.variant == "written":
            rows = (sets.positive[group], sets.negative[group])
            loss = written(z, mu, own, *rows, options.concentration)
        else:
            chunk = options.chunk if options.variant == "chunked" else None
            loss = segsort_loss(
                z,
                mu,
                own,
                *sets,
                group=group,
                concentration=options.concentration,
                chunk_size=chunk,
            )
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.update(loss=loss.item(), gradient=mu.grad.norm().item())

    clock = time.perf_counter if device.type == "cuda" else time.process_time
    start = clock()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    else:
        peak = peak_mib(step)
    return {"seconds": clock() - start, "peak_mib": peak, **found}


def segments(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of k-means and of all of it, the least of several."""
    generator = torch.Generator().manual_seed(0)
    size = (options.side, options.side)
    embedding = torch.randn(options.batch, options.dim, *size, generator=generator)
    labels = torch.randint(0, 3, (options.batch, 8, 8), generator=generator)
    labels = labels.repeat_interleave(options.side // 8, 1).repeat_interleave(options.side // 8, 2)
    grid = grid_clusters(size, (options.grid, options.grid))
    times = {"kmeans_s": [], "kmeans_and_prototypes_s": []}
    for _ in range(options.repeats):
        start = time.process_time()
        located = join_local_features(embedding, location_features(size))
        clusters = image_kmeans(
            located, grid, num_clusters=options.grid**2, iterations=options.iterations
        )
        times["kmeans_s"].append(time.process_time() - start)
        parts = segment_index(clusters, labels, labels)
        z = F.normalize(embedding, dim=1).permute(0, 2, 3, 1).flatten(0, 2)[parts.pixel_index]
        segment_prototypes(z, parts.pixel_segment, len(parts.label))
        times["kmeans_and_prototypes_s"].append(time.process_time() - start)
    return {name: min(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pixels", type=int, default=65536)
    parser.add_argument("--segments", type=int, default=2000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--classes", type=int, default=21)
    parser.add_argument("--concentration", type=float, default=12.0)
    parser.add_argument("--chunk", type=int, default=4096)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=128, help="cells, a multiple of 8")
    parser.add_argument("--grid", type=int, default=6)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=10)
    options = parse(parser, VARIANTS, measure)
    results = {"segments": segments(options)}
    print(results["segments"])
    rounds = alternate(VARIANTS, options.rounds)
    for row in rounds:
        for key in ("loss", "gradient"):
            values = [row[variant][key] for variant in VARIANTS]
            assert max(values) - min(values) <= 1e-3 * abs(values[0]), f"{key}: {values}"
    results["loss"] = {
        "peak_mb": median(rounds, "chunked", "peak_mib") * 2**20 / 1e6,
        **{
            f"{key}_ratio_to_{other}": ratio(rounds, "chunked", other, key)
            for key in ("seconds", "peak_mib")
            for other in ("whole", "written")
        },
        "rounds": rounds,
    }
    found = {
        "peak_mb": results["loss"]["peak_mb"],
        "kmeans_s": results["segments"]["kmeans_and_prototypes_s"],
    }
    judge(found, BARS)
    save("spml_blocks", options, results)


if __name__ == "__main__":
    main()
