"""SPML wrapped as Lightning wraps it, and the same steps by one process on the whole batch."""

from __future__ import annotations

import torch
from helpers.contract import TINY_ENCODER, GuardedBatch, make_batch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from scribbleseg import SPMLModule

ALL = {"affinity_weight": 0.5, "memory_capacity": 400}
OFF = {"annotation_weight": 0.0, "cooccurrence_weight": 0.0, "affinity_weight": 0.0}
CASES = {
    "all relations": ALL,
    "similarity alone": {**ALL, **OFF},
    "annotation alone": {**ALL, **OFF, "annotation_weight": 1.0, "similarity_weight": 0.0},
    "unknown skipped": {**ALL, "unknown": "skip", "min_segment_pixels": 2},
    "own prototypes only": {**ALL, "remote_grad": False},
}
EMPTY = ("scribbles", "everything")


class _Step(nn.Module):
    def __init__(self, module: SPMLModule) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: GuardedBatch) -> torch.Tensor:
        return self.module.training_step(batch, 0)


def batch_of(seed: int, empty: str) -> GuardedBatch:
    """Four images of different tags; the last two have no scribbles, or are padding."""
    batch = make_batch(size=4, height=32, width=32, seed=seed)
    batch["class_labels"] = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 0], [1, 0, 0, 1], [1, 1, 0, 1]])
    if empty:
        batch["scribble"][2:] = 255
    if empty == "everything":
        batch["valid"][2:] = False
    return batch


def three_steps(case: str, part: slice, empty: str = "", *, wrap: bool = True) -> dict:
    """Gradients of the first step, parameters and queue after three."""
    torch.manual_seed(0)
    module = SPMLModule(
        4,
        arch="unet",
        encoder=TINY_ENCODER,
        encoder_weights=None,
        embedding_dim=8,
        head_dropout=0.0,
        freeze_batchnorm="all",
        **CASES[case],
    )
    module.log = module.log_dict = lambda *_, **__: None
    module.train()
    step = DistributedDataParallel(_Step(module)) if wrap else _Step(module)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], 1e-2)
    gradients: dict[str, torch.Tensor] = {}
    for seed in range(3):
        batch = batch_of(seed, empty)
        share = type(batch)({key: value[part] for key, value in batch.items()})
        optimizer.zero_grad()
        step(share).backward()
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and name not in gradients:
                gradients[name] = parameter.grad.clone()
        optimizer.step()
    state = {name: value.detach() for name, value in module.state_dict().items()}
    return {"gradients": gradients, "state": state}


def every_case(rank: int) -> dict[str, dict]:
    part = slice(0, 2) if rank == 0 else slice(2, 4)
    found = {case: three_steps(case, part) for case in CASES}
    return found | {f"empty {empty}": three_steps("all relations", part, empty) for empty in EMPTY}
