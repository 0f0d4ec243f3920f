"""CDSP: class-driven scribble promotion (AAAI 2024)."""

from scribbleseg.methods.cdsp.lorm import LocalizationRectification, foreground_cells
from scribbleseg.methods.cdsp.losses import distance_entropy_loss
from scribbleseg.methods.cdsp.module import CDSPModule

__all__ = ["CDSPModule", "LocalizationRectification", "distance_entropy_loss", "foreground_cells"]
