"""Checks of pixel losses and test-time averaging against golden vectors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from golden.registry import check
from golden.vectors import Vectors

from scribbleseg.functional import (
    contour_length_loss,
    entropy_loss,
    gated_crf_loss,
    intensity_variance,
    level_set_loss,
    multi_scale_probabilities,
    partial_cross_entropy,
    partial_dice_loss,
    ramp_factor,
    total_variation_loss,
)
from scribbleseg.methods import (
    bank_pseudo_label,
    consistency_loss,
    dynamic_mixed_pseudo_label,
    mean_teacher_consistency,
    mixed_dice_loss,
    soft_mixed_loss,
    update_probability_bank,
)


@check("losses_pixel", "pce")
def check_pce(v: Vectors) -> None:
    labels = v.labels("labels")
    logits = v.tensor("logits", grad=True)
    loss = partial_cross_entropy(logits, labels)
    v.compare("loss", loss)
    v.compare("grad_logits", torch.autograd.grad(loss, logits)[0])
    v.compare("loss_div_batch", loss / len(labels))
    weight = torch.from_numpy(v.param("class_weight"))
    weighted = partial_cross_entropy(logits, labels, class_weight=weight)
    v.compare("loss_weighted", weighted)
    v.compare("grad_logits_weighted", torch.autograd.grad(weighted, logits)[0])
    empty = partial_cross_entropy(logits, torch.full_like(labels, 255))
    v.compare("loss_empty", empty, atol=0)
    assert torch.equal(torch.autograd.grad(empty, logits)[0], torch.zeros_like(logits))


@check("losses_pixel", "tta")
def check_tta(v: Vectors) -> None:
    weight, bias = v.tensor("conv_weight"), v.tensor("conv_bias")
    image, scales = v.tensor("image"), [float(s) for s in v.param("scales")]

    def forward(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, weight, bias, padding=1)

    mean = multi_scale_probabilities(forward, image, scales=scales, flip=True)
    v.compare("probs_mean", mean)
    summed = multi_scale_probabilities(
        forward,
        image,
        scales=scales,
        flip=True,
        average="logits",
        align_corners=True,
        rounding="floor",
    )
    v.compare("logits_sum_tel", summed)


@check("cdsp", "partial_ce")
def check_cdsp_partial_ce(v: Vectors) -> None:
    logits = v.tensor("logits", grad=True)
    loss = partial_cross_entropy(logits, v.labels("scribble"))
    v.compare("loss", loss)
    v.compare("grad_logits", torch.autograd.grad(loss, logits)[0], atol=1e-7)


@check("cdsp", "smoothed_ce")
def check_cdsp_smoothed_ce(v: Vectors) -> None:
    logits = v.tensor("logits", grad=True)
    loss = partial_cross_entropy(logits, v.labels("pseudo"), label_smoothing=v.scalar("epsilon"))
    v.compare("loss", loss)
    v.compare("grad_logits", torch.autograd.grad(loss, logits)[0], atol=1e-7)


@check("pfa", "partial_ce")
def check_pfa_partial_ce(v: Vectors) -> None:
    logits, target = v.tensor("logits", grad=True), v.labels("target")
    upsampled = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=True)
    v.compare("upsampled_corner", upsampled[:, :, :3, :3])
    loss = partial_cross_entropy(upsampled, target)
    v.compare("loss", loss)
    v.compare("grad_logits", torch.autograd.grad(loss, logits)[0], rtol=1e-3, atol=1e-7)


@check("losses_pixel", "entropy")
def check_entropy(v: Vectors) -> None:
    unlabelled = v.labels("labels") == 255
    for name, options in {
        "nat": {},
        "normalised": {"base": "classes"},
        "nat_unlabelled": {"mask": unlabelled},
    }.items():
        logits = v.tensor("logits", grad=True)
        loss = entropy_loss(logits, eps=v.scalar("eps"), **options)
        v.compare(f"loss_{name}", loss)
        v.compare(f"grad_logits_{name}", torch.autograd.grad(loss, logits)[0])


@check("cc4s", "soft_entropy")
def check_soft_entropy(v: Vectors) -> None:
    logits = v.tensor("logits", grad=True)
    for suffix, mask in (("", 1 - v.tensor("boundary") / 255), ("_unmasked", None)):
        loss = entropy_loss(logits, mask=mask, eps=0)
        v.compare(f"loss{suffix}", loss)
        v.compare(f"grad_logits{suffix}", torch.autograd.grad(loss, logits)[0])


@check("losses_pixel", "mumford_shah")
def check_mumford_shah(v: Vectors) -> None:
    probs, image = v.tensor("probs", grad=True), v.tensor("image")
    length = total_variation_loss(probs, reduction="sum")
    loss = level_set_loss(probs, image, reduction="sum") + length
    v.compare("loss", loss)
    v.compare("grad_probs", torch.autograd.grad(loss, probs, retain_graph=True)[0])
    v.compare("tv_l1", length)
    v.compare("level_set", level_set_loss(probs, image, reduction="sum"))
    rgb = level_set_loss(probs, v.tensor("image_rgb"), reduction="sum") + length
    v.compare("loss_rgb", rgb)
    v.compare("grad_probs_rgb", torch.autograd.grad(rgb, probs)[0])
    # the published code swaps the roles of image and prediction in the first term
    centre = (probs * image).sum((2, 3), keepdim=True) / image.sum((2, 3), keepdim=True)
    swapped = (image * (probs - centre).square()).sum()
    swapped = swapped + total_variation_loss(probs, reduction="sum")
    v.compare("loss_reference_swapped", swapped)
    v.compare("grad_probs_reference_swapped", torch.autograd.grad(swapped, probs)[0])


@check("losses_pixel", "tv")
def check_contour_length(v: Vectors) -> None:
    probs = v.tensor("probs", grad=True)
    for name, everything in (("contour", True), ("contour_foreground", False)):
        loss = contour_length_loss(probs, include_background=everything)
        v.compare(name, loss)
        v.compare(f"grad_probs_{name}", torch.autograd.grad(loss, probs)[0])


@check("losses_pixel", "intensity_variance")
def check_intensity_variance(v: Vectors) -> None:
    probs = v.tensor("probs", grad=True)
    intra, inter = intensity_variance(probs, v.tensor("image"))
    for name, value in (("intra", intra), ("inter", inter)):
        v.compare(name, value)
        v.compare(f"grad_probs_{name}", torch.autograd.grad(value, probs, retain_graph=True)[0])


@check("losses_pixel", "dmpls")
def check_dmpls(v: Vectors) -> None:
    main, aux = v.tensor("logits_main", grad=True), v.tensor("logits_aux", grad=True)
    labels = v.labels("labels")
    mixed = dynamic_mixed_pseudo_label(main, aux, v.scalar("beta"))
    v.compare("pseudo_label", mixed.labels, rtol=0, atol=0)
    pce = (partial_cross_entropy(main, labels) + partial_cross_entropy(aux, labels)) / 2
    pls = mixed_dice_loss(main, aux, mixed.labels)
    v.compare("loss_pce", pce)
    v.compare("loss_pls", pls)
    loss = pce + v.scalar("weight") * pls
    v.compare("loss", loss)
    grads = torch.autograd.grad(loss, [main, aux])
    v.compare("grad_logits_main", grads[0])
    v.compare("grad_logits_aux", grads[1])
    dice = partial_dice_loss(main, labels)
    v.compare("partial_dice", dice)
    v.compare("grad_logits_partial_dice", torch.autograd.grad(dice, main)[0])
    soft = soft_mixed_loss(main, aux, mixed.probs)
    v.compare("loss_soft", soft)
    v.compare("grad_logits_main_soft", torch.autograd.grad(soft, main)[0])


@check("losses_pixel", "ustm")
def check_ustm(v: Vectors) -> None:
    student = v.tensor("logits_student", grad=True)
    step, total = v.scalar("step"), v.scalar("max_steps")
    ramp = ramp_factor(step / total, length=1.0, shape="sigmoid")
    threshold = (0.75 + 0.25 * ramp) * math.log(2)
    v.compare("threshold", threshold)
    v.compare("sigmoid_rampup", ramp)
    loss, uncertainty = mean_teacher_consistency(
        student, v.tensor("logits_teacher"), v.tensor("logits_teacher_samples"), threshold=threshold
    )
    v.compare("uncertainty", uncertainty)
    v.compare("mask", uncertainty < threshold)
    v.compare("loss", loss)
    v.compare("grad_logits_student", torch.autograd.grad(loss, student)[0])


@check("losses_pixel", "s2l")
def check_s2l(v: Vectors) -> None:
    sequence, labels = v.tensor("prob_sequence"), v.labels("labels")
    bank = torch.zeros_like(sequence[0])
    for probs in sequence:
        update_probability_bank(bank, probs, alpha=v.scalar("alpha"))
    v.compare("ema", bank)
    confidence, classes = bank.max(dim=1)
    pseudo = bank_pseudo_label(classes, confidence, labels, threshold=v.scalar("threshold"))
    v.compare("pseudo_label", pseudo, rtol=0, atol=0)
    logits = v.tensor("logits", grad=True)
    loss = partial_cross_entropy(logits, labels)
    loss = loss + v.scalar("weight") * partial_cross_entropy(logits, pseudo)
    v.compare("loss", loss)
    v.compare("grad_logits", torch.autograd.grad(loss, logits)[0])


@check("pfa", "prediction_consistency")
def check_prediction_consistency(v: Vectors) -> None:
    logits, augmented = v.tensor("logits", grad=True), v.tensor("logits_aug", grad=True)
    loss = consistency_loss(logits, augmented, form="prob_ce")
    v.compare("loss", loss)
    grads = torch.autograd.grad(loss, [logits, augmented])
    v.compare("grad_logits", grads[0])
    v.compare("grad_logits_aug", grads[1])


@check("pfa", "soft_consistency")
def check_soft_consistency(v: Vectors) -> None:
    logits = v.tensor("logits", grad=True)
    loss = consistency_loss(logits, v.tensor("logits_aug"), form="soft_ce", detach_target=True)
    v.compare("loss", loss)
    v.compare("grad_logits", torch.autograd.grad(loss, logits)[0])


def beyond_border(image: torch.Tensor, kernels: list, radius: int) -> torch.Tensor:
    """Constant of the published code: pairs with black pixels at position 0 beyond the border."""
    height, width = image.shape[2:]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    outside = F.unfold(
        F.pad(torch.zeros(1, 1, height, width), (radius,) * 4, value=1), 2 * radius + 1
    )
    kernel = sum(
        weight
        * (-(rows**2 + columns**2) / (2 * s_xy**2) - image.square().sum(1) / (2 * s_rgb**2)).exp()
        for weight, s_xy, s_rgb in kernels
    )
    return (kernel * outside.sum(1).view(height, width)).mean()


@check("losses_pairwise", "gated_crf")
def check_gated_crf(v: Vectors) -> None:
    probs, image, radius = v.tensor("probs", grad=True), v.tensor("image"), int(v.scalar("radius"))
    source, destination = v.tensor("mask_src"), v.tensor("mask_dst")

    def compare(name: str, constant: float = 0, **options) -> None:
        loss = gated_crf_loss(probs, image, radius=radius, **options) + constant
        v.compare(f"loss_{name}", loss)
        v.compare(f"grad_probs_{name}", torch.autograd.grad(loss, probs)[0])

    for letter in "ab":
        kernels = [tuple(map(float, row)) for row in v.param(f"kernels_{letter}")]
        compare(
            letter,
            beyond_border(F.interpolate(image, probs.shape[2:], mode="area"), kernels, radius),
            kernels=kernels,
        )
        compare(f"{letter}_src", kernels=kernels, source=source)
        compare(f"{letter}_src_dst", kernels=kernels, source=source, destination=destination)
    cost = torch.from_numpy(v.param("compatibility"))
    compare("b_compat", kernels=kernels, compatibility=cost)
