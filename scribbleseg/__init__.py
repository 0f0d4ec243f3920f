"""Train semantic segmentation from scribbles and other weak labels."""

from __future__ import annotations

from scribbleseg.checkpoint import load
from scribbleseg.data import ScribbleDataModule
from scribbleseg.methods import (
    DMPLSModule,
    MeanTeacherModule,
    PFAModule,
    RegularizedModule,
    Scribble2LabelModule,
)

__version__ = "0.1.0"

__all__ = [
    "DMPLSModule",
    "MeanTeacherModule",
    "PFAModule",
    "RegularizedModule",
    "Scribble2LabelModule",
    "ScribbleDataModule",
    "__version__",
    "load",
]
