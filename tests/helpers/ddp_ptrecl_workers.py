"""IRN and PtReCl on several ranks: training steps, and the collection of features."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from helpers.contract import TINY_ENCODER, GuardedBatch, make_batch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from scribbleseg import IRNModule, PtReClModule, ScribbleDataModule
from scribbleseg.callbacks import CollectionOptions, FeatureCollector
from scribbleseg.data import PseudoLabelReader
from scribbleseg.data.sources import SyntheticSource
from scribbleseg.functional import write_label

CASES = {
    "boundaries": (IRNModule, {"radius": 3}),
    "displacements": (IRNModule, {"radius": 3, "displacement": True, "encoder": "resnet18"}),
    "masks": (PtReClModule, {"arch": "unet"}),
    "gate": (PtReClModule, {"arch": "deeplab_v2", "label_conditioning": "gate"}),
}


class _Step(nn.Module):
    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: GuardedBatch) -> torch.Tensor:
        return self.module.training_step(batch, 0)


def empty_half(seed: int) -> GuardedBatch:
    """Four images; the last two have no labels."""
    batch = make_batch(size=4, height=64, width=64, seed=seed)
    batch["pseudo_label"][2:] = 255
    batch["class_labels"][2:] = 0
    return batch


def three_steps(case: str, part: slice) -> dict[str, torch.Tensor]:
    """Parameters after three steps, and the gradient of the first one."""
    torch.manual_seed(0)
    cls, options = CASES[case]
    settings = {"encoder": TINY_ENCODER, "encoder_weights": None, **options}
    if cls is PtReClModule:
        settings["freeze_batchnorm"] = "all"
    module = cls(4, **settings)
    module.log = module.log_dict = lambda *_, **__: None
    module.eval()  # dropout draws other numbers on every rank
    step: Any = _Step(module)
    wrapped = DistributedDataParallel(step) if dist.is_initialized() else step
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-2)
    found: dict[str, torch.Tensor] = {}
    for seed in range(3):
        batch = empty_half(seed)
        share = type(batch)({key: value[part] for key, value in batch.items()})
        optimizer.zero_grad()
        wrapped(share).backward()
        if not found:
            found = {
                f"grad {n}": p.grad.clone() for n, p in module.named_parameters() if p.requires_grad
            }
        optimizer.step()
    return found | {name: value.detach() for name, value in module.state_dict().items()}


def every_case(rank: int) -> dict[str, dict[str, torch.Tensor]]:
    part = slice(0, 2) if rank == 0 else slice(2, 4)
    return {case: three_steps(case, part) for case in CASES}


def _broadcast(value: bool) -> bool:
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def _barrier() -> None:
    if dist.is_initialized():
        dist.barrier()


def collect(rank: int, folder: str, clustering: str) -> dict[str, torch.Tensor]:
    """Prototypes of eight drawn images, of which each rank reads a part."""
    torch.manual_seed(0)
    source = SyntheticSource(num_train=7, num_val=1, size=64)
    data = ScribbleDataModule(source, num_workers=0, check=False, seed=0)
    root = Path(folder)
    if rank == 0:
        for record in source.records("train"):
            write_label(root / "masks" / f"{record.image_id}.png", source.read_mask(record))
    _barrier()
    module: Any = PtReClModule(
        source.num_classes,
        arch="unet",
        encoder=TINY_ENCODER,
        encoder_weights=None,
        num_prototypes=3,
        top_m=2,
        feature_level="decoder",
    ).eval()
    trainer: Any = SimpleNamespace(
        datamodule=data,
        is_global_zero=rank == 0,
        strategy=SimpleNamespace(broadcast=_broadcast, barrier=_barrier),
        precision_plugin=SimpleNamespace(forward_context=nullcontext),
    )
    masks = PseudoLabelReader(source, data.records("train"), root / "masks")
    options = CollectionOptions(capacity=300, per_image=64, clustering=clustering, passes=1, redo=1)
    with torch.no_grad():
        FeatureCollector(trainer, module, root / "work", masks, None, options, {}).build()
    return {name: value.clone() for name, value in module.prototypes.state_dict().items()}
