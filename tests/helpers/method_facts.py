"""What a method does to a fixed batch and says of a fixed image, as facts for digests."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from helpers.contract import GuardedBatch, gradient_norms, make_batch, part_of, superpixel_graph
from helpers.digests import sha, sha_of
from torch import Tensor, nn

SIZES = ((64, 64), (65, 70))
VALUES = 32  # of a tensor that are recorded


def varied_batch(seed: int, *, height: int = 30, width: int = 60) -> GuardedBatch:
    """A batch in which everything that a method may look at differs between its two images.

    The first image shows classes 0 and 1, the second 0, 2 and 3, and beyond column 52 the second
    is padding. The batch holds all optional keys.
    """
    batch = make_batch(height=height, width=width, seed=seed)
    batch["class_labels"] = torch.tensor([[1.0, 1, 0, 0], [1, 0, 1, 1]])
    for image, shown in enumerate(batch["class_labels"] > 0):
        own = batch["scribble"][image]
        own[(own < 255) & ~shown[own.clamp_max(3)]] = 255
    outside = torch.zeros_like(batch["valid"])
    outside[1, :, 52:] = True
    batch["valid"] = ~outside
    batch["image"] = batch["image"].masked_fill(outside[:, None], 0)
    batch["image_raw"] = batch["image_raw"].masked_fill(outside[:, None], 0)
    for name in ("scribble", "pseudo_label", "scribble_distance", "pseudo_distance"):
        batch[name] = batch[name].masked_fill(outside, 255)
    batch["superpixel"] = batch["superpixel"].masked_fill(outside, -1)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows, columns]).expand(2, -1, -1, -1)
    batch["source_index"] = places.masked_fill(outside[:, None], -1)
    batch["index"] = batch["index"] + 2 * seed
    return superpixel_graph(batch)


def pattern(height: int, width: int, channels: int = 3) -> Tensor:
    """A normalised image of waves and two flat regions, in double precision."""
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    planes = [
        ((rows * (3 + c) + columns * (7 - c)) % (23 + 6 * c)).double() / (11 + 3 * c) - 1
        for c in range(channels)
    ]
    image = torch.stack(planes)[None]
    image[:, 0, height // 4 : height // 2, : width // 2] = 1.5
    image[:, -1, height // 2 :, width // 3 :] = -1.0
    return image


def settle(module: nn.Module) -> Any:
    """The module in evaluation mode and double precision, its statistics not those of the start."""
    module.double()
    for layer in module.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            channels = torch.arange(layer.num_features)
            layer.running_mean.copy_((channels % 7 - 3) * 0.05)
            layer.running_var.copy_(0.75 + (channels % 5) * 0.125)
    return module.eval()


def fill_prototype_pairs(bank: Any) -> None:
    """Three prototypes at most for each of four classes of PtReCl, by a rule."""
    for number, name in enumerate(("foreground", "background")):
        values = getattr(bank, name)
        cells = torch.arange(values.numel()).view_as(values)
        values.copy_(nn.functional.normalize((cells * (7 + 4 * number) % 19).float() - 8, dim=2))
        getattr(bank, f"num_{name}").copy_(torch.tensor([3, 3 - number, 2, 3]))


def sample(values: Tensor) -> dict[str, Any]:
    """Shape, mean, deviation and up to 32 values spread over a tensor."""
    flat = values.detach().double().flatten()
    places = torch.linspace(0, len(flat) - 1, min(VALUES, len(flat))).round().long()
    return {
        "shape": list(values.shape),
        "mean": flat.mean().item(),
        "std": flat.std(correction=0).item(),
        "values": flat[places].tolist(),
    }


def random_states() -> dict[str, str]:
    """Digests of the states of the three sources of randomness."""
    kind, keys, position, *rest = np.random.get_state()  # noqa: NPY002 - the state that the seed set
    return {
        "torch": sha_of(torch.get_rng_state()),
        "numpy": sha(f"{kind} {sha_of(keys)} {position} {rest}"),
        "python": sha(repr(random.getstate())),
    }


def state_sums(module: nn.Module) -> dict[str, float | int]:
    """Sum of the absolute values of what each part keeps; whole numbers apart from others."""
    sums: dict[str, float | int] = {}
    for name, value in module.state_dict().items():
        total = value.double().abs().sum().item()
        if value.is_floating_point():
            sums[part_of(name)] = sums.get(part_of(name), 0.0) + total
        else:
            sums[f"{part_of(name)} (whole)"] = sums.get(f"{part_of(name)} (whole)", 0) + int(total)
    return sums


def fixed_facts(module: Any) -> dict[str, Any]:
    """What a method asks of the data, and its groups of parameters."""
    return {
        "inputs": sorted(module.train_inputs),
        "groups": {
            group["name"]: {
                "tensors": len(group["params"]),
                "numbers": sum(p.numel() for p in group["params"]),
                "lr": group["lr"],
                "weight_decay": group["weight_decay"],
            }
            for group in module.parameter_groups()
        },
    }


def steps(
    module: Any,
    batches: Sequence[GuardedBatch],
    *,
    lr: float = 0.01,
    progress: Sequence[float] = (0.3, 0.6, 0.9),
) -> Iterator[dict[str, Any]]:
    """Train with plain gradient descent; gives what was logged and the gradients at each step.

    In double precision: BatchNorm over a few cells makes much of the rounding of single precision,
    which depends on the number of threads.

    Args:
        module: Of ``MethodContract.build``.
        batches: One per step.
        lr: Learning rate of all parameters.
        progress: Share of the training that is done, at each step.
    """
    module.double()
    learns = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learns, lr=lr)
    for index, (batch, done) in enumerate(zip(batches, progress, strict=True)):
        module.training_progress = lambda share=done: share
        module.logged.clear()
        batch = module.on_before_batch_transfer(batch, 0)
        batch = type(batch)({**batch, "image": batch["image"].double()})
        loss = module.training_step(batch, index)
        optimizer.zero_grad()
        loss.backward()
        module.on_before_optimizer_step(optimizer)
        gradients = gradient_norms(module)
        optimizer.step()
        if hasattr(module, "teacher"):
            module.teacher.update(module.network, index + 1)
        logged = {name: float(value) for name, value in sorted(module.logged.items())}
        yield {"loss": loss.item(), "logged": logged, "gradients": gradients}
