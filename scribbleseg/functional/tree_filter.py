"""Averages over all pixels of an image, weighted by their distance along a spanning tree.

Both passes of the filter walk the tree level by level on the CPU (numpy; some hundreds of levels),
and jump over 1, 2, 4, … edges at once elsewhere (plain torch, without waiting for the device).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from scribbleseg.functional.grid_tree import GridTree, grid_mst, packed_argsort, root_tree
from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

__all__ = ["GridTree", "grid_mst", "root_tree", "tree_filter"]


def tree_filter(
    values: Tensor, edge_weights: Tensor, tree: GridTree, *, sigma: float = 1.0
) -> Tensor:
    r"""Average over the whole image, weighted by the distance along a tree.

    .. math:: \hat q_i = \frac{\sum_j A_{ij} q_j}{\sum_j A_{ij}}, \qquad
        A_{ij} = \exp\Bigl(-\frac1\sigma \sum_{e \in \text{path}_T(i, j)} \omega_e\Bigr)

    (Liang et al., CVPR 2022, tree energy loss, the cascaded filters; Song et al., NeurIPS 2019.)
    Gradients reach the values and the weights of the edges of the tree, once; all terms are
    positive, so nothing cancels. The result does not depend on the root. Time O(B·C·N) on the CPU,
    O(B·C·N·log N) elsewhere; memory O(B·C·N). On a GPU the order of additions varies unless
    ``torch.use_deterministic_algorithms`` is on.

    Args:
        values: :math:`q`, float, shape ``(B, C, H, W)``; 16 bits are computed in float32.
        edge_weights: :math:`\omega \ge 0` in the edge order of :mod:`.grid_tree`, float, shape
            ``(B, M)``.
        tree: Trees of ``(H, W)`` grids, on the same device.
        sigma: Bandwidth, in units of the weights.

    Returns:
        Averages in units of the values, shape ``(B, C, H, W)``; the values themselves where every
        edge is infinitely long.

    Raises:
        ValueError: If the shapes disagree or ``sigma`` is not positive.

    Example:
        >>> weights = torch.tensor([[0.0, 81.0, 0.0]])
        >>> tree = root_tree(grid_mst(weights, size=(1, 4)), size=(1, 4))
        >>> tree_filter(torch.tensor([[[[1.0, 3, 5, 7]]]]), weights, tree).tolist()
        [[[[2.0, 2.0, 6.0, 6.0]]]]
    """
    shape = (len(values), values.shape[-2] * values.shape[-1]) if values.ndim == 4 else None
    edges = 2 * shape[1] - values.shape[-1] - values.shape[-2] if shape else 0
    if tree.parent.shape != shape or edge_weights.shape != (len(values), edges):
        raise ValueError(
            f"values {tuple(values.shape)}, edge_weights {tuple(edge_weights.shape)} and a tree of "
            f"{tuple(tree.parent.shape)} disagree: expected (B, C, H, W), (B, (H-1)*W + H*(W-1)) "
            "and (B, H*W); build all three at one resolution"
        )
    if not sigma > 0:
        raise ValueError(f"sigma={sigma}: expected a positive bandwidth")
    values, edge_weights = full_precision(values), full_precision(edge_weights)
    dtype = torch.promote_types(values.dtype, edge_weights.dtype)
    # autocast need not be switched off: it lowers matrix products alone, and there are none
    # the root has no parent: an edge of infinite length, whose affinity is 0
    length = F.pad(edge_weights, (0, 1), value=float("inf")).gather(1, tree.parent_edge)
    affinity = torch.exp(-length.to(dtype) / sigma)
    filtered: Tensor = _TreeFilter.apply(
        values.to(dtype), affinity, tree.parent, tree.depth, _sweeps_for(values)
    )
    return filtered


class _TreeFilter(torch.autograd.Function):
    r"""Filter with closed-form gradients.

    With :math:`w` the affinity to the parent (0 at the root), :math:`\pi` the parent, and a channel
    of ones appended to :math:`q`: towards the root, :math:`u_i = q_i + \sum_{k: \pi(k) = i} w_k
    u_k` sums over subtrees; away from it, :math:`y_i = (1 - w_i^2) u_i + w_i y_{\pi(i)}` sums over
    the whole tree; the last channel of y is the denominator z. The matrix A is symmetric, so the
    gradient passes through the same two sweeps, and the derivative by :math:`w_i` is what either
    side of the edge receives from the other: :math:`\sum_c u^G_i (y_{\pi(i)} - w_i u_i) + u_i
    (y^G_{\pi(i)} - w_i u^G_i)`.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        affinity: Tensor,
        parent: Tensor,
        depth: Tensor,
        sweeps_type: type[_Sweeps],
    ) -> Tensor:
        sweeps = sweeps_type(parent, depth, affinity)
        up = sweeps.up(sweeps.rows(values, ones=True))
        down = sweeps.down(up)
        result = sweeps.maps(down[:, :-1] / down[:, -1:], values.shape)
        ctx.sweeps, ctx.shape = sweeps, values.shape
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(up, down)
        else:
            ctx.save_for_backward(None, down[:, -1:].clone())
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        up, down = ctx.saved_tensors
        sweeps, shape = ctx.sweeps, ctx.shape
        needs_values, needs_affinity = ctx.needs_input_grad[:2]
        rows = sweeps.rows(grad, ones=needs_affinity)
        rows /= down[:, -1:]
        if needs_affinity:
            # through the denominator: -sum_c g_c y_c / z^2
            mean = (rows[:, :-1] * down[:, :-1]).sum(1) / down[:, -1]
            rows[:, -1] = -mean
        grad_up = sweeps.up(rows)
        grad_down = sweeps.down(grad_up)
        grad_values = sweeps.maps(grad_down[:, : shape[1]], shape) if needs_values else None
        if not needs_affinity:
            return grad_values, None, None, None, None
        w, parent = sweeps.affinity, sweeps.parent
        through = (down.index_select(0, parent).addcmul_(w, up, value=-1)).mul_(grad_up)
        through += (grad_down.index_select(0, parent).addcmul_(w, grad_up, value=-1)).mul_(up)
        grad_affinity = through.sum(1, keepdim=True)
        grad_affinity = sweeps.maps(grad_affinity, (shape[0], 1, *shape[2:])).flatten(1)
        return grad_values, grad_affinity, None, None, None


class _Sweeps:
    """Both sweeps over all trees of a batch, on one row per vertex in the order of the vertices."""

    parent: Tensor  #: row of the parent, ``(B*N,)``
    affinity: Tensor  #: to the parent, ``(B*N, 1)``

    def __init__(self, parent: Tensor, depth: Tensor, affinity: Tensor) -> None:
        raise NotImplementedError

    def rows(self, maps: Tensor, *, ones: bool) -> Tensor:
        """New rows ``(B*N, C)`` of maps ``(B, C, H, W)``, with a last channel of ones if wanted."""
        channels = maps.shape[1]
        rows = maps.new_empty(len(maps), maps.shape[2] * maps.shape[3], channels + ones)
        rows[..., :channels] = maps.flatten(2).transpose(1, 2)
        rows[..., channels:] = 1
        return rows.flatten(0, 1)

    def maps(self, rows: Tensor, shape: Sequence[int]) -> Tensor:
        """The maps of rows."""
        images, channels, height, width = shape
        return rows.reshape(images, height, width, channels).permute(0, 3, 1, 2)

    def up(self, rows: Tensor) -> Tensor:
        """Weighted sums over subtrees, in place."""
        raise NotImplementedError

    def down(self, rows: Tensor) -> Tensor:
        """Weighted sums over whole trees, given those over subtrees."""
        raise NotImplementedError


def _sweeps_for(values: Tensor) -> type[_Sweeps]:
    return _LevelSweeps if values.device.type == "cpu" else _DoublingSweeps


def _batch_parent(parent: Tensor) -> Tensor:
    """Parents among the vertices of all images, ``(B*N,)``."""
    images, vertices = parent.shape
    first = torch.arange(0, images * vertices, vertices, device=parent.device)
    return (parent + first[:, None]).flatten()


class _DoublingSweeps(_Sweeps):
    """Jumps over 1, 2, 4, ... edges."""

    def __init__(self, parent: Tensor, depth: Tensor, affinity: Tensor) -> None:
        self.parent = _batch_parent(parent)
        self.affinity = affinity.reshape(-1, 1)
        self._count = (parent.shape[1] - 1).bit_length()

    def _jumps(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Ancestors and affinities to them, made anew for each sweep to keep memory small."""
        ancestor, affinity = self.parent, self.affinity
        vertex = torch.arange(len(ancestor), device=ancestor.device)
        for _ in range(self._count):
            yield ancestor, affinity
            affinity = affinity * affinity.index_select(0, ancestor)
            # who is beyond the root would crowd there adding zeros; staying at home costs nothing
            ancestor = ancestor.index_select(0, ancestor)
            ancestor = torch.where(affinity[:, 0] > 0, ancestor, vertex)

    def up(self, rows: Tensor) -> Tensor:
        for ancestor, affinity in self._jumps():
            rows.index_add_(0, ancestor, affinity * rows)
        return rows

    def down(self, rows: Tensor) -> Tensor:
        rows = (1 - self.affinity.square()) * rows
        for ancestor, affinity in self._jumps():
            rows = torch.addcmul(rows, affinity, rows.index_select(0, ancestor))
        return rows


class _LevelSweeps(_Sweeps):
    """Level by level on the CPU; rows by depth, and within a level by falling number of children.

    In this order the first children of a level's vertices go to a slice at the start of the level,
    the second children to a shorter one, and so on: sums over children need no scatter.
    """

    def __init__(self, parent: Tensor, depth: Tensor, affinity: Tensor) -> None:
        above, level = _batch_parent(parent).numpy(), depth.flatten().numpy()
        total, images = len(above), len(parent)
        children = np.bincount(above[level > 0], minlength=total)
        order = packed_argsort(5 * level + 4 - children)
        self._order = torch.from_numpy(order)
        position = np.empty_like(order)
        position[order] = np.arange(total)
        self._position = torch.from_numpy(position)
        above = position[above[order]]
        self.parent = torch.from_numpy(above)
        self.affinity = affinity.flatten()[self._order][:, None]
        # the others by level, rank among siblings and position of the parent
        siblings = packed_argsort(above[images:])
        parents = above[images:][siblings]
        rank = np.arange(len(parents)) - np.searchsorted(parents, parents)
        group = 4 * level[order][images:][siblings] + rank
        self._child = np.concatenate([np.arange(images), images + siblings[packed_argsort(group)]])
        levels = int(level.max(initial=0)) + 1
        self._siblings = np.bincount(group, minlength=4 * levels).reshape(levels, 4).tolist()
        self._bounds = [0, *np.cumsum(np.bincount(level)).tolist()]

    def rows(self, maps: Tensor, *, ones: bool) -> Tensor:
        return super().rows(maps, ones=ones).index_select(0, self._order)

    def maps(self, rows: Tensor, shape: Sequence[int]) -> Tensor:
        return super().maps(rows.index_select(0, self._position), shape)

    def up(self, rows: Tensor) -> Tensor:
        sums, weight = rows.numpy(), self.affinity.numpy()[self._child]
        for level in range(len(self._siblings) - 1, 0, -1):
            above, first, end = self._bounds[level - 1 : level + 2]
            part = sums.take(self._child[first:end], 0)
            part *= weight[first:end]
            done = 0
            for count in self._siblings[level]:
                if count:
                    sums[above : above + count] += part[done : done + count]
                    done += count
        return rows

    def down(self, rows: Tensor) -> Tensor:
        rows = (1 - self.affinity.square()) * rows
        sums, weight, above = rows.numpy(), self.affinity.numpy(), self.parent.numpy()
        for level in range(1, len(self._siblings)):
            first, end = self._bounds[level : level + 2]
            part = sums.take(above[first:end], 0)
            part *= weight[first:end]
            sums[first:end] += part
        return rows
