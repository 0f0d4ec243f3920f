"""Checks of PtReCl against golden vectors: label conditioning, feature sets, reclassified maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from golden.registry import check
from golden.vectors import Vectors

from scribbleseg.functional import assemble_cam, downsample_label, foreground_background_cells
from scribbleseg.methods import (
    conditioned_cross_entropy,
    label_conditioning_mask,
    label_gate,
    merge_flips,
    prototype_margin,
)


def with_background(image_label: torch.Tensor, value: int) -> torch.Tensor:
    """Tags by class id: the background, then the classes."""
    return F.pad(image_label, (1, 0), value=value)


@check("ptrecl", "label_conditioning")
def check_label_conditioning(v: Vectors) -> None:
    logits, target = v.tensor("logits", grad=True), v.labels("target")
    allowed = label_conditioning_mask(with_background(v.labels("image_label"), 0))
    prob = logits.masked_fill(~allowed[..., None, None], -torch.inf).softmax(dim=1)
    v.compare("prob", prob, atol=1e-5)
    known = target != 255
    valid = known & allowed.gather(1, (target * known).flatten(1)).view_as(target)
    v.compare("valid", valid, rtol=0, atol=0)
    for name, balance in (("ce", False), ("balanced", True)):
        logits.grad = None
        loss = conditioned_cross_entropy(logits, target, allowed, balance=balance)
        v.compare(f"loss_{name}", loss)
        loss.backward()
        v.compare(f"grad_{name}", logits.grad, atol=1e-7)


@check("ptrecl", "label_gate")
def check_label_gate(v: Vectors) -> None:
    gated = label_gate(
        v.tensor("features"), v.labels("image_label"), v.tensor("weight"), v.tensor("bias")
    )
    v.compare("gated", gated, atol=1e-5)


@check("ptrecl", "feature_sets")
def check_feature_sets(v: Vectors) -> None:
    features, labels = v.tensor("features"), v.labels("image_label")
    cells = downsample_label(v.labels("mask"), (features.shape[2], features.shape[3]))
    v.compare("mask_down", cells, rtol=0, atol=0)
    sets = foreground_background_cells(cells, with_background(labels, 0))
    unit = F.normalize(features, dim=1, eps=1e-12).permute(0, 2, 3, 1)
    for name, masks in zip(("fg", "bg"), sets, strict=True):
        for c in range(labels.shape[1]):
            chosen = masks[:, c + 1]
            v.compare(f"{name}_index_c{c}", chosen.nonzero(), rtol=0, atol=0)
            v.compare(f"{name}_sum_c{c}", unit[chosen].sum(0), atol=1e-5)


@check("ptrecl", "reclassify_ms")
def check_scales(v: Vectors) -> None:
    shared = v.other("reclassify")
    labels = v.labels("image_label")
    maps = []
    for scale in v.param("scales"):
        features = merge_flips(v.tensor(f"feat_s{float(scale)}"))[None]
        margin = prototype_margin(
            features,
            shared.tensor("proto_fg"),
            shared.tensor("proto_bg"),
            num_foreground=shared.labels("n_fg"),
            num_background=shared.labels("n_bg"),
            class_labels=labels[None],
            top_m=[int(m) for m in shared.param("top_m")],
        )
        maps.append(margin[0].relu() / len(v.param("scales")))  # their mean
    height, width = v.labels("size").tolist()
    present = labels.nonzero()[:, 0]
    v.compare("keys", present, rtol=0, atol=0)
    v.compare("cam", assemble_cam(maps, (-(-height // 4), -(-width // 4)))[present], atol=1e-4)
    canvas = (-(-height // 16) * 16, -(-width // 16) * 16)
    high = assemble_cam(maps, (height, width), canvas=canvas)[present]
    v.compare("high_res", high, atol=1e-4)
