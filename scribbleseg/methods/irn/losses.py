"""The losses of pairs of nearby cells: affinity from boundaries, displacement to centroids."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from scribbleseg.functional.affinity import pair_offsets
from scribbleseg.functional.losses import full_precision, weighted_mean

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["AffinityTerms", "DisplacementTerms", "affinity_loss", "displacement_loss"]

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
            :func:`~scribbleseg.functional.affinity.boundary_to_affinity`.
        background: Pairs within the background, bool, same shape; see
            :func:`~scribbleseg.functional.affinity.affinity_targets`.
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
            :func:`~scribbleseg.functional.affinity.pair_displacement`.
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
