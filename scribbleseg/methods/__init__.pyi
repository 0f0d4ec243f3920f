"""Public names of this package: what type checkers see, and what it imports at first use."""

from scribbleseg.methods.base import ScribbleSegModule as ScribbleSegModule
from scribbleseg.methods.cam.module import (
    CAMModule as CAMModule, ClassMaps as ClassMaps,
    class_activation_maps as class_activation_maps, image_tag_loss as image_tag_loss,
    merge_flips as merge_flips,
)
from scribbleseg.methods.cam.tag_scores import TagScores as TagScores
from scribbleseg.methods.cam.visuals import class_map_panel as class_map_panel
from scribbleseg.methods.cc4s.head import CC4SNetwork as CC4SNetwork
from scribbleseg.methods.cc4s.losses import (
    ConsistencyTerms as ConsistencyTerms, certainty_weight as certainty_weight,
    eigenspace_consistency as eigenspace_consistency,
    eigenspace_consistency_from_logits as eigenspace_consistency_from_logits,
    feature_consistency_loss as feature_consistency_loss, graph_smoothness as graph_smoothness,
)
from scribbleseg.methods.cc4s.module import CC4SModule as CC4SModule
from scribbleseg.methods.cc4s.similarity import (
    SimilarityMeasurement as SimilarityMeasurement, SimilarityOutput as SimilarityOutput,
    attention_walk as attention_walk, transition_logits as transition_logits,
)
from scribbleseg.methods.cc4s.stages import (
    LossPreset as CC4SLossPreset, PRESETS as CC4S_PRESETS, STAGES as STAGES, Stage as Stage,
    check_options as check_options, stage_options as stage_options,
)
from scribbleseg.methods.cc4s.views import (
    GeometricView as GeometricView, HorizontalFlipView as HorizontalFlipView,
    Lattice as Lattice, Transform as Transform, TranslationView as TranslationView,
    random_view as random_view,
)
from scribbleseg.methods.cc4s.visuals import (
    certainty_map as certainty_map, eigenvalue_trace as eigenvalue_trace,
    transition_eigenvalues as transition_eigenvalues, walk_column as walk_column,
)
from scribbleseg.methods.cc4s.walk import WalkOutput as WalkOutput, WalkingModule as WalkingModule
from scribbleseg.methods.cdsp.lorm import (
    LocalizationRectification as LocalizationRectification,
    RectificationVariant as RectificationVariant, foreground_cells as foreground_cells,
    touched_cells as touched_cells,
)
from scribbleseg.methods.cdsp.losses import (
    EntropyNormalization as EntropyNormalization,
    distance_entropy_loss as distance_entropy_loss,
)
from scribbleseg.methods.cdsp.module import CDSPModule as CDSPModule
from scribbleseg.methods.cdsp.visuals import (
    attention_map as attention_map, distance_maps as distance_maps,
)
from scribbleseg.methods.evaluation import EvaluatedModule as EvaluatedModule
from scribbleseg.methods.irn.centroids import (
    centroid_clusters as centroid_clusters, instance_labels as instance_labels,
    refine_centroids as refine_centroids,
)
from scribbleseg.methods.irn.heads import (
    BoundaryHead as BoundaryHead, DisplacementHead as DisplacementHead, MeanShift as MeanShift,
    boundary_of_flips as boundary_of_flips, pooling_of as pooling_of,
    tap_channels as tap_channels,
)
from scribbleseg.methods.irn.losses import (
    AffinityTerms as AffinityTerms, DisplacementTerms as DisplacementTerms,
    affinity_loss as affinity_loss, affinity_targets as affinity_targets,
    displacement_loss as displacement_loss, pair_displacement as pair_displacement,
    pair_indices as pair_indices, pair_offsets as pair_offsets,
)
from scribbleseg.methods.irn.module import IRNModule as IRNModule
from scribbleseg.methods.irn.prediction import BoundaryModule as BoundaryModule, CELL as CELL
from scribbleseg.methods.irn.visuals import boundary_panel as boundary_panel
from scribbleseg.methods.partial import PartiallySupervisedModule as PartiallySupervisedModule
from scribbleseg.methods.pfa.augmentation import (
    PixelQueries as PixelQueries, PrototypeFeatureAugmentation as PrototypeFeatureAugmentation,
)
from scribbleseg.methods.pfa.heads import (
    AugmentedModule as AugmentedModule, Head as Head, HeadScores as HeadScores,
    Prediction as Prediction,
)
from scribbleseg.methods.pfa.module import PFAModule as PFAModule
from scribbleseg.methods.pfa.prototypes import (
    ClassPrototypes as ClassPrototypes, ConfidenceWeights as ConfidenceWeights,
    confidence_weights as confidence_weights, confident_prototypes as confident_prototypes,
    predicted_class_labels as predicted_class_labels,
)
from scribbleseg.methods.pfa.visuals import (
    confident_pixels as confident_pixels, prototype_map as prototype_map,
)
from scribbleseg.methods.pfa.weights import (
    ConsistencyForm as ConsistencyForm, LossPreset as PFALossPreset, PRESETS as PFA_PRESETS,
    Phase as Phase, TERMS as TERMS, consistency_loss as consistency_loss,
    phase_weights as phase_weights,
)
from scribbleseg.methods.ptrecl.losses import (
    conditioned_cross_entropy as conditioned_cross_entropy,
    label_conditioning_mask as label_conditioning_mask, label_gate as label_gate,
)
from scribbleseg.methods.ptrecl.module import (
    PtReClModule as PtReClModule, ReclassifiedMaps as ReclassifiedMaps,
)
from scribbleseg.methods.ptrecl.prototypes import (
    PrototypePairs as PrototypePairs, Vote as Vote, label_by_margin as label_by_margin,
)
from scribbleseg.methods.ptrecl.reclassify import reclassify_masks as reclassify_masks
from scribbleseg.methods.ptrecl.visuals import margin_panel as margin_panel
from scribbleseg.methods.ptrecl.vote import (
    agreement_threshold as agreement_threshold, decode_margin as decode_margin,
    prototype_margin as prototype_margin, prototype_statistics as prototype_statistics,
)
from scribbleseg.methods.regularized.bank import ProbabilityBank as ProbabilityBank
from scribbleseg.methods.regularized.dmpls import DMPLSModule as DMPLSModule
from scribbleseg.methods.regularized.losses import (
    MixedPseudoLabel as MixedPseudoLabel, bank_pseudo_label as bank_pseudo_label,
    dynamic_mixed_pseudo_label as dynamic_mixed_pseudo_label,
    mean_teacher_consistency as mean_teacher_consistency, mixed_dice_loss as mixed_dice_loss,
    soft_mixed_loss as soft_mixed_loss, update_probability_bank as update_probability_bank,
)
from scribbleseg.methods.regularized.mean_teacher import MeanTeacherModule as MeanTeacherModule
from scribbleseg.methods.regularized.module import RegularizedModule as RegularizedModule
from scribbleseg.methods.regularized.scribble2label import (
    Scribble2LabelModule as Scribble2LabelModule,
)
from scribbleseg.methods.spml.clusters import (
    color_features as color_features, grid_clusters as grid_clusters,
    image_kmeans as image_kmeans, join_local_features as join_local_features,
    location_features as location_features,
)
from scribbleseg.methods.spml.contrast import ContrastiveModule as ContrastiveModule
from scribbleseg.methods.spml.embedding import EmbeddingModule as EmbeddingModule
from scribbleseg.methods.spml.head import (
    EmbeddingClassifier as EmbeddingClassifier, PyramidPoolingHead as PyramidPoolingHead,
    ReducedDecoder as ReducedDecoder, embedding_head as embedding_head,
)
from scribbleseg.methods.spml.losses import SegSortMode as SegSortMode, segsort_loss as segsort_loss
from scribbleseg.methods.spml.module import SPMLModule as SPMLModule
from scribbleseg.methods.spml.prediction import (
    ImageSegments as ImageSegments, SegmentingModule as SegmentingModule,
    check_grid as check_grid,
)
from scribbleseg.methods.spml.relations import (
    RelationSets as RelationSets, affinity_label_sets as affinity_label_sets,
    annotation_sets as annotation_sets, check_relations as check_relations,
    image_similarity_loss as image_similarity_loss, image_spans as image_spans,
    overlap_sets as overlap_sets, region_sets as region_sets,
)
from scribbleseg.methods.spml.retrieval import (
    NearestSegments as NearestSegments, SegmentMemory as SegmentMemory,
    class_votes as class_votes, dense_random_walk as dense_random_walk,
    embedding_affinity as embedding_affinity, nearest_segments as nearest_segments,
    retrieval_accuracy as retrieval_accuracy,
)
from scribbleseg.methods.spml.segments import (
    SegmentedBatch as SegmentedBatch, Segments as Segments, WeakBatch as WeakBatch,
    gather_segments as gather_segments, rows_of_pixels as rows_of_pixels,
    segment_index as segment_index, segment_prototypes as segment_prototypes,
    weak_labels_on_grid as weak_labels_on_grid,
)
from scribbleseg.methods.spml.visuals import (
    retrieved_segments as retrieved_segments, segments_by_class as segments_by_class,
)
