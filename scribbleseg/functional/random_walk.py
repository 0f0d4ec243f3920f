"""Affinities of nearby cells that no boundary separates, and random walks along them."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = ["boundary_to_affinity", "path_offsets", "path_table", "sparse_random_walk"]

_MAX_RADIUS = 64
"""Paths stay below 256 cells, so that one byte numbers the cells of a path."""
Offset = tuple[int, int]


@torch.no_grad()
def sparse_random_walk(
    x: Tensor,
    boundary: Tensor,
    *,
    radius: int = 5,
    beta: float = 10.0,
    num_steps: int = 256,
    suppress_boundary: bool = True,
    clamp: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    r"""Class maps after a random walk that does not cross boundaries.

    .. math:: x^0 = x\,(1 - B), \quad x^{t+1} = T x^t, \quad T = \mathrm{diag}(S 1)^{-1} S, \quad
        S_{ij} = a_{ij}^\beta, \; S_{ii} = 1

    with a from :func:`boundary_to_affinity` over the pairs closer
    than ``radius`` that lie in the image (Ahn et al., CVPR 2019, eq. 12 and 13). It averages, so
    the bounds of :math:`x^0` hold; it does not preserve sums. No gradient is recorded.

    Time O(t·B·C·P·h·w) with P = 34 at radius 5: 0.2 s for 3 classes on 125×125 cells and 256 steps
    on one core. Memory O(B·(P + C)·h·w), about 5 MB there.

    Args:
        x: Class maps, float, shape ``(C, h, w)`` or ``(B, C, h, w)``.
        boundary: Boundary probability B in [0, 1], shape ``(h, w)`` or ``(B, h, w)``.
        radius: Neighbourhood in cells, exclusive; see :func:`path_offsets`.
        beta: Exponent of the affinities, positive; larger stops at weaker boundaries.
        num_steps: t, at least 0; 256 = 2\ :sup:`8` is usual.
        suppress_boundary: Start from :math:`x (1 - B)`; otherwise from x.
        clamp: ``(mask, value)`` of the cells whose values are known: bool of the shape of
            ``boundary`` and maps of the shape of ``x``. The value replaces :math:`x^0` at the
            start and x after every step, as absorbing boundary values do.

    Returns:
        New maps of the shape of ``x``; float32 for 16-bit input.

    Raises:
        ValueError: If shapes disagree, x is not floating-point, or ``radius``, ``beta`` or
            ``num_steps`` is out of range.

    Example:
        >>> x = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
        >>> wall = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
        >>> sparse_random_walk(x, wall).round(decimals=2).tolist()
        [[[0.5, 0.5, 0.0, 0.0]]]
    """
    _check(x, boundary, clamp, beta, num_steps)
    single = x.ndim == 3
    maps, walls = full_precision(x), full_precision(boundary)
    walls = walls.to(maps.dtype)
    known = None if clamp is None else (clamp[0].bool(), clamp[1].to(maps.dtype))
    if single:
        maps, walls = maps[None], walls[None]
        known = None if known is None else (known[0][None], known[1][None])
    if suppress_boundary:
        maps = maps * (1 - walls[:, None])
    if known is not None:
        maps = torch.where(known[0][:, None], known[1], maps)
    if maps.numel() and num_steps:
        affinity = boundary_to_affinity(walls, radius=radius, crop=False) ** beta
        maps = _walk_by_shifts(maps, affinity, radius, num_steps, known)
    else:
        maps = maps.clone()  # may still be x itself
    return maps[0] if single else maps


def _check(
    x: Tensor,
    boundary: Tensor,
    clamp: tuple[Tensor, Tensor] | None,
    beta: float,
    num_steps: int,
) -> None:
    batch = x.shape[:-3]
    if x.ndim not in (3, 4) or boundary.shape != (*batch, *x.shape[-2:]):
        raise ValueError(
            f"x {tuple(x.shape)} and boundary {tuple(boundary.shape)} disagree: expected (C, h, w) "
            "and (h, w), or (B, C, h, w) and (B, h, w)"
        )
    if clamp is not None and (clamp[0].shape != boundary.shape or clamp[1].shape != x.shape):
        raise ValueError(
            f"clamp has mask {tuple(clamp[0].shape)} and value {tuple(clamp[1].shape)}: expected "
            f"the shapes of boundary {tuple(boundary.shape)} and x {tuple(x.shape)}"
        )
    if not x.is_floating_point():
        raise ValueError(f"x must hold floating-point scores, got {x.dtype}; use x.float()")
    if not beta > 0:
        raise ValueError(f"beta must be positive, got {beta}: larger stops at weaker boundaries")
    if num_steps < 0:
        raise ValueError(f"num_steps must be at least 0, got {num_steps}")


def _walk_by_shifts(
    maps: Tensor,
    affinity: Tensor,
    radius: int,
    num_steps: int,
    known: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """Walk on rows laid end to end, in which every displacement is one shift of the whole map."""
    (batch, classes, height, width), reach = maps.shape, radius - 1
    # Columns of zeros after each row, and margins, take what is shifted out of the image.
    row = width + reach
    cells, margin = height * row, reach * row + reach
    weights = F.pad(affinity, (0, reach)).flatten(2)
    shifts = [dy * row + dx for (dy, dx), *_ in path_offsets(radius)]

    degree = maps.new_ones(batch, 1, cells + 2 * margin)
    for number, shift in enumerate(shifts):
        degree[:, 0, margin : margin + cells] += weights[:, number]
        degree[:, 0, margin + shift : margin + shift + cells] += weights[:, number]
    degree = degree[:, :, margin : margin + cells]
    current = maps.new_zeros(batch, classes, cells + 2 * margin)
    centre = current[:, :, margin : margin + cells]
    centre.copy_(F.pad(maps, (0, reach)).flatten(2))
    if known is not None:
        # infinite inertia: what flows into a known cell does not change it
        degree = degree.masked_fill(F.pad(known[0], (0, reach)).flatten(1)[:, None], torch.inf)

    # x + (Σ a (x_j - x_i)) / deg is the same average as Σ a x_j / deg, but its rounding is that of
    # the differences, and does not pile up over hundreds of steps once these are small.
    change, flow = torch.empty_like(current), torch.empty_like(centre)
    inflow = change[:, :, margin : margin + cells]
    # slicing 34 views anew in each step would take longer than the arithmetic
    plan = [
        (
            weights[:, number, None],
            current[:, :, margin + shift : margin + shift + cells],
            change[:, :, margin + shift : margin + shift + cells],
        )
        for number, shift in enumerate(shifts)
    ]
    for _ in range(num_steps):
        change.zero_()
        for weight, neighbour, outflow in plan:
            torch.sub(neighbour, centre, out=flow)
            inflow.addcmul_(weight, flow)
            outflow.addcmul_(weight, flow, value=-1)
        centre.addcdiv_(inflow, degree)
    rows = centre.reshape(batch, classes, height, row)
    return rows[..., :width].contiguous()


@lru_cache(maxsize=8)
def path_offsets(radius: int) -> tuple[tuple[Offset, ...], ...]:
    r"""Displacements shorter than a radius, each with the cells on its straight path.

    .. math:: \{(y, x) : (d_y x - d_x y)^2 < d_y^2 + d_x^2\} \text{ within the box spanned by }
        (0, 0) \text{ and } (d_y, d_x), \qquad d_y^2 + d_x^2 < r^2

    Of two opposite displacements only the one to the right or downwards is listed (Ahn et al.,
    CVPR 2019, section 4.2). Paths are sorted by their number of cells, then by displacement row
    by row; this order indexes the pair axis everywhere. Time and memory O(r³); cached.

    Args:
        radius: r in cells, 2 to 64; the length r itself is excluded.

    Returns:
        One tuple of ``(dy, dx)`` cells per displacement. The first cell is the displacement
        itself, the last one is ``(0, 0)``.

    Raises:
        ValueError: If the radius is outside its range.

    Example:
        >>> path_offsets(2)[:3]
        (((0, 1), (0, 0)), ((1, 0), (0, 0)), ((1, -1), (0, -1), (1, 0), (0, 0)))
    """
    if not 2 <= radius <= _MAX_RADIUS:
        raise ValueError(
            f"radius must be 2 to {_MAX_RADIUS} cells, got {radius}; 5 is usual for random walks, "
            "10 for training"
        )
    span = range(-radius + 1, radius)
    ends = [(0, dx) for dx in range(1, radius)]
    ends += [(dy, dx) for dy in range(1, radius) for dx in span if dy * dy + dx * dx < radius**2]
    return tuple(sorted((_path(dy, dx) for dy, dx in ends), key=len))


def _path(dy: int, dx: int) -> tuple[Offset, ...]:
    cells = [
        (y, x)
        for y in range(min(dy, 0), max(dy, 0) + 1)
        for x in range(min(dx, 0), max(dx, 0) + 1)
        if (dy * x - dx * y) ** 2 < dy * dy + dx * dx
    ]
    return tuple(sorted(cells, key=lambda cell: -abs(cell[0]) - abs(cell[1])))


@lru_cache(maxsize=8)
def path_table(radius: int, device: torch.device) -> Tensor:
    """The paths of :func:`path_offsets` on a device, int8, shape ``(2, P, longest)``; at most 3 MB.

    Shorter paths are continued by ``(0, 0)``. Those of the last 8 radii and devices are kept,
    because each copy to a device is waited for, and they are needed in every training step.
    """
    paths = path_offsets(radius)
    longest = len(paths[-1])
    padded = [[*path, *[(0, 0)] * (longest - len(path))] for path in paths]
    with torch.inference_mode(False):  # or the table could not be used outside of it later
        return torch.tensor(padded, dtype=torch.int8, device=device).movedim(2, 0).contiguous()


def boundary_to_affinity(boundary: Tensor, *, radius: int, crop: bool = True) -> Tensor:
    r"""Affinity of each pair of nearby cells: no boundary may lie on the path between them.

    .. math:: a_{ij} = 1 - \max_{k \in \Pi_{ij}} B_k

    (Ahn et al., CVPR 2019, eq. 6). The gradient goes to the strongest cell of a path, the first
    one in path order if several are equal. Time O(B·N·L) for L path cells in all (242 at r = 5,
    2134 at r = 10); memory O(B·P·N), the result and one byte per pair for the gradient.

    Args:
        boundary: Boundary probability in [0, 1], float, shape ``(B, h, w)``.
        radius: See :func:`path_offsets`.
        crop: Only sources whose partners all lie in the grid, for training: rows up to h - r and
            columns r - 1 to w - r; otherwise every cell is a source, and pairs that leave the grid
            have affinity 0.

    Returns:
        Affinity in [0, 1], shape ``(B, P, N)`` if cropped, else ``(B, P, h, w)``; float32 for
        16-bit input. Empty (N = 0) if cropped from a grid smaller than the neighbourhood.

    Raises:
        ValueError: If the shape is wrong or the radius is outside its range.

    Example:
        >>> wall = torch.tensor([[[0.0, 1.0, 0.0]]])
        >>> boundary_to_affinity(wall, radius=2, crop=False)[0, 0].tolist()
        [[0.0, 0.0, 0.0]]
    """
    if boundary.ndim != 3:
        raise ValueError(
            f"boundary must have shape (B, h, w), got {tuple(boundary.shape)}; remove the channel "
            "axis with boundary[:, 0]"
        )
    affinity: Tensor = _PathAffinity.apply(full_precision(boundary), radius, crop)
    return affinity.flatten(2) if crop else affinity


def _parts(
    size: tuple[int, int], radius: int, crop: bool
) -> Iterator[tuple[tuple[Offset, ...], tuple[int, int, int], tuple[Any, ...]]]:
    """Each path; rows, first column and columns of its sources; and their place in the result."""
    (height, width), reach = size, radius - 1
    for number, path in enumerate(path_offsets(radius)):
        dy, dx = path[0]
        if crop:
            rows, column, columns = max(height - reach, 0), reach, max(width - 2 * reach, 0)
        else:
            rows, column, columns = max(height - dy, 0), max(-dx, 0), max(width - abs(dx), 0)
        start = 0 if crop else column
        place = (slice(None), number, slice(0, rows), slice(start, start + columns))
        yield path, (rows, column, columns), place


class _PathAffinity(torch.autograd.Function):
    """One minus the running maximum over shifted views; remembers only which view won."""

    @staticmethod
    def forward(ctx: Any, boundary: Tensor, radius: int, crop: bool) -> Tensor:
        (batch, height, width), reach = boundary.shape, radius - 1
        grid = (max(height - reach, 0), max(width - 2 * reach, 0)) if crop else (height, width)
        affinity = boundary.new_zeros(batch, len(path_offsets(radius)), *grid)
        winners = None
        if ctx.needs_input_grad[0]:
            winners = torch.zeros_like(affinity, dtype=torch.uint8)
        for path, (rows, column, columns), place in _parts((height, width), radius, crop):
            views = [boundary[:, y : y + rows, column + x : column + x + columns] for y, x in path]
            best = views[0].clone(memory_format=torch.contiguous_format)
            winner = torch.zeros_like(best, dtype=torch.uint8)
            better = torch.empty_like(best, dtype=torch.bool)
            for cell, view in enumerate(views[1:], 1):
                if winners is not None:
                    # cells are numbered upwards, so the last one that was better is the largest;
                    # byte arithmetic is ten times faster here than a masked fill
                    torch.gt(view, best, out=better)
                    torch.maximum(winner, better.view(torch.uint8) * cell, out=winner)
                torch.maximum(best, view, out=best)
            affinity[place] = 1 - best
            if winners is not None:
                winners[place] = winner
        if winners is not None:
            ctx.save_for_backward(winners)
            ctx.size, ctx.radius, ctx.crop = (height, width), radius, crop
        return affinity

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (winners,) = ctx.saved_tensors
        height, width = ctx.size
        index = torch.arange(height * width, device=grad.device).reshape(height, width)
        total = grad.new_zeros(grad.shape[0], height * width)
        down, right = path_table(ctx.radius, grad.device).long()
        steps = down * width + right
        for _, (rows, column, columns), place in _parts(ctx.size, ctx.radius, ctx.crop):
            source = index[:rows, column : column + columns]
            strongest = source + steps[place[1], winners[place].long()]
            total.scatter_add_(1, strongest.flatten(1), grad[place].flatten(1).neg())
        return total.reshape(-1, height, width), None, None
