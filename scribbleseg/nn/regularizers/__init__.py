"""Regularisers that a recipe adds by name: ``regularizers: {gated_crf: 0.1}``."""

from scribbleseg.nn.regularizers.base import (
    Regularizer,
    RegularizerInput,
    RegularizerView,
    scaled_image,
)
from scribbleseg.nn.regularizers.catalog import REGULARIZERS, build_regularizers

__all__ = [
    "REGULARIZERS",
    "Regularizer",
    "RegularizerInput",
    "RegularizerView",
    "build_regularizers",
    "scaled_image",
]
