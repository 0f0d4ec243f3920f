"""The published network of CC4S: a dilated encoder, one convolution on each side of the walk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from scribbleseg.nn.aspp import conv_norm_relu
from scribbleseg.nn.heads import CornerAligned
from scribbleseg.nn.network import FreezeBatchNorm, SegNetwork
from scribbleseg.types import SegOutput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["CC4SNetwork"]


class CC4SNetwork(SegNetwork):
    """Dilated encoder; 3×3 convolution, walk, 3×3 convolution, dropout, 1×1 classifier.

    :attr:`decoder` ends before the walk and :meth:`classify` begins after it. Logits are enlarged
    with aligned corners; cells are points 8 pixels apart, so sizes of 8m + 1 need no padding.

    Args:
        encoder: Image to a list of feature maps, of which the last is read.
        in_channels: Its channels.
        num_classes: C.
        channels: D, 512 as published.
        dropout: Probability of dropping a channel before the classifier.
        stride: Pixels between the cells of its last map.
        freeze_batchnorm: See :class:`~scribbleseg.nn.network.SegNetwork`.
        channels_last: See there.
    """

    def __init__(
        self,
        encoder: nn.Module,
        in_channels: int,
        num_classes: int,
        *,
        channels: int = 512,
        dropout: float = 0.1,
        stride: int = 8,
        freeze_batchnorm: FreezeBatchNorm = "none",
        channels_last: bool = True,
    ) -> None:
        super().__init__(
            encoder,
            _LastMap(in_channels, channels),
            nn.Conv2d(channels, num_classes, 1),
            CornerAligned(),
            divisor=stride,
            remainder=1,
            freeze_batchnorm=freeze_batchnorm,
            channels_last=channels_last,
        )
        self.refine = nn.Sequential(
            conv_norm_relu(channels, channels, kernel=3), nn.Dropout2d(dropout)
        ).to(memory_format=self.memory_format)
        for layer in self._frozen_layers():  # those of `refine` too
            layer.requires_grad_(False).eval()

    def classify(self, features: Tensor) -> Tensor:
        """Logits ``(B, C, h, w)`` of features that have been walked, ``(B, D, h, w)``."""
        return super().classify(self.refine(features))

    def forward_features(self, image: Tensor) -> SegOutput:
        """Logits and features without a walk."""
        features = self.decoder(self.encode(image))
        return SegOutput(self.classify(features), features)


class _LastMap(nn.Module):
    """The last encoder map, with fewer channels."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.reduce = conv_norm_relu(in_channels, channels, kernel=3)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        reduced: Tensor = self.reduce(features[-1])
        return reduced
