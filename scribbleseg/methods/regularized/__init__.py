"""Partial or dense cross-entropy, the bounds of every comparison."""

from __future__ import annotations

from scribbleseg.methods.regularized.module import RegularizedModule

__all__ = ["RegularizedModule"]
