"""Data sets: each source says which classes there are and where the bytes of every sample are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scribbleseg.data.sources.acdc import ACDCSource
from scribbleseg.data.sources.folder import FolderSource
from scribbleseg.data.sources.synthetic import SyntheticSource
from scribbleseg.data.sources.voc import VOCSource

if TYPE_CHECKING:
    from scribbleseg.data.sources.base import FileSource

__all__ = ["SOURCES", "ACDCSource", "FolderSource", "SyntheticSource", "VOCSource"]

SOURCES: dict[str, type[FileSource]] = {
    "folder": FolderSource,
    "voc": VOCSource,
    "acdc": ACDCSource,
}
"""Sources by the name that commands use, in the order in which a folder is recognised."""
