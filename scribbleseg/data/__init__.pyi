"""Public names of this package: what type checkers see, and what it imports at first use."""

from scribbleseg.data import sources as sources
from scribbleseg.data.__main__ import main as main
from scribbleseg.data.batch_picture import draw_samples as draw_samples
from scribbleseg.data.check import check_source as check_source
from scribbleseg.data.check_report import write_check_report as write_check_report
from scribbleseg.data.classes import (
    CLASS_FILES as CLASS_FILES, ClassTable as ClassTable, normalise_name as normalise_name,
    read_classes as read_classes,
)
from scribbleseg.data.comparison import (
    check_checkpoint as check_checkpoint, class_difference as class_difference,
    read_facts as read_facts,
)
from scribbleseg.data.convert import (
    ConvertReport as ConvertReport, convert_source as convert_source,
)
from scribbleseg.data.converter import (
    ImageConverter as ImageConverter, ImageResult as ImageResult,
    is_plain_image as is_plain_image,
)
from scribbleseg.data.datamodule import ScribbleDataModule as ScribbleDataModule
from scribbleseg.data.dataset import (
    EvalDataset as EvalDataset, TrainDataset as TrainDataset, collate as collate,
)
from scribbleseg.data.degraded import (
    DegradedScribbles as DegradedScribbles, check_degradation as check_degradation,
    read_degraded as read_degraded,
)
from scribbleseg.data.findings import (
    CheckReport as CheckReport, Finding as Finding, finding_from_error as finding_from_error,
    loading_sentence as loading_sentence, some_names as some_names,
)
from scribbleseg.data.folder_files import (
    check_lists as check_lists, group_pattern as group_pattern,
    write_folder_files as write_folder_files,
)
from scribbleseg.data.groups import check_pattern as check_pattern, group_in as group_in
from scribbleseg.data.history import (
    earlier_images as earlier_images, leaked_images as leaked_images,
    name_digest as name_digest, pack_digests as pack_digests, unpack_digests as unpack_digests,
)
from scribbleseg.data.image_options import ImageOptions as ImageOptions
from scribbleseg.data.image_work import (
    Result as Result, Tally as Tally, failure as failure, work_through as work_through,
)
from scribbleseg.data.inspection import (
    Sample as Sample, explain_contradiction as explain_contradiction,
    inspect_sample as inspect_sample,
)
from scribbleseg.data.io import (
    ImageHeader as ImageHeader, read_header as read_header, read_image as read_image,
    require as require,
)
from scribbleseg.data.label_maps import LabelMap as LabelMap, resize_map as resize_map
from scribbleseg.data.label_types import (
    BoxFill as BoxFill, LabelType as LabelType, TagOrigin as TagOrigin,
    WeakLabels as WeakLabels, box_pixels as box_pixels,
    check_weak_options as check_weak_options, render_boxes as render_boxes,
)
from scribbleseg.data.labels import (
    encode_label as encode_label, read_label as read_label, read_raw_label as read_raw_label,
)
from scribbleseg.data.leaks import (
    overlap_warning as overlap_warning, shared_names as shared_names,
    shared_pixels as shared_pixels,
)
from scribbleseg.data.lists import (
    LABEL_SUFFIXES as LABEL_SUFFIXES, find_images as find_images, image_key as image_key,
    natural_key as natural_key, read_split as read_split, voc_stem as voc_stem,
)
from scribbleseg.data.loader_options import (
    channel_moments as channel_moments, check_least as check_least,
    default_workers as default_workers, make_loader as make_loader, side_pair as side_pair,
)
from scribbleseg.data.loading import measure_loading as measure_loading
from scribbleseg.data.orientation import (
    apply_orientation as apply_orientation, orient_label as orient_label,
)
from scribbleseg.data.overview import (
    draw_labels as draw_labels, draw_strokes as draw_strokes, overview_path as overview_path,
    picture_of as picture_of, visible_palette as visible_palette,
    write_overview as write_overview,
)
from scribbleseg.data.position import (
    check_step_size as check_step_size, training_position as training_position,
)
from scribbleseg.data.prepared import (
    check_settings as check_settings, is_fresh as is_fresh, last_change as last_change,
    safe_id as safe_id, with_progress as with_progress,
)
from scribbleseg.data.processes import map_in_processes as map_in_processes
from scribbleseg.data.pseudo_check import check_pseudo_labels as check_pseudo_labels
from scribbleseg.data.pseudo_reader import PseudoLabelReader as PseudoLabelReader
from scribbleseg.data.readers.boxes import (
    Box as Box, read_annotation_boxes as read_annotation_boxes, read_boxes as read_boxes,
)
from scribbleseg.data.readers.clicks import (
    Click as Click, read_click_file as read_click_file, read_clicks as read_clicks,
)
from scribbleseg.data.readers.coco import CocoIndex as CocoIndex, read_coco_index as read_coco_index
from scribbleseg.data.readers.coco_masks import (
    Crowd as Crowd, MaskReport as MaskReport, Overlap as Overlap, paint_mask as paint_mask,
    write_masks as write_masks,
)
from scribbleseg.data.readers.hdf5 import open_hdf5 as open_hdf5
from scribbleseg.data.readers.json_stream import JsonStream as JsonStream
from scribbleseg.data.readers.matlab import (
    NAMES_459 as NAMES_459, names_of_459 as names_of_459, read_459_ids as read_459_ids,
    read_context_mat as read_context_mat, read_sbd_mat as read_sbd_mat,
)
from scribbleseg.data.readers.nifti import (
    NIFTI_SUFFIXES as NIFTI_SUFFIXES, StackCache as StackCache, StackHeader as StackHeader,
    integer_ids as integer_ids, read_stack as read_stack,
    read_stack_header as read_stack_header, write_nifti_like as write_nifti_like,
)
from scribbleseg.data.readers.s4 import (
    S4File as S4File, read_grey_label as read_grey_label, read_s4 as read_s4,
)
from scribbleseg.data.readers.scribblesup import (
    SCRIBBLESUP_ALIASES as SCRIBBLESUP_ALIASES, StrokeFile as StrokeFile,
    class_ids as class_ids, list_zip as list_zip, read_scribblesup as read_scribblesup,
)
from scribbleseg.data.readers.stem_json import (
    class_id as class_id, read_json as read_json, read_stem_json as read_stem_json,
)
from scribbleseg.data.readers.superpixels import (
    SUPERPIXEL_FILL as SUPERPIXEL_FILL, find_superpixels as find_superpixels,
    read_distance_map as read_distance_map, read_superpixels as read_superpixels,
)
from scribbleseg.data.readers.tags import (
    TagFile as TagFile, read_class_labels as read_class_labels,
    write_class_labels as write_class_labels,
)
from scribbleseg.data.report_charts import bar_chart as bar_chart, class_chart as class_chart
from scribbleseg.data.report_sheet import draw_sheet as draw_sheet
from scribbleseg.data.sampler import EpochSampler as EpochSampler, SampleKey as SampleKey
from scribbleseg.data.scribble_shape import (
    StrokeShape as StrokeShape, measure_strokes as measure_strokes,
)
from scribbleseg.data.seed_reader import SeedReader as SeedReader
from scribbleseg.data.segmenters import (
    MOST_SUPERPIXELS as MOST_SUPERPIXELS, SuperpixelMethod as SuperpixelMethod,
    SuperpixelOptions as SuperpixelOptions, over_segment as over_segment,
)
from scribbleseg.data.settings import (
    coding_digest as coding_digest, image_settings as image_settings,
    source_settings as source_settings,
)
from scribbleseg.data.source import (
    FileRole as FileRole, LabelRole as LabelRole, ScribbleSource as ScribbleSource,
)
from scribbleseg.data.spacings import (
    SPACING_FILE as SPACING_FILE, Spacing as Spacing, read_spacings as read_spacings,
    write_spacings as write_spacings,
)
from scribbleseg.data.spread import spread_scribbles as spread_scribbles
from scribbleseg.data.spread_report import (
    SpreadReport as SpreadReport, write_overview as write_spread_overview,
)
from scribbleseg.data.statistics import summarise as summarise
from scribbleseg.data.superpixel_cache import (
    SuperpixelReport as SuperpixelReport, write_superpixels as write_superpixels,
)
from scribbleseg.data.superpixel_reader import (
    SuperpixelReader as SuperpixelReader, Superpixels as Superpixels,
)
from scribbleseg.data.synthesis_report import (
    SynthesisReport as SynthesisReport, write_overview as write_synthesis_overview,
)
from scribbleseg.data.synthesize import Recipe as Recipe, synthesize_folder as synthesize_folder
from scribbleseg.data.training_extras import (
    ExtraOptions as ExtraOptions, TrainingExtras as TrainingExtras,
)
from scribbleseg.data.transforms import (
    Augmentation as Augmentation, TrainSample as TrainSample, TrainTransform as TrainTransform,
)
from scribbleseg.data.unsafe_files import find_unsafe_files as find_unsafe_files
