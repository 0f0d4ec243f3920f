"""Similarity measurement: a learned transition matrix and one step of its random walk."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from scribbleseg.functional.transition import attention_walk, transition_logits

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SimilarityMeasurement", "SimilarityOutput"]


class SimilarityOutput(NamedTuple):
    """Diffused features and the factors of the transition logits.

    Args:
        features: z, shape ``(B, D, H, W)``, the size of the input.
        query: Shape ``(B, d, h, w)``, on the shrunk grid.
        key: Shape ``(B, d, h, w)``.
    """

    features: Tensor
    query: Tensor
    key: Tensor

    def energy(self) -> Tensor:
        """Transition logits, shape ``(B, h·w, h·w)``; formed only when asked for.

        See :func:`~scribbleseg.functional.transition.transition_logits`.
        """
        return transition_logits(self.query, self.key)


class SimilarityMeasurement(nn.Module):
    r"""Averages features over similar pixels, with a gate that starts closed.

    .. math:: z = \gamma\, P v + x, \qquad P = \mathrm{softmax}_j \langle q_i, k_j \rangle

    with q, k and v 1×1 convolutions of x (Pan et al., ICCV 2021, eq. 1 to 3). For N = h·w cells of
    the shrunk grid: time O(B·N²·D), memory O(B·N·``chunk_size``) because the matrix is never
    stored. Convolutions follow autocast, the walk is computed in float32.

    Args:
        in_channels: D.
        reduction: D is divided by this for query and key.
        shrink_factor: The walk takes place on a grid smaller by this factor. With a factor s > 1
            input sizes of the form n·s + 1 are resampled exactly; others approximately.
        chunk_size: See :func:`~scribbleseg.functional.transition.attention_walk`.

    Raises:
        ValueError: If an argument is not positive or ``reduction`` exceeds the channels.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        reduction: int = 8,
        shrink_factor: int = 1,
        chunk_size: int | None = 512,
    ) -> None:
        super().__init__()
        if not 1 <= reduction <= in_channels or shrink_factor < 1:
            raise ValueError(
                f"expected 1 <= reduction <= in_channels and shrink_factor >= 1, got reduction="
                f"{reduction}, in_channels={in_channels}, shrink_factor={shrink_factor}"
            )
        self.shrink_factor = shrink_factor
        self.chunk_size = chunk_size
        self.query = nn.Conv2d(in_channels, in_channels // reduction, 1)
        self.key = nn.Conv2d(in_channels, in_channels // reduction, 1)
        self.value = nn.Conv2d(in_channels, in_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> SimilarityOutput:
        """Diffuse features.

        Args:
            x: Features, float, shape ``(B, D, H, W)``.

        Returns:
            See :class:`SimilarityOutput`; ``features`` equals x while the gate is closed.
        """
        size, factor = x.shape[2:], self.shrink_factor
        small = x
        if factor > 1:
            grid = [(n - 1) // factor + 1 for n in size]
            small = F.interpolate(x, size=grid, mode="bilinear", align_corners=True)
        query, key = self.query(small), self.key(small)
        walked = attention_walk(query, key, self.value(small), chunk_size=self.chunk_size)
        if factor > 1:
            walked = F.interpolate(walked, size=size, mode="bilinear", align_corners=True)
        return SimilarityOutput(self.gamma * walked + x, query, key)
