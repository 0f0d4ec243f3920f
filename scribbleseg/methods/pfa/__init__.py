"""PFA: prototype-based feature augmentation (ICML 2024)."""

from scribbleseg.methods.pfa.augmentation import PrototypeFeatureAugmentation
from scribbleseg.methods.pfa.module import PFAModule

__all__ = ["PFAModule", "PrototypeFeatureAugmentation"]
