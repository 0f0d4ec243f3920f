"""Checks of region operations and superpixel affinities against golden vectors."""

from __future__ import annotations

import numpy as np
import torch
from golden.registry import check
from golden.vectors import Vectors

from scribbleseg.functional import (
    majority_labels,
    region_means,
    region_sizes,
    region_sums,
    superpixel_affinity,
    superpixel_histograms,
)
from scribbleseg.methods import graph_smoothness


def dense(edges: np.ndarray, weights: np.ndarray, size: int) -> np.ndarray:
    matrix = np.zeros((size, size))
    matrix[edges[:, 0], edges[:, 1]] = matrix[edges[:, 1], edges[:, 0]] = weights
    return matrix


def laplacian(weights: np.ndarray) -> np.ndarray:
    return np.diag(weights.sum(0)) - weights


@check("cc4s", "colour_affinity")
def check_colour_affinity(v: Vectors) -> None:
    image = v.labels("image").numpy().astype(np.uint8)
    regions = v.labels("superpixel").numpy()
    size = regions.max() + 1
    colour, texture = superpixel_histograms(image, regions)
    v.compare("hist_colour", colour)
    v.compare("hist_texture", texture)
    raw = superpixel_affinity(image, regions, stretch=False)
    v.compare("affinity_raw", dense(*raw, size))
    weights = dense(*superpixel_affinity(image, regions), size)
    v.compare("W", weights)
    v.compare("L", laplacian(weights))
    # the released preparation, which the library does not offer: each column by its own maximum
    columns = dense(raw.edges, np.maximum(raw.weights - 0.8 * raw.weights.min(), 0), size)
    columns *= 0.8 / columns.max(0, keepdims=True)
    v.compare("W_matlab", columns)
    v.compare("L_matlab", laplacian(columns))
    assert np.linalg.eigvalsh(laplacian(weights)).min() > -1e-6


def colour_loss(
    logits: torch.Tensor, regions: torch.Tensor, matrices: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of the mean class probabilities on the graph of a dense weight matrix per image."""
    size = matrices.shape[-1]
    image, first, second = torch.triu(matrices, diagonal=1).nonzero().unbind(1)
    means = region_means(logits.softmax(1), regions, size)
    loss = graph_smoothness(
        means,
        torch.stack((first, second), dim=1),
        matrices[image, first, second],
        image,
        present=region_sizes(regions, size),
    )
    return loss, means


@check("cc4s", "colour_reg")
def check_colour_reg(v: Vectors) -> None:
    logits = v.tensor("logits", grad=True)
    loss, means = colour_loss(logits, v.labels("superpixel"), v.tensor("W"))
    v.compare("loss", loss)
    v.compare("superpixel_mean", means)
    v.compare("grad_logits", torch.autograd.grad(loss, logits)[0])


@check("cc4s", "colour_reg_crop")
def check_colour_reg_crop(v: Vectors) -> None:
    whole = v.other("colour_reg")
    logits = whole.tensor("logits", grad=True)
    loss, _ = colour_loss(logits, v.labels("superpixel"), whole.tensor("W"))
    v.compare("loss", loss)
    v.compare("grad_logits", torch.autograd.grad(loss, logits)[0])


@check("cc4s", "colour_reg_compat")
def check_colour_reg_compat(v: Vectors) -> None:
    """What the released code computes instead; the library does not offer it.

    Channels and pixels are scrambled by a reshape, logits stand for probabilities, sums are divided
    by the sum of the ids, and one norm is taken over the batch: next to nothing is left.
    """
    whole = v.other("colour_reg")
    logits, regions = whole.tensor("logits", grad=True), v.labels("superpixel")
    batch, classes = logits.shape[:2]
    size = whole.tensor("W").shape[-1]
    scrambled = logits.permute(0, 2, 3, 1).reshape(batch, classes, *logits.shape[2:])
    values = region_sums(scrambled, regions, size) / regions.flatten(1).sum(1)[:, None, None]
    traces = torch.einsum("bcs,bst,bct->", values, whole.tensor("L"), values)
    loss = 2 * traces / whole.tensor("W").norm() / classes
    v.compare("loss", loss, rtol=1e-3)
    v.compare("grad_logits", torch.autograd.grad(loss, logits)[0], rtol=1e-3)


@check("spml_inference", "majority_label")
def check_majority_label(v: Vectors) -> None:
    labels, segments = v.labels("pixel_label"), v.labels("pixel_segment_index")
    # 255 is a label like any other here, and an empty segment gets label 0
    size = len(v._arrays["out/segment_label"])  # the last segments may be empty
    majority = majority_labels(labels[None], segments[None], size, 256, ignore_index=-1)[0]
    majority = majority.clamp_min(0)
    v.compare("segment_label", majority, rtol=0, atol=0)
    agree = (majority[segments] == labels).nonzero().flatten()
    v.compare("pixel_indices_in_majority", agree, rtol=0, atol=0)
