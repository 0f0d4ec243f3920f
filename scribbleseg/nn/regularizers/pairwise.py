"""Regularisers that compare pixels: windows, fully connected kernels, trees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch.nn.functional as F
from torch import nn

from scribbleseg.errors import ConfigError
from scribbleseg.functional.regularizers import (
    dense_crf_loss,
    gated_crf_loss,
    kernel_cut_loss,
    normalized_cut_loss,
    tree_energy_loss,
)
from scribbleseg.nn.regularizers.base import (
    ImageScale,
    Regularizer,
    RegularizerInput,
    RegularizerView,
    scaled_image,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["DenseCRF", "GatedCRF", "KernelCut", "NormalizedCut", "TreeEnergy"]

KernelFilter = Literal["permutohedral", "exact", "window"]


class GatedCRF(Regularizer):
    """Gated CRF; see :func:`~scribbleseg.functional.regularizers.gated_crf.gated_crf_loss`.

    Args:
        weight: Factor of the term.
        kernels: Rows ``[weight, sigma_xy, sigma_rgb]``; ``sigma_xy`` in pixels of the resolution.
        radius: Half width of the window in steps of ``dilation``.
        dilation: Pixels between the neighbours of a window.
        image_scale: ``unit``: colours in [0, 1]; ``std``: in standard deviations of the image.
        resolution: Fraction of the image size.
        options: See :class:`~scribbleseg.nn.regularizers.Regularizer`.
    """

    def __init__(
        self,
        weight: float = 0.1,
        *,
        kernels: Sequence[Sequence[float]] = ((1.0, 6.0, 0.1),),
        radius: int = 5,
        dilation: int = 1,
        image_scale: ImageScale = "unit",
        resolution: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(weight, resolution=resolution, **options)
        rows = [tuple(map(float, row)) for row in kernels]
        if not rows or any(len(r) != 3 or r[1] <= 0 or r[2] <= 0 for r in rows):
            raise ConfigError(
                f"kernels={[list(r) for r in rows]}: expected rows [weight, sigma_xy, sigma_rgb] "
                "with bandwidths above 0"
            )
        if radius < 1 or dilation < 1:
            raise ConfigError(f"radius={radius}, dilation={dilation}: expected at least 1")
        self.kernels = [(row[0], row[1], row[2]) for row in rows]
        self.radius = radius
        self.dilation = dilation
        self.image_scale: ImageScale = image_scale

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Mean energy per valid pixel."""
        view = self.view(inputs)
        return gated_crf_loss(
            view.probs,
            scaled_image(view, self.image_scale),
            kernels=self.kernels,
            radius=self.radius,
            dilation=self.dilation,
            source=view.valid,
            destination=view.valid,
            across_ranks=True,
        )


class _FullyConnected(Regularizer):
    """Options that the three kernel losses share.

    Args:
        weight: Factor of the term.
        sigma_rgb: Colour bandwidth: grey levels of 255, or standard deviations of the image.
        sigma_xy: Position bandwidth in pixels of the network input.
        image_scale: Unit of ``sigma_rgb``: ``unit`` = grey levels, ``std`` = standard deviations.
        filter: How the kernel is applied.
        resolution: Fraction of the image size.
        options: See :class:`~scribbleseg.nn.regularizers.Regularizer`.
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        sigma_rgb: float = 15.0,
        sigma_xy: float = 100.0,
        image_scale: ImageScale = "unit",
        filter: KernelFilter = "permutohedral",  # noqa: A002 (the name of the option)
        resolution: float = 0.5,
        **options: Any,
    ) -> None:
        super().__init__(weight, resolution=resolution, **options)
        if sigma_rgb <= 0 or sigma_xy <= 0:
            raise ConfigError(f"sigma_rgb={sigma_rgb}, sigma_xy={sigma_xy}: expected above 0")
        self.sigma_rgb, self.sigma_xy = sigma_rgb, sigma_xy
        self.image_scale: ImageScale = image_scale
        self.filter: KernelFilter = filter

    def kernel(self, view: RegularizerView) -> dict[str, Any]:
        """Arguments of the loss functions at this term's resolution."""
        return {
            "roi": view.valid,
            "sigma_rgb": self.sigma_rgb,
            "sigma_xy": self.sigma_xy * self.resolution,
            "scale_factor": 1.0,
            "filter": self.filter,
        }

    def colours(self, view: RegularizerView) -> Tensor:
        """The image in units of ``sigma_rgb``."""
        image = scaled_image(view, self.image_scale)
        return image * 255 if self.image_scale == "unit" else image


class DenseCRF(_FullyConnected):
    """DenseCRF loss; see :func:`~scribbleseg.functional.regularizers.dense_crf.dense_crf_loss`.

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
        self.normalize: Literal["none", "degree"] = normalize

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Mean over the images."""
        view = self.view(inputs)
        return dense_crf_loss(
            view.probs, self.colours(view), normalize=self.normalize, **self.kernel(view)
        )


class NormalizedCut(_FullyConnected):
    """Normalised cut over the classes of each image.

    See :func:`~scribbleseg.functional.regularizers.dense_crf.normalized_cut_loss`.

    Args:
        weight: Factor of the term.
        present_only: Sum over the classes drawn in the image instead of all.
        options: ``sigma_rgb``, ``sigma_xy``, ``image_scale``, ``filter``, ``resolution``, and those
            of :class:`~scribbleseg.nn.regularizers.Regularizer`.
    """

    def __init__(self, weight: float = 0.1, *, present_only: bool = True, **options: Any) -> None:
        super().__init__(weight, **options)
        self.present_only = present_only

    def classes(self, inputs: RegularizerInput) -> Tensor | None:
        """Which classes count in which image."""
        return inputs.class_labels if self.present_only else None

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Mean over the images, in [0, C-1]."""
        view = self.view(inputs)
        return normalized_cut_loss(
            view.probs, self.colours(view), class_mask=self.classes(inputs), **self.kernel(view)
        )


class KernelCut(NormalizedCut):
    """Normalised cut plus the DenseCRF loss.

    See :func:`~scribbleseg.functional.regularizers.dense_crf.kernel_cut_loss`.

    Args:
        weight: Factor of the sum.
        gamma: Weight of the DenseCRF loss relative to the normalised cut.
        options: Those of :class:`NormalizedCut`.
    """

    def __init__(self, weight: float = 0.1, *, gamma: float = 1.0, **options: Any) -> None:
        super().__init__(weight, **options)
        self.gamma = gamma

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Mean over the images."""
        view = self.view(inputs)
        return kernel_cut_loss(
            view.probs,
            self.colours(view),
            gamma=self.gamma,
            class_mask=self.classes(inputs),
            **self.kernel(view),
        )


class TreeEnergy(Regularizer):
    """Tree energy; see :func:`~scribbleseg.functional.regularizers.tree_energy.tree_energy_loss`.

    The embedding branch is trained by this term alone and not used for prediction.

    Args:
        weight: Factor of the term.
        sigma_low: Bandwidth of the colour tree, in squared units of the image scale.
        sigma_high: Bandwidth of the embedding tree.
        embedding_dim: Channels of the embedding; 0 = colour tree only.
        detach_target: Whether the filtered prediction is a constant; the embedding then learns
            nothing, so the decoder features take its place.
        image_scale: ``unit``: colours in [0, 1]; ``std``: in standard deviations of the image.
        resolution: Fraction of the image size.
        feature_dim: Channels of the decoder features; filled in by the module.
        options: See :class:`~scribbleseg.nn.regularizers.Regularizer`.
    """

    def __init__(
        self,
        weight: float = 0.4,
        *,
        sigma_low: float = 0.02,
        sigma_high: float = 1.0,
        embedding_dim: int = 256,
        detach_target: bool = False,
        image_scale: ImageScale = "unit",
        resolution: float = 0.5,
        feature_dim: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(weight, resolution=resolution, **options)
        if sigma_low <= 0 or sigma_high <= 0 or embedding_dim < 0:
            raise ConfigError(
                f"sigma_low={sigma_low}, sigma_high={sigma_high}, embedding_dim={embedding_dim}: "
                "expected bandwidths above 0 and a dimension of at least 0"
            )
        self.sigma_low, self.sigma_high = sigma_low, sigma_high
        self.detach_target = detach_target
        self.image_scale: ImageScale = image_scale
        self.uses_features = embedding_dim > 0
        self.embedding: nn.Module | None = None
        if self.uses_features and not detach_target:
            self.embedding = nn.Sequential(
                nn.Conv2d(feature_dim, embedding_dim, 1, bias=False),
                nn.BatchNorm2d(embedding_dim),
                nn.ReLU(inplace=True),
            )

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Mean absolute difference per unlabelled cell, summed over the classes."""
        view = self.view(inputs)
        return tree_energy_loss(
            view.probs.clamp_min(1e-12).log(),
            scaled_image(view, self.image_scale),
            view.unlabelled,
            embedding=self._features(inputs, view),
            sigma_low=self.sigma_low,
            sigma_high=self.sigma_high,
            detach_target=self.detach_target,
            across_ranks=True,
        )

    def _features(self, inputs: RegularizerInput, view: RegularizerView) -> Tensor | None:
        if not self.uses_features:
            return None
        features = inputs.features
        # the decoder saw a padded canvas: keep the part that shows the image
        stride = inputs.canvas[0] / features.shape[2]
        height, width = (-(-side // stride) for side in inputs.logits.shape[-2:])
        features = features[:, :, : int(height), : int(width)]
        size = (view.probs.shape[2], view.probs.shape[3])
        if tuple(features.shape[-2:]) != size:
            features = F.interpolate(features, size, mode="bilinear", align_corners=False)
        return features if self.embedding is None else self.embedding(features)
