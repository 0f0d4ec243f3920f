"""The regulariser that compares pixels along spanning trees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch.nn.functional as F
from torch import nn

from scribbleseg.errors import ConfigError
from scribbleseg.functional.tree_energy import tree_energy_loss
from scribbleseg.nn.regularizers.base import (
    ColourRegularizer,
    RegularizerInput,
    RegularizerView,
    image_part,
)
from scribbleseg.options import check_flag, check_number, check_whole

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TreeEnergy"]


class TreeEnergy(ColourRegularizer):
    """Tree energy; see :func:`~scribbleseg.functional.tree_energy.tree_energy_loss`.

    The embedding branch is trained by this term alone and not used for prediction.

    Args:
        weight: Factor of the term.
        sigma_low: Bandwidth of the colour tree, in squared units of the image scale.
        sigma_high: Bandwidth of the embedding tree.
        embedding_dim: Channels of the embedding; 0 = colour tree only.
        detach_target: Whether the filtered prediction is a constant; the embedding then learns
            nothing, so the decoder features take its place.
        resolution: Fraction of the image size.
        feature_dim: Channels of the decoder features; filled in by the module.
        options: ``image_scale`` (unit of the colours), and those of
            :class:`~scribbleseg.nn.regularizers.Regularizer`.
    """

    def __init__(
        self,
        weight: float = 0.4,
        *,
        sigma_low: float = 0.02,
        sigma_high: float = 1.0,
        embedding_dim: int = 256,
        detach_target: bool = False,
        resolution: float | Literal["logits"] = 0.5,
        feature_dim: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(weight, resolution=resolution, **options)
        check_number(sigma_low=sigma_low, sigma_high=sigma_high)
        check_flag(detach_target=detach_target)
        check_whole(0, embedding_dim=embedding_dim)
        if sigma_low <= 0 or sigma_high <= 0:
            raise ConfigError(f"sigma_low={sigma_low}, sigma_high={sigma_high}: expected above 0")
        self.sigma_low, self.sigma_high = sigma_low, sigma_high
        self.detach_target = detach_target
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
            self.colours(view),
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
        features = image_part(inputs.features, inputs)
        if self.embedding is not None:
            features = self.embedding(features)
        size = (view.probs.shape[2], view.probs.shape[3])
        if tuple(features.shape[-2:]) != size:
            features = F.interpolate(features, size, mode="bilinear", align_corners=False)
        return features
