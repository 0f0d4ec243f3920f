"""PtReCl: pseudo-masks of which every pixel is decided anew by prototypes."""

from scribbleseg.methods.ptrecl.losses import conditioned_cross_entropy, label_conditioning_mask
from scribbleseg.methods.ptrecl.module import PtReClModule
from scribbleseg.methods.ptrecl.prototypes import PrototypePairs
from scribbleseg.methods.ptrecl.reclassify import reclassify_masks

__all__ = [
    "PrototypePairs",
    "PtReClModule",
    "conditioned_cross_entropy",
    "label_conditioning_mask",
    "reclassify_masks",
]
