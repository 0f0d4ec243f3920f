"""The two heads of IRN on the maps of a frozen encoder: class boundaries and displacements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = [
    "BoundaryHead",
    "DisplacementHead",
    "MeanShift",
    "boundary_of_flips",
    "pooling_of",
    "tap_channels",
]

_SIZES = (1, 1, 2, 4, 4)  # stride of the taps divided by 4, with a last stage of stride 16


def tap_channels(out_channels: Sequence[int]) -> list[int]:
    """Positions, among the maps of an encoder, of those that the heads read.

    All but the image itself and maps without channels (transformers have no map of stride 2).

    Args:
        out_channels: Channels of the maps, from the image on.

    Example:
        >>> tap_channels((3, 64, 256, 512)), tap_channels((3, 0, 32, 64))
        ([1, 2, 3], [2, 3])
    """
    return [index for index, number in enumerate(out_channels) if index and number]


def pooling_of(encoder: object) -> nn.Module | None:
    """What a ResNet does between its maps of stride 2 and 4; ``None`` for other encoders.

    Args:
        encoder: Any encoder.
    """
    found = getattr(encoder, "maxpool", None)
    return found if isinstance(found, nn.Module) else None


class _Taps(nn.Module):
    """Maps of the encoder from stride 4 on: that of stride 2 is pooled, as in a ResNet."""

    def __init__(self, out_channels: Sequence[int], pool: nn.Module | None) -> None:
        super().__init__()
        self.positions = tap_channels(out_channels)
        self.channels = [int(out_channels[index]) for index in self.positions]
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if pool is None else pool

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        return [self.pool(maps[index]) if index == 1 else maps[index] for index in self.positions]


class BoundaryHead(nn.Module):
    """Every map to 32 channels at a quarter of the resolution, side by side.

    A 1×1 convolution without bias, GroupNorm of 4 groups, bilinear enlargement, ReLU (Ahn et al.,
    CVPR 2019, figure 4). A 1×1 convolution of the result is the boundary's logit.

    Args:
        out_channels: Channels of the encoder's maps, from the image on.
        pool: What brings the map of stride 2 to stride 4; a ResNet's own, else max-pooling alike.
    """

    def __init__(self, out_channels: Sequence[int], pool: nn.Module | None = None) -> None:
        super().__init__()
        self.taps = _Taps(out_channels, pool)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(number, 32, 1, bias=False), nn.GroupNorm(4, 32))
            for number in self.taps.channels
        )
        self.feature_dim = 32 * len(self.branches)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Encoder maps to ``(B, 32·taps, h, w)`` at stride 4."""
        taps = self.taps(maps)
        size = taps[0].shape[2:]
        found = [
            _enlarged(branch(tap), size).relu()
            for branch, tap in zip(self.branches, taps, strict=True)
        ]
        return torch.cat(found, dim=1)


class MeanShift(nn.Module):
    """Subtracts a running mean in evaluation mode; the identity while training.

    Args:
        channels: Channels of the map.
    """

    running_mean: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, h, w)`` of the same shape."""
        return x if self.training else x - self.running_mean[:, None, None]

    @torch.no_grad()
    def set_mean(self, batch_means: Sequence[Tensor]) -> None:
        """Adopt the mean of the batches' means (of the map before the shift), shape ``(C,)`` each.

        Args:
            batch_means: At least one.

        Example:
            >>> shift = MeanShift(1)
            >>> shift.set_mean([torch.tensor([1.0]), torch.tensor([3.0])])
            >>> shift.running_mean.item()
            2.0
        """
        self.running_mean.copy_(torch.stack(list(batch_means)).mean(dim=0))


class DisplacementHead(nn.Module):
    """Displacement of every cell to the centroid of its object, in cells, rows first.

    Top-down 1×1 convolutions with GroupNorm of 16 groups (Ahn et al., CVPR 2019, figure 4).

    Args:
        out_channels: Channels of the encoder's maps, from the image on; five maps are needed.
        pool: See :class:`BoundaryHead`.
    """

    def __init__(self, out_channels: Sequence[int], pool: nn.Module | None = None) -> None:
        super().__init__()
        self.taps = _Taps(out_channels, pool)
        if len(self.taps.channels) != len(_SIZES):
            raise ValueError(
                f"an encoder with maps of {list(out_channels)} channels: expected five maps of "
                "strides 2 to 32, as ResNets have"
            )
        widths = (64, 128, 256, 256, 256)
        self.branches = nn.ModuleList(
            _normed(number, width, groups=8 if index == 0 else 16)
            for index, (number, width) in enumerate(zip(self.taps.channels, widths, strict=True))
        )
        self.coarse = _normed(3 * 256, 256)
        self.fine = nn.Sequential(
            _normed(64 + 128 + 256, 256), nn.ReLU(), nn.Conv2d(256, 2, 1, bias=False)
        )
        self.mean_shift = MeanShift(2)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Encoder maps to ``(B, 2, h, w)`` at stride 4."""
        found = [branch(tap) for branch, tap in zip(self.branches, self.taps(maps), strict=True)]
        first, second = found[0].relu(), found[1].relu()
        deep = [_enlarged(x, found[2].shape[2:]).relu() for x in found[2:]]
        coarse = _enlarged(self.coarse(torch.cat(deep, dim=1)), first.shape[2:]).relu()
        second = _enlarged(second, first.shape[2:])
        moved: Tensor = self.mean_shift(self.fine(torch.cat([first, second, coarse], dim=1)))
        return moved


def _normed(inputs: int, outputs: int, *, groups: int = 16) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(groups, outputs))


def _enlarged(x: Tensor, size: torch.Size) -> Tensor:
    if x.shape[2:] == size:
        return x
    return F.interpolate(x, (size[0], size[1]), mode="bilinear", align_corners=False)


def boundary_of_flips(logits: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    r"""Boundary probability from the logits of an image and of its mirror image.

    .. math:: B = \sigma\big( \tfrac12 (e_0 + \mathrm{flip}(e_1)) \big)

    each cut to the cells of the image first (Ahn et al., CVPR 2019, as released). Time O(h·w).

    Args:
        logits: Of both on their padded canvas, shape ``(2, …, h, w)``.
        size: Cells ``(h, w)`` of the image; all by default.

    Returns:
        In (0, 1), shape ``(…, h, w)``.

    Example:
        >>> boundary_of_flips(torch.tensor([[[2.0, 0.0, 9.0]], [[0.0, -2.0, 9.0]]]), (1, 2))
        tensor([[0.5000, 0.5000]])
    """
    if size is not None:
        logits = logits[..., : size[0], : size[1]]
    pair = full_precision(logits)
    return ((pair[0] + pair[1].flip(-1)) / 2).sigmoid()
