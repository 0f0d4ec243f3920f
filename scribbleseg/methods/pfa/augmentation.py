"""The feature augmenter: every pixel attends to the prototypes of the classes of its image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PrototypeFeatureAugmentation"]


class PrototypeFeatureAugmentation(nn.Module):
    r"""One cross-attention from pixels to prototypes and a residual two-layer perceptron.

    .. math:: \hat p = W_p p + b_p, \quad \hat f = W_f f + b_f, \quad
        r = \operatorname{softmax}_m(\hat f \cdot \hat p_m)\, \hat p, \quad
        F' = \operatorname{ReLU}(F + W_4 \operatorname{ReLU}(W_3 [r; \hat f] + b_3) + b_4)

    (PFA, ICML 2024, feature augmentation; the scores are not divided by :math:`\sqrt d`). The same
    weights serve local prototypes, M of an image, and global ones, M shared by all images.

    Args:
        dim: Channels D of features and prototypes.
        hidden: Channels d of the attention; D / 2 by default.
    """

    def __init__(self, dim: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = max(dim // 2, 1) if hidden is None else hidden
        self.prototype_fc = nn.Linear(dim, hidden)
        self.feature_fc = nn.Linear(dim, hidden)
        self.fc3 = nn.Linear(2 * hidden, hidden)
        self.fc4 = nn.Linear(hidden, dim)

    def forward(self, features: Tensor, prototypes: Tensor, mask: Tensor) -> Tensor:
        """Features enriched by prototypes.

        Time O(B·h·w·(M·d + D·d)), memory O(B·h·w·(D + d)): the attention matrix is not stored where
        PyTorch has a fused kernel. Computed in float32 under autocast. No device synchronisation.

        Args:
            features: F, shape ``(B, D, h, w)``.
            prototypes: P, shape ``(B, M, D)``, or ``(1, M, D)`` for all images.
            mask: Which prototypes an image may attend to, bool, shape ``(B, M)``.

        Returns:
            F', shape ``(B, D, h, w)``; F itself for images that may attend to nothing.
        """
        with torch.autocast(features.device.type, enabled=False):
            original = full_precision(features)
            pixels = original.flatten(2).transpose(1, 2)  # (B, N, D)
            keys = _linear(self.prototype_fc, full_precision(prototypes)).expand(
                len(pixels), -1, -1
            )
            queries = _linear(self.feature_fc, pixels)
            some = mask.any(dim=1)
            # a softmax over nothing is NaN: such images attend to all, and their result is dropped
            allowed = mask | ~some[:, None]
            read = F.scaled_dot_product_attention(
                queries, keys, keys, attn_mask=allowed[:, None, :], scale=1.0
            )
            hidden = F.relu(_linear(self.fc3, torch.cat([read, queries], dim=2)))
            update = _linear(self.fc4, hidden)
            augmented = F.relu(pixels + update).transpose(1, 2).reshape(original.shape)
            return torch.where(some[:, None, None, None], augmented, original)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer in float32, also where the module is stored in 16 bits."""
    return F.linear(x, full_precision(layer.weight), full_precision(layer.bias))
