"""Segmentation heads on dilated encoders: the two that scribble papers of DeepLab's kind use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from scribbleseg.errors import ConfigError
from scribbleseg.nn.aspp import DilatedConvSum, SpatialPyramid, conv_norm_relu
from scribbleseg.nn.modes import evaluation_mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = [
    "ASPPLogitHead",
    "CornerAligned",
    "DeepLabV3PlusHead",
    "DilatedClassifier",
    "LastLevel",
    "NormalizedClassifier",
    "classifier_encoder",
    "dilated_encoder",
    "widen_last_stage",
]


class NormalizedClassifier(nn.Conv2d):
    """1×1 classifier without bias whose logits go through a BatchNorm.

    Args:
        in_channels: D of the features.
        num_classes: C.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes, 1, bias=False)
        self.norm = nn.BatchNorm2d(num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, D, h, w)`` to logits ``(B, C, h, w)``."""
        normalized: Tensor = self.norm(super().forward(features))
        return normalized


class DilatedClassifier(DilatedConvSum):
    r"""Logits as the sum of four dilated 3×3 convolutions of the last encoder map (DeepLab v2).

    Chen et al., TPAMI 2018: dilations 6, 12, 18, 24, with bias, weights drawn from
    :math:`N(0, 0.01)`. There is no hidden layer.

    Args:
        in_channels: D of the encoder map.
        num_classes: C.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__(in_channels, num_classes)
        self.in_channels, self.out_channels = in_channels, num_classes
        for branch in self.branches:
            layer: Any = branch
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)


class CornerAligned(nn.Identity):
    """Says that logits are enlarged to the padded image with the corner pixels' centres aligned."""

    align_corners = True


class ASPPLogitHead(nn.Module):
    r"""Pyramid of C-channel branches on the last encoder map, mixed to BatchNorm-ed logits.

    What the code of CDSP, URSS and CC4S calls DeepLab v2: dilations 12, 18, 24, a 1×1 and a pooled
    branch, 5·C features. Weights are drawn from :math:`N(0, \sqrt{2 / (k^2 D_{out})})` as there.

    Args:
        in_channels: Channels of the last encoder map.
        num_classes: C.
        rates: Dilations of the 3×3 branches.
    """

    def __init__(
        self, in_channels: int, num_classes: int, *, rates: Sequence[int] = (12, 18, 24)
    ) -> None:
        super().__init__()
        pyramid = SpatialPyramid(in_channels, num_classes, rates)
        self.decoder = LastLevel(pyramid)
        self.classifier = NormalizedClassifier(pyramid.out_channels, num_classes)
        self.apply(_initialise)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Encoder maps, of which the last is read, to logits at its resolution."""
        logits: Tensor = self.classifier(self.decoder(features))
        return logits


class DeepLabV3PlusHead(nn.Module):
    r"""DeepLab v3+ with plain convolutions and corner-aligned enlargement.

    Pyramid of 256 channels with dilations 6, 12, 18 on the last encoder map, dropout, enlarged to
    the map of stride 4, of which 48 channels are put in front; two 3×3 convolutions; a 1×1
    classifier with bias. Weights are drawn from :math:`N(0, \sqrt{2 / (k^2 D_{out})})`.

    Args:
        in_channels: Channels of the last encoder map.
        low_channels: Channels of the map of stride 4.
        num_classes: C.
        rates: Dilations of the 3×3 branches.
        channels: Channels of branches and decoder.
        dropout: Probability of dropping a value after the pyramid.
        low_index: Position of the map of stride 4 among the encoder maps.
    """

    def __init__(
        self,
        in_channels: int,
        low_channels: int,
        num_classes: int,
        *,
        rates: Sequence[int] = (6, 12, 18),
        channels: int = 256,
        dropout: float = 0.5,
        low_index: int = 2,
    ) -> None:
        super().__init__()
        self.decoder = _PlainDecoder(in_channels, low_channels, rates, channels, dropout, low_index)
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        self.apply(_initialise)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Encoder maps to logits at the resolution of the one of stride 4."""
        logits: Tensor = self.classifier(self.decoder(features))
        return logits


class LastLevel(nn.Module):
    """Decoder that reads the last encoder map only.

    Args:
        pyramid: What is made of it; nothing by default.
    """

    def __init__(self, pyramid: nn.Module | None = None) -> None:
        super().__init__()
        self.pyramid = nn.Identity() if pyramid is None else pyramid

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Encoder maps to features of the last one's resolution."""
        found: Tensor = self.pyramid(features[-1])
        return found


class _PlainDecoder(nn.Module):
    def __init__(
        self,
        in_channels: int,
        low_channels: int,
        rates: Sequence[int],
        channels: int,
        dropout: float,
        low_index: int,
    ) -> None:
        super().__init__()
        self.low_index = low_index
        self.pyramid = SpatialPyramid(in_channels, channels, rates)
        self.project = conv_norm_relu(self.pyramid.out_channels, channels)
        self.dropout = nn.Dropout(dropout)
        self.low = conv_norm_relu(low_channels, 48)
        self.fuse = nn.Sequential(
            conv_norm_relu(48 + channels, channels, kernel=3),
            conv_norm_relu(channels, channels, kernel=3),
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        low = self.low(features[self.low_index])
        high = self.dropout(self.project(self.pyramid(features[-1])))
        high = F.interpolate(high, low.shape[2:], mode="bilinear", align_corners=True)
        fused: Tensor = self.fuse(torch.cat([low, high], dim=1))
        return fused


def widen_last_stage(encoder: nn.Module, rates: Sequence[int] = (1, 2, 4)) -> bool:
    """Multiply the dilation of the last stage's blocks by one rate each (multi-grid).

    Only ResNets of bottleneck blocks with as many blocks as rates have such a stage.

    Args:
        encoder: Encoder of segmentation-models-pytorch, already dilated.
        rates: One factor per block; 1, 2, 4 gives dilations 4, 8, 16 at output stride 8.

    Returns:
        Whether the encoder was changed.
    """
    stage = getattr(encoder, "layer4", None)
    if stage is None or len(stage) != len(rates) or not hasattr(stage[0], "conv3"):
        return False
    for block, rate in zip(stage, rates, strict=True):
        convolution = block.conv2
        convolution.dilation = tuple(step * rate for step in convolution.dilation)
        convolution.padding = tuple(
            step * (side // 2)
            for step, side in zip(convolution.dilation, convolution.kernel_size, strict=True)
        )
    return True


def dilated_encoder(
    arch: str,
    encoder: str,
    weights: str | None,
    in_channels: int,
    stride: int,
    *,
    multi_grid: bool = True,
    depth: int = 5,
) -> Any:
    """Encoder of segmentation-models-pytorch whose last maps keep a stride.

    Args:
        arch: Whose encoder it is, for the messages.
        encoder: Name.
        weights: ``"imagenet"`` or ``None``.
        in_channels: Image channels.
        stride: 8 or 16.
        multi_grid: Whether ResNets of bottleneck blocks get one, see :func:`widen_last_stage`.
        depth: Maps of the encoder, 1 to 5.

    Raises:
        ConfigError: If the encoder cannot be dilated, or the stride is another.
        KeyError: If the encoder is unknown.
    """
    # here, not at module level: smp costs most of a second at import
    import segmentation_models_pytorch as smp

    if stride not in (8, 16):
        raise ConfigError(f"output_stride={stride} with arch {arch!r}: expected 8 or 16")
    try:
        built = smp.encoders.get_encoder(
            encoder, in_channels=in_channels, depth=depth, weights=weights, output_stride=stride
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"encoder {encoder!r} cannot keep an output stride of {stride} ({error}); arch "
            f"{arch!r} needs a ResNet, MobileNet, EfficientNet or other network of convolutions"
        ) from error
    if multi_grid:
        widen_last_stage(built)
    return built


def classifier_encoder(
    encoder: str,
    weights: str | None,
    in_channels: int,
    stride: int | None,
    *,
    arch: str = "cam",
    depth: int = 5,
) -> tuple[Any, int]:
    """Encoder for class activation maps, and the stride of its last map.

    Args:
        encoder: Name.
        weights: ``"imagenet"`` or ``None``.
        in_channels: Image channels.
        stride: 8 or 16 by dilation; ``None`` = 16 for ResNets, whose last stage then keeps its
            resolution without dilation (Ahn et al., CVPR 2019), else the encoder's own.
        arch: Whose encoder it is; that of ``cam`` alone has a multi-grid where it is dilated.
        depth: Maps of the encoder, 3 to 5; fewer see less of the image around each cell. What comes
            behind the last one is frozen.

    Raises:
        ConfigError: If the encoder cannot be dilated, or the stride is another.
        KeyError: If the encoder is unknown.
    """
    import segmentation_models_pytorch as smp

    if stride is not None:
        built = dilated_encoder(
            arch,
            encoder,
            weights,
            in_channels,
            stride,
            multi_grid=arch == "cam" and depth == 5,
            depth=depth,
        )
    else:
        built = smp.encoders.get_encoder(
            encoder, in_channels=in_channels, depth=depth, weights=weights
        )
        last = getattr(built, "layer4", None)
        if last is not None and depth == 5:
            for layer in last[0].modules():
                if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                    layer.stride = (1, 1)
            stride = 16
    if depth < 5:
        _freeze_unused(built, in_channels)
    own = min(int(built.output_stride), 2**depth)
    return built, own if stride is None else min(stride, own)


def _freeze_unused(encoder: nn.Module, in_channels: int) -> None:
    """No gradient for what the last map does not depend on: ranks would wait for it forever."""
    with evaluation_mode(encoder), torch.enable_grad():  # a model may be loaded without
        encoder(torch.zeros(1, in_channels, 64, 64))[-1].sum().backward()
    for parameter in encoder.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None


def _initialise(layer: nn.Module) -> None:
    if isinstance(layer, nn.Conv2d):
        nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
