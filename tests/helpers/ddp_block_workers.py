"""What spawned ranks do with the blocks that communicate, and the same on one process."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from scribbleseg.functional import (
    FeaturePlanner,
    all_gather_rows,
    all_reduce_sum,
    lloyd_accumulate,
    mean_over_ranks,
)
from scribbleseg.nn import PrototypeBank

SIZES = (5, 3)  # rows of the two ranks differ


def _share(x: torch.Tensor, rank: int | None) -> torch.Tensor:
    return x if rank is None else x.split(SIZES)[rank]


def _embedder(rank: int | None) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    return model if rank is None else DistributedDataParallel(model)


def _contrast(own: torch.Tensor, every: torch.Tensor, offset: int) -> torch.Tensor:
    """Each own row against all rows, itself left out."""
    similarity = 4 * own @ every.T
    mine = torch.arange(len(own)) + offset
    mask = torch.arange(len(every)) == mine[:, None]
    return similarity.masked_fill(mask, -torch.inf).logsumexp(1)


def gather_loss(rank: int | None, with_grad: bool = True) -> dict[str, torch.Tensor]:
    """Mean over ranks of a loss that compares own rows with those of all ranks."""
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model = _embedder(rank)
    z = F.normalize(model(_share(x, rank)), dim=1)
    gathered = all_gather_rows(z, with_grad=with_grad)
    if rank is None:  # what two ranks do, on the union: the mean of the ranks' losses
        parts = zip(z.split(SIZES), (0, SIZES[0]), strict=True)
        every = z if with_grad else z.detach()
        loss = torch.stack([_contrast(own, every, start).mean() for own, start in parts]).mean()
    else:
        loss = _contrast(z, gathered.values, gathered.offset).mean()
    loss.backward()
    weight = (model if rank is None else model.module).weight
    return {
        "loss": loss.detach(),
        "grad": weight.grad,
        "rows": gathered.values.detach(),
        "sizes": gathered.sizes,
    }


def reduce_loss(rank: int | None) -> dict[str, torch.Tensor]:
    """A loss of the variance over the whole batch, which every rank computes in full."""
    x = torch.randn(8, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    model = _embedder(rank)
    z = model(_share(x, rank))
    count = all_reduce_sum(z.new_tensor(float(len(z))))
    mean = all_reduce_sum(z.sum(0)) / count
    loss = all_reduce_sum((z - mean).square().sum()) / count
    loss.backward()
    weight = (model if rank is None else model.module).weight
    return {"loss": loss.detach(), "grad": weight.grad}


def empty_rank(rank: int) -> dict[str, torch.Tensor]:
    """Rank 0 has no rows; nobody has any; and types that backends cannot send."""
    rows = torch.arange(6.0).view(3, 2)[: 3 * rank].requires_grad_()
    gathered = all_gather_rows(rows)
    gathered.values.square().sum().backward()
    flags = all_gather_rows(torch.tensor([True, False])[: rank + 1], with_grad=False)
    nothing = all_gather_rows(rows[:0])
    return {
        "rows": gathered.values.detach(),
        "offset": gathered.offset,
        "grad": rows.grad,
        "flags": flags.values,
        "nothing": nothing.values.detach(),
    }


def update_bank(rank: int | None) -> dict[str, torch.Tensor]:
    """Bank updates with both rules; the second batch of rank 1 is short, the third empty."""
    g = torch.Generator().manual_seed(3)
    bank = PrototypeBank(3, k=2, dim=4, rate=0.9)
    means = PrototypeBank(3, k=2, dim=4, rate=0.9)
    for sizes in ((4, 4), (4, 1), (3, 0), (4, 4)):
        p = F.normalize(torch.randn(sum(sizes), 3, 4, generator=g), dim=2)
        valid = torch.rand(sum(sizes), 3, generator=g) < 0.7
        slot = torch.randint(0, 2, (sum(sizes), 3), generator=g)
        if rank is not None:
            p, valid, slot = (t.split(sizes)[rank] for t in (p, valid, slot))
        bank.update(p, valid)
        member = F.one_hot(slot, 2) * valid[..., None]
        means.update_means(torch.einsum("bcd,bck->ckd", p, member.float()), member.sum(0))
    return {
        **{f"near_{k}": v for k, v in bank.state_dict().items()},
        **{f"mean_{k}": v for k, v in means.state_dict().items()},
    }


def fill_store(rank: int | None) -> dict[str, list]:
    """Shards that overlap, merged over ranks; then one streamed k-means step."""
    g = torch.Generator().manual_seed(4)
    sets = torch.rand(30, 4, 2, 5, generator=g) < torch.tensor([0.9, 0.5, 0.1, 0.0])[:, None, None]
    drawn = torch.rand(30, 2, 5, generator=g) < 0.2
    chosen = range(30) if rank is None else range(18) if rank == 0 else range(16, 30)
    planner = FeaturePlanner(4, capacity=20, seed=1)
    for uid in chosen:
        planner.add(sets[uid], uid=uid, drawn=drawn[uid], drawn_weight=3.0)
    planner.synchronize()
    rows = torch.randn(300, 3, generator=g)
    shard = rows if rank is None else rows.split((130, 170))[rank]
    step = lloyd_accumulate(shard.double(), torch.eye(3, dtype=torch.float64))
    return {
        "plan": planner.plan()[:-1],
        "step": [all_reduce_sum(t) for t in step],
    }


def every_block(rank: int) -> dict[str, dict]:
    """All of the above in one process group, because starting the ranks takes seconds."""
    return {
        "gather": gather_loss(rank),
        "gather_detached": gather_loss(rank, with_grad=False),
        "reduce": reduce_loss(rank),
        "mean": mean_over_ranks(torch.tensor(2.0 + 2 * rank)),
        "empty": empty_rank(rank),
        "bank": update_bank(rank),
        "store": fill_store(rank),
    }
