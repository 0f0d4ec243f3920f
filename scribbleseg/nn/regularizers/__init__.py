"""Regularisers that a recipe adds by name: ``regularizers: {gated_crf: 0.1}``."""

from scribbleseg.nn.regularizers.base import (
    ColourRegularizer,
    Regularizer,
    RegularizerInput,
    RegularizerView,
)
from scribbleseg.nn.regularizers.catalog import REGULARIZERS, build_regularizers

__all__ = [
    "REGULARIZERS",
    "ColourRegularizer",
    "Regularizer",
    "RegularizerInput",
    "RegularizerView",
    "build_regularizers",
]
