"""Networks of SPML: encoder, embedding head, and a small classifier of the embedding."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from scribbleseg.functional.losses import full_precision
from scribbleseg.nn.aspp import DilatedConvSum, conv_norm_relu
from scribbleseg.nn.heads import LastLevel
from scribbleseg.nn.modes import evaluation_mode
from scribbleseg.nn.network import FreezeBatchNorm, SegNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["EmbeddingClassifier", "PyramidPoolingHead", "ReducedDecoder", "embedding_head"]


class EmbeddingClassifier(nn.Module):
    r"""Classes of unit embeddings: 3×3 convolution to 2·D, BatchNorm, ReLU, dropout, 1×1.

    It reads :math:`z = f / \max(\|f\|, 10^{-12})`, in float32 also under autocast.

    Args:
        in_channels: D.
        num_classes: C.
        dropout: Probability of dropping a value before the last convolution.
    """

    def __init__(self, in_channels: int, num_classes: int, *, dropout: float = 0.75) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, num_classes
        self.hidden = conv_norm_relu(in_channels, 2 * in_channels, kernel=3)
        self.dropout = nn.Dropout(dropout)
        self.last = nn.Conv2d(2 * in_channels, num_classes, 1)

    def forward(self, embedding: Tensor) -> Tensor:
        """Embedding ``(B, D, h, w)``, of any length, to logits ``(B, C, h, w)``."""
        unit = F.normalize(full_precision(embedding), dim=1)
        logits: Tensor = self.last(self.dropout(self.hidden(unit)))
        return logits


class PyramidPoolingHead(nn.Module):
    """Pyramid pooling of the last map, then an embedding, enlarged twice (SPML on DensePose).

    Averages over 1, 2², 3² and 6² cells, each reduced, enlarged back and put beside the map; one
    3×3 convolution, BatchNorm, ReLU; a 1×1 convolution with bias.

    Args:
        in_channels: Channels of the last encoder map.
        out_channels: D.
        channels: Of each level, and between the two convolutions.
        sizes: Cells per side of the levels.
        enlarge: Factor of the bilinear enlargement.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 512,
        sizes: Sequence[int] = (1, 2, 3, 6),
        enlarge: int = 2,
    ) -> None:
        super().__init__()
        self.sizes, self.enlarge = tuple(sizes), enlarge
        self.levels = nn.ModuleList(conv_norm_relu(in_channels, channels) for _ in self.sizes)
        self.fuse = conv_norm_relu(in_channels + len(self.sizes) * channels, channels, kernel=3)
        self.embed = nn.Conv2d(channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, K, h, w)`` to ``(B, D, enlarge·h, enlarge·w)``."""
        size = features.shape[2:]
        levels = []
        for cells, level in zip(self.sizes, self.levels, strict=True):
            # BatchNorm over one value per image has no variance in a batch of one
            frozen = self.training and cells == 1 and len(features) == 1
            pooled = F.adaptive_avg_pool2d(features, cells)
            with evaluation_mode(level) if frozen else nullcontext():
                reduced = level(pooled)
            levels.append(F.interpolate(reduced, size, mode="bilinear", align_corners=False))
        embedding: Tensor = self.embed(self.fuse(torch.cat([features, *levels], dim=1)))
        if self.enlarge == 1:
            return embedding
        return F.interpolate(
            embedding, scale_factor=self.enlarge, mode="bilinear", align_corners=False
        )


class ReducedDecoder(nn.Module):
    """Decoder of any architecture, then one convolution to the embedding.

    Its kernel is 1×1, or as large as its step where the decoder is finer than the embedding is to
    be, so that nothing of what the decoder says is dropped.

    Args:
        decoder: Encoder maps to ``(B, K, h, w)``.
        in_channels: K.
        out_channels: D.
        step: Cells of the decoder per cell of the embedding.
    """

    def __init__(
        self, decoder: nn.Module, in_channels: int, out_channels: int, *, step: int = 1
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.embed = nn.Conv2d(in_channels, out_channels, step, stride=step)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Encoder maps to the embedding ``(B, D, h / step, w / step)``."""
        embedding: Tensor = self.embed(self.decoder(features))
        return embedding


def embedding_head(
    network: SegNetwork,
    dim: int,
    *,
    head: str,
    in_channels: int,
    dropout: float,
    stride: int,
    freeze_batchnorm: FreezeBatchNorm,
    channels_last: bool,
) -> SegNetwork:
    """Network whose decoder ends in an embedding and whose classifier reads that embedding.

    Args:
        network: Network of any architecture, whose encoder (and decoder) is taken over.
        dim: D.
        head: ``aspp`` or ``psp`` on the last encoder map, or ``decoder`` = that of ``network``.
        in_channels: Image channels.
        dropout: Of the classifier.
        stride: Pixels per cell of the embedding, for ``decoder``; coarser ones stay as they are.
        freeze_batchnorm: See :class:`~scribbleseg.nn.network.SegNetwork`.
        channels_last: See there.
    """
    channels = int(network.encoder.out_channels[-1])  # type: ignore[index]
    decoder: nn.Module
    if head == "aspp":
        decoder = LastLevel(DilatedConvSum(channels, dim, enlarge=2))
    elif head == "psp":
        decoder = LastLevel(PyramidPoolingHead(channels, dim))
    else:
        step = max(stride // _decoder_stride(network, in_channels), 1)
        decoder = ReducedDecoder(network.decoder, network.feature_dim, dim, step=step)
    classifier: nn.Module = EmbeddingClassifier(dim, network.num_classes, dropout=dropout)
    return SegNetwork(
        network.encoder,
        decoder,
        classifier,  # type: ignore[arg-type]  # has the same two attributes
        nn.Identity(),
        divisor=network.divisor,
        freeze_batchnorm=freeze_batchnorm,
        channels_last=channels_last,
    )


@torch.no_grad()
def _decoder_stride(network: SegNetwork, in_channels: int) -> int:
    """Pixels per cell of the decoder's map, found by running it once."""
    side = 2 * network.divisor
    with evaluation_mode(network):
        features = network.decoder(network.encoder(torch.zeros(1, in_channels, side, side)))
    return max(side // int(features.shape[-1]), 1)
