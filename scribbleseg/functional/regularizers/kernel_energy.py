"""Energies of soft masks under a fully connected Gaussian kernel, with closed-form gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F

from scribbleseg.functional.gaussian import (
    exact_gaussian_filter,
    pixel_features,
    window_gaussian_filter,
)
from scribbleseg.functional.losses import full_precision
from scribbleseg.functional.permutohedral import PermutohedralLattice

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = ["KernelFilter", "KernelOptions", "KernelSums", "kernel_energy", "scale_kernel_inputs"]

KernelFilter = Literal["permutohedral", "exact", "window"]


class KernelSums(NamedTuple):
    """What one pass of the filter over soft masks S = r ⊙ p and the ROI r gives; N = h·w."""

    filtered: Tensor  # r ⊙ W S, (B, C, N)
    degree: Tensor  # r ⊙ W r, (B, 1, N)
    within: Tensor  # S_c^T W S_c, (B, C)
    volume: Tensor  # r^T W S_c, (B, C)
    total: Tensor  # r^T W r, (B,)


class KernelOptions(NamedTuple):
    """The kernel W and how to filter with it.

    Attributes:
        sigma_rgb: Bandwidth in grey levels.
        sigma_xy: Bandwidth in pixels of the unscaled image.
        scale_factor: Of the image, see :func:`scale_kernel_inputs`.
        filter: Way of filtering.
        radius: Half side of the window in pixels of the scaled image, for ``"window"``.
    """

    sigma_rgb: float
    sigma_xy: float
    scale_factor: float = 1.0
    filter: KernelFilter = "permutohedral"
    radius: int = 5


def scale_kernel_inputs(
    probs: Tensor, image: Tensor, roi: Tensor | None, *, scale_factor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Bring the inputs of the kernel losses to the resolution at which pairs are measured.

    Time and memory O(B·C·H·W·scale_factor²).

    Args:
        probs: Class probabilities at any resolution, shape ``(B, C, h, w)``; scaled bilinearly.
        image: RGB, uint8 or float, shape ``(B, 3, H, W)``; nearest neighbour.
        roi: Pixels that take part, shape ``(B, H, W)``, or ``None`` for all; nearest neighbour.
        scale_factor: Of the image, in (0, 1].

    Returns:
        Probabilities, image and ROI of ``floor(H·scale_factor)`` by ``floor(W·scale_factor)``
        pixels (at least 1), in float32 or the type of the probabilities if that is wider.

    Raises:
        ValueError: If shapes disagree or the scale is out of range.

    Example:
        >>> image = torch.zeros(1, 3, 8, 6)
        >>> [x.shape[-2:] for x in scale_kernel_inputs(image, image, None, scale_factor=0.5)]
        [torch.Size([4, 3]), torch.Size([4, 3]), torch.Size([4, 3])]
    """
    if probs.ndim != 4 or image.ndim != 4 or len(probs) != len(image) or image.shape[1] != 3:
        raise ValueError(
            f"probs {tuple(probs.shape)} and image {tuple(image.shape)}: expected (B, C, h, w) and "
            "(B, 3, H, W)"
        )
    if roi is not None and roi.shape != (len(image), *image.shape[2:]):
        raise ValueError(
            f"roi {tuple(roi.shape)} for an image {tuple(image.shape)}: expected (B, H, W) of the "
            "image"
        )
    if not 0 < scale_factor <= 1:
        raise ValueError(f"scale_factor={scale_factor}: expected a factor in (0, 1]")
    probs = full_precision(probs)
    height, width = (max(int(side * scale_factor), 1) for side in image.shape[2:])
    size = (height, width)
    if probs.shape[2:] != size:
        probs = F.interpolate(probs, size=size, mode="bilinear", align_corners=False)
    mask = probs.new_ones(len(image), *image.shape[2:]) if roi is None else roi.to(probs.dtype)
    mask = F.interpolate(mask[:, None], size=size, mode="nearest")[:, 0]
    image = F.interpolate(image.detach().to(probs.dtype), size=size, mode="nearest")
    return probs, image, mask.detach()


def kernel_energy(
    probs: Tensor,
    image: Tensor,
    roi: Tensor | None,
    *,
    options: KernelOptions,
    energy: Callable[[KernelSums], tuple[Tensor, Tensor]],
) -> Tensor:
    """A loss whose value and gradient follow from the same sums, so that nothing else is kept.

    Time of one pass of the filter, memory O(B·C·h·w); runs in float32 or wider. One backward pass
    only, whose gradient is the closed form with W taken as symmetric.

    Args:
        probs: Class probabilities at any resolution, shape ``(B, C, h, w)``.
        image: RGB in 0..255, shape ``(B, 3, H, W)``.
        roi: Pixels that take part, shape ``(B, H, W)``, or ``None`` for all.
        options: The kernel.
        energy: Sums to loss (scalar) and its derivative by the masks ``S``, ``(B, C, N)``, zero
            outside the ROI.

    Returns:
        The loss, scalar.

    Raises:
        ValueError: If shapes disagree or an option is out of range.
    """
    probs, image, mask = scale_kernel_inputs(probs, image, roi, scale_factor=options.scale_factor)
    loss: Tensor = _ClosedForm.apply(probs, image, mask, options, energy)
    return loss


class _ClosedForm(torch.autograd.Function):
    """A loss whose gradient comes from the sums of its value: nothing else is kept."""

    @staticmethod
    def forward(
        ctx: Any, probs: Tensor, image: Tensor, roi: Tensor, options: KernelOptions, energy: Any
    ) -> Tensor:
        with torch.autocast(probs.device.type, enabled=False):
            loss: Tensor
            loss, gradient = energy(_kernel_sums(probs, image, roi, options))
        ctx.save_for_backward(gradient.view_as(probs))
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * grads[0], None, None, None, None


def _kernel_sums(probs: Tensor, image: Tensor, roi: Tensor, options: KernelOptions) -> KernelSums:
    """Filter the soft masks and the ROI together."""
    mask = roi.flatten(1)[:, None]
    masks = probs.flatten(2) * mask
    values = torch.cat((masks, mask), dim=1).transpose(1, 2).contiguous()
    bandwidths = {
        "sigma_xy": options.sigma_xy * options.scale_factor,
        "sigma_rgb": options.sigma_rgb,
    }
    if options.filter == "permutohedral":
        filtered = PermutohedralLattice(pixel_features(image, **bandwidths)).filter(values)
    elif options.filter == "exact":
        filtered = exact_gaussian_filter(pixel_features(image, **bandwidths), values)
    elif options.filter == "window":
        filtered = window_gaussian_filter(image, values, **bandwidths, radius=options.radius)
    else:
        raise ValueError(
            f"filter={options.filter!r}: expected 'permutohedral', 'exact' or 'window'"
        )
    filtered = filtered.transpose(1, 2)
    own, degree = filtered[:, :-1], filtered[:, -1:]
    return KernelSums(
        filtered=own * mask,
        degree=degree * mask,
        within=(masks * own).sum(2),
        volume=(masks * degree).sum(2),
        total=(mask * degree).sum((1, 2)),
    )
