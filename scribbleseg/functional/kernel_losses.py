"""Losses on a fully connected Gaussian kernel: dense CRF, normalised cut and kernel cut."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from scribbleseg.functional.gaussian import (
    exact_gaussian_filter,
    pixel_features,
    scale_kernel_inputs,
    window_gaussian_filter,
)
from scribbleseg.functional.permutohedral import PermutohedralLattice

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = [
    "KernelFilter",
    "KernelOptions",
    "KernelSums",
    "dense_crf_loss",
    "kernel_cut_loss",
    "normalized_cut_loss",
]

_EPS = 1e-12
KernelFilter = Literal["permutohedral", "exact", "window"]


def dense_crf_loss(
    probs: Tensor,
    image: Tensor,
    *,
    roi: Tensor | None = None,
    normalize: Literal["none", "degree"] = "degree",
    **kernel: Any,
) -> Tensor:
    r"""Potts energy of soft masks on a fully connected Gaussian kernel, up to a constant.

    .. math:: L = -\frac{1}{B} \sum_b \sum_c S_c^\top W S_c, \quad S_c = r \odot p_c, \quad
        W_{ij} = e^{-\|x_i - x_j\|^2 / 2 \sigma_{xy}^2 - \|I_i - I_j\|^2 / 2 \sigma_{rgb}^2}

    (Tang et al., On Regularized Losses for Weakly-supervised CNN Segmentation, ECCV 2018, dense CRF
    loss; :math:`i = j` included). As probabilities sum to one it differs from
    :math:`\sum_c S_c^\top W (1 - S_c)` by a constant only. The plain sum grows with the square of
    the resolution, so that any change of the crop changes its weight; ``normalize="degree"`` is
    :math:`\frac{1}{B} \sum_b [1 - \sum_c S_c^\top W S_c / r^\top W r]`, which is free of that and
    of the factor by which the lattice falls short of the exact sum.

    Time with N = H·W·scale_factor² pixels per image: O(B·N·C) on the lattice, O(B·N²·C) exactly,
    O(B·N·C·radius²) in windows. Memory O(B·N·C); the backward pass needs one more tensor of that
    size, and no second filter. On CUDA the lattice waits for the device twice. One backward pass
    only. On the lattice it takes W as symmetric, as is usual: the lattice leaves out points that no
    pixel touches, so it is not quite symmetric, and the gradient differs by 6 to 9 % (relative
    norm, on the logits) from that of the computed value, in nearly the same direction.

    Args:
        probs: Class probabilities at any resolution, shape ``(B, C, h, w)``; scaled bilinearly.
        image: RGB in 0..255 without colour augmentation, uint8 or float, shape ``(B, 3, H, W)``;
            no gradient flows to it.
        roi: Pixels that take part (not padding), bool or 0..1, shape ``(B, H, W)``; all by default.
            On the lattice the others still create points that neighbours blur through, so that the
            value depends on their colours: by some percent with ``normalize="none"``, below 1e-4
            with ``"degree"``. Fill padding with one colour.
        normalize: ``"none"`` as published (weight 2e-9 with the lattice), or ``"degree"``.
        kernel: Fields of :class:`~scribbleseg.functional.kernel_losses.KernelOptions`.

    Returns:
        Scalar without unit, in [0, 1] for ``"degree"`` (on the lattice, nearly), at most 0 for
        ``"none"``; an exact differentiable 0 if the ROI is empty.

    Raises:
        ValueError: If shapes disagree or an option is out of range.

    Example:
        >>> probs, image = torch.full((1, 2, 8, 8), 0.5), torch.zeros(1, 3, 8, 8)
        >>> round(dense_crf_loss(probs, image).item(), 4)
        0.5
    """
    if normalize not in ("none", "degree"):
        raise ValueError(f"normalize={normalize!r}: expected 'none' or 'degree'")

    def energy(sums: KernelSums) -> tuple[Tensor, Tensor]:
        batch = len(sums.within)
        within = sums.within.sum(1)
        if normalize == "none":
            return -within.sum() / batch, sums.filtered * (-2 / batch)
        total = sums.total
        loss = torch.where(total > 0, 1 - within / _nonzero(total), 0).sum() / batch
        return loss, sums.filtered * (-2 / batch / _nonzero(total))[:, None, None]

    return _loss(probs, image, roi, KernelOptions(**kernel), energy)


def normalized_cut_loss(
    probs: Tensor,
    image: Tensor,
    *,
    roi: Tensor | None = None,
    class_mask: Tensor | None = None,
    **kernel: Any,
) -> Tensor:
    r"""Normalised cut of soft masks on a fully connected Gaussian kernel.

    .. math:: L = \frac{1}{B} \sum_b \sum_c \frac{S_c^\top W (1 - S_c)}{d^\top S_c + \epsilon},
        \quad d = W r, \quad \epsilon = 10^{-12}

    with S and W of :func:`dense_crf_loss`, W restricted to the ROI (Tang et al., Normalized Cut
    Loss for Weakly-supervised CNN Segmentation, CVPR 2018, eq. 5). It does not depend on the scale
    of W. Small classes get large gradients: restrict the sum to the classes of the image with
    ``class_mask``. Time, memory and waiting as of :func:`dense_crf_loss`.

    Args:
        probs: See :func:`dense_crf_loss`, as for all arguments not listed here.
        image: RGB in 0..255.
        roi: Pixels that take part.
        class_mask: Classes that count in each image, bool or 0/1, shape ``(B, C)``; all by default.
        kernel: Fields of :class:`~scribbleseg.functional.kernel_losses.KernelOptions`.

    Returns:
        Scalar without unit in [0, C]; an exact differentiable 0 if the ROI is empty or no class
        counts.

    Raises:
        ValueError: If shapes disagree or an option is out of range.

    Example:
        >>> probs, image = torch.full((1, 2, 8, 8), 0.5), torch.zeros(1, 3, 8, 8)
        >>> round(normalized_cut_loss(probs, image).item(), 3)
        1.0
    """
    counted = _counted(class_mask, probs)
    return _loss(
        probs, image, roi, KernelOptions(**kernel), lambda sums: _normalized_cut(sums, counted)
    )


def kernel_cut_loss(
    probs: Tensor,
    image: Tensor,
    *,
    gamma: float = 0.1,
    normalize: Literal["none", "degree"] = "degree",
    roi: Tensor | None = None,
    class_mask: Tensor | None = None,
    **kernel: Any,
) -> Tensor:
    r"""Normalised cut plus dense CRF energy, in one pass of the filter.

    .. math:: L = L_{NC} + \frac{\gamma}{B} \sum_b \sum_c S_c^\top W (1 - S_c)

    (Tang et al., On Regularized Losses for Weakly-supervised CNN Segmentation, ECCV 2018, kernel
    cut), the second term divided by :math:`r^\top W r` of each image with ``normalize="degree"``.
    Time, memory and waiting as of :func:`dense_crf_loss`.

    Args:
        probs: See :func:`dense_crf_loss`, as for all arguments not listed here.
        image: RGB in 0..255.
        gamma: Weight of the CRF energy relative to the normalised cut, not negative.
        normalize: ``"none"`` as published, or ``"degree"``, for which 0.1 is a start.
        roi: Pixels that take part.
        class_mask: Classes that count in the normalised cut, shape ``(B, C)``; all by default.
        kernel: Fields of :class:`~scribbleseg.functional.kernel_losses.KernelOptions`.

    Returns:
        Scalar without unit, not negative (on the lattice, nearly); an exact differentiable 0 if
        the ROI is empty.

    Raises:
        ValueError: If shapes disagree or an option is out of range.

    Example:
        >>> probs, image = torch.full((1, 2, 8, 8), 0.5), torch.zeros(1, 3, 8, 8)
        >>> round(kernel_cut_loss(probs, image).item(), 3)
        1.05
    """
    if not gamma >= 0 or normalize not in ("none", "degree"):
        raise ValueError(
            f"gamma={gamma}, normalize={normalize!r}: expected a weight of at least 0, and 'none' "
            "or 'degree'"
        )
    counted = _counted(class_mask, probs)

    def energy(sums: KernelSums) -> tuple[Tensor, Tensor]:
        cut = sums.volume.sum(1) - sums.within.sum(1)
        weight = gamma / len(cut) * torch.ones_like(cut)
        if normalize == "degree":
            weight = torch.where(sums.total > 0, weight / _nonzero(sums.total), 0)
        loss, gradient = _normalized_cut(sums, counted)
        slope = sums.degree - 2 * sums.filtered
        return loss + (weight * cut).sum(), gradient + weight[:, None, None] * slope

    return _loss(probs, image, roi, KernelOptions(**kernel), energy)


def _normalized_cut(sums: KernelSums, counted: Tensor | None) -> tuple[Tensor, Tensor]:
    volume = sums.volume + _EPS
    weight = (sums.total > 0)[:, None].to(volume.dtype) / len(volume)
    if counted is not None:
        weight = weight * counted.to(volume.dtype)
    loss = (weight * (1 - sums.within / volume)).sum()
    on_degree = (weight * sums.within / volume**2)[..., None]
    on_filtered = (weight * -2 / volume)[..., None]
    return loss, on_degree * sums.degree + on_filtered * sums.filtered


def _counted(class_mask: Tensor | None, probs: Tensor) -> Tensor | None:
    if class_mask is not None and class_mask.shape != probs.shape[:2]:
        raise ValueError(
            f"class_mask {tuple(class_mask.shape)} for probs {tuple(probs.shape)}: expected (B, C)"
        )
    return class_mask


def _nonzero(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 1)


class KernelSums(NamedTuple):
    """What one pass of the filter over soft masks S = r ⊙ p and the ROI r gives; N = h·w."""

    filtered: Tensor  # r ⊙ W S, (B, C, N)
    degree: Tensor  # r ⊙ W r, (B, 1, N)
    within: Tensor  # S_c^T W S_c, (B, C)
    volume: Tensor  # r^T W S_c, (B, C)
    total: Tensor  # r^T W r, (B,)


class KernelOptions(NamedTuple):
    """The kernel W of a loss and how to filter with it.

    Attributes:
        sigma_rgb: Bandwidth in grey levels.
        sigma_xy: Bandwidth in pixels of the unscaled image.
        scale_factor: Image and ROI are first shrunk by this, nearest neighbour, in (0, 1].
        filter: ``"permutohedral"`` as published, ``"exact"`` for tests and tiny images, or
            ``"window"``: only pairs up to ``radius`` apart.
        radius: Half side of the window in pixels of the shrunk image.
    """

    sigma_rgb: float = 15.0
    sigma_xy: float = 100.0
    scale_factor: float = 0.5
    filter: KernelFilter = "permutohedral"
    radius: int = 5


def _loss(
    probs: Tensor,
    image: Tensor,
    roi: Tensor | None,
    options: KernelOptions,
    energy: Callable[[KernelSums], tuple[Tensor, Tensor]],
) -> Tensor:
    """A loss of the sums; ``energy`` also returns its derivative by the masks, ``(B, C, N)``."""
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
