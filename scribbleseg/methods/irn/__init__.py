"""IRN: class boundaries from pairs of pixels, and a walk of seeds that does not cross them."""

from scribbleseg.methods.irn.losses import affinity_loss, displacement_loss
from scribbleseg.methods.irn.module import IRNModule

__all__ = ["IRNModule", "affinity_loss", "displacement_loss"]
