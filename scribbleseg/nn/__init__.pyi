"""Public names of this package: what type checkers see, and what it imports at first use."""

from scribbleseg.nn.aspp import (
    DilatedConvSum as DilatedConvSum, SpatialPyramid as SpatialPyramid,
    conv_norm_relu as conv_norm_relu,
)
from scribbleseg.nn.encoder_stages import first_stages as first_stages
from scribbleseg.nn.encoder_weights import (
    load_encoder_weights as load_encoder_weights, offline_guard as offline_guard,
)
from scribbleseg.nn.heads import (
    ASPPLogitHead as ASPPLogitHead, CornerAligned as CornerAligned,
    DeepLabV3PlusHead as DeepLabV3PlusHead, DilatedClassifier as DilatedClassifier,
    LastLevel as LastLevel, NormalizedClassifier as NormalizedClassifier,
    classifier_encoder as classifier_encoder, dilated_encoder as dilated_encoder,
    widen_last_stage as widen_last_stage,
)
from scribbleseg.nn.modes import evaluation_mode as evaluation_mode
from scribbleseg.nn.network import (
    Arch as Arch, FreezeBatchNorm as FreezeBatchNorm, SegNetwork as SegNetwork,
    build_network as build_network,
)
from scribbleseg.nn.prototype_bank import PrototypeBank as PrototypeBank
from scribbleseg.nn.regularizers.base import (
    ColourRegularizer as ColourRegularizer, Regularizer as Regularizer,
    RegularizerInput as RegularizerInput, RegularizerView as RegularizerView,
    image_part as image_part,
)
from scribbleseg.nn.regularizers.catalog import (
    REGULARIZERS as REGULARIZERS, build_regularizers as build_regularizers,
)
from scribbleseg.nn.regularizers.pairwise import (
    DenseCRF as DenseCRF, GatedCRF as GatedCRF, KernelCut as KernelCut,
    NormalizedCut as NormalizedCut,
)
from scribbleseg.nn.regularizers.tree import TreeEnergy as TreeEnergy
from scribbleseg.nn.regularizers.variational import (
    ContourLength as ContourLength, IntensityVariance as IntensityVariance,
    MumfordShah as MumfordShah, TotalVariation as TotalVariation,
)
from scribbleseg.nn.segment_queue import SegmentQueue as SegmentQueue, SegmentRows as SegmentRows
from scribbleseg.nn.teacher import EMATeacher as EMATeacher
