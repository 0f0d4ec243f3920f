"""Gaussian filtering of scattered points on the permutohedral lattice, in plain torch."""

from __future__ import annotations

import math
from copy import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PermutohedralLattice"]

_LARGEST_CODE = 2**62  # of lattice points, int64; one bit is left for differences
_FARTHEST_CELL = 2**20  # beyond, float32 cannot tell where in its cell a point lies
_CPU_ELEMENTS = 7_500_000  # of float32: below the 32 MiB from which malloc returns pages at once


class PermutohedralLattice:
    r"""Approximate Gaussian filter in feature space; built once per image, then applied cheaply.

    .. math:: \hat v_i \approx \kappa \sum_j e^{-\|f_i - f_j\|^2 / 2} v_j

    (Adams, Baek and Davis, Eurographics 2010: each point is spread over the d+1 corners of its
    simplex, the lattice is blurred with [½, 1, ½] along its d+1 axes one after the other, and read
    back at the points). The result is un-normalised and scaled by 1/(1 + 2^-d), as in the
    lattices that the dense-CRF literature uses; :math:`\kappa` is about 0.55 for d = 5 and 0.85
    for d = 2, so absolute values differ from the exact sum while normalised ones nearly agree.

    All images of a batch share one lattice whose points carry the image number, so they do not mix.
    With N points in all and M lattice points (at most N·(d+1)), building takes time
    O(N·d·(d + log N)) and memory O(N·d), about 50·N·(d+1) bytes at its peak; on CUDA it waits for
    the device twice: for the range of the features and for the number of lattice points.

    Args:
        features: Points divided by the bandwidths, floating point, finite, shape ``(N, d)`` or
            ``(B, N, d)``; no gradient flows to them.

    Attributes:
        num_points: M, lattice points of all images together.

    Raises:
        ValueError: If the features have another shape, are not finite, or spread over more cells
            than can be numbered.

    Example:
        >>> lattice = PermutohedralLattice(torch.zeros(3, 2))
        >>> [round(x, 3) for x in lattice.filter(torch.ones(3, 1)).flatten().tolist()]
        [2.7, 2.7, 2.7]
    """

    def __init__(self, features: Tensor) -> None:
        if (
            features.ndim not in (2, 3)
            or not features.is_floating_point()
            or not features.shape[-1]
        ):
            raise ValueError(
                f"features of shape {tuple(features.shape)} and type {features.dtype}: expected "
                "floating point (N, d) or (B, N, d) with d at least 1; flatten the pixels first"
            )
        self.shape = features.shape[:-1]
        self.dims = features.shape[-1]
        features = full_precision(features.detach())
        self._unscaled: PermutohedralLattice | None = None
        self._factors: tuple[Tensor, ...] = ()
        corners, shares, steps = _locate(features)
        self._build(corners, shares, steps)

    def _build(self, corners: Tensor, shares: Tensor, steps: list[int]) -> None:
        """Number the lattice points; tables for spreading, blurring and reading."""
        points = corners.shape[1]
        # Sorting the codes groups the corners by lattice point: the order is the splat table.
        codes, order = corners.flatten().sort(stable=True)
        first = torch.ones_like(codes, dtype=torch.bool)
        first[1:] = codes[1:] != codes[:-1]
        starts = first.nonzero()[:, 0]
        self.num_points = len(starts)
        number = torch.empty_like(order, dtype=torch.int32)
        number[order] = (first.cumsum(0, dtype=torch.int32) - 1).to(torch.int32)
        # One row of zeros follows the lattice points and stands for every missing neighbour.
        end = starts.new_full((1,), len(order))
        self._splat_offsets = torch.cat((starts, end)).to(torch.int32)
        self._splat_index = (order % max(points, 1)).to(torch.int32)
        self._splat_share = shares.flatten()[order]
        self._slice_index = number.view(self.dims + 1, points).t().contiguous()
        self._slice_share = (shares / (1 + 2.0**-self.dims)).t().contiguous()
        self._neighbours = _neighbours(codes[starts], steps).unbind(0)
        # filled on the device: a copy of the three numbers would be waited for
        self._blur_weight = shares.new_full((self.num_points + 1, 3), 0.5)
        self._blur_weight[:, 1] = 1

    def filter(self, values: Tensor, *, transpose: bool = False) -> Tensor:
        """Weighted sums over all points of the same image, the point itself included.

        Time O((N + M)·d·K), memory O((N + M)·K). Differentiable in ``values``; the gradient is the
        exact transpose. (Blurring the axes one after the other is not quite symmetric, because
        lattice points that no input touches are left out.)

        Args:
            values: K values per point, shape ``(N, K)`` or ``(B, N, K)`` like the features;
                16-bit types are computed and returned in float32.
            transpose: Apply the transposed filter.

        Returns:
            Same shape; empty for no points.

        Raises:
            ValueError: If the values do not belong to the points of this lattice.
        """
        if values.shape[:-1] != self.shape or not values.is_floating_point():
            raise ValueError(
                f"values {tuple(values.shape)} of {values.dtype} on a lattice of the points "
                f"{tuple(self.shape)}: expected floating point {(*self.shape, 'K')}"
            )
        filtered: Tensor = _Filter.apply(full_precision(values), self, transpose)
        return filtered

    def scaled(self, before: Tensor, after: Tensor) -> PermutohedralLattice:
        """A lattice that also multiplies the points before and after filtering, at no extra cost.

        It shares its tables with this one. Time and memory O(N·d).

        Args:
            before: Factor on the values of each point, shape ``(N,)`` or ``(B, N)``.
            after: Factor on the sums of each point, same shape.

        Returns:
            A lattice whose ``filter(v)`` is ``after * filter(before * v)``.

        Raises:
            ValueError: If the factors do not belong to the points of this lattice.
        """
        if before.shape != self.shape or after.shape != self.shape:
            raise ValueError(
                f"factors {tuple(before.shape)} and {tuple(after.shape)} on a lattice of the "
                f"points {tuple(self.shape)}: expected one factor per point"
            )
        other = copy(self)
        other._unscaled, other._factors = self, (before, after)
        other._splat_share = self._splat_share * before.flatten()[self._splat_index]
        other._slice_share = self._slice_share * after.flatten()[:, None]
        return other

    def _apply(self, values: Tensor, transpose: bool) -> Tensor:
        if not values.numel():
            return values.clone()
        lattice = self
        if transpose and self._unscaled is not None:
            lattice = self._unscaled.scaled(*reversed(self._factors))
        flat = values.reshape(-1, values.shape[-1])
        # few enough columns at a time that the allocator keeps the pages (CPU only)
        rows = max(self.num_points + 1, len(flat))
        most = max(_CPU_ELEMENTS // rows, 1) if flat.device.type == "cpu" else flat.shape[1]
        parts = -(-flat.shape[1] // most)
        if parts == 1:
            return lattice._columns(flat, transpose).view_as(values)
        filtered = torch.empty_like(flat, memory_format=torch.contiguous_format)
        for source, target in zip(
            flat.tensor_split(parts, 1), filtered.tensor_split(parts, 1), strict=True
        ):
            target.copy_(lattice._columns(source, transpose))
        return filtered.view_as(values)

    def _columns(self, values: Tensor, transpose: bool) -> Tensor:
        rows = values.contiguous()
        rows = _weighted_rows(rows, self._splat_index, self._splat_share, self._splat_offsets)
        for neighbours in reversed(self._neighbours) if transpose else self._neighbours:
            rows = _weighted_rows(rows, neighbours, self._blur_weight)
        return _weighted_rows(rows, self._slice_index, self._slice_share)


class _Filter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, lattice: PermutohedralLattice, transpose: bool) -> Tensor:
        ctx.lattice, ctx.transpose = lattice, transpose
        return lattice._apply(values, transpose)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.lattice._apply(grads[0], not ctx.transpose), None, None


def _weighted_rows(
    rows: Tensor, index: Tensor, share: Tensor, offsets: Tensor | None = None
) -> Tensor:
    """Sums of weighted rows, a sparse product; deterministic, and fast on CPU and CUDA alike."""
    share = share.to(rows.dtype)
    return F.embedding_bag(index, rows, offsets, mode="sum", per_sample_weights=share)


def _locate(features: Tensor) -> tuple[Tensor, Tensor, list[int]]:
    """The simplex that holds each point.

    Returns:
        Codes of the d+1 corners, int64, and the barycentric shares, both ``(d + 1, N)``; and what
        to add to a code for the neighbour along each of the d+1 axes.
    """
    images = features.shape[0] if features.ndim == 3 else 1
    dims = features.shape[-1]
    flat = features.reshape(-1, dims)
    elevated = _elevate(flat)
    # Nearest point whose coordinates are multiples of d+1, and the rank of the residuals.
    scaled = elevated * (1 / (dims + 1))
    up, down = scaled.ceil(), scaled.floor()
    nearer_up = up * (dims + 1) - elevated < elevated - down * (dims + 1)
    cell = torch.where(nearer_up, up, down)
    lowest, strides, size = _numbering(cell, images)
    residual = elevated - cell * (dims + 1)
    rank = torch.zeros_like(cell, dtype=torch.int64)
    for i in range(dims):
        for j in range(i + 1, dims + 1):
            before = residual[i] < residual[j]
            rank[i] += before
            rank[j] += ~before
    rank += cell.sum(0).to(torch.int64)
    shift = (rank < 0).to(torch.int64) - (rank > dims).to(torch.int64)
    rank += shift * (dims + 1)
    cell += shift
    residual = (elevated - cell * (dims + 1)) / (dims + 1)

    ordered = torch.empty_like(residual).scatter_(0, rank, residual)
    shares = torch.empty_like(residual)
    shares[0] = 1 + ordered[dims] - ordered[0]
    shares[1:] = ordered[:-1].flip(0) - ordered[1:].flip(0)

    code = torch.zeros_like(rank[0])
    for axis, stride in enumerate(strides[:dims]):
        code += (cell[axis].to(torch.int64) - lowest[axis]) * (stride * (dims + 1))
    if images > 1:
        own = torch.arange(images, device=flat.device) * size
        code += own[:, None].expand(-1, features.shape[1]).reshape(-1)
    # Corner k is corner k-1 plus one everywhere, less d+1 at the coordinate of rank d+1-k.
    stride_of_rank = torch.empty_like(rank)
    for axis, stride in enumerate(strides):  # numbers, as a table would be copied and waited for
        stride_of_rank.scatter_(0, rank[axis : axis + 1], stride)
    corners = torch.empty_like(rank)
    corners[0] = code
    for k in range(1, dims + 1):
        corners[k] = corners[k - 1] + sum(strides) - (dims + 1) * stride_of_rank[dims + 1 - k]
    steps = [(dims + 1) * stride - sum(strides) for stride in strides]
    return corners, shares, steps


def _elevate(features: Tensor) -> Tensor:
    """Features ``(N, d)`` on the hyperplane of the lattice, ``(d + 1, N)``; columns sum to 0."""
    dims = features.shape[1]
    elevated = features.new_empty(dims + 1, len(features))
    tail = torch.zeros_like(elevated[0])
    for axis in range(dims, 0, -1):
        scale = (dims + 1) * math.sqrt(2 / 3) / math.sqrt(axis * (axis + 1))
        scaled = features[:, axis - 1] * scale
        elevated[axis] = tail - axis * scaled
        tail = tail + scaled
    elevated[0] = tail
    return elevated


def _numbering(cell: Tensor, images: int) -> tuple[list[int], list[int], int]:
    """Origin and stride of each coordinate (the last is implied: 0), and codes per image.

    The code of a lattice point p is the sum of stride·p, so that neighbours differ by a constant.
    The strides are mixed radices of p // (d+1); all but the first are multiples of d+1, so that the
    code modulo d+1 is p mod (d+1), which is the same for all coordinates of a lattice point.
    """
    dims = len(cell) - 1
    if not cell.shape[1]:
        return [0] * dims, [1] * dims + [0], 1
    low, high = torch.stack((cell[:dims].amin(1), cell[:dims].amax(1))).tolist()
    if not all(map(math.isfinite, (*low, *high))):
        raise ValueError("features hold NaN or infinity: expected finite ones; check the image")
    strides = [1]
    for axis in range(dims):
        # the cell may still move by 1, its corners and their neighbours reach 2 below and 1 above
        extent = int(high[axis]) - int(low[axis]) + 6
        if axis == 0:
            extent = -(-extent // (dims + 1)) * (dims + 1)
        strides.append(strides[-1] * extent)
    size = strides.pop() * (dims + 1)
    farthest = max(map(abs, (*low, *high)))
    if farthest > _FARTHEST_CELL or size * images >= _LARGEST_CODE:
        raise ValueError(
            f"features of {dims} dimensions reach {farthest:.1g} cells from 0 and spread over "
            f"{size * images:.1g}: expected at most {_FARTHEST_CELL:.1g} and fewer than "
            f"{_LARGEST_CODE:.1g}; use larger bandwidths or fewer dimensions"
        )
    return [int(value) - 3 for value in low], [*strides, 0], size


def _neighbours(codes: Tensor, steps: list[int]) -> Tensor:
    """Numbers of (left neighbour, point, right neighbour) per axis, ``(d + 1, M + 1, 3)`` int32.

    Missing ones are number M, whose own neighbours are itself.
    """
    total = len(codes)
    table = torch.full((len(steps), total + 1, 3), total, dtype=torch.int32, device=codes.device)
    own = torch.arange(total + 1, dtype=torch.int32, device=codes.device)
    table[:, :, 1] = own
    if not total:
        return table
    for axis, step in enumerate(steps):
        wanted = codes + step
        found = torch.searchsorted(codes, wanted).clamp_max_(total - 1)
        right = torch.where(codes[found] == wanted, found, total)
        table[axis, :-1, 2] = right
        table[axis, :, 0].scatter_(0, right, own[:-1])
        table[axis, -1] = total
    return table
