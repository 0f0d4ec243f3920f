"""Public names of this package: what type checkers see, and what it imports at first use."""

from collections.abc import Callable
from pathlib import Path

from scribbleseg.data.source import ScribbleSource
from scribbleseg.data.sources.acdc import ACDCSource as ACDCSource, ACDC_CLASSES as ACDC_CLASSES
from scribbleseg.data.sources.class_names import (
    COCO_CATEGORIES as COCO_CATEGORIES, CONTEXT_CLASSES as CONTEXT_CLASSES,
    VOC_CLASSES as VOC_CLASSES,
)
from scribbleseg.data.sources.coco import COCOSource as COCOSource
from scribbleseg.data.sources.coco_files import image_number as image_number
from scribbleseg.data.sources.context_names import (
    NAMES_459 as NAMES_459, alias_ids as alias_ids, read_459_ids as read_459_ids,
    unknown_names as unknown_names,
)
from scribbleseg.data.sources.devkit import (
    TRAIN_AUG_LISTS as TRAIN_AUG_LISTS, find_list as find_list,
    find_scribbles as find_scribbles, locate_devkit as locate_devkit, voc_ids as voc_ids,
)
from scribbleseg.data.sources.files import FileSource as FileSource
from scribbleseg.data.sources.folder import FolderSource as FolderSource
from scribbleseg.data.sources.index import (
    FileIndex as FileIndex, OnMissing as OnMissing, find_labels as find_labels,
)
from scribbleseg.data.sources.layouts import (
    LAYOUTS as LAYOUTS, LabelIds as LabelIds, Layout as Layout, LayoutSource as LayoutSource,
    detect_label_ids as detect_label_ids, id_coding as id_coding, own_classes as own_classes,
    read_layout as read_layout,
)
from scribbleseg.data.sources.nifti import NiftiSource as NiftiSource
from scribbleseg.data.sources.nnunet import NnUNetSource as NnUNetSource
from scribbleseg.data.sources.pascal_context import PascalContextSource as PascalContextSource
from scribbleseg.data.sources.s4 import S4Source as S4Source
from scribbleseg.data.sources.s4_file import S4File as S4File, read_s4 as read_s4
from scribbleseg.data.sources.synthetic import SyntheticSource as SyntheticSource
from scribbleseg.data.sources.voc import VOCSource as VOCSource
from scribbleseg.data.sources.volumes import (
    Case as Case, CaseSource as CaseSource, check_fold as check_fold,
    files_ending as files_ending, hashed_order as hashed_order,
)

SOURCES: dict[str, Callable[..., ScribbleSource]]

def recognised(root: Path) -> list[str]: ...
