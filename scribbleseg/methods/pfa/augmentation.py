"""The feature augmenter: every pixel attends to the prototypes of the classes of its image."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PixelQueries", "PrototypeFeatureAugmentation"]


class PixelQueries(NamedTuple):
    """What the pixels bring to the attention, before any prototype.

    Attributes:
        features: F in float32, shape ``(B, D, h, w)``.
        queries: Shape ``(B, h·w, d)``.
        hidden: Their share of the first layer of the perceptron, shape ``(B, h·w, d)``.
    """

    features: Tensor
    queries: Tensor
    hidden: Tensor


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

        Args:
            features: F, shape ``(B, D, h, w)``.
            prototypes: P, shape ``(B, M, D)``, or ``(1, M, D)`` for all images.
            mask: Which prototypes an image may attend to, bool, shape ``(B, M)``.

        Returns:
            F', shape ``(B, D, h, w)``; F itself for images that may attend to nothing.
        """
        return self.enrich(self.read(features), prototypes, mask)

    def read(self, features: Tensor) -> PixelQueries:
        """What does not depend on the prototypes, computed once for local and global ones.

        Time O(B·h·w·D·d), memory O(B·h·w·(D + d)). In float32 also under autocast.

        Args:
            features: F, shape ``(B, D, h, w)``.

        Returns:
            Queries, and the share of the features in the first layer of the perceptron.
        """
        with torch.autocast(features.device.type, enabled=False):
            original = full_precision(features)
            pixels = original.flatten(2).transpose(1, 2)  # (B, N, D)
            queries = _linear(self.feature_fc, pixels)
            of_queries = full_precision(self.fc3.weight)[:, queries.shape[2] :]
            return PixelQueries(
                original, queries, F.linear(queries, of_queries, full_precision(self.fc3.bias))
            )

    def enrich(self, of: PixelQueries, prototypes: Tensor, mask: Tensor) -> Tensor:
        r"""Features enriched by prototypes, from what :meth:`read` found.

        The first layer is linear, so what it makes of the prototypes is mixed instead of them:
        :math:`W_3 [r; \hat f] = \operatorname{softmax}_m(\hat f \cdot \hat p_m)\,(W_{3r} \hat p)
        + W_{3f} \hat f`. Time O(B·h·w·(M·d + D·d)), memory O(B·h·w·(D + d)): the attention matrix
        is not stored where PyTorch has a fused kernel. On the CPU only the prototypes that an image
        may attend to are touched; elsewhere counting them would be a device synchronisation, and
        there is none.

        Args:
            of: Of the features.
            prototypes: P, shape ``(B, M, D)``, or ``(1, M, D)`` for all images.
            mask: Which prototypes an image may attend to, bool, shape ``(B, M)``.

        Returns:
            F', shape ``(B, D, h, w)``; F itself for images that may attend to nothing.
        """
        original = of.features
        with torch.autocast(original.device.type, enabled=False):
            keys = _linear(self.prototype_fc, full_precision(prototypes))
            of_read = full_precision(self.fc3.weight)[:, : keys.shape[2]]
            pairs = torch.cat([keys, F.linear(keys, of_read)], dim=2)
            pairs = pairs.expand(len(original), -1, -1)
            some = mask.any(dim=1)
            on_host = mask.device.type == "cpu"
            if on_host:
                pairs, mask = _allowed_only(pairs, mask)
            # a softmax over nothing is NaN: such images attend to all, and their result is dropped
            allowed = mask | ~some[:, None]
            keys, values = pairs.chunk(2, dim=2)
            mixed = F.scaled_dot_product_attention(
                of.queries, keys, values, attn_mask=allowed[:, None, :], scale=1.0
            )
            update = _linear(self.fc4, F.relu(mixed + of.hidden))
            pixels = original.flatten(2).transpose(1, 2)
            augmented = F.relu(pixels + update).transpose(1, 2).reshape(original.shape)
            if on_host and bool(some.all()):
                return augmented
            return torch.where(some[:, None, None, None], augmented, original)


def _allowed_only(pairs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Allowed rows in front, cut to the most that any image has (at least one)."""
    most = max(int(mask.sum(dim=1).max()), 1) if len(mask) else 1
    order = mask.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
    rows = order[..., None].expand(-1, -1, pairs.shape[2])
    return pairs.gather(1, rows), mask.gather(1, order)


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """The layer in float32, also where the module is stored in 16 bits."""
    return F.linear(x, full_precision(layer.weight), full_precision(layer.bias))
