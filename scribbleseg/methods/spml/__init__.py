"""SPML: pixel-to-segment contrastive learning (ICLR 2021)."""

from scribbleseg.methods.spml.losses import segsort_loss
from scribbleseg.methods.spml.module import SPMLModule
from scribbleseg.methods.spml.retrieval import SegmentMemory

__all__ = ["SPMLModule", "SegmentMemory", "segsort_loss"]
