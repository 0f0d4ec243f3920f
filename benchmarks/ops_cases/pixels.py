"""Means over regions, point-sampled cross-entropy, distance maps, superpixel graphs."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt

from ops_cases import Setup, Way, case
from ops_cases.grid_losses import with_gradient
from ops_cases.inputs import photo, rng, strokes, superpixels
from scribbleseg.functional import (
    partial_cross_entropy_at_points,
    region_means,
    superpixel_affinity,
)
from scribbleseg.functional.distance import _distance_to_mask as distance_to_mask


def looped_means(features: torch.Tensor, regions: torch.Tensor, count: int) -> torch.Tensor:
    return torch.stack(
        [
            torch.stack([f[:, r == s].sum(1) / (r == s).sum().clamp_min(1) for s in range(count)])
            for f, r in zip(features, regions, strict=True)
        ]
    ).transpose(1, 2)


@case(
    "region_means",
    "mean feature of each superpixel, forward and backward",
    full={"batch": 4, "channels": 64, "side": 128, "regions": 200},
    quick={"batch": 2, "channels": 3, "side": 16, "regions": 9},
)
def means(setup: Setup, *, batch: int, channels: int, side: int, regions: int) -> list[Way]:
    features = torch.randn(batch, channels, side, side, generator=rng())
    features = features.to(setup.device).requires_grad_()
    ids = torch.stack(
        [torch.from_numpy(superpixels(side, side, regions, seed=b)) for b in range(batch)]
    ).to(setup.device)
    slope = torch.randn(batch, channels, regions, generator=rng()).to(setup.device)

    def total(function):
        return with_gradient(lambda f: (function(f, ids, regions) * slope).sum(), features)

    return [
        Way("ours", "region_means", total(region_means)),
        Way("naive", "loop over images and regions", total(looped_means)),
    ]


@case(
    "point_cross_entropy",
    "partial cross-entropy of enlarged logits, forward and backward",
    full={"batch": 4, "classes": 21, "low": 81, "high": 321, "drawn": 0.03},
    quick={"batch": 1, "classes": 3, "low": 5, "high": 17},
)
def points(
    setup: Setup, *, batch: int, classes: int, low: int, high: int, drawn: float
) -> list[Way]:
    logits = torch.randn(batch, classes, low, low, generator=rng())
    logits = logits.to(setup.device).requires_grad_()
    scribble = torch.randint(0, classes, (batch, high, high), generator=rng())
    scribble[torch.rand(scribble.shape, generator=rng(1)) > drawn] = 255
    scribble = scribble.to(setup.device)

    def enlarged(x: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x, (high, high), mode="bilinear", align_corners=True)
        return F.cross_entropy(x, scribble, ignore_index=255)

    def at_points(x: torch.Tensor) -> torch.Tensor:
        return partial_cross_entropy_at_points(x, scribble, align_corners=True)

    return [
        Way("ours", "partial_cross_entropy_at_points", with_gradient(at_points, logits)),
        Way("naive", "F.interpolate and F.cross_entropy", with_gradient(enlarged, logits)),
    ]


@case(
    "distance_map",
    "distance to the nearest drawn pixel",
    full={"height": 375, "width": 500},
    quick={"height": 18, "width": 24},
    cpu_only=True,
)
def distance(setup: Setup, *, height: int, width: int) -> list[Way]:
    mask = strokes(height, width, 4) < 4
    return [
        Way("ours", "distance_to_mask", lambda: distance_to_mask(mask)),
        Way("peer", "scipy distance_transform_edt", lambda: distance_transform_edt(~mask)),
    ]


def looped_affinity(image: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Histograms region by region, neighbours pixel by pixel, weights edge by edge."""
    pairs = set()
    for a, b in ((regions[:, :-1], regions[:, 1:]), (regions[:-1], regions[1:])):
        for s, t in zip(a.ravel().tolist(), b.ravel().tolist(), strict=True):
            if s != t:
                pairs.add((min(s, t), max(s, t)))
    grey = np.rint(image @ [0.298936, 0.587043, 0.114021])
    gradients = np.gradient(grey, axis=1), np.gradient(grey, axis=0)
    reach = min(g.min() for g in gradients), max(g.max() for g in gradients)
    colours, textures = [], []
    for region in range(int(regions.max()) + 1):
        inside = regions == region
        size = max(1, int(inside.sum()))
        colour = [np.histogram(image[inside, c], 25, (0, 255))[0] / size for c in range(3)]
        texture = [np.histogram(g[inside], 10, reach)[0] / size for g in gradients]
        colours.append(np.concatenate(colour))
        textures.append(np.concatenate(texture))
    weights = []
    for s, t in sorted(pairs):
        far = np.linalg.norm(colours[s] - colours[t]) / 25
        far += np.linalg.norm(textures[s] - textures[t]) / 100
        weights.append(np.exp(-5 * far))
    return np.array(weights)


@case(
    "superpixel_affinity",
    "similarity of adjacent superpixels",
    full={"height": 375, "width": 500, "regions": 800},
    quick={"height": 18, "width": 24, "regions": 9},
    cpu_only=True,
)
def affinity(setup: Setup, *, height: int, width: int, regions: int) -> list[Way]:
    image, ids = photo(height, width), superpixels(height, width, regions)
    return [
        Way(
            "ours",
            "superpixel_affinity",
            lambda: superpixel_affinity(image, ids, stretch=False).weights,
        ),
        Way("naive", "loops in Python", lambda: looped_affinity(image, ids)),
    ]
