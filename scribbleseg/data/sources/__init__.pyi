"""Public names of this package: what type checkers see, and what it imports at first use."""

from scribbleseg.data.sources.acdc import ACDCSource as ACDCSource, ACDC_CLASSES as ACDC_CLASSES
from scribbleseg.data.sources.base import FileSource as FileSource
from scribbleseg.data.sources.blocks import BlockSource as BlockSource
from scribbleseg.data.sources.box_labels import BoxFiles as BoxFiles, BoxLabels as BoxLabels
from scribbleseg.data.sources.camvid import (
    CAMVID_CLASSES as CAMVID_CLASSES, CamVidSource as CamVidSource,
)
from scribbleseg.data.sources.class_names import (
    COCO_CATEGORIES as COCO_CATEGORIES, CONTEXT_CLASSES as CONTEXT_CLASSES,
    VOC_CLASSES as VOC_CLASSES,
)
from scribbleseg.data.sources.coco import COCOSource as COCOSource
from scribbleseg.data.sources.coco_files import (
    SPLITS as SPLITS, YEARS as YEARS, annotation_file as annotation_file,
    by_number as by_number, find_year as find_year, image_folder as image_folder,
    image_number as image_number, image_stem as image_stem, labels_by_stem as labels_by_stem,
    list_numbers as list_numbers, painted_masks as painted_masks,
)
from scribbleseg.data.sources.coco_painting import (
    CocoMaskStyle as CocoMaskStyle, MaskStyle as MaskStyle, write_coco_masks as write_coco_masks,
)
from scribbleseg.data.sources.context_tags import (
    alias_ids as alias_ids, unknown_tags as unknown_tags,
)
from scribbleseg.data.sources.densepose import (
    DENSEPOSE_CLASSES as DENSEPOSE_CLASSES, DENSEPOSE_FLIP_PAIRS as DENSEPOSE_FLIP_PAIRS,
    DensePoseSource as DensePoseSource,
)
from scribbleseg.data.sources.devkit import (
    TRAIN_AUG_LISTS as TRAIN_AUG_LISTS, find_list as find_list,
    find_scribbles as find_scribbles, label_files as label_files,
    locate_devkit as locate_devkit, voc_ids as voc_ids,
)
from scribbleseg.data.sources.file_index import (
    CURES as CURES, FileIndex as FileIndex, OnMissing as OnMissing,
    missing_files as missing_files,
)
from scribbleseg.data.sources.folder import FolderSource as FolderSource
from scribbleseg.data.sources.nifti import NiftiSource as NiftiSource
from scribbleseg.data.sources.nnunet import NnUNetSource as NnUNetSource
from scribbleseg.data.sources.own_labels import OwnLabels as OwnLabels
from scribbleseg.data.sources.pascal_context import PascalContextSource as PascalContextSource
from scribbleseg.data.sources.point_labels import PointLabels as PointLabels
from scribbleseg.data.sources.pseudo import (
    check_pseudo_options as check_pseudo_options, find_pseudo_labels as find_pseudo_labels,
)
from scribbleseg.data.sources.s4 import S4Source as S4Source
from scribbleseg.data.sources.s4_layouts import (
    KITTI_LISTS as KITTI_LISTS, LAYOUTS as LAYOUTS, Layout as Layout, S4Dataset as S4Dataset,
    stem_of as stem_of,
)
from scribbleseg.data.sources.scene_classes import (
    ADE20K_CLASSES as ADE20K_CLASSES, CITYSCAPES_CLASSES as CITYSCAPES_CLASSES,
    LabelIds as LabelIds, ade20k_classes as ade20k_classes, ade20k_table as ade20k_table,
    cityscapes_classes as cityscapes_classes, cityscapes_table as cityscapes_table,
    clean_stem as clean_stem, detect_label_ids as detect_label_ids, find_labels as find_labels,
)
from scribbleseg.data.sources.stroke_options import stroke_options as stroke_options
from scribbleseg.data.sources.synthetic import SyntheticSource as SyntheticSource
from scribbleseg.data.sources.tag_labels import TagLabels as TagLabels
from scribbleseg.data.sources.voc import VOCSource as VOCSource
from scribbleseg.data.sources.volumes import (
    Case as Case, CaseSource as CaseSource, check_fold as check_fold,
    files_ending as files_ending, hashed_order as hashed_order,
)
from scribbleseg.data.sources.weak import weak_reader as weak_reader
from scribbleseg.data.sources.weak_reader import WeakReader as WeakReader

SOURCES: dict[str, type[FileSource]]
