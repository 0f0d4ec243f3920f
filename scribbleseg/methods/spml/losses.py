"""The pixel-to-segment loss that all relations of SPML share: masked log-sum-exp, in chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.autograd.function import once_differentiable

from scribbleseg.functional.losses import full_precision, weighted_mean

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SegSortMode", "segsort_loss"]

SegSortMode = Literal["segsort+", "segsort"]


def segsort_loss(
    pixels: Tensor,
    prototypes: Tensor,
    own: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    concentration: float,
    group: Tensor | None = None,
    mode: SegSortMode = "segsort+",
    weight: Tensor | None = None,
    reduction: Literal["mean", "none"] = "mean",
    chunk_size: int | None = 4096,
    across_ranks: bool = False,
) -> Tensor:
    r"""Contrast of every pixel with segments that are like it and segments that are not.

    .. math:: \ell_i = -\log \frac{P_i}{P_i + N_i}, \quad
        P_i = \sum_{s \in S^+_i \setminus \{s(i)\}} e^{\kappa z_i \cdot \mu_s}, \quad
        N_i = \sum_{s \in S^-_i} e^{\kappa z_i \cdot \mu_s}

    where the own segment :math:`s(i)` takes the place of :math:`P_i` if it is the only positive one
    (``"segsort+"``: SPML, ICLR 2021), or always (``"segsort"``: SegSort, ICCV 2019). Segments in
    neither set do not matter, and a pixel without negatives has loss 0. Everything is kept as
    logarithms of sums, in float32 also under autocast: the quotient of sums of exponentials
    overflows at κ = 100, and loses positives that are far less similar than the own segment.

    The similarities exist for ``chunk_size`` pixels at a time and are computed again for the
    gradient: time O(N·M·D), memory O(``chunk_size``·M + (N + M)·D). No device synchronisation.

    Args:
        pixels: z, unit vectors, float, shape ``(N, D)``.
        prototypes: μ, unit vectors, shape ``(M, D)``.
        own: Position of each pixel's segment among the prototypes, int64, shape ``(N,)``.
        positive: S⁺ of each group of pixels, bool, shape ``(G, M)``; may hold the own segment.
        negative: S⁻ of each group, bool, shape ``(G, M)``.
        concentration: κ, an inverse temperature above 0.
        group: Group of each pixel, int64, shape ``(N,)``; by default every pixel is its own.
        mode: Which of the two.
        weight: How much each pixel counts in the mean, shape ``(N,)``; all alike by default.
        reduction: ``"mean"``, or ``"none"`` for one value per pixel.
        chunk_size: Pixels at a time; ``None`` = all.
        across_ranks: In a distributed run, divide by the weight of all ranks, so that the ranks'
            average is the loss of one process on all pixels. Every rank must then call.

    Returns:
        Scalar in nats, an exact differentiable 0 where nothing counts; or shape ``(N,)``.

    Raises:
        ValueError: If shapes disagree or an option is out of range.

    Example:
        >>> z, mu = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        >>> like, unlike = torch.tensor([[True, False]]), torch.tensor([[False, True]])
        >>> loss = segsort_loss(z, mu, torch.tensor([0]), like, unlike, concentration=0.5)
        >>> round(loss.item(), 4)  # log(1 + 1 / e)
        0.3133
    """
    groups = torch.arange(len(pixels), device=pixels.device) if group is None else group
    _check(pixels, prototypes, own, positive, negative, groups, weight)
    if mode not in ("segsort+", "segsort") or reduction not in ("mean", "none"):
        raise ValueError(
            f"mode={mode!r}, reduction={reduction!r}: expected 'segsort+' or 'segsort', and 'mean' "
            "or 'none'"
        )
    if not concentration > 0 or (chunk_size is not None and chunk_size < 1):
        raise ValueError(
            f"concentration={concentration}, chunk_size={chunk_size}: expected numbers above 0"
        )
    z, mu = full_precision(pixels), full_precision(prototypes)
    if not len(z) or not len(mu):
        losses = z.sum(1) * 0 + mu.sum() * 0
    else:
        losses = _SegSort.apply(
            z,
            mu,
            own,
            positive,
            negative,
            groups,
            float(concentration),
            mode == "segsort",
            chunk_size or len(z),
        )
    if reduction == "none":
        return losses
    counted = torch.ones_like(losses) if weight is None else weight.to(losses.dtype)
    return weighted_mean((losses * counted).sum(), counted.sum(), across_ranks=across_ranks)


def _check(
    pixels: Tensor,
    prototypes: Tensor,
    own: Tensor,
    positive: Tensor,
    negative: Tensor,
    group: Tensor,
    weight: Tensor | None,
) -> None:
    if pixels.ndim != 2 or prototypes.ndim != 2 or pixels.shape[1] != prototypes.shape[1]:
        raise ValueError(
            f"pixels {tuple(pixels.shape)} and prototypes {tuple(prototypes.shape)} disagree: "
            "expected (N, D) and (M, D)"
        )
    count, segments = len(pixels), len(prototypes)
    if positive.shape != negative.shape or positive.ndim != 2 or positive.shape[1] != segments:
        raise ValueError(
            f"positive {tuple(positive.shape)} and negative {tuple(negative.shape)} disagree with "
            f"{segments} prototypes: expected (G, {segments}) for both"
        )
    for name, values in (("own", own), ("group", group), ("weight", weight)):
        if values is not None and values.shape != (count,):
            raise ValueError(f"{name} has shape {tuple(values.shape)}, expected ({count},)")
    if group.is_floating_point() or own.is_floating_point():
        raise ValueError(f"own is {own.dtype} and group {group.dtype}: expected int64")


class _SegSort(torch.autograd.Function):
    """Loss of every pixel; the gradient is the difference of two softmaxes over the segments."""

    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        mu: Tensor,
        own: Tensor,
        positive: Tensor,
        negative: Tensor,
        group: Tensor,
        kappa: float,
        own_only: bool,
        chunk: int,
    ) -> Tensor:
        ctx.options = (kappa, own_only, chunk)
        like, unlike = z.new_empty(len(z)), z.new_empty(len(z))
        with torch.autocast(z.device.type, enabled=False):
            for start in range(0, len(z), chunk):
                part = slice(start, start + chunk)
                s = kappa * (z[part] @ mu.T)
                plus = _positives(positive, group[part], own[part], own_only)
                like[part] = s.masked_fill(~plus, -torch.inf).logsumexp(1)
                minus = negative[group[part]]
                unlike[part] = s.masked_fill_(~minus, -torch.inf).logsumexp(1)
        ctx.save_for_backward(z, mu, own, positive, negative, group, like, unlike)
        return torch.logaddexp(unlike - like, torch.zeros_like(like))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        z, mu, own, positive, negative, group, like, unlike = ctx.saved_tensors
        kappa, own_only, chunk = ctx.options
        scale = kappa * grads[0] * (unlike - like).sigmoid()
        finite = torch.where(unlike == -torch.inf, 0, unlike)  # then no exponential counts
        grad_z = torch.empty_like(z) if ctx.needs_input_grad[0] else None
        grad_mu = torch.zeros_like(mu) if ctx.needs_input_grad[1] else None
        with torch.autocast(z.device.type, enabled=False):
            for start in range(0, len(z), chunk):
                part = slice(start, start + chunk)
                s = kappa * (z[part] @ mu.T)
                plus = _positives(positive, group[part], own[part], own_only)
                down = (s - like[part, None]).masked_fill_(~plus, -torch.inf).exp_()
                minus = negative[group[part]]
                up = s.sub_(finite[part, None]).masked_fill_(~minus, -torch.inf).exp_()
                share = up.sub_(down).mul_(scale[part, None])
                if grad_z is not None:
                    grad_z[part] = share @ mu
                if grad_mu is not None:
                    grad_mu.addmm_(share.T, z[part])
        return grad_z, grad_mu, *[None] * 7


def _positives(positive: Tensor, group: Tensor, own: Tensor, own_only: bool) -> Tensor:
    """Segments in the numerator of each pixel, bool, ``(n, M)``: never none."""
    rows = positive[group]
    own = own[:, None]
    if own_only:
        return torch.zeros_like(rows).scatter_(1, own, True)
    rows.scatter_(1, own, False)
    return rows.scatter_(1, own, ~rows.any(1, keepdim=True))
