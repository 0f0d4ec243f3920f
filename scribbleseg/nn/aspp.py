"""Dilated convolutions side by side: several sizes of context at one resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["DilatedConvSum", "SpatialPyramid", "conv_norm_relu"]


def conv_norm_relu(inputs: int, outputs: int, *, kernel: int = 1, dilation: int = 1) -> nn.Module:
    """Convolution without bias that keeps the size, BatchNorm, ReLU.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel: Side of the kernel, odd.
        dilation: Distance of its taps in cells.
    """
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class _PooledBatchNorm(nn.BatchNorm2d):
    """BatchNorm of one value per image: a batch of one image has no variance, so none is taken."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.numel() > x.shape[1]:
            return super().forward(x)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )


class SpatialPyramid(nn.Module):
    """Five branches beside each other: 1×1, three dilated 3×3, and the mean of the whole map.

    Each is convolution, BatchNorm and ReLU; their channels are concatenated in that order (Chen et
    al., arXiv 1706.05587).

    Args:
        in_channels: D of the feature map.
        branch_channels: Channels of a branch.
        rates: Dilations of the 3×3 branches.
    """

    def __init__(self, in_channels: int, branch_channels: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_norm_relu(in_channels, branch_channels)])
        for rate in rates:
            branch = conv_norm_relu(in_channels, branch_channels, kernel=3, dilation=rate)
            self.branches.append(branch)
        self.pooled = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, branch_channels, 1, bias=False),
            _PooledBatchNorm(branch_channels),
            nn.ReLU(inplace=True),
        )
        self.out_channels = branch_channels * (len(self.branches) + 1)

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, D, h, w)`` to ``(B, (len(rates) + 2)·branch_channels, h, w)``."""
        pooled = self.pooled(features)
        maps = [branch(features) for branch in self.branches]
        return torch.cat([*maps, pooled.expand(-1, -1, *features.shape[2:])], dim=1)


class DilatedConvSum(nn.Module):
    """Sum of dilated 3×3 convolutions with bias, without normalisation (DeepLab v2's pyramid).

    Args:
        in_channels: D of the feature map.
        out_channels: Channels of the result.
        rates: Dilations.
        enlarge: Factor of a bilinear enlargement of the result (``align_corners=False``).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        rates: Sequence[int] = (6, 12, 18, 24),
        enlarge: int = 1,
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, 3, padding=rate, dilation=rate) for rate in rates
        )
        self.enlarge = enlarge

    def forward(self, features: Tensor) -> Tensor:
        """Features ``(B, D, h, w)`` to ``(B, out_channels, enlarge·h, enlarge·w)``."""
        total: Tensor = self.branches[0](features)
        for branch in list(self.branches)[1:]:
            total = total + branch(features)
        if self.enlarge == 1:
            return total
        return F.interpolate(total, scale_factor=self.enlarge, mode="bilinear", align_corners=False)
