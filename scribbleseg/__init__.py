"""Train semantic segmentation from scribbles and other weak labels."""

from __future__ import annotations

from scribbleseg.checkpoint import load
from scribbleseg.data import ScribbleDataModule
from scribbleseg.methods import RegularizedModule

__version__ = "0.1.0"

__all__ = ["RegularizedModule", "ScribbleDataModule", "__version__", "load"]
