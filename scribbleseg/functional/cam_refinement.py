"""Pseudo-labels from activation maps, refined by the colours of the image and the scribbles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.functional.cam import cam_labels, cam_probabilities
from scribbleseg.functional.crf import CRFParams, dense_crf
from scribbleseg.functional.geometry import area_pool
from scribbleseg.functional.pseudo_labels import confident_labels
from scribbleseg.functional.random_walk import sparse_random_walk
from scribbleseg.functional.random_walker import random_walker_labels

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CAMRefinement", "refine_cam"]

CAMRefinement = Literal["none", "crf", "random_walk", "random_walker"]
_STRIDE = 2  # of the cells on which a walk goes: edges, which no walk enters, are one cell wide
_STEPS = 128
_EDGE = 0.5


def refine_cam(
    maps: Tensor,
    present: Tensor,
    image: Tensor,
    *,
    scribble: Tensor | None = None,
    method: CAMRefinement = "none",
    threshold: float = 0.25,
    confident: tuple[float, float] = (0.6, 0.1),
    crf: CRFParams | str = "irn",
    background: int | None = 0,
) -> Tensor:
    """Pseudo-label of one image from its activation maps.

    ``none``
        :func:`~scribbleseg.functional.cam.cam_labels`.
    ``crf``
        Dense CRF on :func:`~scribbleseg.functional.cam.cam_probabilities`; seconds per image.
    ``random_walk``
        The maps walk on cells of 2 pixels and do not cross colour edges; the scribbles are
        absorbing. No boundary network is involved: see
        :func:`~scribbleseg.functional.random_walk.sparse_random_walk` for one.
    ``random_walker``
        Pixels on which a map is confident, and the scribbles, are the seeds of
        :func:`~scribbleseg.functional.random_walker.random_walker_labels`; about a second per
        image.

    Args:
        maps: In [0, 1], indexed by class id, float, shape ``(C, H, W)``.
        present: Classes of the image, multi-hot, shape ``(C,)``.
        image: Original RGB pixels, uint8, shape ``(3, H, W)``.
        scribble: Ids that the result keeps, int64, shape ``(H, W)``, 255 = not drawn.
        method: One of the above.
        threshold: Score of the background.
        confident: Foreground above the first and background below the second are seeds of the
            random walker.
        crf: Preset or parameters of the dense CRF.
        background: Id of the background, or ``None``.

    Returns:
        Ids, int64, 255 = undecided, shape ``(H, W)``.

    Raises:
        ValueError: If the shapes disagree or the method is unknown.

    Example:
        >>> maps, image = torch.zeros(2, 2, 4), torch.zeros(3, 2, 4, dtype=torch.uint8)
        >>> maps[1, :, 2:] = 1.0
        >>> refine_cam(maps, torch.tensor([1, 1]), image, method="random_walker").tolist()
        [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    if method not in get_args(CAMRefinement):
        raise ValueError(f"method={method!r}: expected one of {get_args(CAMRefinement)}")
    if image.shape != (3, *maps.shape[1:]):
        raise ValueError(
            f"maps {tuple(maps.shape)} and image {tuple(image.shape)}: expected (C, H, W) and "
            "(3, H, W); enlarge the maps to the size of the image first"
        )
    if method == "crf":
        probs = cam_probabilities(maps, present, threshold=threshold, background=background)
        labels = dense_crf(probs[None], image[None], params=crf)[0].argmax(dim=0)
    elif method == "random_walker":
        seeds = confident_labels(
            maps,
            present,
            foreground=confident[0],
            background_score=confident[1],
            background=background,
        )
        labels = _walker(seeds, image, scribble)
    else:
        if method == "random_walk":
            shown = (present > 0).nonzero()[:, 0]  # a walk costs as much as it has maps
            walked = _walked(maps[shown], image, scribble, shown)
            maps = torch.zeros_like(maps, dtype=walked.dtype).index_copy(0, shown, walked)
        labels = cam_labels(maps, present, threshold=threshold, background=background)
    if scribble is None:
        return labels
    return torch.where(scribble == IGNORE_INDEX, labels, scribble)


def _colour_boundary(image: Tensor, size: tuple[int, int]) -> Tensor:
    """How strongly the colours change at each cell of a coarse grid, in [0, 1], shape ``(h, w)``.

    The colour difference to the cell below or at the right, whichever is larger, as a share of its
    99th percentile over the image. It lies on one side of an edge only, one cell wide.
    """
    cells = F.pad(area_pool(image[None].float(), size), (0, 1, 0, 1), mode="replicate")[0]
    here = cells[:, :-1, :-1]
    below, right = cells[:, 1:, :-1] - here, cells[:, :-1, 1:] - here
    change = torch.maximum(below.norm(dim=0), right.norm(dim=0))
    top = change.flatten().quantile(0.99)
    return (change / torch.where(top > 0, top, 1)).clamp_max(1)


def _walker(seeds: Tensor, image: Tensor, scribble: Tensor | None) -> Tensor:
    if scribble is not None:
        seeds = torch.where(scribble == IGNORE_INDEX, seeds, scribble)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).cpu().numpy())
    labels = random_walker_labels(pixels, seeds.cpu().numpy())
    return torch.from_numpy(labels.astype(np.int64)).to(seeds.device)


def _walked(maps: Tensor, image: Tensor, scribble: Tensor | None, classes: Tensor) -> Tensor:
    """Maps of some classes after a walk between colour edges, divided by their common maximum."""
    if not len(maps):
        return maps
    height, width = maps.shape[1:]
    size = (-(-height // _STRIDE), -(-width // _STRIDE))
    coarse = area_pool(maps[None], size)[0]
    boundary = _colour_boundary(image.to(maps.device), size)
    clamp = None
    if scribble is not None:
        drawn = torch.stack([scribble != IGNORE_INDEX, *(scribble == c for c in classes)])
        share = area_pool(drawn[None].float(), size)[0]
        clamp = (share[0] > 0, share[1:] / torch.where(share[:1] > 0, share[:1], 1))
    walked = sparse_random_walk(
        coarse, boundary, num_steps=_STEPS, suppress_boundary=False, clamp=clamp
    )
    edges = boundary > _EDGE
    if clamp is not None:
        edges &= ~clamp[0]
    walked = _from_likest_neighbour(walked, area_pool(image[None].float(), size)[0], edges)
    full = F.interpolate(walked[None], (height, width), mode="bilinear", align_corners=False)[0]
    top = full.amax()
    return full / torch.where(top > 0, top, 1)


def _from_likest_neighbour(maps: Tensor, colours: Tensor, edges: Tensor) -> Tensor:
    """Cells on edges, which no walk has entered, take the values of the side they belong to."""
    count, height, width = maps.shape
    outside = F.pad(edges[None, None].float(), (1, 1, 1, 1), value=1.0)
    closed = F.unfold(outside, 3).view(9, height, width) > 0
    near = F.unfold(F.pad(colours[None], (1, 1, 1, 1)), 3).view(3, 9, height, width)
    change = (near - colours[:, None]).norm(dim=0).masked_fill(closed, torch.inf)
    least, likest = change.min(dim=0)
    around = F.unfold(F.pad(maps[None], (1, 1, 1, 1)), 3).view(count, 9, height, width)
    taken = around.gather(1, likest.expand(count, 1, height, width))[:, 0]
    return torch.where(edges & least.isfinite(), taken, maps)
