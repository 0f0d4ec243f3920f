"""Localisation rectification: foreground features are rebuilt from the whole image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.errors import ConfigError
from scribbleseg.functional.distributed import mean_over_ranks
from scribbleseg.functional.losses import full_precision, weighted_mean
from scribbleseg.options import check_choice, check_number, check_whole

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LocalizationRectification", "RectificationVariant", "foreground_cells", "touched_cells"]

RectificationVariant = Literal["released", "foreground_only"]
_SMALLEST_NORM = 1e-6


def touched_cells(mask: Tensor, size: tuple[int, int], *, align_corners: bool = True) -> Tensor:
    """Cells whose bilinear sample of a mask touches a pixel that is set.

    With ``align_corners`` and ``H = 8m + 1``, ``h = m + 1`` these are exactly ``mask[::8, ::8]``.
    Time O(B·h·w).

    Args:
        mask: Bool, shape ``(B, H, W)``.
        size: ``(h, w)`` of the feature map.
        align_corners: How the grids lie on each other.

    Returns:
        Bool, shape ``(B, h, w)``.

    Example:
        >>> mask = torch.tensor([[[True, False, False]]])
        >>> touched_cells(mask, (1, 2)).tolist()
        [[[True, False]]]
    """
    sampled = F.interpolate(
        mask[:, None].float(), size=size, mode="bilinear", align_corners=align_corners
    )
    return sampled[:, 0] > 0


def foreground_cells(
    labels: Tensor,
    size: tuple[int, int],
    *,
    align_corners: bool = True,
    background: int | None = 0,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    r"""Feature cells that lie on an object of a label map.

    .. math:: m = 1[\mathrm{bilinear}(1[0 < Y < 255]) > 0]

    (CDSP, AAAI 2024, mask of its localisation rectification as released).

    Args:
        labels: Ids, such as a pseudo-label, int64, shape ``(B, H, W)``.
        size: ``(h, w)`` of the feature map.
        align_corners: How the grids lie on each other; True as released.
        background: Class that is no object; ``None`` = every class is one.
        ignore_index: Value that is no class.

    Returns:
        Bool, shape ``(B, h, w)``.

    Example:
        >>> foreground_cells(torch.tensor([[[2, 0, 255]]]), (1, 3)).tolist()
        [[[True, False, False]]]
    """
    foreground = labels != ignore_index
    if background is not None:
        foreground &= labels != background
    return touched_cells(foreground, size, align_corners=align_corners)


class LocalizationRectification(nn.Module):
    r"""Attention-reconstructed foreground features must agree with the features themselves.

    .. math:: \hat X_i = \gamma\, m_i \sum_j A_{ij} X_j, \quad
        A = \mathrm{softmax}_j\Big(\frac{Q_i^\top K_j}{\tau \|Q_i\| \|K_j\|}\Big), \quad
        L = \frac{\sum (X - \hat X)^2}{\#\{(X - \hat X)^2 \ne 0\}}

    with :math:`Q = W_q X + b_q`, :math:`K = W_k X + b_k` per image and no gradient stopped (CDSP,
    AAAI 2024, localisation rectification module as released). Off the foreground
    :math:`\hat X = 0`, so features there shrink.

    Rows of A are evaluated for foreground cells only, ``chunk`` at a time, and again in the
    backward pass: time O(N·D² + n·N·D) per image with n foreground cells of N, memory O(N·D +
    chunk·N) instead of O(N²). Float32 under autocast. How many cells are foreground is read by the
    host, once per step.

    Args:
        channels: D of the feature map.
        variant: ``released``; or ``foreground_only``, in which background cells are neither targets
            nor values, so that they do not shrink.
        temperature: τ above 0.
        chunk: Rows of A in memory, at least 1; ``None`` = all, without recomputation.
    """

    def __init__(
        self,
        channels: int,
        *,
        variant: RectificationVariant = "released",
        temperature: float = 1.0,
        chunk: int | None = 512,
    ) -> None:
        super().__init__()
        check_choice("variant", variant, ("released", "foreground_only"))
        check_number(temperature=temperature)
        if temperature <= 0:
            raise ConfigError(f"temperature={temperature}: expected a number above 0; 1 is usual")
        if chunk is not None:
            check_whole(1, chunk=chunk)
        self.variant, self.temperature, self.chunk = variant, temperature, chunk
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.gamma = nn.Parameter(torch.ones(()))
        for layer in (self.query, self.key):
            nn.init.normal_(layer.weight, std=math.sqrt(2 / channels))
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        features: Tensor,
        foreground: Tensor,
        *,
        valid: Tensor | None = None,
        across_ranks: bool = False,
    ) -> Tensor:
        """The loss of a batch.

        Args:
            features: X, the last map of an encoder, float, shape ``(B, D, h, w)``.
            foreground: m, bool, shape ``(B, h, w)``.
            valid: Cells that show the image, bool, shape ``(B, h, w)``; the others are no keys and
                count nothing.
            across_ranks: In a distributed run, divide by the count of all ranks, so that the ranks'
                average is the loss of one process on all images. Every rank must then call.

        Returns:
            Scalar; an exact differentiable 0 if no cell of the batch is foreground.

        Raises:
            ValueError: If the shapes disagree.
        """
        with torch.autocast(features.device.type, enabled=False):
            cells, objects, inside = self._rows(features, foreground, valid)
            numbers = objects.sum(dim=1).tolist()
            # parameters without a query need a gradient as well
            total = sum((p.sum() * 0 for p in self.parameters()), start=cells.new_zeros(()))
            count = cells.new_zeros((), dtype=torch.int64)
            for x, m, seen, number in zip(cells.unbind(), objects, inside, numbers, strict=True):
                if self.variant == "released":
                    rest = x.square() * (seen & ~m)[:, None]
                    total, count = total + rest.sum(), count + rest.detach().count_nonzero()
                for rows, rebuilt in self._rebuilt(x, m, seen, number):
                    squares = (x[rows] - rebuilt).square()
                    total, count = total + squares.sum(), count + squares.detach().count_nonzero()
            drawn = objects.sum().to(cells.dtype)
            if across_ranks:
                drawn = mean_over_ranks(drawn)
            loss = weighted_mean(total, count.to(total.dtype), across_ranks=across_ranks)
            return loss * (drawn > 0)

    def rectify(
        self, features: Tensor, foreground: Tensor, *, valid: Tensor | None = None
    ) -> Tensor:
        """Reconstructed features, 0 off the foreground.

        Args:
            features: X, shape ``(B, D, h, w)``.
            foreground: m, bool, shape ``(B, h, w)``.
            valid: Cells that show the image; ``None`` = all.

        Returns:
            Shape ``(B, D, h, w)``.
        """
        with torch.autocast(features.device.type, enabled=False):
            cells, objects, inside = self._rows(features, foreground, valid)
            images = []
            for x, m, seen in zip(cells.unbind(), objects, inside, strict=True):
                made = torch.zeros_like(x)
                for rows, rebuilt in self._rebuilt(x, m, seen, int(m.sum())):
                    made = made.index_copy(0, rows, rebuilt)
                images.append(made)
            return torch.stack(images).transpose(1, 2).reshape(features.shape)

    @torch.no_grad()
    def attention(
        self, features: Tensor, cell: tuple[int, int], *, valid: Tensor | None = None
    ) -> Tensor:
        """Where one cell looks: its row of A.

        Args:
            features: X of one image, shape ``(1, D, h, w)``.
            cell: Row and column of the cell.
            valid: Cells that show the image, bool, shape ``(1, h, w)``; ``None`` = all.

        Returns:
            Shares that sum to 1, shape ``(h, w)``; 0 for cells that are not valid.
        """
        nothing = torch.zeros_like(features[:, 0], dtype=torch.bool)
        cells, _, inside = self._rows(features, nothing, valid)
        x, place = cells[0], cell[0] * features.shape[-1] + cell[1]
        scores = self._scores(x[place : place + 1], self.key(x), inside[0])
        return scores.softmax(dim=1).view(features.shape[-2:])

    def _rows(
        self, features: Tensor, foreground: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Cells ``(B, N, D)``, and which of them are objects and inside the image, ``(B, N)``."""
        shape = (features.shape[0], *features.shape[2:])
        wrong = features.ndim != 4 or foreground.shape != shape
        if wrong or (valid is not None and valid.shape != shape):
            given = None if valid is None else tuple(valid.shape)
            raise ValueError(
                f"features {tuple(features.shape)}, foreground {tuple(foreground.shape)} and valid "
                f"{given} disagree: expected (B, D, h, w) and (B, h, w); see foreground_cells"
            )
        cells = full_precision(features).flatten(2).transpose(1, 2).contiguous()
        objects = foreground.flatten(1)
        inside = torch.ones_like(objects) if valid is None else valid.flatten(1)
        return cells, objects & inside, inside

    def _rebuilt(
        self, x: Tensor, objects: Tensor, inside: Tensor, number: int
    ) -> list[tuple[Tensor, Tensor]]:
        """Foreground cells of one image and their reconstruction, chunk by chunk."""
        if number == 0:
            return []
        rows = objects.nonzero()[:, 0]
        keys = self.key(x)
        values = x if self.variant == "released" else x * objects[:, None]
        if self.chunk is None:
            return [(rows, self._rebuild(x[rows], keys, values, inside))]
        return [
            (part, checkpoint(self._rebuild, x[part], keys, values, inside, use_reentrant=False))
            for part in torch.split(rows, self.chunk)
        ]

    def _rebuild(self, x: Tensor, keys: Tensor, values: Tensor, inside: Tensor) -> Tensor:
        rebuilt: Tensor = self.gamma * (self._scores(x, keys, inside).softmax(dim=1) @ values)
        return rebuilt

    def _scores(self, x: Tensor, keys: Tensor, inside: Tensor) -> Tensor:
        """Scaled cosines of some cells to all, shape ``(n, N)``."""
        queries = self.query(x)
        # the lengths divide the rows and columns of the product: no normalised copy of the keys
        cosines: Tensor = queries @ keys.T
        cosines = cosines * _inverse_length(queries)[:, None] * _inverse_length(keys)
        return (cosines / self.temperature).masked_fill(~inside, -math.inf)


def _inverse_length(vectors: Tensor) -> Tensor:
    """1 / norm of each row; 0 for a vector of zeros, whose gradient would be infinite."""
    length = torch.linalg.vector_norm(vectors, dim=1)
    return torch.where(length > _SMALLEST_NORM, 1 / length.clamp_min(_SMALLEST_NORM), 0)
