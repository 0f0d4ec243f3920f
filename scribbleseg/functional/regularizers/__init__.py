"""Losses on unlabelled pixels: they ask what the image suggests, not what was drawn."""

from __future__ import annotations

from scribbleseg.functional.regularizers.dense_crf import (
    dense_crf_loss,
    kernel_cut_loss,
    normalized_cut_loss,
)
from scribbleseg.functional.regularizers.gated_crf import GatedKernel, gated_crf_loss
from scribbleseg.functional.regularizers.tree_energy import tree_energy_loss, tree_soft_labels
from scribbleseg.functional.regularizers.variational import (
    contour_length_loss,
    intensity_variance,
    level_set_loss,
    mumford_shah_loss,
    total_variation_loss,
)

__all__ = [
    "GatedKernel",
    "contour_length_loss",
    "dense_crf_loss",
    "gated_crf_loss",
    "intensity_variance",
    "kernel_cut_loss",
    "level_set_loss",
    "mumford_shah_loss",
    "normalized_cut_loss",
    "total_variation_loss",
    "tree_energy_loss",
    "tree_soft_labels",
]
