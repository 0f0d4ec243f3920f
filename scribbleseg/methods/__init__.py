"""One LightningModule per paper; ``__all__`` is the list that tests and the command line read."""

from __future__ import annotations

from scribbleseg.methods.regularized import RegularizedModule

__all__ = ["RegularizedModule"]
