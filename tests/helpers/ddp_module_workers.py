"""One training step of a module on a rank's share of a batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from helpers.contract import TINY_ENCODER, make_batch

from scribbleseg import methods

REGULARIZERS: dict[str, Any] = {
    "entropy": 0.3,
    "gated_crf": {"weight": 0.2, "radius": 2},
    "dense_crf": {"weight": 0.5, "sigma_xy": 10.0},
    "normalized_cut": {"weight": 0.2, "sigma_xy": 10.0},
    "tree_energy": {"weight": 0.4, "embedding_dim": 8},
    "contour_length": 0.1,
    "mumford_shah": 0.1,
    "total_variation": 0.1,
    "kernel_cut": {"weight": 0.1, "sigma_xy": 10.0},
    "intensity_variance": 0.1,
    "absent_class": 0.1,
}
MODULES: dict[str, dict[str, Any]] = {
    "RegularizedModule": {"regularizers": REGULARIZERS},
    "DMPLSModule": {"dropout": 0.0, "reduction": "image"},
    "MeanTeacherModule": {"samples": 1, "noise": 0.0},
    "PFAModule": {"arch": "unet", "num_prototypes": 2, "consistency": "soft_ce"},
    "CDSPModule": {"arch": "aspp_v2", "lorm_chunk": 3},
    "CAMModule": {},
}


def step(name: str, part: slice, *, distributed: bool = False) -> dict[str, torch.Tensor]:
    """Loss and gradients; BatchNorm in evaluation mode, since its statistics are per rank."""
    torch.manual_seed(0)
    module = getattr(methods, name)(
        4, encoder=TINY_ENCODER, encoder_weights=None, freeze_batchnorm="all", **MODULES[name]
    ).eval()
    module.log = module.log_dict = lambda *_, **__: None
    batch = make_batch(size=4, height=32, width=32)
    batch["scribble"][0, 4:] = 255  # images with very different numbers of drawn pixels
    batch["scribble"][3] = 255
    batch["valid"][1, 20:] = False
    batch["scribble"][1, 20:] = 255
    batch["pseudo_label"][~batch["valid"]] = 255
    batch["pseudo_label"][2:, 8:] = 0  # and of foreground
    batch["scribble_distance"][3] = 0
    share = type(batch)({key: value[part] for key, value in batch.items()})
    torch.manual_seed(1)
    loss = module.training_step(share, 0)
    loss.backward()
    found = {"loss": loss.detach()}
    found |= {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    if distributed:
        for value in found.values():
            dist.all_reduce(value)
            value /= dist.get_world_size()
    # of this rank alone: an average could hide that the banks differ
    return found | {n: b.float() for n, b in module.named_buffers() if n.startswith("bank.")}


def every_module(rank: int) -> dict[str, dict[str, torch.Tensor]]:
    part = slice(0, 2) if rank == 0 else slice(2, 4)
    return {name: step(name, part, distributed=True) for name in MODULES}
