"""What a regulariser sees, and the schedule of its weight."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import nn

from scribbleseg.errors import ConfigError
from scribbleseg.functional.geometry import area_pool, resize_labels, whole_cells
from scribbleseg.functional.losses import full_precision
from scribbleseg.functional.schedules import RampShape, ramp_factor
from scribbleseg.options import check_choice, check_number

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ColourRegularizer",
    "Regularizer",
    "RegularizerInput",
    "RegularizerView",
    "image_part",
]


class RegularizerInput(NamedTuple):
    """Everything a regulariser may use of one training step; never dense ground truth.

    Attributes:
        logits: Scores at image size, ``(B, C, H, W)``.
        logits_low: Scores at decoder resolution, ``(B, C, h, w)``.
        features: Decoder features, ``(B, D, h, w)``.
        image: Image without colour augmentation, uint8, ``(B, 3, H, W)``.
        valid: False on padding, bool, ``(B, H, W)``.
        unlabelled: Valid and not drawn, bool, ``(B, H, W)``.
        class_labels: Classes drawn in the uncropped image, multi-hot, ``(B, C)``.
        canvas: Height and width of the padded image that the decoder saw, in pixels.
    """

    logits: Tensor
    logits_low: Tensor
    features: Tensor
    image: Tensor
    valid: Tensor
    unlabelled: Tensor
    class_labels: Tensor
    canvas: tuple[int, int]


class RegularizerView(NamedTuple):
    """The same at the resolution of one regulariser, ``(h, w)``.

    Attributes:
        probs: Probabilities, float32, ``(B, C, h, w)``.
        image: RGB in [0, 1], float32, ``(B, 3, h, w)``.
        valid: Cells without any padding, bool, ``(B, h, w)``.
        unlabelled: Valid cells whose nearest (upper left) pixel is not drawn, bool, ``(B, h, w)``.
    """

    probs: Tensor
    image: Tensor
    valid: Tensor
    unlabelled: Tensor


class Regularizer(nn.Module):
    """A loss term on unlabelled pixels with a weight that follows the training progress.

    Subclasses implement :meth:`forward` (unweighted loss) and add keyword-only options.

    Args:
        weight: Factor of the term.
        start: Share of the training, in [0, 1), before which the term is off.
        ramp: Share of the training over which the weight then grows; 0 = at once.
        ramp_shape: ``linear`` or ``sigmoid``.
        resolution: Where the term is evaluated: a fraction of the image size in (0, 1], or
            ``logits`` for the grid of the decoder, before its scores are enlarged.

    Raises:
        ConfigError: If an option is out of range.
    """

    def __init__(
        self,
        weight: float = 1.0,
        *,
        start: float = 0.0,
        ramp: float = 0.0,
        ramp_shape: Literal["linear", "sigmoid"] = "linear",
        resolution: float | Literal["logits"] = 1.0,
    ) -> None:
        super().__init__()
        check_number(weight=weight, start=start, ramp=ramp)
        check_choice("ramp_shape", ramp_shape, ("linear", "sigmoid"))
        if resolution != "logits":
            check_number(resolution=resolution)
        fraction = 1.0 if resolution == "logits" else resolution
        if weight < 0 or not 0 <= start < 1 or not 0 <= ramp <= 1 or not 0 < fraction <= 1:
            raise ConfigError(
                f"weight={weight}, start={start}, ramp={ramp}, resolution={resolution}: expected a "
                "weight that is not negative, start in [0, 1), ramp in [0, 1] (shares of the "
                "training), and resolution in (0, 1] or 'logits'"
            )
        self.weight = weight
        self.start = start
        self.ramp = ramp
        self.ramp_shape: RampShape = ramp_shape
        self.resolution: float | Literal["logits"] = resolution

    def factor(self, progress: float) -> float:
        """Weight at a share of the training in [0, 1]."""
        return self.weight * ramp_factor(
            progress, start=self.start, length=self.ramp, shape=self.ramp_shape
        )

    def view(self, inputs: RegularizerInput) -> RegularizerView:
        """Probabilities and image averaged down to this term's resolution."""
        height, width = inputs.logits.shape[-2:]
        if self.resolution == "logits":
            scores = image_part(inputs.logits_low, inputs)
            probs, size = full_precision(scores).softmax(dim=1), tuple(scores.shape[-2:])
            size = (min(size[0], height), min(size[1], width))
        else:
            probs = full_precision(inputs.logits).softmax(dim=1)
            size = (
                max(round(height * self.resolution), 1),
                max(round(width * self.resolution), 1),
            )
        probs = area_pool(probs, size)
        image = inputs.image.to(probs.dtype) / 255
        if size == (height, width):
            return RegularizerView(probs, image, inputs.valid, inputs.unlabelled)
        valid = whole_cells(inputs.valid, size)
        unlabelled = resize_labels(inputs.unlabelled.to(torch.uint8), size).bool() & valid
        return RegularizerView(probs, area_pool(image, size), valid, unlabelled)

    def cells_per_pixel(self, inputs: RegularizerInput) -> float:
        """Size of this term's grid relative to the image, to scale bandwidths given in pixels."""
        if self.resolution == "logits":
            return inputs.logits_low.shape[2] / inputs.canvas[0]
        return self.resolution

    def forward(self, inputs: RegularizerInput) -> Tensor:
        """Unweighted loss, a scalar; an exact differentiable 0 where there is nothing to do."""
        raise NotImplementedError


class ColourRegularizer(Regularizer):
    """A term that compares colours, in [0, 1] or in units of each image's own contrast.

    Args:
        weight: Factor of the term.
        image_scale: ``unit``: colours in [0, 1]; ``std``: in standard deviations of the image, so
            that one bandwidth suits dark and bright images.
        options: See :class:`Regularizer`.

    Raises:
        ConfigError: If an option is out of range.
    """

    def __init__(
        self, weight: float = 1.0, *, image_scale: Literal["unit", "std"] = "unit", **options: Any
    ) -> None:
        super().__init__(weight, **options)
        check_choice("image_scale", image_scale, ("unit", "std"))
        self.image_scale = image_scale

    def colours(self, view: RegularizerView) -> Tensor:
        """Image in units of ``image_scale``, float, shape ``(B, 3, h, w)``.

        ``std`` divides each image by the standard deviation of its valid pixels about their mean.
        """
        if self.image_scale == "unit":
            return view.image
        inside = view.valid[:, None].to(view.image.dtype)
        count = inside.sum((2, 3), keepdim=True).clamp_min(1)
        mean = (view.image * inside).sum((2, 3), keepdim=True) / count
        centred = (view.image - mean) * inside
        variance = (centred.square().sum((2, 3), keepdim=True) / count).mean(dim=1, keepdim=True)
        # an almost constant image has no edges to follow: do not blow up its noise
        return centred / variance.sqrt().clamp_min(0.01)


def image_part(features: Tensor, inputs: RegularizerInput) -> Tensor:
    """The part of a decoder map that shows the image: the decoder saw a padded canvas.

    Args:
        features: Map at decoder resolution, shape ``(B, D, h, w)``.
        inputs: The step's inputs.

    Returns:
        Shape ``(B, D, h', w')`` with h' ≤ h and w' ≤ w.
    """
    height, width = (
        math.ceil(side * cells / canvas)
        for side, cells, canvas in zip(
            inputs.logits.shape[-2:], features.shape[-2:], inputs.canvas, strict=True
        )
    )
    return features[:, :, :height, :width]
