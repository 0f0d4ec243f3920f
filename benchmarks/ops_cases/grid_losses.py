"""Gated CRF loss, dense CRF loss and normalised cut, forward and backward."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ops_cases import Setup, Way, case
from ops_cases.inputs import photos, soft_masks
from scribbleseg.functional import dense_crf_loss, gated_crf_loss, normalized_cut_loss

SIGMA_RGB, SIGMA_XY = 15.0, 100.0


def with_gradient(loss, *inputs: torch.Tensor):
    """A run of a loss and of its backward pass; returns the loss and the gradients."""

    def run():
        value = loss(*inputs)
        return value.detach(), *torch.autograd.grad(value, [x for x in inputs if x.requires_grad])

    return run


def unfolded_gated_crf(probs: torch.Tensor, image: torch.Tensor, radius: int) -> torch.Tensor:
    """The sum over a window with ``F.unfold``: all neighbours of all pixels exist at once."""
    batch, _, height, width = probs.shape
    window = 2 * radius + 1

    def neighbours(maps: torch.Tensor) -> torch.Tensor:
        unfolded = F.unfold(maps, window, padding=radius)
        return unfolded.view(len(maps), maps.shape[1], window**2, height, width)

    offset = torch.arange(-radius, radius + 1, device=probs.device)
    squared = (offset[:, None].square() + offset.square()).view(1, -1, 1, 1)
    kernel = (neighbours(image) - image[:, :, None]).square().sum(1) / (2 * 0.1**2)
    kernel = torch.exp(-kernel - squared / (2 * 6.0**2))
    kernel = kernel * (squared > 0) * neighbours(torch.ones_like(image[:, :1]))[:, 0]
    agreement = (neighbours(probs) * probs[:, :, None]).sum(1)
    return (kernel * (1 - agreement)).sum() / (batch * height * width)


@case(
    "gated_crf",
    "gated CRF loss, forward and backward",
    full={"batch": 4, "classes": 21, "side": 128, "radius": 5},
    quick={"batch": 1, "classes": 3, "side": 16, "radius": 2},
)
def gated_crf(setup: Setup, *, batch: int, classes: int, side: int, radius: int) -> list[Way]:
    image = photos(batch, side, side).to(setup.device) / 255
    probs = soft_masks(batch, classes, side, side).to(setup.device).requires_grad_()
    return [
        Way(
            "ours",
            "gated_crf_loss",
            with_gradient(lambda p: gated_crf_loss(p, image, radius=radius), probs),
        ),
        Way(
            "naive",
            "F.unfold",
            with_gradient(lambda p: unfolded_gated_crf(p, image, radius), probs),
        ),
    ]


def dense_kernel(image: torch.Tensor) -> torch.Tensor:
    """Kernel of all pairs of pixels, ``(B, N, N)``."""
    height, width = image.shape[2:]
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = (torch.stack((y, x)).to(image) / SIGMA_XY).expand(len(image), -1, -1, -1)
    features = torch.cat((grid, image / SIGMA_RGB), dim=1).flatten(2).transpose(1, 2)
    return (torch.cdist(features, features).square() / -2).exp()


def all_pairs_crf(probs: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    kernel, masks = dense_kernel(image), probs.flatten(2)
    within = ((masks @ kernel) * masks).sum((1, 2))
    return (1 - within / kernel.sum((1, 2))).mean()


def all_pairs_cut(probs: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    kernel, masks = dense_kernel(image), probs.flatten(2)
    cut = ((masks @ kernel) * (1 - masks)).sum(2)
    return (cut / (masks @ kernel.sum(2)[..., None])[..., 0]).sum(1).mean()


SMALL = {"batch": 2, "classes": 21, "side": 48}
LARGE = {"batch": 12, "classes": 21, "side": 128}
QUICK = {"batch": 1, "classes": 3, "side": 12}


def _loss(setup: Setup, loss, batch: int, classes: int, side: int, formula=None) -> list[Way]:
    """The loss on the lattice; with a formula, which holds all pairs, also exactly."""
    image = photos(batch, side, side).to(setup.device).float()
    probs = soft_masks(batch, classes, side, side).to(setup.device).requires_grad_()
    options = {"scale_factor": 1.0, "sigma_rgb": SIGMA_RGB, "sigma_xy": SIGMA_XY}

    def with_filter(name: str):
        return with_gradient(lambda p: loss(p, image, filter=name, **options), probs)

    ways = [Way("ours", f"{loss.__name__} on the lattice", with_filter("permutohedral"))]
    if formula is not None:
        ways += [
            Way("ours", f'{loss.__name__}, filter="exact"', with_filter("exact")),
            Way("naive", "all pairs at once", with_gradient(lambda p: formula(p, image), probs)),
        ]
    return ways


@case("dense_crf_loss", "dense CRF loss, forward and backward", full=LARGE, quick=QUICK)
def large_crf_loss(setup: Setup, **sizes: int) -> list[Way]:
    return _loss(setup, dense_crf_loss, **sizes)


@case("dense_crf_loss_small", "the same, small enough for all pairs", full=SMALL, quick=QUICK)
def small_crf_loss(setup: Setup, **sizes: int) -> list[Way]:
    return _loss(setup, dense_crf_loss, **sizes, formula=all_pairs_crf)


@case("normalized_cut", "normalised cut, forward and backward", full=LARGE, quick=QUICK)
def large_cut_loss(setup: Setup, **sizes: int) -> list[Way]:
    return _loss(setup, normalized_cut_loss, **sizes)


@case("normalized_cut_small", "the same, small enough for all pairs", full=SMALL, quick=QUICK)
def small_cut_loss(setup: Setup, **sizes: int) -> list[Way]:
    return _loss(setup, normalized_cut_loss, **sizes, formula=all_pairs_cut)
