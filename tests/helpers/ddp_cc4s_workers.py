"""CC4S wrapped as Lightning wraps it, in every stage and with every kind of view."""

from __future__ import annotations

from typing import Any

import torch
from helpers.contract import TINY_ENCODER, make_batch, superpixel_graph
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from scribbleseg import CC4SModule

VARIANTS: dict[str, dict[str, Any]] = {
    "certainty": {"stage": "certainty", "entropy_boundaries": True},
    "flip": {"stage": "consistency", "consistency_transform": "flip"},
    "translation": {"stage": "consistency", "consistency_transform": "translation"},
    "before the walk": {"stage": "consistency", "consistency_feature": "x"},
    "after the walk": {"stage": "consistency", "consistency_feature": "z"},
    "retrain": {"stage": "retrain"},
    "no walk": {"stage": "certainty", "walk": False},
}


class _Step(nn.Module):
    def __init__(self, module: CC4SModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict) -> torch.Tensor:
        return self.module.training_step(batch, 0)


def batches() -> list[dict]:
    """Two batches of four images that differ in their labels, one without any and one padded."""
    made = []
    for seed in range(2):
        batch = make_batch(size=4, height=33, width=41, seed=seed)
        batch["scribble"][0, 4:] = 255
        batch["scribble"][3] = 255
        for name in ("scribble", "pseudo_label"):
            batch[name][1, 20:] = 255
        batch["superpixel"][1, 20:] = -1
        batch["valid"][1, 20:] = False
        made.append(batch)
    return made


def two_steps(variant: str, part: slice, *, distributed: bool = False) -> dict[str, torch.Tensor]:
    """Losses and gradients; the second step fails if a parameter had no gradient in the first.

    BatchNorm is in evaluation mode, since its statistics are per rank.
    """
    torch.manual_seed(0)
    module = CC4SModule(
        4,
        head_channels=16,
        encoder=TINY_ENCODER,
        encoder_weights=None,
        freeze_batchnorm="all",
        chunk_size=7,
        **VARIANTS[variant],
    ).eval()
    if module.measurement is not None:
        module.measurement.gamma.data.fill_(0.5)
    module.log = module.log_dict = lambda *_, **__: None
    step = _Step(module)
    run = DistributedDataParallel(step) if distributed else step
    found: dict[str, torch.Tensor] = {}
    for number, batch in enumerate(batches()):
        share = type(batch)({key: value[part] for key, value in batch.items()})
        module.zero_grad()
        loss = run(superpixel_graph(share))
        loss.backward()
        if distributed:
            loss = loss.detach().clone()
            torch.distributed.all_reduce(loss)
            loss /= torch.distributed.get_world_size()
        found[f"{number} loss"] = loss.detach()
        found |= {
            f"{number} {n}": p.grad.clone()
            for n, p in module.named_parameters()
            if p.grad is not None
        }
    return found


def every_variant(rank: int) -> dict[str, dict[str, torch.Tensor]]:
    part = slice(0, 2) if rank == 0 else slice(2, 4)
    return {name: two_steps(name, part, distributed=True) for name in VARIANTS}
