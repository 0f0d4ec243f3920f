"""Data sets: each source says which classes there are and where the bytes of every sample are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scribbleseg import Facade
from scribbleseg.data.sources.acdc import ACDCSource
from scribbleseg.data.sources.blocks import BlockSource
from scribbleseg.data.sources.camvid import CamVidSource
from scribbleseg.data.sources.coco import COCOSource
from scribbleseg.data.sources.densepose import DensePoseSource
from scribbleseg.data.sources.folder import FolderSource
from scribbleseg.data.sources.nifti import NiftiSource
from scribbleseg.data.sources.nnunet import NnUNetSource
from scribbleseg.data.sources.pascal_context import PascalContextSource
from scribbleseg.data.sources.s4 import S4Source
from scribbleseg.data.sources.synthetic import SyntheticSource
from scribbleseg.data.sources.voc import VOCSource

if TYPE_CHECKING:
    from scribbleseg.data.sources.base import FileSource

__all__ = [
    "SOURCES",
    "ACDCSource",
    "BlockSource",
    "COCOSource",
    "CamVidSource",
    "DensePoseSource",
    "FolderSource",
    "NiftiSource",
    "NnUNetSource",
    "PascalContextSource",
    "S4Source",
    "SyntheticSource",
    "VOCSource",
]

SOURCES: dict[str, type[FileSource]] = {
    "densepose": DensePoseSource,
    "coco": COCOSource,
    "context": PascalContextSource,
    "folder": FolderSource,
    "voc": VOCSource,
    "acdc": ACDCSource,
    "camvid": CamVidSource,
    "blocks": BlockSource,
    "nnunet": NnUNetSource,
    "nifti": NiftiSource,
}
"""Sources by the name that commands use, in the order in which a folder is recognised: special
layouts come before the more general ones that they resemble."""

Facade.of(__name__)
