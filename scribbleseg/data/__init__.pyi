"""Public names of this package: what type checkers see, and what it imports at first use."""

from scribbleseg.data import sources as sources
from scribbleseg.data.__main__ import main as main
from scribbleseg.data.annotations import (
    Box as Box, ClassIds as ClassIds, Click as Click,
)
from scribbleseg.data.check.check import (
    check_checkpoint as check_checkpoint, check_pseudo_labels as check_pseudo_labels,
    check_source as check_source,
)
from scribbleseg.data.check.findings import CheckReport as CheckReport
from scribbleseg.data.check.report import write_check_report as write_check_report
from scribbleseg.data.classes import (
    CLASS_FILES as CLASS_FILES, CLASS_KEYS as CLASS_KEYS, ClassTable as ClassTable,
    normalise_name as normalise_name, parse_colour as parse_colour,
    read_classes as read_classes, table_of as table_of,
)
from scribbleseg.data.datamodule import ScribbleDataModule as ScribbleDataModule
from scribbleseg.data.dataset import (
    EvalDataset as EvalDataset, SampleKey as SampleKey, TrainDataset as TrainDataset,
    collate as collate,
)
from scribbleseg.data.decode import orient as orient
from scribbleseg.data.degraded import (
    DegradedScribbles as DegradedScribbles, check_degradation as check_degradation,
    read_degraded as read_degraded,
)
from scribbleseg.data.findings import Finding as Finding
from scribbleseg.data.groups import (
    check_pattern as check_pattern, check_time as check_time, group_in as group_in,
    group_pattern as group_pattern,
)
from scribbleseg.data.history import (
    leaked_images as leaked_images, name_digest as name_digest,
    overlap_warning as overlap_warning,
)
from scribbleseg.data.image_labels import (
    ImageLabelFile as ImageLabelFile, present as present,
)
from scribbleseg.data.images import (
    ImageHeader as ImageHeader, ImageOptions as ImageOptions, LABEL_SUFFIXES as LABEL_SUFFIXES,
    Pixels as Pixels, read_header as read_header, read_image as read_image,
    read_pixels as read_pixels,
)
from scribbleseg.data.jobs.convert import convert_source as convert_source
from scribbleseg.data.jobs.job import ImageJob as ImageJob
from scribbleseg.data.jobs.labels import (
    Recipe as Recipe, propagate_scribbles as propagate_scribbles,
    synthesize_folder as synthesize_folder,
)
from scribbleseg.data.jobs.processes import map_in_processes as map_in_processes
from scribbleseg.data.jobs.settings import source_settings as source_settings
from scribbleseg.data.jobs.superpixels import (
    superpixel_folder as superpixel_folder, write_superpixels as write_superpixels,
)
from scribbleseg.data.label_maps import LabelMap as LabelMap, resize_map as resize_map
from scribbleseg.data.labels import (
    LabelCoding as LabelCoding, encode_label as encode_label, read_label as read_label,
    whole_numbers as whole_numbers,
)
from scribbleseg.data.lists import (
    find_images as find_images, image_key as image_key, natural_key as natural_key,
    read_split as read_split, voc_stem as voc_stem,
)
from scribbleseg.data.loader import EpochSampler as EpochSampler
from scribbleseg.data.matlab import read_mat as read_mat
from scribbleseg.data.readers import (
    PseudoLabelReader as PseudoLabelReader, SeedReader as SeedReader,
    SuperpixelReader as SuperpixelReader, Superpixels as Superpixels,
)
from scribbleseg.data.source import (
    FileRole as FileRole, ScribbleSource as ScribbleSource, require as require,
)
from scribbleseg.data.strokes import (
    SCRIBBLESUP_ALIASES as SCRIBBLESUP_ALIASES, StrokeOptions as StrokeOptions,
    list_zip as list_zip, names_with_aliases as names_with_aliases,
    read_scribblesup as read_scribblesup,
)
from scribbleseg.data.superpixels import (
    SUPERPIXEL_FILL as SUPERPIXEL_FILL, find_superpixels as find_superpixels,
    read_superpixels as read_superpixels,
)
from scribbleseg.data.training_extras import (
    ExtraOptions as ExtraOptions, TrainingExtras as TrainingExtras,
)
from scribbleseg.data.transforms import (
    Augmentation as Augmentation, TrainSample as TrainSample, TrainTransform as TrainTransform,
)
from scribbleseg.data.volumes import (
    NIFTI_SUFFIXES as NIFTI_SUFFIXES, Spacing as Spacing, StackCache as StackCache,
    StackHeader as StackHeader, open_hdf5 as open_hdf5,
    read_data_set as read_data_set, read_spacings as read_spacings, read_stack as read_stack,
    read_stack_header as read_stack_header, slice_axis_of as slice_axis_of,
    write_nifti_like as write_nifti_like, write_spacings as write_spacings,
)
from scribbleseg.data.weak import (
    BoxFill as BoxFill, LabelType as LabelType, TagOrigin as TagOrigin,
    WeakLabels as WeakLabels, render_boxes as render_boxes,
)
