"""The losses of pairs of nearby cells: affinity from boundaries, displacement to centroids."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.functional.losses import full_precision, weighted_mean
from scribbleseg.functional.random_walk import path_table

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "AffinityTerms",
    "DisplacementTerms",
    "affinity_loss",
    "affinity_targets",
    "displacement_loss",
    "pair_displacement",
    "pair_indices",
    "pair_offsets",
]

_EPS = 1e-5


class AffinityTerms(NamedTuple):
    """Mean losses of the three kinds of pairs, scalars in nats.

    Attributes:
        background: Of pairs within the background.
        foreground: Of pairs within one object class.
        different: Of pairs of two classes.
    """

    background: Tensor
    foreground: Tensor
    different: Tensor

    def loss(self) -> Tensor:
        """Half the mean of the positive terms plus half the negative one."""
        return ((self.background + self.foreground) / 2 + self.different) / 2


class DisplacementTerms(NamedTuple):
    """Mean errors of the displacement differences, scalars in cells.

    Attributes:
        foreground: Of pairs within one object class, to their true difference.
        background: Of pairs within the background, to 0.
    """

    foreground: Tensor
    background: Tensor

    def loss(self) -> Tensor:
        """Mean of both."""
        return (self.foreground + self.background) / 2


def affinity_loss(
    affinity: Tensor,
    background: Tensor,
    foreground: Tensor,
    different: Tensor,
    *,
    across_ranks: bool = False,
) -> AffinityTerms:
    r"""Pairs of one class are to have affinity 1, pairs of two classes 0.

    .. math:: L^+_x = \operatorname{mean}_{x^+} -\log (a + \epsilon), \quad
        L^- = \operatorname{mean}_{-} -\log (1 + \epsilon - a), \quad
        L_B = \tfrac12 \big( \tfrac12 (L^+_{bg} + L^+_{fg}) + L^- \big)

    with ε = 1e-5 (Ahn et al., CVPR 2019, eq. 8; the outer ½ is the released code's). Computed in
    float32 also under autocast. Time and memory O(B·P·N).

    Args:
        affinity: a in [0, 1], float, shape ``(B, P, N)``; see
            :func:`~scribbleseg.functional.random_walk.boundary_to_affinity`.
        background: Pairs within the background, bool, same shape; see
            :func:`~scribbleseg.methods.irn.losses.affinity_targets`.
        foreground: Pairs within one object class.
        different: Pairs of two classes.
        across_ranks: In a distributed run, divide by the pairs of all ranks, so that the ranks'
            average is the loss of one process on all images. Every rank must then call.

    Returns:
        The three terms; an exact differentiable 0 for a kind without pairs.

    Raises:
        ValueError: If the shapes disagree.

    Example:
        >>> pairs = torch.tensor([[[True, False]]])
        >>> terms = affinity_loss(torch.tensor([[[1.0, 1.0]]]), pairs, ~pairs & False, ~pairs)
        >>> [round(term.item(), 2) for term in terms]
        [-0.0, 0.0, 11.51]
    """
    for name, pairs in (
        ("background", background),
        ("foreground", foreground),
        ("different", different),
    ):
        if pairs.shape != affinity.shape:
            raise ValueError(
                f"affinity {tuple(affinity.shape)} and {name} {tuple(pairs.shape)} disagree: "
                "expected (B, P, N) for both, of the same radius"
            )
    with torch.autocast(affinity.device.type, enabled=False):
        a = full_precision(affinity)
        alike, apart = -(a + _EPS).log(), -(1 + _EPS - a).log()

        def mean(values: Tensor, pairs: Tensor) -> Tensor:
            total = values.masked_fill(~pairs, 0).sum()
            return weighted_mean(total, pairs.sum().to(a.dtype), across_ranks=across_ranks)

        return AffinityTerms(
            mean(alike, background), mean(alike, foreground), mean(apart, different)
        )


def displacement_loss(
    difference: Tensor,
    background: Tensor,
    foreground: Tensor,
    *,
    radius: int,
    across_ranks: bool = False,
) -> DisplacementTerms:
    r"""Displacements to a common centroid differ by the position; those of background do not.

    .. math:: L_{fg} = \operatorname{mean}_{fg^+} \tfrac12 |\delta_{ij} - (x_j - x_i)|_1, \quad
        L_{bg} = \operatorname{mean}_{bg^+} \tfrac12 |\delta_{ij}|_1, \quad
        L_D = \tfrac12 (L_{fg} + L_{bg})

    (Ahn et al., CVPR 2019, eq. 5 and 7; means over both components as in the released code). Time
    and memory O(B·P·N).

    Args:
        difference: δ in cells, float, shape ``(B, 2, P, N)``; see
            :func:`~scribbleseg.methods.irn.losses.pair_displacement`.
        background: See :func:`affinity_loss`.
        foreground: See :func:`affinity_loss`.
        radius: That of the pairs.
        across_ranks: See :func:`affinity_loss`.

    Returns:
        The two terms; an exact differentiable 0 for a kind without pairs.

    Raises:
        ValueError: If the shapes disagree.

    Example:
        >>> pairs = torch.ones(1, 4, 1, dtype=torch.bool)
        >>> displacement_loss(torch.ones(1, 2, 4, 1), pairs, pairs, radius=2).background.item()
        1.0
    """
    if difference.ndim != 4 or difference.shape[1] != 2:
        raise ValueError(f"difference {tuple(difference.shape)}: expected (B, 2, P, N)")
    if difference.shape[::2] + difference.shape[3:] != (
        *foreground.shape[:2],
        foreground.shape[2],
    ) or (foreground.shape != background.shape):
        raise ValueError(
            f"difference {tuple(difference.shape)}, background {tuple(background.shape)} and "
            f"foreground {tuple(foreground.shape)} disagree: expected pairs of the same radius"
        )
    with torch.autocast(difference.device.type, enabled=False):
        delta = full_precision(difference)
        target = pair_offsets(radius, device=delta.device).to(delta.dtype)[None, :, :, None]

        def mean(error: Tensor, pairs: Tensor) -> Tensor:
            total = error.abs().sum(dim=1).masked_fill(~pairs, 0).sum()
            count = 2 * pairs.sum().to(delta.dtype)
            return weighted_mean(total, count, across_ranks=across_ranks)

        return DisplacementTerms(mean(delta - target, foreground), mean(delta, background))


def affinity_targets(
    labels: Tensor,
    *,
    radius: int,
    num_classes: int | None = None,
    ignore_index: int = IGNORE_INDEX,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Which pairs are alike and which differ, from labels at grid resolution.

    .. math:: \mathcal{P}^+_{bg} = \{l_i = l_j = 0\}, \quad \mathcal{P}^+_{fg} = \{l_i = l_j > 0\},
        \quad \mathcal{P}^- = \{l_i \ne l_j\}

    over pairs of which both cells are labelled (Ahn et al., CVPR 2019, eq. 3). Time and memory
    O(B·P·N).

    Args:
        labels: Class ids, any integer type, shape ``(B, h, w)``; 0 is the background.
        radius: See :func:`pair_indices`, which also gives the order of the pairs.
        num_classes: If given, ids from here on are unlabelled too.
        ignore_index: Id of unlabelled cells.

    Returns:
        Background pairs, foreground pairs and differing pairs, each bool, shape ``(B, P, N)``.

    Raises:
        ValueError: If the shape is wrong or the radius is outside its range.

    Example:
        >>> labels = torch.tensor([[[0, 1, 1], [2, 0, 255]]])
        >>> background, foreground, different = affinity_targets(labels, radius=2)
        >>> foreground.flatten().tolist(), different.flatten().tolist()
        ([True, False, False, False], [False, True, True, False])
    """
    if labels.ndim != 3:
        raise ValueError(f"labels must have shape (B, h, w), got {tuple(labels.shape)}")
    unlabelled = labels == ignore_index
    if num_classes is not None:
        unlabelled = unlabelled | (labels >= num_classes)
    # 16 bits hold every id and a marker, and a quarter of the memory of 64
    flat = labels.to(torch.int16).masked_fill(unlabelled, -1).flatten(1)
    source, partner = pair_indices((*labels.shape[1:],), radius=radius, device=labels.device)
    first, second = flat[:, None, source], flat[:, partner]
    alike = first == second
    foreground = alike & (first > 0)
    background = alike & (first == 0)
    return background, foreground, ~alike & (first >= 0) & (second >= 0)


def pair_displacement(displacement: Tensor, *, radius: int) -> Tensor:
    r"""Difference of a vector field between the two cells of each pair.

    .. math:: \delta_{ij} = D(x_i) - D(x_j)

    (Ahn et al., CVPR 2019, eq. 4). Time and memory O(B·D·P·N).

    Args:
        displacement: Field, float, shape ``(B, D, h, w)``; D = 2 in the order dy, dx.
        radius: See :func:`pair_indices`, which also gives the order of the pairs.

    Returns:
        Differences in the unit of the field, shape ``(B, D, P, N)``.

    Raises:
        ValueError: If the shape is wrong or the radius is outside its range.

    Example:
        >>> pair_displacement(torch.arange(6.0).reshape(1, 1, 2, 3), radius=2).tolist()
        [[[[-1.0], [-3.0], [-2.0], [-4.0]]]]
    """
    if displacement.ndim != 4:
        raise ValueError(
            f"displacement must have shape (B, D, h, w), got {tuple(displacement.shape)}"
        )
    size = (displacement.shape[2], displacement.shape[3])
    source, partner = pair_indices(size, radius=radius, device=displacement.device)
    flat = displacement.flatten(2)
    return flat[:, :, None, source] - flat[:, :, partner]


def pair_indices(
    size: tuple[int, int], *, radius: int, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    r"""Flat positions of all pairs whose source has every displacement inside the grid.

    .. math:: \text{sources: rows } [0, h - f), \text{ columns } [f, w - f), \quad f = r - 1

    (Ahn et al., CVPR 2019, eq. 3, cropped so that every source has the same P partners.) Time and
    memory O(P·N). The first call for a radius copies the displacements to the device and waits for
    it, later ones do not (those of the last 8 radii and devices are kept).

    Args:
        size: Grid size ``(h, w)``.
        radius: See :func:`~scribbleseg.functional.random_walk.path_offsets`, which also gives the
            order of the P displacements.
        device: Where the result lives.

    Returns:
        Sources, int64, shape ``(N,)``, and their partners, int64, shape ``(P, N)``, both row-major
        indices into the grid; N = (h - f)·(w - 2f), or 0 if the grid is smaller than that.

    Raises:
        ValueError: If the radius is outside its range.

    Example:
        >>> source, partner = pair_indices((2, 3), radius=2)
        >>> source.tolist(), partner.tolist()
        ([1], [[2], [4], [3], [5]])
    """
    (height, width), reach = size, radius - 1
    grid = torch.arange(height * width, device=device).reshape(height, width)
    rows, columns = max(height - reach, 0), max(width - 2 * reach, 0)
    source = grid[:rows, reach : reach + columns].reshape(-1)
    down, right = path_table(radius, grid.device)[:, :, 0].long()
    return source, source + (down * width + right)[:, None]


def pair_offsets(radius: int, *, device: torch.device | None = None) -> Tensor:
    """Displacement of each pair from its source to its partner, on a device; cached there.

    Args:
        radius: See :func:`~scribbleseg.functional.random_walk.path_offsets`, also for their order.
        device: Where the result lives.

    Returns:
        Cells down and to the right, int8, shape ``(2, P)``.

    Example:
        >>> pair_offsets(2).tolist()
        [[0, 1, 1, 1], [1, 0, -1, 1]]
    """
    return path_table(radius, torch.zeros((), device=device).device)[:, :, 0]
