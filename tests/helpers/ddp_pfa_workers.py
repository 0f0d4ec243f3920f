"""PFA wrapped as Lightning wraps it, in every phase."""

from __future__ import annotations

import torch
from helpers.contract import TINY_ENCODER, make_batch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from scribbleseg import PFAModule

VARIANTS = {
    "joint": {"loss_preset": "joint"},
    "joint, constant target": {"loss_preset": "joint", "detach_target": True},
    "reference": {"loss_preset": "reference"},
    "reference, constant target": {"loss_preset": "reference", "detach_target": True},
    "paper": {"loss_preset": "paper"},
}
PHASES = {"warmup": 0, "local": 1, "global": 2}


class _Step(nn.Module):
    def __init__(self, module: PFAModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict) -> torch.Tensor:
        return self.module.training_step(batch, 0)


def three_steps(variant: str, phase: str, part: slice) -> dict[str, torch.Tensor]:
    """Parameters after three steps; the second one fails if a parameter had no gradient."""
    torch.manual_seed(0)
    module = PFAModule(
        4,
        arch="unet",
        encoder=TINY_ENCODER,
        encoder_weights=None,
        num_prototypes=40,
        warmup=0.5,
        freeze_batchnorm="all",
        feature_dropout=0.0,
        **VARIANTS[variant],
    )
    logged = {}
    module.log = lambda name, value, **_: logged.__setitem__(name, value)
    module.log_dict = lambda *_, **__: None
    module.training_progress = lambda: float(phase != "warmup")
    module.seen_classes.fill_(True)
    if phase == "global":
        module.bank.prototypes.normal_()
        module.bank.filled.fill_(True)
    wrapped = DistributedDataParallel(_Step(module.train()))
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], 1e-3)
    for seed in range(3):
        batch = make_batch(size=4, height=32, width=32, seed=seed)
        share = type(batch)({key: value[part] for key, value in batch.items()})
        optimizer.zero_grad()
        wrapped(share).backward()
        module.on_before_optimizer_step(optimizer)
        optimizer.step()
        assert logged["train/phase"] == PHASES[phase]
    return {name: value.detach() for name, value in module.state_dict().items()}


def every_variant(rank: int) -> dict[str, dict[str, torch.Tensor]]:
    part = slice(0, 2) if rank == 0 else slice(2, 4)
    return {
        f"{variant} / {phase}": three_steps(variant, phase, part)
        for variant in VARIANTS
        for phase in PHASES
    }
