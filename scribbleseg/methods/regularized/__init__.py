"""Partial or dense cross-entropy with regularisers, and pseudo-label baselines on top of it."""

from __future__ import annotations

from scribbleseg.methods.regularized.dmpls import DMPLSModule
from scribbleseg.methods.regularized.mean_teacher import MeanTeacherModule
from scribbleseg.methods.regularized.module import RegularizedModule
from scribbleseg.methods.regularized.scribble2label import Scribble2LabelModule

__all__ = ["DMPLSModule", "MeanTeacherModule", "RegularizedModule", "Scribble2LabelModule"]
