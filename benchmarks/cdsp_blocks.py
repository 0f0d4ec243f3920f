"""What CDSP adds to a training step: distance maps while loading, rectification of the features.

The maps of one image against a distance transform over all pairs of pixels, as the published code
goes about it (at a smaller size, scaled up). The rectification, forward and backward, ``chunked``
(foreground rows of the attention, some at a time) against ``dense``: the equations written down
with whole matrices. Each of the two is a process of its own (peak memory is a process's); they take
turns.
"""

from __future__ import annotations

import argparse
import time

import cv2
import numpy as np
import torch
from ops_memory import peak_mib
from rounds import alternate, judge, parse, ratio, save

from scribbleseg.functional import boundary_distance_map, scribble_distance_map
from scribbleseg.methods import LocalizationRectification

VARIANTS = ("chunked", "dense")


def strokes(height: int, width: int) -> np.ndarray:
    """A scribble of three strokes, 3 pixels wide."""
    labels = np.full((height, width), 255, np.uint8)
    columns = np.arange(width // 8, width * 7 // 8)
    for label, level in ((0, 0.15), (1, 0.5), (2, 0.8)):
        rows = (height * (level + 0.1 * np.sin(columns / 40))).astype(int)
        for step in (-1, 0, 1):
            labels[np.clip(rows + step, 0, height - 1), columns] = label
    return labels


def blobs(height: int, width: int) -> np.ndarray:
    """A pseudo-label of two objects, one of them cut by the frame."""
    y, x = np.mgrid[:height, :width]
    labels = np.zeros((height, width), np.uint8)
    labels[np.hypot((y - height / 2) / height, (x - width / 3) / width) < 0.2] = 1
    labels[np.hypot((y - height) / height, (x - width * 0.8) / width) < 0.3] = 2
    return labels


def all_pairs(mask: np.ndarray, sharpness: float) -> np.ndarray:
    """The map of a mask by trying all its pixels for every pixel."""
    rows, columns = np.indices(mask.shape).astype(np.float32)
    least = np.full(mask.shape, np.inf, np.float32)
    for y, x in np.argwhere(mask):
        np.minimum(least, (rows - y) ** 2 + (columns - x) ** 2, out=least)
    return 255 - np.floor(np.minimum(np.sqrt(sharpness * least), 255))


def fastest_ms(run, repeats: int) -> float:
    """The least of many: whatever else the machine does only adds to it."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * min(times)


def maps(options: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of one map of one image."""
    cv2.setNumThreads(1)  # as in the processes of a loader
    scribble = strokes(options.height, options.width)
    pseudo = blobs(options.height, options.width)
    pairs = all_pairs((scribble > 0) & (scribble < 255), np.e)
    ours = np.rint(255 * scribble_distance_map(scribble))
    assert np.abs(ours - pairs).max() <= 1, "float32 squares may cut one level off"
    sources = (scribble > 0) & (scribble < 255)
    return {
        "scribble_ms": fastest_ms(lambda: scribble_distance_map(scribble), options.repeats),
        "boundary_ms": fastest_ms(lambda: boundary_distance_map(pseudo), options.repeats),
        "all_pairs_ms": fastest_ms(lambda: all_pairs(sources, np.e), 1),
    }


def dense(module: LocalizationRectification, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The equations with every matrix whole."""
    cells, m = x.flatten(2).transpose(1, 2), mask.flatten(1)[..., None]
    q, k = module.query(cells), module.key(cells)
    lengths = q.norm(dim=2)[:, :, None] * k.norm(dim=2)[:, None]
    attention = ((q @ k.transpose(1, 2)) / lengths).softmax(dim=2)
    rebuilt = module.gamma * m * (attention @ cells)
    error = (cells - rebuilt) ** 2
    return error.sum() / error.detach().count_nonzero()


def measure(options: argparse.Namespace) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    side = options.side
    features = torch.randn(options.batch, options.channels, side, side, generator=generator).relu()
    share = torch.rand(options.batch, 1, 4, 4, generator=generator)
    mask = torch.nn.functional.interpolate(share, (side, side), mode="bilinear")[:, 0]
    mask = mask < mask.flatten().quantile(options.foreground)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    module = LocalizationRectification(options.channels).to(device)
    x, mask = features.to(device).requires_grad_(), mask.to(device)
    found = {}

    def step() -> None:
        loss = module(x, mask) if options.variant == "chunked" else dense(module, x, mask)
        loss.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        found.update(loss=loss.item(), gradient=x.grad.norm().item())

    start = time.perf_counter()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        peak = (torch.cuda.max_memory_allocated() - before) / 2**20
    else:
        peak = peak_mib(step)
    return {"seconds": time.perf_counter() - start, "peak_mib": peak, **found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--height", type=int, default=375)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--side", type=int, default=58)
    parser.add_argument("--foreground", type=float, default=0.3, help="share of the cells")
    options = parse(parser, VARIANTS, measure)
    results = {"maps": maps(options)}
    print(results["maps"])
    rounds = alternate(VARIANTS, options.rounds)
    for row in rounds:
        for key in ("loss", "gradient"):
            ours, theirs = row["chunked"][key], row["dense"][key]
            assert abs(ours - theirs) <= 1e-3 * abs(theirs), f"{key}: {ours} and {theirs}"
    results["rectification"] = {
        "time_ratio": ratio(rounds, "chunked", "dense", "seconds"),
        "memory_ratio": ratio(rounds, "chunked", "dense", "peak_mib"),
        "rounds": rounds,
    }
    slowest = max(results["maps"]["scribble_ms"], results["maps"]["boundary_ms"])
    judge(
        {"map_ms": slowest, "memory_ratio": results["rectification"]["memory_ratio"]},
        {"map_ms": 2.0, "memory_ratio": 0.5},
    )
    save("cdsp_blocks", options, results)


if __name__ == "__main__":
    main()
