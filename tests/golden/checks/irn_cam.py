"""Checks of activation maps against golden vectors."""

from __future__ import annotations

import torch
from golden.registry import check
from golden.vectors import Vectors

from scribbleseg.functional import assemble_cam
from scribbleseg.methods import class_activation_maps, merge_flips


@check("irn", "cam")
def check_cam(v: Vectors) -> None:
    weight = torch.from_numpy(v.param("classifier_weight"))
    scales = [float(scale) for scale in v.param("scales")]
    for image in ("img0", "img1"):
        present = v.labels(f"{image}_label").nonzero()[:, 0]
        v.compare(f"{image}_keys", present, rtol=0, atol=0)
        height, width = v.labels(f"{image}_size").tolist()
        maps = [
            merge_flips(class_activation_maps(v.tensor(f"{image}_feat_s{s}"), weight))
            for s in scales
        ]
        quarter = (-(-height // 4), -(-width // 4))
        v.compare(f"{image}_cam", assemble_cam(maps, quarter)[present])
        canvas = (-(-height // 16) * 16, -(-width // 16) * 16)
        full = assemble_cam(maps, (height, width), canvas=canvas)[present]
        v.compare(f"{image}_high_res", full)
