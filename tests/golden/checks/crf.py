"""Checks of Gaussian filters, the losses on them and dense CRFs against golden vectors."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from golden.registry import check
from golden.vectors import Vectors
from helpers.exact_kernel import exact_crf

from scribbleseg.functional import (
    CRF_PRESETS,
    CRFParams,
    PermutohedralLattice,
    dense_crf,
    dense_crf_loss,
    kernel_cut_loss,
    mean_field,
    normalized_cut_loss,
    scale_kernel_inputs,
    unary_from_labels,
    unary_from_probs,
)


@check("losses_structured", "permutohedral")
def check_permutohedral(v: Vectors) -> None:
    values = v.tensor("values")
    for dims in (2, 5):
        lattice = PermutohedralLattice(v.tensor(f"features_d{dims}"))
        v.compare(f"filtered_d{dims}", lattice.filter(values), rtol=1e-3)
    v.compare("ones_d5", lattice.filter(torch.ones(len(values), 1)), rtol=1e-3)


@check("losses_structured", "mean_field")
def check_mean_field(v: Vectors) -> None:
    image = v.tensor("image").permute(2, 0, 1)
    probs, labels = v.tensor("probs"), v.labels("hard_labels")
    from_labels = unary_from_labels(labels[None], len(probs), confidence=v.scalar("gt_prob"))[0]
    v.compare("unary_irn", from_labels)
    for name, preset in CRF_PRESETS.items():
        (smooth_xy, no_colour, smooth_weight), (sigma_xy, sigma_rgb, weight) = v.param(
            name
        ).tolist()
        assert math.isinf(no_colour)
        iterations = int(v.scalar(f"{name}_iterations"))
        params = CRFParams(smooth_xy, smooth_weight, sigma_xy, sigma_rgb, weight, iterations)
        assert params == preset
        unary = from_labels if name == "irn" else unary_from_probs(probs)
        with exact_crf():
            exact = mean_field(unary, image, params=params)
            one = mean_field(unary, image, params=replace(params, iterations=1))
        v.compare(f"q_{name}", exact, atol=2e-5)
        lattice = mean_field(unary, image, params=params)
        v.compare(f"q_{name}_permutohedral", lattice, rtol=0, atol=2e-3)
        if name == "cc4s":
            v.compare("q_cc4s_1iter", one)


@check("irn", "dense_crf")
def check_irn_dense_crf(v: Vectors) -> None:
    image = v.tensor("image_uint8").permute(2, 0, 1)[None]
    labels = v.labels("label")[None]
    classes = int(v.scalar("n_labels"))
    probs = dense_crf(labels, image, params="irn", num_classes=classes)[0]
    v.compare("q", probs, rtol=0, atol=2e-3)
    v.compare("label", probs.argmax(0), atol=0)


@check("losses_pairwise", "dense_crf_loss")
def check_dense_crf_loss(v: Vectors) -> None:
    probs, image, roi = v.tensor("probs", grad=True), v.tensor("image"), v.tensor("roi")
    sigma_rgb, sigma_xy = v.scalar("sigma_rgb"), v.scalar("sigma_xy")
    scale, weight = v.scalar("scale_factor"), v.scalar("weight")
    small = scale_kernel_inputs(probs, image, roi, scale_factor=scale)
    for name, value in zip(("probs", "image", "roi"), small, strict=True):
        v.compare(f"{name}_scaled", value)
    for normalize, suffix in (("none", ""), ("degree", "_normalised")):
        leaf = small[0].detach().requires_grad_()
        loss = dense_crf_loss(
            leaf,
            small[1],
            roi=small[2],
            sigma_rgb=sigma_rgb,
            sigma_xy=sigma_xy * scale,
            scale_factor=1.0,
            normalize=normalize,
            filter="exact",
        )
        v.compare(f"loss{suffix}", loss)
        v.compare(f"grad_probs_scaled{suffix}", torch.autograd.grad(loss, leaf)[0])
    loss = weight * dense_crf_loss(
        probs,
        image,
        roi=roi,
        sigma_rgb=sigma_rgb,
        sigma_xy=sigma_xy,
        scale_factor=scale,
        normalize="none",
        filter="exact",
    )
    v.compare("loss_module", loss)
    v.compare("grad_probs_module", torch.autograd.grad(loss, probs)[0], atol=1e-9)


@check("losses_pairwise", "ncut")
def check_ncut(v: Vectors) -> None:
    probs, image = v.tensor("probs", grad=True), v.tensor("image")
    options = {
        "roi": v.tensor("roi"),
        "sigma_rgb": v.scalar("sigma_rgb"),
        "sigma_xy": v.scalar("sigma_xy"),
        "scale_factor": 1.0,
        "filter": "exact",
    }
    cut = normalized_cut_loss(probs, image, **options)
    (cut_grad,) = torch.autograd.grad(cut, probs)
    v.compare("loss", cut)
    v.compare("grad_probs", cut_grad)
    both = kernel_cut_loss(probs, image, gamma=1.0, normalize="none", **options)
    v.compare("loss_crf_cut", both - cut)
    v.compare("grad_probs_crf_cut", torch.autograd.grad(both, probs)[0] - cut_grad)
    both = kernel_cut_loss(probs, image, gamma=v.scalar("gamma"), normalize="none", **options)
    v.compare("loss_kernel_cut", both)
    v.compare("grad_probs_kernel_cut", torch.autograd.grad(both, probs)[0])
