"""One builder for all networks; encoder, decoder and classifier are separately callable."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from scribbleseg.errors import ConfigError
from scribbleseg.functional.losses import full_precision
from scribbleseg.nn.encoder_weights import load_encoder_weights, offline_guard
from scribbleseg.nn.heads import (
    ASPPLogitHead,
    CornerAligned,
    DeepLabV3PlusHead,
    DilatedClassifier,
    LastLevel,
    NormalizedClassifier,
    classifier_encoder,
    dilated_encoder,
)
from scribbleseg.types import SegOutput

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Arch", "FreezeBatchNorm", "SegNetwork", "build_network"]

Arch = Literal[
    "unet",
    "unetplusplus",
    "manet",
    "linknet",
    "fpn",
    "pspnet",
    "deeplabv3",
    "deeplabv3plus",
    "pan",
    "upernet",
    "segformer",
    "aspp_v2",
    "aspp_v3plus",
    "cam",
    "deeplab_v2",
]
_OWN_HEADS = ("aspp_v2", "aspp_v3plus", "cam", "deeplab_v2")
_PLAIN = ("cam", "deeplab_v2")  # one classifier on the last map of the encoder
FreezeBatchNorm = Literal["none", "encoder", "all"]


class SegNetwork(nn.Module):
    """Encoder, decoder and 1×1-able classifier of a segmentation network.

    Inputs of any size are padded at the right and bottom with zeros (the mean colour) to a multiple
    of ``divisor``, plus ``remainder``; outputs are cropped back.

    Args:
        encoder: Image ``(B, K, H, W)`` to a list of feature maps.
        decoder: List of feature maps to ``(B, D, h, w)``.
        classifier: ``(B, D, h, w)`` to ``(B, C, h, w)``.
        upsampling: ``(B, C, h, w)`` to the padded input size.
        divisor: Padded sizes are multiples of it, plus ``remainder``.
        remainder: 1 for corner-aligned grids, in which every ``divisor``-th pixel is a cell.
        freeze_batchnorm: Which BatchNorm layers keep their statistics and affine parameters.
        channels_last: Keep weights and activations in channels-last memory order, which makes
            convolutions faster on CPUs and on GPUs with half precision.

    Attributes:
        feature_dim: D, channels of the decoder features.
        num_classes: C.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        classifier: nn.Conv2d | DilatedClassifier,
        upsampling: nn.Module,
        *,
        divisor: int,
        remainder: int = 0,
        freeze_batchnorm: FreezeBatchNorm = "none",
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.classifier = classifier
        self.upsampling = upsampling
        self.divisor, self.remainder = divisor, remainder
        self.freeze_batchnorm = freeze_batchnorm
        self.feature_dim = classifier.in_channels
        self.num_classes = classifier.out_channels
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.memory_format)
        for layer in self._frozen_layers():
            layer.eval()  # a fit does not call train() first
            for parameter in layer.parameters():
                parameter.requires_grad_(False)

    def _frozen_layers(self) -> list[nn.Module]:
        if self.freeze_batchnorm == "none":
            return []
        root = self.encoder if self.freeze_batchnorm == "encoder" else self
        return [
            layer for layer in root.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)
        ]

    def train(self, mode: bool = True) -> SegNetwork:
        """Set the mode; frozen BatchNorm layers stay in evaluation mode."""
        super().train(mode)
        for layer in self._frozen_layers():
            layer.eval()
        return self

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """Smallest multiples of ``divisor``, plus ``remainder``, that hold an image this large."""
        step, rest = self.divisor, self.remainder
        return (
            max(-(-(height - rest) // step), 1) * step + rest,
            max(-(-(width - rest) // step), 1) * step + rest,
        )

    def forward_features(self, image: Tensor) -> SegOutput:
        """Logits and features at decoder resolution, of the padded image.

        Args:
            image: Normalised, float, shape ``(B, K, H, W)``, any size.

        Returns:
            ``logits (B, C, h, w)`` and ``features (B, D, h, w)``; :meth:`upsample_logits` brings
            the logits to the size of the image.
        """
        features = self.decoder(self.encode(image))
        return SegOutput(self.classifier(features), features)

    @property
    def align_corners(self) -> bool:
        """How :meth:`upsample_logits` aligns the grids, for losses at single pixels."""
        return bool(getattr(self.upsampling, "align_corners", False))

    def on_canvas(self, labels: Tensor, *, fill: int) -> Tensor:
        """Label maps ``(B, H, W)`` padded as the image was, to ``padded_size``."""
        height, width = self.padded_size(labels.shape[-2], labels.shape[-1])
        return F.pad(
            labels, (0, width - labels.shape[-1], 0, height - labels.shape[-2]), value=fill
        )

    def classify(self, features: Tensor) -> Tensor:
        """Logits ``(B, C, h, w)`` of features ``(B, D, h, w)``, in float32 also under autocast.

        For methods that rank pixels by their logits: rounded to 16 bits, most would be ties.
        """
        layer = self.classifier
        with torch.autocast(features.device.type, enabled=False):
            if isinstance(layer, DilatedClassifier):
                summed: Tensor = layer(full_precision(features))
                return summed
            bias = None if layer.bias is None else full_precision(layer.bias)
            logits = F.conv2d(
                full_precision(features),
                full_precision(layer.weight),
                bias,
                padding=layer.padding,
                dilation=layer.dilation,
            )
            return layer.norm(logits) if isinstance(layer, NormalizedClassifier) else logits

    def encode(self, image: Tensor) -> list[Tensor]:
        """Encoder features of the padded image, from input size to the coarsest."""
        height, width = image.shape[-2:]
        padded_height, padded_width = self.padded_size(height, width)
        if (padded_height, padded_width) != (height, width):
            image = F.pad(image, (0, padded_width - width, 0, padded_height - height))
        return list(self.encoder(image.contiguous(memory_format=self.memory_format)))

    def upsample_logits(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits ``(B, C, h, w)`` of :meth:`forward_features` to image size ``(B, C, H, W)``."""
        logits = self.upsampling(logits)
        padded = self.padded_size(*size)
        if tuple(logits.shape[-2:]) != padded:
            corners = isinstance(self.upsampling, CornerAligned)
            logits = F.interpolate(logits, size=padded, mode="bilinear", align_corners=corners)
        return logits[..., : size[0], : size[1]]

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, C, H, W)`` of an image ``(B, K, H, W)`` of any size."""
        output = self.forward_features(image)
        return self.upsample_logits(output.logits, (image.shape[-2], image.shape[-1]))


def build_network(
    arch: Arch,
    encoder: str,
    *,
    num_classes: int,
    encoder_weights: str | None = "imagenet",
    in_channels: int = 3,
    output_stride: int | None = None,
    freeze_batchnorm: FreezeBatchNorm = "none",
    channels_last: bool = True,
    encoder_depth: int = 5,
) -> SegNetwork:
    """Build a network of segmentation-models-pytorch on any of its (or timm's) encoders.

    Args:
        arch: Decoder architecture of segmentation-models-pytorch; or ``aspp_v2`` or ``aspp_v3plus``
            on any encoder that can be dilated: see :mod:`scribbleseg.nn.heads`. They enlarge their
            logits with aligned corners and compute at sizes of 8m + 1, such as 465 or 513. ``cam``
            is a classifier without bias on the last encoder map, for activation maps;
            ``deeplab_v2`` the sum of dilated convolutions there (strides as ``cam``).
        encoder: Encoder name of segmentation-models-pytorch, ``tu-<name>`` for any timm model.
        num_classes: C.
        encoder_weights: ``"imagenet"`` (downloaded once), ``None`` (random), or a local
            ``.safetensors``/``.pth`` file in timm's or torchvision's naming.
        in_channels: Image channels; for others than 3 the pretrained first kernel is adapted.
        output_stride: 8 or 16 for dilated encoders of ``deeplabv3``/``deeplabv3plus``/``pan`` and
            of ``aspp_v2``/``aspp_v3plus``, which have 8 by default; 16 for ``segformer`` on
            ``mit_b*``, whose last stage then keeps its resolution; ``None`` = the architecture's
            own.
        freeze_batchnorm: Keep BatchNorm statistics and affine parameters of the encoder, or of all.
        channels_last: Memory order; see :class:`SegNetwork`.
        encoder_depth: Maps of the encoder of ``cam`` and ``deeplab_v2``, 3 to 5: the fewer, the
            less of the image each cell has seen.

    Raises:
        ConfigError: If the architecture or encoder is unknown, or the stride does not fit.
        WeightsError: If weights cannot be had or do not fit.
    """
    # here, not at module level: smp and timm cost most of a second at import
    import segmentation_models_pytorch as smp

    if arch not in Arch.__args__:  # type: ignore[attr-defined]
        raise ConfigError(f"unknown arch {arch!r}; expected one of {', '.join(Arch.__args__)}")  # type: ignore[attr-defined]
    own_head = arch in _OWN_HEADS
    if encoder_depth != 5 and arch not in _PLAIN:
        raise ConfigError(
            f"encoder_depth={encoder_depth} with arch {arch!r}: only {' and '.join(_PLAIN)} read "
            "one map of the encoder; leave it 5"
        )
    options: dict[str, Any] = {}
    if encoder.startswith("tu-swin"):
        options["strict_img_size"] = False  # else timm takes images of the pretraining's size only
    # smp's own option would also dilate the convolutions of the last stage
    mit_stride_16 = arch == "segformer" and encoder.startswith("mit_b") and output_stride == 16
    if output_stride is not None and not mit_stride_16 and not own_head:
        if arch not in {"deeplabv3", "deeplabv3plus", "pan"}:
            raise ConfigError(
                f"output_stride={output_stride} is not available for arch {arch!r}; use deeplabv3, "
                "deeplabv3plus, pan, deeplab_v2, aspp_v2 or aspp_v3plus (segformer on mit_b*: 16), "
                "or leave it null"
            )
        options["encoder_output_stride"] = output_stride
    hub_weights = "imagenet" if encoder_weights == "imagenet" else None
    with warnings.catch_warnings(), offline_guard(encoder, hub_weights):
        # smp calls its own `timm-` and `tu-` spellings deprecated in turn; both are what users type
        warnings.filterwarnings("ignore", module="segmentation_models_pytorch")
        warnings.filterwarnings("ignore", message=".*timm.*encoders.*")
        try:
            if arch in _PLAIN:
                own, stride = classifier_encoder(
                    encoder,
                    hub_weights,
                    in_channels,
                    output_stride,
                    arch=arch,
                    depth=encoder_depth,
                )
            elif own_head:
                stride = 8 if output_stride is None else output_stride
                own = dilated_encoder(arch, encoder, hub_weights, in_channels, stride)
            else:
                model = smp.create_model(
                    arch,
                    encoder_name=encoder,
                    encoder_weights=hub_weights,
                    in_channels=in_channels,
                    classes=num_classes,
                    **options,
                )
        except (KeyError, RuntimeError) as error:
            if isinstance(error, KeyError) or "Unknown model" in str(error):
                raise ConfigError(_unknown_encoder(encoder)) from error
            raise
    body = own if own_head else model.encoder
    if encoder_weights is not None and hub_weights is None:
        load_encoder_weights(body, encoder_weights, name=encoder)
    kept: dict[str, Any] = {"freeze_batchnorm": freeze_batchnorm, "channels_last": channels_last}
    if arch in _PLAIN:
        channels = int(body.out_channels[-1])
        if arch == "cam":
            plain, decoder = nn.Conv2d(channels, num_classes, 1, bias=False), LastLevel()
            return SegNetwork(body, decoder, plain, nn.Identity(), divisor=stride, **kept)
        summed, decoder = DilatedClassifier(channels, num_classes), LastLevel(nn.Dropout(0.1))
        return SegNetwork(body, decoder, summed, nn.Identity(), divisor=stride, **kept)
    if own_head:
        widths = list(body.out_channels)
        head: ASPPLogitHead | DeepLabV3PlusHead = (
            ASPPLogitHead(widths[-1], num_classes)
            if arch == "aspp_v2"
            else DeepLabV3PlusHead(widths[-1], widths[2], num_classes)
        )
        return SegNetwork(
            body,
            head.decoder,
            head.classifier,
            CornerAligned(),
            divisor=stride,
            remainder=1,
            **kept,
        )
    if mit_stride_16:
        body.patch_embed4.proj.stride = (1, 1)
        body._output_stride = 16
    classifier, upsampling = model.segmentation_head[0], model.segmentation_head[1]
    divisor = max(int(body.output_stride), 16)
    return SegNetwork(body, model.decoder, classifier, upsampling, divisor=divisor, **kept)


def _unknown_encoder(encoder: str) -> str:
    import difflib

    import segmentation_models_pytorch as smp
    import timm

    names = [*smp.encoders.get_encoder_names(), *(f"tu-{name}" for name in timm.list_models())]
    near = difflib.get_close_matches(encoder, names, n=3)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"unknown encoder {encoder!r}{hint} (any timm model works as tu-<name>)"
