"""CAM: class activation maps of a tag classifier, a first stage for other methods."""

from scribbleseg.methods.cam.module import CAMModule, ClassMaps

__all__ = ["CAMModule", "ClassMaps"]
