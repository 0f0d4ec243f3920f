"""SPML: pixel-to-segment contrastive learning (ICLR 2021)."""

from scribbleseg.methods.spml.losses import segsort_loss

__all__ = ["segsort_loss"]
