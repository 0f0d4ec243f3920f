"""Checks of pixel losses and test-time averaging against golden vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from golden.registry import check
from golden.vectors import Vectors

from scribbleseg.functional.losses import partial_cross_entropy
from scribbleseg.functional.tta import multi_scale_probabilities


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
