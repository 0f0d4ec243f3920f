"""Regularisers that compare pixels by kernels: in windows, or all with all."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from scribbleseg.errors import ConfigError
from scribbleseg.functional.gated_crf import gated_crf_loss
from scribbleseg.functional.kernel_losses import (
    KernelFilter,
    dense_crf_loss,
    kernel_cut_loss,
    normalized_cut_loss,
)
from scribbleseg.nn.regularizers.base import (
    ColourRegularizer,
    RegularizerInput,
    RegularizerView,
)
from scribbleseg.options import check_choice, check_flag, check_number, check_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["DenseCRF", "GatedCRF", "KernelCut", "NormalizedCut"]


class GatedCRF(ColourRegularizer):
    """Gated CRF; see :func:`~scribbleseg.functional.gated_crf.gated_crf_loss`.

    Args:
        weight: Factor of the term.
        kernels: Rows ``[weight, sigma_xy, sigma_rgb]``; ``sigma_xy`` in pixels of the resolution.
        radius: Half width of the window in steps of ``dilation``.
        dilation: Pixels between the neighbours of a window.
        compatibility: Cost of each pair of classes, C rows of C numbers that are not negative, with
            a zero diagonal; by default 1 for any two classes.
        resolution: Fraction of the image size.
        options: ``image_scale`` (unit of ``sigma_rgb``), and those of
            :class:`~scribbleseg.nn.regularizers.Regularizer`.
    """

    def __init__(
        self,
        weight: float = 0.1,
        *,
        kernels: Sequence[Sequence[float]] = ((1.0, 6.0, 0.1),),
        radius: int = 5,
        dilation: int = 1,
        compatibility: Sequence[Sequence[float]] | None = None,
        resolution: float | Literal["logits"] = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(weight, resolution=resolution, **options)
        self.kernels = _kernel_rows(kernels)
        check_whole(1, radius=radius, dilation=dilation)
        self.radius = radius
        self.dilation = dilation
        costs = None if compatibility is None else _costs(compatibility)
        self.register_buffer("compatibility", costs, persistent=False)
        self.compatibility: Tensor | None

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Mean energy per valid pixel."""
        view = self.view(inputs)
        return gated_crf_loss(
            view.probs,
            self.colours(view),
            kernels=self.kernels,
            radius=self.radius,
            dilation=self.dilation,
            source=view.valid,
            destination=view.valid,
            compatibility=self.compatibility,
            across_ranks=True,
        )


class _FullyConnected(ColourRegularizer):
    """Options that the three kernel losses share.

    Args:
        weight: Factor of the term.
        sigma_rgb: Colour bandwidth: grey levels of 255, or standard deviations of the image.
        sigma_xy: Position bandwidth in pixels of the network input.
        filter: How the kernel is applied; ``window`` cuts it off at ``radius``.
        radius: Half width of that window in cells.
        resolution: Fraction of the image size, or ``logits``.
        options: ``image_scale`` (unit of ``sigma_rgb``: grey levels or standard deviations), and
            those of :class:`~scribbleseg.nn.regularizers.Regularizer`.
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        sigma_rgb: float = 15.0,
        sigma_xy: float = 100.0,
        filter: KernelFilter = "permutohedral",  # noqa: A002 (the name of the option)
        radius: int = 5,
        resolution: float | Literal["logits"] = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(weight, resolution=resolution, **options)
        check_number(sigma_rgb=sigma_rgb, sigma_xy=sigma_xy)
        check_whole(1, radius=radius)
        check_choice("filter", filter, get_args(KernelFilter))
        if sigma_rgb <= 0 or sigma_xy <= 0:
            raise ConfigError(f"sigma_rgb={sigma_rgb}, sigma_xy={sigma_xy}: expected above 0")
        self.sigma_rgb, self.sigma_xy = sigma_rgb, sigma_xy
        self.filter: KernelFilter = filter
        self.radius = radius

    def kernel(self, inputs: RegularizerInput, view: RegularizerView) -> dict[str, Any]:
        """Arguments of the loss functions at this term's resolution."""
        return {
            "roi": view.valid,
            "sigma_rgb": self.sigma_rgb,
            "sigma_xy": self.sigma_xy * self.cells_per_pixel(inputs),
            "scale_factor": 1.0,
            "filter": self.filter,
            "radius": self.radius,
        }

    def colours(self, view: RegularizerView) -> Tensor:
        """Image in units of ``sigma_rgb``, shape ``(B, 3, h, w)``."""
        return super().colours(view) * (255 if self.image_scale == "unit" else 1)


class DenseCRF(_FullyConnected):
    """DenseCRF loss; see :func:`~scribbleseg.functional.kernel_losses.dense_crf_loss`.

    Args:
        weight: Factor of the term.
        normalize: ``degree`` = in [0, 1] whatever the resolution, ``none`` = the published sum.
        options: ``sigma_rgb``, ``sigma_xy``, ``image_scale``, ``filter``, ``resolution``, and those
            of :class:`~scribbleseg.nn.regularizers.Regularizer`.
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        normalize: Literal["none", "degree"] = "degree",
        **options: Any,
    ) -> None:
        super().__init__(weight, **options)
        check_choice("normalize", normalize, ("none", "degree"))
        self.normalize: Literal["none", "degree"] = normalize

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Mean over the images."""
        view = self.view(inputs)
        return dense_crf_loss(
            view.probs, self.colours(view), normalize=self.normalize, **self.kernel(inputs, view)
        )


class NormalizedCut(_FullyConnected):
    """Normalised cut over the classes of each image.

    See :func:`~scribbleseg.functional.kernel_losses.normalized_cut_loss`.

    Args:
        weight: Factor of the term.
        present_only: Sum over the classes drawn in the image instead of all.
        options: ``sigma_rgb``, ``sigma_xy``, ``image_scale``, ``filter``, ``resolution``, and those
            of :class:`~scribbleseg.nn.regularizers.Regularizer`.
    """

    def __init__(self, weight: float = 0.1, *, present_only: bool = True, **options: Any) -> None:
        super().__init__(weight, **options)
        check_flag(present_only=present_only)
        self.present_only = present_only

    def classes(self, inputs: RegularizerInput) -> Tensor | None:
        """Which classes count in which image."""
        return inputs.class_labels if self.present_only else None

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Mean over the images, in [0, C-1]."""
        view = self.view(inputs)
        return normalized_cut_loss(
            view.probs,
            self.colours(view),
            class_mask=self.classes(inputs),
            **self.kernel(inputs, view),
        )


class KernelCut(NormalizedCut):
    """Normalised cut plus the DenseCRF loss.

    See :func:`~scribbleseg.functional.kernel_losses.kernel_cut_loss`.

    Args:
        weight: Factor of the sum.
        gamma: Weight of the DenseCRF loss, in its ``degree`` form, relative to the normalised cut.
        options: Those of :class:`NormalizedCut`.
    """

    def __init__(self, weight: float = 0.1, *, gamma: float = 0.1, **options: Any) -> None:
        super().__init__(weight, **options)
        check_number(gamma=gamma)
        if gamma < 0:
            raise ConfigError(f"gamma={gamma}: expected 0 or more")
        self.gamma = gamma

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Mean over the images."""
        view = self.view(inputs)
        return kernel_cut_loss(
            view.probs,
            self.colours(view),
            gamma=self.gamma,
            class_mask=self.classes(inputs),
            **self.kernel(inputs, view),
        )


def _costs(compatibility: Sequence[Sequence[float]]) -> Tensor:
    try:
        costs = torch.tensor([[float(cost) for cost in row] for row in compatibility])
    except (TypeError, ValueError):
        costs = torch.empty(0)
    square = costs.ndim == 2 and costs.shape[0] == costs.shape[1]
    if not square or not costs.isfinite().all() or (costs < 0).any() or costs.diagonal().any():
        raise ConfigError(
            f"compatibility={compatibility!r}: expected one row per class with one cost per class, "
            "not negative, 0 on the diagonal"
        )
    return costs


def _kernel_rows(kernels: Sequence[Sequence[float]]) -> list[tuple[float, float, float]]:
    fix = "expected rows [weight, sigma_xy, sigma_rgb] with bandwidths above 0 (.inf = no limit)"
    try:
        rows = [tuple(map(float, row)) for row in kernels]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"kernels={kernels!r}: {fix}") from error
    if not rows or any(len(r) != 3 or not math.isfinite(r[0]) for r in rows):
        raise ConfigError(f"kernels={kernels!r}: {fix}")
    if not all(r[0] >= 0 and r[1] > 0 and r[2] > 0 for r in rows):
        raise ConfigError(f"kernels={kernels!r}: {fix}")
    return [(r[0], r[1], r[2]) for r in rows]
