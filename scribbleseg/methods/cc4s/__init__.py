"""CC4S: certainty and consistency for scribble supervision (TPAMI 2024)."""

from scribbleseg.methods.cc4s.head import CC4SNetwork
from scribbleseg.methods.cc4s.losses import (
    ConsistencyTerms,
    certainty_weight,
    eigenspace_consistency,
    eigenspace_consistency_from_logits,
    feature_consistency_loss,
)
from scribbleseg.methods.cc4s.module import CC4SModule

__all__ = [
    "CC4SModule",
    "CC4SNetwork",
    "ConsistencyTerms",
    "certainty_weight",
    "eigenspace_consistency",
    "eigenspace_consistency_from_logits",
    "feature_consistency_loss",
]
