"""One LightningModule per paper; ``__all__`` is the list that tests and the command line read."""

from __future__ import annotations

from scribbleseg import Facade
from scribbleseg.methods.cam import CAMModule
from scribbleseg.methods.cc4s import CC4SModule
from scribbleseg.methods.cdsp import CDSPModule
from scribbleseg.methods.irn import IRNModule
from scribbleseg.methods.pfa import PFAModule
from scribbleseg.methods.ptrecl import PtReClModule
from scribbleseg.methods.regularized import (
    DMPLSModule,
    MeanTeacherModule,
    RegularizedModule,
    Scribble2LabelModule,
)
from scribbleseg.methods.spml import SPMLModule

__all__ = [
    "CAMModule",
    "CC4SModule",
    "CDSPModule",
    "DMPLSModule",
    "IRNModule",
    "MeanTeacherModule",
    "PFAModule",
    "PtReClModule",
    "RegularizedModule",
    "SPMLModule",
    "Scribble2LabelModule",
]

Facade.of(__name__)
