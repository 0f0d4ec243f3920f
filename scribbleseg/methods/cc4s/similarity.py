"""Similarity measurement: a learned transition matrix and one step of its random walk."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SimilarityMeasurement", "SimilarityOutput", "attention_walk", "transition_logits"]


def transition_logits(query: Tensor, key: Tensor) -> Tensor:
    r"""Similarity of every cell to every cell, before normalisation.

    .. math:: E_{ij} = \langle q_i, k_j \rangle

    without the usual division by the root of d (Pan et al., ICCV 2021, section 3.2). Computed in
    float32 also under autocast, because the products overflow 16 bits. Time O(B·N²·d) and memory
    O(B·N²) for N = h·w: 48 MB per image at 59×59.

    Args:
        query: Feature of the cell that receives, shape ``(B, d, h, w)``.
        key: Feature of the cell that gives, shape ``(B, d, h, w)``; its grid may differ.

    Returns:
        Logits, shape ``(B, N, N)``, row-major cells; rows are queries.

    Raises:
        ValueError: If batch or channels disagree.

    Example:
        >>> transition_logits(torch.ones(1, 2, 1, 3), torch.ones(1, 2, 1, 3)).shape
        torch.Size([1, 3, 3])
    """
    _check_factors(query, key)
    with torch.autocast(query.device.type, enabled=False):
        rows, columns = full_precision(query).flatten(2), full_precision(key).flatten(2)
        return rows.transpose(1, 2) @ columns


def _check_factors(query: Tensor, key: Tensor) -> None:
    if query.ndim != 4 or key.ndim != 4 or query.shape[:2] != key.shape[:2]:
        raise ValueError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)} disagree: expected "
            "(B, d, h, w) twice, with equal B and d"
        )


def attention_walk(
    query: Tensor, key: Tensor, value: Tensor, *, chunk_size: int | None = 512
) -> Tensor:
    r"""One step of the random walk given by its factors.

    .. math:: y_i = \sum_j P_{ij} v_j, \qquad P = \mathrm{softmax}_j(\langle q_i, k_j \rangle)

    (Pan et al., ICCV 2021, eq. 2). The matrix exists for ``chunk_size`` queries at a time and is
    computed again for the gradient. Time O(B·N²·(d + D)), memory O(B·N·``chunk_size``).

    Args:
        query: See :func:`transition_logits`, shape ``(B, d, h, w)``.
        key: Shape ``(B, d, h, w)``.
        value: What is averaged, shape ``(B, D, h, w)``, on the grid of the keys.
        chunk_size: Queries at a time; ``None`` for all.

    Returns:
        Averages, shape ``(B, D, h, w)`` on the grid of the queries; float32 for 16-bit input.

    Raises:
        ValueError: If shapes disagree or ``chunk_size`` is not positive.

    Example:
        >>> flat = torch.zeros(1, 2, 1, 2)
        >>> attention_walk(flat, flat, torch.tensor([[[[0.0, 1.0]]]])).tolist()
        [[[[0.5, 0.5]]]]
    """
    _check_factors(query, key)
    if value.ndim != 4 or value.shape[0] != key.shape[0] or value.shape[2:] != key.shape[2:]:
        raise ValueError(
            f"value {tuple(value.shape)} and key {tuple(key.shape)} disagree: expected "
            "(B, D, h, w) and (B, d, h, w)"
        )
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, or None for no chunks, got {chunk_size}")
    with torch.autocast(query.device.type, enabled=False):
        rows = full_precision(query).flatten(2).transpose(1, 2)
        keys = full_precision(key).flatten(2)
        values = full_precision(value).flatten(2).transpose(1, 2)
        if chunk_size is None or rows.shape[1] <= chunk_size:
            walked = _step(rows, keys, values)
        else:
            chunks = torch.split(rows, chunk_size, dim=1)
            parts = [checkpoint(_step, part, keys, values, use_reentrant=False) for part in chunks]
            walked = torch.cat(parts, dim=1)
        return walked.transpose(1, 2).reshape(-1, value.shape[1], *query.shape[2:])


def _step(rows: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return torch.softmax(rows @ keys, dim=2) @ values


class SimilarityOutput(NamedTuple):
    """Diffused features and the factors of the transition logits.

    Args:
        features: z, shape ``(B, D, H, W)``, the size of the input.
        query: Shape ``(B, d, h, w)``, on the shrunk grid.
        key: Shape ``(B, d, h, w)``.
        shrink_factor: By how much that grid is smaller.
    """

    features: Tensor
    query: Tensor
    key: Tensor
    shrink_factor: int = 1

    def energy(self) -> Tensor:
        """Transition logits, shape ``(B, h·w, h·w)``; formed only when asked for.

        See :func:`~scribbleseg.methods.cc4s.similarity.transition_logits`.
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
        shrink_factor: The walk takes place on a grid smaller by this factor.
        max_cells: The factor grows until the grid has at most so many cells; ``None`` = never.
        pooling: How features become smaller. ``"corners"``: every s-th cell from the first one on,
            which between aligned corners is the published bilinear resampling; cells behind the
            last one get its walk, for sizes that are not of the form n·s + 1. ``"mean"``: the
            average of s×s cells, for features whose cells cover the image like tiles.
        chunk_size: See :func:`~scribbleseg.methods.cc4s.similarity.attention_walk`.

    Raises:
        ValueError: If an argument is out of range or ``reduction`` exceeds the channels.
    """

    def __init__(
        self,
        in_channels: int,
        *,
        reduction: int = 8,
        shrink_factor: int = 1,
        max_cells: int | None = None,
        pooling: Literal["corners", "mean"] = "corners",
        chunk_size: int | None = 512,
    ) -> None:
        super().__init__()
        if not 1 <= reduction <= in_channels or shrink_factor < 1:
            raise ValueError(
                f"expected 1 <= reduction <= in_channels and shrink_factor >= 1, got reduction="
                f"{reduction}, in_channels={in_channels}, shrink_factor={shrink_factor}"
            )
        if (max_cells is not None and max_cells < 1) or pooling not in ("corners", "mean"):
            raise ValueError(
                f"max_cells={max_cells!r}, pooling={pooling!r}: expected None or at least 1, and "
                '"corners" or "mean"'
            )
        self.shrink_factor = shrink_factor
        self.max_cells = max_cells
        self.pooling: Literal["corners", "mean"] = pooling
        self.chunk_size = chunk_size
        self.query = nn.Conv2d(in_channels, in_channels // reduction, 1)
        self.key = nn.Conv2d(in_channels, in_channels // reduction, 1)
        self.value = nn.Conv2d(in_channels, in_channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def shrink_for(self, height: int, width: int) -> int:
        """Factor by which a map of this size is made smaller.

        Example:
            >>> SimilarityMeasurement(8, max_cells=3500).shrink_for(128, 128)
            3
        """
        factor = self.shrink_factor
        while self.max_cells is not None and math.prod(self._grid((height, width), factor)) > (
            self.max_cells
        ):
            factor += 1
        return factor

    def factors(self, x: Tensor, shrink_factor: int | None = None) -> tuple[Tensor, Tensor]:
        """Query and key alone, without a walk.

        Args:
            x: Features, float, shape ``(B, D, H, W)``.
            shrink_factor: As in :meth:`forward`.

        Returns:
            Two maps, shape ``(B, d, h, w)``.
        """
        small = self._shrunk(x, shrink_factor or self.shrink_for(x.shape[2], x.shape[3]))
        return self.query(small), self.key(small)

    def forward(self, x: Tensor, shrink_factor: int | None = None) -> SimilarityOutput:
        """Diffuse features.

        Args:
            x: Features, float, shape ``(B, D, H, W)``.
            shrink_factor: Instead of :meth:`shrink_for`, such as that of a larger map of which this
                is a part.

        Returns:
            See :class:`SimilarityOutput`; ``features`` equals x while the gate is closed.
        """
        size = (x.shape[2], x.shape[3])
        factor = shrink_factor or self.shrink_for(*size)
        small = self._shrunk(x, factor)
        query, key = self.query(small), self.key(small)
        walked = attention_walk(query, key, self.value(small), chunk_size=self.chunk_size)
        if factor > 1:
            walked = self._enlarged(walked, size, factor)
        return SimilarityOutput(self.gamma * walked + x, query, key, factor)

    def _grid(self, size: tuple[int, int], factor: int) -> tuple[int, int]:
        return (size[0] - 1) // factor + 1, (size[1] - 1) // factor + 1

    def _shrunk(self, x: Tensor, factor: int) -> Tensor:
        if factor == 1:
            return x
        if self.pooling == "mean":
            return F.avg_pool2d(x, factor, ceil_mode=True, count_include_pad=False)
        return x[..., ::factor, ::factor]

    def _enlarged(self, walked: Tensor, size: tuple[int, int], factor: int) -> Tensor:
        """Back to the grid of the features, each cell where it was taken from."""
        corners = int(self.pooling == "corners")
        full = [factor * (n - corners) + corners for n in walked.shape[2:]]
        walked = F.interpolate(walked, size=full, mode="bilinear", align_corners=bool(corners))
        rest = [max(n - m, 0) for n, m in zip(size, full, strict=True)]
        if any(rest):
            walked = F.pad(walked, (0, rest[1], 0, rest[0]), mode="replicate")
        return walked[..., : size[0], : size[1]]
