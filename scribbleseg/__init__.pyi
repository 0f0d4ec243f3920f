"""Public names of this package: what type checkers see, and what it imports at first use."""

from scribbleseg import (
    callbacks as callbacks, data as data, functional as functional, methods as methods, nn as nn,
)
from scribbleseg.checkpoint import (
    AtomicCheckpointIO as AtomicCheckpointIO, load as load, load_start as load_start,
    read_checkpoint as read_checkpoint,
)
from scribbleseg.cli import ScribbleSegCLI as ScribbleSegCLI, main as main
from scribbleseg.cli_errors import (
    SuggestingParser as SuggestingParser, explain as explain, suggest as suggest,
)
from scribbleseg.cli_merge import merge_regularizers as merge_regularizers
from scribbleseg.constants import (
    IGNORE_INDEX as IGNORE_INDEX, IMAGENET_MEAN as IMAGENET_MEAN, IMAGENET_STD as IMAGENET_STD,
    IMAGE_SUFFIXES as IMAGE_SUFFIXES, MAX_CLASSES as MAX_CLASSES, voc_palette as voc_palette,
)
from scribbleseg.data.datamodule import ScribbleDataModule as ScribbleDataModule
from scribbleseg.errors import (
    CheckpointError as CheckpointError, ConfigError as ConfigError,
    DataCheckError as DataCheckError, LabelFormatError as LabelFormatError,
    MissingExtraError as MissingExtraError, NonFiniteLossError as NonFiniteLossError,
    ScribbleNotFoundError as ScribbleNotFoundError, ScribbleSegError as ScribbleSegError,
    WeightsError as WeightsError,
)
from scribbleseg.folder_prediction import (
    FailedImage as FailedImage, FolderReport as FolderReport, predict_folder as predict_folder,
)
from scribbleseg.inference import (
    InferenceConfig as InferenceConfig, argmax_at_size as argmax_at_size,
    is_out_of_memory as is_out_of_memory, predict_logits as predict_logits,
    refine_logits as refine_logits,
)
from scribbleseg.methods import (
    CAMModule as CAMModule, CC4SModule as CC4SModule, CDSPModule as CDSPModule,
    DMPLSModule as DMPLSModule, IRNModule as IRNModule, MeanTeacherModule as MeanTeacherModule,
    PFAModule as PFAModule, PtReClModule as PtReClModule,
    RegularizedModule as RegularizedModule, SPMLModule as SPMLModule,
    Scribble2LabelModule as Scribble2LabelModule,
)
from scribbleseg.metrics import SegmentationMetrics as SegmentationMetrics, VolumeDice as VolumeDice
from scribbleseg.options import (
    check_choice as check_choice, check_flag as check_flag, check_number as check_number,
    check_whole as check_whole,
)
from scribbleseg.predict_command import predict_images as predict_images
from scribbleseg.predictor import (
    PredictingModule as PredictingModule, Prediction as Prediction, Predictor as Predictor,
)
from scribbleseg.runs import (
    BestCheckpoint as BestCheckpoint, LastCheckpoint as LastCheckpoint,
    RunCSVLogger as RunCSVLogger, SaveRunConfig as SaveRunConfig,
    choose_run_dir as choose_run_dir, lock_run as lock_run,
    resolve_checkpoint as resolve_checkpoint,
    run_callbacks as run_callbacks, run_loggers as run_loggers,
)
from scribbleseg.types import (
    DataInfo as DataInfo, Label as Label, LabelKind as LabelKind, Record as Record,
    SegBatch as SegBatch, SegOutput as SegOutput, Split as Split,
)

__version__: str
