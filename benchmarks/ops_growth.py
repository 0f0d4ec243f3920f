"""How the time of a block grows with the size of the images and of the batch."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any

import torch
from ops_cases.grid_losses import with_gradient
from ops_cases.inputs import photo, photos, soft_masks, strokes
from ops_cases.walks import boundaries

from scribbleseg.functional import (
    PermutohedralLattice,
    gated_crf_loss,
    grid_edge_weights,
    grid_mst,
    pixel_features,
    random_walker,
    root_tree,
    sparse_random_walk,
    tree_filter,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ops_cases import Setup

CLASSES = 21


def tree(setup: Setup, side: int, batch: int) -> Callable[[], Any]:
    weights = grid_edge_weights(photos(batch, side, side).to(setup.device).float() / 255)
    trees = root_tree(grid_mst(weights, size=(side, side)), size=(side, side))
    values = soft_masks(batch, CLASSES, side, side).to(setup.device).requires_grad_()
    weights.requires_grad_()

    def loss(v: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return tree_filter(v, w, trees, sigma=0.02).square().sum()

    return with_gradient(loss, values, weights)


def spanning_trees(setup: Setup, side: int, batch: int) -> Callable[[], Any]:
    weights = grid_edge_weights(photos(batch, side, side).to(setup.device).float() / 255)
    return lambda: root_tree(grid_mst(weights, size=(side, side)), size=(side, side))


def gated(setup: Setup, side: int, batch: int) -> Callable[[], Any]:
    image = photos(batch, side, side).to(setup.device) / 255
    probs = soft_masks(batch, CLASSES, side, side).to(setup.device).requires_grad_()
    return with_gradient(lambda p: gated_crf_loss(p, image), probs)


def lattice(setup: Setup, side: int, batch: int) -> Callable[[], Any]:
    image = photos(batch, side, side).to(setup.device)
    features = pixel_features(image, sigma_xy=80, sigma_rgb=13)
    values = soft_masks(batch, CLASSES, side, side).to(setup.device)
    values = values.flatten(2).transpose(1, 2).contiguous()
    return lambda: PermutohedralLattice(features).filter(values)


def walk(setup: Setup, side: int, batch: int) -> Callable[[], Any]:
    maps = soft_masks(batch, 3, side, side).to(setup.device)
    boundary = boundaries(side).expand(batch, -1, -1).to(setup.device)
    return lambda: sparse_random_walk(maps, boundary)


def walker(setup: Setup, side: int, batch: int) -> Callable[[], Any]:
    image, seeds = photo(side, side), strokes(side, side, 4)
    return lambda: random_walker(image, seeds, num_classes=4)


# name -> what grows, how it is made, whether it takes one image at a time and no device
GROWTH: dict[str, tuple[str, Callable[[Setup, int, int], Callable[[], Any]], bool]] = {
    "tree_filter": ("filter along given trees, forward and backward", tree, False),
    "spanning_trees": ("minimum spanning trees with parents and depths", spanning_trees, False),
    "gated_crf": ("gated CRF loss, radius 5, forward and backward", gated, False),
    "lattice": ("permutohedral lattice, built and applied", lattice, False),
    "sparse_random_walk": ("random walk, 3 classes, 256 steps", walk, False),
    "random_walker": ("random walker, 4 classes", walker, True),
}


def growth(
    name: str, setup: Setup, *, sides: list[int], batches: list[int], limit_s: float
) -> list[dict[str, Any]]:
    """Best of up to three runs at each size; those expected to take too long are left out.

    Nothing is expected to grow slower than the number of pixels, so a size is left out if a smaller
    one times the ratio of pixels takes longer than ``limit_s``.
    """
    about, make, single = GROWTH[name]
    cuda = setup.device.startswith("cuda")
    if single and cuda:
        return []
    rows: list[dict[str, Any]] = []
    for batch in [1] if single else batches:
        last: tuple[int, float] | None = None
        for side in sides:
            row = {"name": name, "about": about, "side": side, "batch": batch}
            pixels = batch * side * side
            expected = last[1] * pixels / last[0] if last else 0.0
            if expected > limit_s:
                skipped = f"expected to take {expected:.0f} s, more than {limit_s:g} s"
                rows.append({**row, "min_s": None, "skipped": skipped})
                continue
            try:
                seconds = _best(make(setup, side, batch), limit_s, cuda)
            except torch.cuda.OutOfMemoryError:
                rows.append({**row, "min_s": None, "skipped": "out of memory"})
                continue
            last = (pixels, seconds)
            rows.append({**row, "min_s": seconds})
    return rows


def _best(run: Callable[[], Any], limit_s: float, cuda: bool) -> float:
    times: list[float] = []
    gc.collect()
    while len(times) < 3 and sum(times) < limit_s:
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times)
