"""CDSP and its first stage wrapped as Lightning wraps them; one rank has nothing to learn from."""

from __future__ import annotations

import torch
from helpers.contract import TINY_ENCODER, GuardedBatch, make_batch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from scribbleseg import CAMModule, CDSPModule
from scribbleseg.methods import ScribbleSegModule

CASES = {
    "released": (CDSPModule, {"arch": "aspp_v3plus"}),
    "foreground only": (CDSPModule, {"arch": "unet", "lorm_variant": "foreground_only"}),
    "reference quirks": (CDSPModule, {"arch": "unet", "reference_quirks": True}),
    "no LoRM": (CDSPModule, {"arch": "unet", "lorm_weight": 0.0}),
    "activation maps": (CAMModule, {}),
}


class _Step(nn.Module):
    def __init__(self, module: ScribbleSegModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: GuardedBatch) -> torch.Tensor:
        return self.module.training_step(batch, 0)


def empty_half(seed: int) -> GuardedBatch:
    """Four images; the last two have no scribbles, foreground or trusted pixels."""
    batch = make_batch(size=4, height=33, width=33, seed=seed)
    for name, value in (("scribble", 255), ("pseudo_label", 255), ("class_labels", 0)):
        batch[name][2:] = value
    for name in ("scribble_distance", "pseudo_distance"):
        batch[name][2:] = 0
    return batch


def three_steps(case: str, part: slice) -> dict[str, torch.Tensor]:
    """Parameters after three steps; the second one fails if a parameter had no gradient."""
    torch.manual_seed(0)
    cls, options = CASES[case]
    module = cls(4, encoder=TINY_ENCODER, encoder_weights=None, freeze_batchnorm="all", **options)
    module.log = module.log_dict = lambda *_, **__: None
    wrapped = DistributedDataParallel(_Step(module.train()))
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
    for seed in range(3):
        batch = empty_half(seed)
        share = type(batch)({key: value[part] for key, value in batch.items()})
        optimizer.zero_grad()
        wrapped(share).backward()
        optimizer.step()
    return {name: value.detach() for name, value in module.state_dict().items()}


def every_case(rank: int) -> dict[str, dict[str, torch.Tensor]]:
    part = slice(0, 2) if rank == 0 else slice(2, 4)
    return {case: three_steps(case, part) for case in CASES}
