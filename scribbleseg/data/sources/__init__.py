"""Data sets: each source says which classes there are and where the bytes of every sample are."""

from scribbleseg.data.sources.acdc import ACDCSource
from scribbleseg.data.sources.folder import FolderSource
from scribbleseg.data.sources.synthetic import SyntheticSource
from scribbleseg.data.sources.voc import VOCSource

__all__ = ["ACDCSource", "FolderSource", "SyntheticSource", "VOCSource"]
