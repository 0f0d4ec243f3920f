"""Sums and gathers over the ranks of a run that gradients can pass through.

All are the identity where no process group is initialised, so callers need no branch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "GatheredRows",
    "all_gather_rows",
    "all_reduce_sum",
    "communication_device",
    "get_rank",
    "get_world_size",
    "is_distributed",
    "mean_over_ranks",
]


class GatheredRows(NamedTuple):
    """Rows of all ranks in rank order.

    Attributes:
        values: Shape ``(n_0 + n_1 + …, …)``.
        sizes: Number of rows of each rank.
        offset: Position of this rank's first row in ``values``.
    """

    values: Tensor
    sizes: tuple[int, ...]
    offset: int


def is_distributed() -> bool:
    """Whether a process group is initialised."""
    return dist.is_available() and dist.is_initialized()


def get_world_size() -> int:
    """Number of ranks; 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def get_rank() -> int:
    """Number of this rank within the group; 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def communication_device() -> torch.device:
    """Device on which tensors must lie to be sent: the GPU for NCCL, else the host."""
    if is_distributed() and "nccl" in str(dist.get_backend()):
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_: Any, *grads: Tensor) -> Tensor:
        # every rank's loss depends on every rank's input
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def all_reduce_sum(x: Tensor) -> Tensor:
    r"""Sum over the ranks; the gradient is the sum of the ranks' gradients.

    .. math:: y = \sum_r x_r, \quad
        \frac{\partial \sum_r L_r}{\partial x_q} = \sum_r \frac{\partial L_r}{\partial y}

    DDP averages parameter gradients afterwards. A loss that every rank computes from ``y`` in full
    then has the same gradient as one process on the whole batch; ``torch.distributed.all_reduce``
    would give one that is too small by the number of ranks. Time and memory O(size of x).

    The backward pass communicates too: use the result in the loss of every rank (times 0 if need
    be), in the same order, or the ranks wait for each other for ever.

    Args:
        x: Same shape and type on every rank, and on a device that the backend can send.

    Returns:
        Sum, same shape; ``x`` itself without a process group.

    Example:
        >>> all_reduce_sum(torch.ones(2)).tolist()
        [1.0, 1.0]
    """
    if not is_distributed():
        return x
    total: Tensor = _AllReduceSum.apply(x)
    return total


@torch.no_grad()
def mean_over_ranks(count: Tensor) -> Tensor:
    r"""Mean of a count over the ranks, without gradient.

    A rank's sum divided by it averages, over the ranks, to the mean over the union of their
    batches: :math:`\frac1W \sum_r \frac{s_r}{n / W} = \frac{\sum_r s_r}{n}`. DDP averages gradients
    the same way.

    Args:
        count: Same shape and type on every rank; every rank must call.

    Returns:
        Same shape; ``count`` itself without a process group.

    Example:
        >>> mean_over_ranks(torch.tensor(3.0)).item()
        3.0
    """
    if not is_distributed():
        return count
    total = count.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _sizes(x: Tensor) -> tuple[int, ...]:
    own = torch.tensor([len(x)], device=x.device)
    sizes = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, own)
    return tuple(torch.cat(sizes).tolist())


class _AllGatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: tuple[int, ...]) -> Tensor:
        ctx.sizes = sizes
        longest = max(sizes)
        padded = x.new_zeros(longest, *x.shape[1:])
        padded[: len(x)] = x
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        # a reduce-scatter of unequal parts, which gloo does not have
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        rank = dist.get_rank()
        start = sum(ctx.sizes[:rank])
        return total[start : start + ctx.sizes[rank]], None


def all_gather_rows(x: Tensor, *, with_grad: bool = True) -> GatheredRows:
    r"""Rows of all ranks, one after the other; ranks may have different numbers of rows.

    With ``with_grad`` the gradient of a row is the sum over the ranks of what their losses say,

    .. math:: \frac{\partial \sum_r L_r}{\partial x_q} =
        \sum_r \frac{\partial L_r}{\partial y}\bigg|_{\text{rows of } q}

    which, averaged by DDP, is the gradient of the mean of the ranks' losses. Time and memory
    O(ranks · longest · row); the backward pass holds one gradient of the size of the result. The
    row counts are read by the host (a device synchronisation).

    With gradient, the backward pass communicates too: ``x`` must require grad on every rank and the
    result must enter every rank's loss (times 0 if need be), also where ``x`` has no rows.

    Args:
        x: Own rows, shape ``(n, …)``; n may differ between ranks and be 0, the rest and the type
            may not. On a device that the backend can send.
        with_grad: Whether gradients flow back to the other ranks; if not, none flow at all.

    Returns:
        The rows in rank order, the row counts, and the position of this rank's rows. Without a
        process group ``x`` itself (detached without ``with_grad``) with offset 0.

    Raises:
        ValueError: If ``x`` has no rows dimension.

    Example:
        >>> all_gather_rows(torch.ones(2, 3)).sizes
        (2,)
    """
    if x.ndim == 0:
        raise ValueError("x is a scalar, expected rows (n, …); pass x[None] to gather scalars")
    if not is_distributed():
        return GatheredRows(x if with_grad else x.detach(), (len(x),), 0)
    sizes = _sizes(x)
    offset = sum(sizes[: dist.get_rank()])
    if max(sizes) == 0:
        return GatheredRows(x if with_grad else x.detach(), sizes, offset)
    if x.dtype == torch.bool:  # gloo cannot send it
        values = _AllGatherRows.apply(x.to(torch.uint8), sizes)
        return GatheredRows(values.bool(), sizes, offset)
    values = _AllGatherRows.apply(x if with_grad else x.detach(), sizes)
    return GatheredRows(values, sizes, offset)
