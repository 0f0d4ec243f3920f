"""Random walk over nearby cells and random walker from scribbles."""

from __future__ import annotations

import warnings

import numpy as np
import scipy.sparse
import torch

from ops_cases import Setup, Way, case, why_missing
from ops_cases.inputs import photo, rng, soft_masks, strokes
from scribbleseg.functional import path_offsets, random_walker, sparse_random_walk

WALK = {"side": 125, "classes": 3, "steps": 256, "radius": 5}
BETA = 10.0


def boundaries(side: int) -> torch.Tensor:
    """Thin walls between blobs, in [0, 1]."""
    blobs = soft_masks(1, 6, side, side)[0]
    return (1 - (2 * blobs.amax(0) - 1).clamp(0, 1)) * torch.rand(side, side, generator=rng())


def walk_matrix(boundary: np.ndarray, radius: int) -> scipy.sparse.csr_array:
    """Row-stochastic matrix of the walk, pair by pair of displacements."""
    side = len(boundary)
    cell = np.arange(side * side).reshape(side, side)
    rows, columns, weights = [], [], []
    for path in path_offsets(radius):
        dy, dx = path[0]
        here = slice(0, side - dy), slice(max(0, -dx), side - max(0, dx))

        def moved(map_: np.ndarray, y: int, x: int, here: tuple = here) -> np.ndarray:
            return map_[here[0].start + y : here[0].stop + y, here[1].start + x : here[1].stop + x]

        wall = np.max([moved(boundary, y, x) for y, x in path], axis=0)
        rows.append(cell[here].ravel())
        columns.append(moved(cell, dy, dx).ravel())
        weights.append(((1 - wall) ** BETA).ravel())
    pairs = np.concatenate(weights), (np.concatenate(rows), np.concatenate(columns))
    half = scipy.sparse.coo_array(pairs, shape=(side * side, side * side)).tocsr()
    both = half + half.T + scipy.sparse.eye_array(side * side, dtype=np.float32)
    return (scipy.sparse.diags_array(1 / both.sum(axis=1)) @ both).astype(np.float32)


def _walk_ways(setup: Setup, side: int, classes: int, steps: int, radius: int) -> list[Way]:
    maps = soft_masks(1, classes, side, side)[0]
    boundary = boundaries(side)
    wall, start = boundary.numpy(), (maps * (1 - boundary)).flatten(1).T.contiguous().numpy()
    maps, boundary = maps.to(setup.device), boundary.to(setup.device)

    def ours() -> torch.Tensor:
        return sparse_random_walk(maps, boundary, radius=radius, beta=BETA, num_steps=steps)

    def power_iteration() -> np.ndarray:
        matrix, current = walk_matrix(wall, radius), start
        for _ in range(steps):
            current = matrix @ current
        return current.T.reshape(classes, side, side)

    def dense_power() -> torch.Tensor:
        matrix = torch.from_numpy(walk_matrix(wall, radius).toarray()).to(setup.device)
        for _ in range(steps.bit_length() - 1):  # as published: the power by repeated squaring
            matrix = matrix @ matrix
            # below, products are denormal and several times as slow
            matrix.masked_fill_(matrix < 1e-30, 0)
        return (matrix @ torch.from_numpy(start).to(setup.device)).T.reshape(classes, side, side)

    return [
        Way("ours", "sparse_random_walk", ours),
        Way("peer", "scipy.sparse power iteration", power_iteration, on_host=True),
        Way("naive", "N×N matrix squared log2(t) times", dense_power),
    ]


@case("sparse_random_walk", "random walk between boundaries", full=WALK, quick={"side": 12})
def walk(setup: Setup, **sizes: int) -> list[Way]:
    return _walk_ways(setup, **sizes)[:-1]


@case(
    "sparse_random_walk_small",
    "the same, small enough for a matrix of all pairs",
    full={**WALK, "side": 32},
    quick={"side": 12},
)
def small_walk(setup: Setup, **sizes: int) -> list[Way]:
    return _walk_ways(setup, **sizes)


def all_pairs_walker(image: np.ndarray, seeds: np.ndarray, classes: int) -> np.ndarray:
    """The equations with a full matrix."""
    height, width = seeds.shape
    pixels = image.reshape(height * width, -1) / 255
    index = np.arange(height * width).reshape(height, width)
    laplacian = np.zeros((height * width, height * width))
    scale = 100 / (10 * np.sqrt(3) * pixels.std())
    for a, b in ((index[:, :-1], index[:, 1:]), (index[:-1], index[1:])):
        a, b = a.ravel(), b.ravel()
        weight = np.exp(-scale * np.square(pixels[a] - pixels[b]).sum(1)) + 1e-10
        laplacian[a, b] = laplacian[b, a] = -weight
    np.fill_diagonal(laplacian, -laplacian.sum(1))
    drawn = seeds.ravel() < classes
    known = np.eye(classes)[seeds.ravel()[drawn]]
    found = np.zeros((height * width, classes))
    found[drawn] = known
    found[~drawn] = np.linalg.solve(
        laplacian[np.ix_(~drawn, ~drawn)], -laplacian[np.ix_(~drawn, drawn)] @ known
    )
    return found.T.reshape(classes, height, width)


def _walker_ways(height: int, width: int, classes: int) -> list[Way]:
    image, seeds = photo(height, width), strokes(height, width, classes)

    def peer(mode: str):
        def run() -> np.ndarray:
            from skimage.segmentation import random_walker as peer_walker

            labels = np.where(seeds < classes, seeds.astype(int) + 1, 0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it recommends another package
                return peer_walker(
                    image / 255,
                    labels,
                    beta=100,
                    mode=mode,
                    channel_axis=-1,
                    return_full_prob=True,
                )

        return run

    why = why_missing("skimage", "scikit-image")
    return [
        Way("ours", "random_walker", lambda: random_walker(image, seeds, num_classes=classes)),
        Way("peer", "scikit-image cg_j", peer("cg_j"), missing=why),
        Way("peer", "scikit-image bf", peer("bf"), missing=why),
        Way("naive", "full matrix", lambda: all_pairs_walker(image, seeds, classes)),
    ]


@case(
    "random_walker",
    "random walker from scribbles",
    full={"height": 375, "width": 500, "classes": 4},
    quick={"height": 18, "width": 24},
    cpu_only=True,
)
def walker(setup: Setup, **sizes: int) -> list[Way]:
    return _walker_ways(**sizes)[:-1]


@case(
    "random_walker_small",
    "the same, small enough for a full matrix",
    full={"height": 36, "width": 48, "classes": 4},
    quick={"height": 18, "width": 24},
    cpu_only=True,
)
def small_walker(setup: Setup, **sizes: int) -> list[Way]:
    return _walker_ways(**sizes)
