"""Public names of this package: what type checkers see, and what it imports at first use."""

from collections.abc import Callable
from pathlib import Path

from scribbleseg.data.source import ScribbleSource
from scribbleseg.data.sources.acdc import ACDCSource as ACDCSource, ACDC_CLASSES as ACDC_CLASSES
from scribbleseg.data.sources.coco import COCOSource as COCOSource
from scribbleseg.data.sources.files import FileSource as FileSource
from scribbleseg.data.sources.folder import FolderSource as FolderSource
from scribbleseg.data.sources.index import (
    FileIndex as FileIndex, LabelIds as LabelIds, OnMissing as OnMissing,
    find_labels as find_labels,
)
from scribbleseg.data.sources.layouts import (
    COCO_CATEGORIES as COCO_CATEGORIES, LAYOUTS as LAYOUTS, Layout as Layout,
    LayoutSource as LayoutSource, read_layout as read_layout,
)
from scribbleseg.data.sources.nifti import NiftiSource as NiftiSource
from scribbleseg.data.sources.nnunet import NnUNetSource as NnUNetSource
from scribbleseg.data.sources.s4 import (
    S4File as S4File, S4Source as S4Source, read_s4 as read_s4,
)
from scribbleseg.data.sources.synthetic import SyntheticSource as SyntheticSource
from scribbleseg.data.sources.voc import (
    PascalContextSource as PascalContextSource, VOCSource as VOCSource,
)
from scribbleseg.data.sources.volumes import VolumeSource as VolumeSource

SOURCES: dict[str, Callable[..., ScribbleSource]]

def recognised(root: Path) -> list[str]: ...
def known_layouts() -> str: ...
