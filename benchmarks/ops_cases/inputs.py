"""Inputs made from seeds: images with the statistics of photographs, soft masks, scribbles."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from scipy.spatial import cKDTree

from scribbleseg import IGNORE_INDEX


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _blurred(random: np.random.Generator, height: int, width: int, sigma: float) -> np.ndarray:
    noise = random.standard_normal((height, width), dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), sigma)
    return noise / noise.std()


def photo(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """RGB, uint8, ``(H, W, 3)``: shading, objects with sharp edges, texture and sensor noise.

    How many lattice points a bilateral filter needs, and how deep a spanning tree grows, depends on
    all of these; white noise would be the worst case of the one and the best of the other.
    """
    random = np.random.default_rng(seed)
    scale = max(height, width) / 500
    shading = [_blurred(random, height, width, 40 * scale) * 45 for _ in range(3)]
    image = 120 + np.stack(shading, axis=-1)
    for _ in range(3):
        inside = _blurred(random, height, width, 25 * scale) > 0.4
        image += inside[..., None] * random.uniform(-60, 60, 3)
    image += 9 * _blurred(random, height, width, 1.2)[..., None]
    image += 3.6 * random.standard_normal(image.shape)
    return image.clip(0, 255).astype(np.uint8)


def photos(batch: int, height: int, width: int, *, seed: int = 0) -> torch.Tensor:
    """Images in 0..255, uint8, ``(B, 3, H, W)``."""
    images = np.stack([photo(height, width, seed=seed + b) for b in range(batch)])
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def soft_masks(batch: int, classes: int, height: int, width: int, *, seed: int = 0) -> torch.Tensor:
    """Probabilities of blobs, float32, ``(B, C, H, W)``."""
    random = np.random.default_rng(seed)
    sigma = max(height, width) / 25
    blobs = [2 * _blurred(random, height, width, sigma) for _ in range(batch * classes)]
    return torch.from_numpy(np.stack(blobs)).view(batch, classes, height, width).softmax(1)


def strokes(height: int, width: int, classes: int, *, seed: int = 0) -> np.ndarray:
    """Three crooked lines per class, uint8, ``(H, W)``."""
    random = np.random.default_rng(seed)
    drawn = np.full((height, width), IGNORE_INDEX, dtype=np.uint8)
    span = min(height, width) // 6
    for number in range(3 * classes):
        start = random.uniform((0, 0), (width, height))
        bends = start + np.cumsum(random.uniform(-span, span, (4, 2)), axis=0)
        points = np.clip(np.vstack([start, bends]), 0, (width - 1, height - 1)).astype(np.int32)
        cv2.polylines(drawn, [points], False, number % classes, thickness=3)
    return drawn


def superpixels(height: int, width: int, count: int, *, seed: int = 0) -> np.ndarray:
    """Cells of random points, int64, ``(H, W)``."""
    points = np.random.default_rng(seed).uniform((0, 0), (height, width), (count, 2))
    grid = np.stack(np.mgrid[:height, :width], axis=-1).reshape(-1, 2)
    return cKDTree(points).query(grid)[1].reshape(height, width)
