"""Gated CRF loss: a Potts energy over small windows, without unfolding them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from scribbleseg.functional.distributed import mean_over_ranks
from scribbleseg.functional.gaussian import window_pairs
from scribbleseg.functional.geometry import area_pool, whole_cells
from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["GatedKernel", "gated_crf_loss"]


class GatedKernel(NamedTuple):
    """One Gaussian kernel of the energy.

    Attributes:
        weight: Factor of this kernel.
        sigma_xy: Standard deviation in pixels of the prediction; ``inf`` = position ignored.
        sigma_rgb: Standard deviation in units of the image; ``inf`` = colour ignored.
    """

    weight: float = 1.0
    sigma_xy: float = 6.0
    sigma_rgb: float = 0.1


def gated_crf_loss(
    probs: Tensor,
    image: Tensor,
    *,
    kernels: Sequence[tuple[float, float, float]] = (GatedKernel(),),
    radius: int = 5,
    dilation: int = 1,
    source: Tensor | None = None,
    destination: Tensor | None = None,
    compatibility: Tensor | None = None,
    across_ranks: bool = False,
) -> Tensor:
    r"""Disagreement of neighbours that look alike (Obukhov et al., arXiv 1906.04651, eq. 5-9).

    .. math:: L = \frac1Z \sum_i d_i \sum_{0 < \|i-j\|_\infty \le r} s_j K_{ij}
        \Bigl(1 - \sum_c p_{ic} p_{jc}\Bigr), \quad
        K_{ij} = \sum_m w_m e^{-\|x_i-x_j\|^2/2\sigma_{xy}^2 - \|I_i-I_j\|^2/2\sigma_{rgb}^2}

    With a compatibility matrix the bracket is :math:`p_i^T \bar\mu p_j`. :math:`Z` is the sum of
    ``destination`` if given, else of ``source`` if given, else B·h·w. The gradient is formed
    together with the value, one shift of the window at a time: time O(B·C·h·w·r²), memory
    O(B·C·h·w). No gradient reaches the image.

    Args:
        probs: Probabilities, float, shape ``(B, C, h, w)``.
        image: Image without colour augmentation, shape ``(B, K, H, W)``; averaged down to
            ``(h, w)``. Its units are those of ``sigma_rgb``.
        kernels: Rows ``(weight, sigma_xy, sigma_rgb)``, see :class:`GatedKernel`.
        radius: :math:`r` in pixels of the prediction.
        dilation: Distance between the pixels of a window, so that it spans
            ``radius * dilation`` at the same cost (1 in the paper).
        source: :math:`s`, which pixels may inform others, bool or 0/1, shape ``(B, H', W')`` with
            any size; a pixel counts only if its whole cell is set. Pass the image area (not
            padding).
        destination: :math:`d`, which pixels are penalised, as ``source``.
        compatibility: :math:`\mu`, cost of each pair of classes, not negative, zero diagonal, shape
            ``(C, C)``; rows are scaled to sum to C-1.
        across_ranks: See :func:`~scribbleseg.functional.losses.weighted_mean`.

    Returns:
        Scalar: mean energy per pixel, not negative; an exact differentiable 0 if no pixel counts.

    Raises:
        ValueError: If shapes or ranges do not fit.

    Example:
        >>> probs = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 4, 4)
        >>> gated_crf_loss(probs, torch.zeros(1, 3, 4, 4)).item()
        0.0
    """
    _check(probs, image, kernels, radius, dilation, compatibility)
    probs = full_precision(probs)
    size = (probs.shape[2], probs.shape[3])
    with torch.no_grad(), torch.autocast(probs.device.type, enabled=False):
        colours = area_pool(image.to(probs.dtype), size)
        masks = [
            None if m is None else whole_cells(m, size)[:, None].to(probs.dtype)
            for m in (source, destination)
        ]
        cost = None if compatibility is None else _scaled_compatibility(compatibility.to(probs))
    with torch.autocast(probs.device.type, enabled=False):
        result: Tensor = _GatedCRF.apply(
            probs,
            colours,
            masks[0],
            masks[1],
            cost,
            tuple(map(tuple, kernels)),
            radius,
            dilation,
            across_ranks,
        )
    return result


def _scaled_compatibility(cost: Tensor) -> Tensor:
    return (len(cost) - 1) * cost / cost.sum(dim=1, keepdim=True).clamp_min(1e-12)


class _GatedCRF(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        probs: Tensor,
        colours: Tensor,
        source: Tensor | None,
        destination: Tensor | None,
        cost: Tensor | None,
        kernels: tuple[tuple[float, float, float], ...],
        radius: int,
        dilation: int,
        across_ranks: bool,
    ) -> Tensor:
        height, width = probs.shape[-2:]
        given = source if source is not None else destination
        ones = probs.new_ones(1, 1, 1, 1)
        s = ones if source is None else source
        d = ones if destination is None else destination
        s, d = (m.expand(probs.shape[0], 1, height, width) for m in (s, d))
        symmetric = source is None and destination is None
        # sums over the window: kernel and, weighted by s or d, probabilities
        degree = probs.new_zeros(probs.shape[0], 1, height, width)
        informed = torch.zeros_like(probs)
        informing = informed if symmetric else torch.zeros_like(probs)
        for here, there, squared in window_pairs((height, width), radius, dilation):
            kernel = _kernel(colours[here], colours[there], squared, kernels)
            degree[here] += kernel * s[there]
            degree[there] += kernel * s[here]
            if symmetric:
                informed[here].addcmul_(kernel, probs[there])
                informed[there].addcmul_(kernel, probs[here])
                continue
            informed[here].addcmul_(kernel * s[there], probs[there])
            informed[there].addcmul_(kernel * s[here], probs[here])
            informing[here].addcmul_(kernel * d[there], probs[there])
            informing[there].addcmul_(kernel * d[here], probs[here])
        if given is None:
            total = torch.full_like(degree[0, 0, 0, 0], float(degree.numel()))
        else:
            total = (destination if destination is not None else given).sum()
        if across_ranks:
            total = mean_over_ranks(total)
        total = torch.where(total > 0, total, 1)
        if cost is None:
            energy = (d * (degree - (probs * informed).sum(1, keepdim=True))).sum()
            gradient = -(d * informed + s * informing) / total
        else:
            forth = torch.einsum("ck,bkhw->bchw", cost, informed)
            back = torch.einsum("kc,bkhw->bchw", cost, informing)
            energy = (d * probs * forth).sum()
            gradient = (d * forth + s * back) / total
        ctx.save_for_backward(gradient)
        return energy / total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (grad_output * gradient, *(None,) * 8)


def _kernel(
    here: Tensor, there: Tensor, squared: float, kernels: tuple[tuple[float, float, float], ...]
) -> Tensor:
    """Kernel values of pairs with these colours and squared distance, shape ``(B, 1, h', w')``."""
    difference = (here - there).square().sum(1, keepdim=True)
    value = torch.zeros_like(difference)
    for weight, sigma_xy, sigma_rgb in kernels:
        exponent = difference * (-0.5 / sigma_rgb**2) - 0.5 * squared / sigma_xy**2
        value += weight * exponent.exp_()
    return value


def _check(
    probs: Tensor,
    image: Tensor,
    kernels: Sequence[tuple[float, float, float]],
    radius: int,
    dilation: int,
    compatibility: Tensor | None,
) -> None:
    if probs.ndim != 4 or image.ndim != 4 or len(probs) != len(image):
        raise ValueError(
            f"probs {tuple(probs.shape)} and image {tuple(image.shape)} disagree: expected "
            "(B, C, h, w) and (B, K, H, W)"
        )
    if probs.shape[2] > image.shape[2] or probs.shape[3] > image.shape[3]:
        raise ValueError(
            f"the image {tuple(image.shape[2:])} is smaller than the prediction "
            f"{tuple(probs.shape[2:])}; give the image at network input size"
        )
    bad = [row for row in kernels if len(row) != 3 or row[1] <= 0 or row[2] <= 0]
    if not kernels or bad or radius < 1 or dilation < 1:
        raise ValueError(
            f"kernels={list(kernels)}, radius={radius}, dilation={dilation}: expected rows "
            "(weight, sigma_xy > 0, sigma_rgb > 0), radius and dilation of at least 1"
        )
    classes = probs.shape[1]
    if compatibility is not None and tuple(compatibility.shape) != (classes, classes):
        raise ValueError(
            f"compatibility has shape {tuple(compatibility.shape)}, expected {(classes, classes)}"
        )
