"""Checks of the tree filter and the tree energy loss against golden vectors."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from golden.registry import check
from golden.vectors import Vectors
from helpers.internals import internal

from scribbleseg.functional import grid_edge_weights, grid_mst, tree_energy_loss, tree_soft_labels

edge_ends = internal("grid tree")._edge_ends


def _pairs(features: torch.Tensor) -> np.ndarray:
    """Vertex pairs of the minimum spanning trees, sorted, of shape (B, N-1, 2)."""
    size = (features.shape[2], features.shape[3])
    ends = torch.stack(edge_ends(size), dim=1).numpy()
    masks = grid_mst(grid_edge_weights(features.detach()), size=size).numpy()
    return np.stack([np.array(sorted(ends[mask].tolist())) for mask in masks])


@check("losses_structured", "tree_energy")
def check_tree_energy(v: Vectors) -> None:
    logits, high = v.tensor("logits", grad=True), v.tensor("high", grad=True)
    image, unlabelled = v.tensor("low"), v.tensor("unlabelled") > 0
    sigma, weight = v.scalar("sigma"), v.scalar("weight")

    resized = F.interpolate(image, logits.shape[2:], mode="bilinear", align_corners=False)
    v.compare("low_resized", resized)
    v.compare("mst_low", _pairs(resized), rtol=0, atol=0)
    v.compare("mst_high", _pairs(high), rtol=0, atol=0)

    probabilities = logits.softmax(1)
    v.compare("pseudo_low", tree_soft_labels(probabilities, image, sigma_low=sigma))
    v.compare("pseudo", tree_soft_labels(probabilities, image, embedding=high, sigma_low=sigma))

    def loss(**options) -> torch.Tensor:
        return weight * tree_energy_loss(logits, image, unlabelled, sigma_low=sigma, **options)

    full = loss(embedding=high)
    v.compare("loss", full)
    grads = torch.autograd.grad(full, (logits, high))
    v.compare("grad_logits", grads[0])
    v.compare("grad_high", grads[1])
    low_only = loss()
    v.compare("loss_low_only", low_only)
    v.compare("grad_logits_low_only", torch.autograd.grad(low_only, logits)[0])
    detached = loss(embedding=high, detach_target=True)
    v.compare("grad_logits_detached", torch.autograd.grad(detached, logits)[0])
