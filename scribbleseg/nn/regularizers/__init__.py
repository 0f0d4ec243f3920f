"""Regularisers that a recipe adds by name: ``regularizers: {gated_crf: 0.1}``."""

from scribbleseg.nn.regularizers.base import Regularizer, RegularizerInput
from scribbleseg.nn.regularizers.catalog import REGULARIZERS, build_regularizers

__all__ = ["REGULARIZERS", "Regularizer", "RegularizerInput", "build_regularizers"]
