"""Regularisers from the calculus of variations: contours, level sets, intensities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from scribbleseg.errors import ConfigError
from scribbleseg.functional.variational import (
    contour_length_loss,
    intensity_variance,
    level_set_loss,
    total_variation_loss,
)
from scribbleseg.nn.regularizers.base import ColourRegularizer, Regularizer, RegularizerInput
from scribbleseg.options import check_choice, check_flag, check_number

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ContourLength", "IntensityVariance", "MumfordShah", "TotalVariation"]

Reduction = Literal["mean", "sum"]


class TotalVariation(Regularizer):
    """Total variation of the probabilities.

    See :func:`~scribbleseg.functional.variational.total_variation_loss`.

    Args:
        weight: Factor of the term.
        norm: ``l1`` sums absolute differences, ``l2`` squared ones.
        reduction: ``mean`` over pixels, or the published ``sum``, which needs weights near 1e-6.
        options: See :class:`~scribbleseg.nn.regularizers.Regularizer`.
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        norm: Literal["l1", "l2"] = "l1",
        reduction: Reduction = "mean",
        **options: Any,
    ) -> None:
        super().__init__(weight, **options)
        check_choice("norm", norm, ("l1", "l2"))
        check_choice("reduction", reduction, ("mean", "sum"))
        self.norm, self.reduction = norm, reduction

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Summed differences to the next row and column."""
        view = self.view(inputs)
        return total_variation_loss(
            view.probs, mask=view.valid, norm=self.norm, reduction=self.reduction
        )


class ContourLength(Regularizer):
    """Length of soft contours.

    See :func:`~scribbleseg.functional.variational.contour_length_loss`.

    Args:
        weight: Factor of the term.
        include_background: Whether class 0 counts too.
        options: See :class:`~scribbleseg.nn.regularizers.Regularizer`.
    """

    def __init__(
        self, weight: float = 0.01, *, include_background: bool = False, **options: Any
    ) -> None:
        super().__init__(weight, **options)
        check_flag(include_background=include_background)
        self.include_background = include_background

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Mean over pixels and classes."""
        view = self.view(inputs)
        return contour_length_loss(
            view.probs,
            mask=view.valid,
            include_background=self.include_background,
            across_ranks=True,
        )


class MumfordShah(ColourRegularizer):
    """Piecewise constant Mumford-Shah energy (Kim & Ye, IEEE TIP 2020): level set + λ · length.

    See :func:`~scribbleseg.functional.variational.level_set_loss` and
    :func:`~scribbleseg.functional.variational.total_variation_loss`. The published code swaps image
    and prediction in the first term; this one does not.

    Args:
        weight: Factor of the term.
        length_weight: Factor of the total variation relative to the region term.
        reduction: ``mean`` over pixels (and, in the region term, over the three channels), or the
            published ``sum`` over all of them, which needs weights near 1e-6.
        image_scale: ``unit``: colours in [0, 1]; ``std``: in standard deviations of the image.
        options: See :class:`~scribbleseg.nn.regularizers.Regularizer`.
    """

    def __init__(
        self,
        weight: float = 0.1,
        *,
        length_weight: float = 1.0,
        reduction: Reduction = "mean",
        image_scale: Literal["unit", "std"] = "std",
        **options: Any,
    ) -> None:
        super().__init__(weight, image_scale=image_scale, **options)
        check_number(length_weight=length_weight)
        check_choice("reduction", reduction, ("mean", "sum"))
        if length_weight < 0:
            raise ConfigError(f"length_weight={length_weight}: expected 0 or more")
        self.length_weight, self.reduction = length_weight, reduction

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Region term plus weighted total variation."""
        view = self.view(inputs)
        image = self.colours(view)
        region = level_set_loss(view.probs, image, mask=view.valid, reduction=self.reduction)
        if self.reduction == "mean":
            region = region / image.shape[1]
        length = total_variation_loss(view.probs, mask=view.valid, reduction=self.reduction)
        return region + self.length_weight * length


class IntensityVariance(Regularizer):
    """Spread of intensities within minus between the classes.

    See :func:`~scribbleseg.functional.variational.intensity_variance`.

    Args:
        weight: Factor of the term.
        published_sign: Use inter - intra as the published code does, which rewards mixed classes.
        options: See :class:`~scribbleseg.nn.regularizers.Regularizer`.
    """

    def __init__(
        self, weight: float = 0.1, *, published_sign: bool = False, **options: Any
    ) -> None:
        super().__init__(weight, **options)
        check_flag(published_sign=published_sign)
        self.published_sign = published_sign

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """In intensity units of [0, 1]; may be negative."""
        view = self.view(inputs)
        gray = view.image.mean(1, keepdim=True)
        intra, inter = intensity_variance(view.probs, gray, mask=view.valid)
        return inter - intra if self.published_sign else intra - inter
