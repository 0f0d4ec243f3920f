"""Public names of this package: what type checkers see, and what it imports at first use."""

from scribbleseg.callbacks.affinity_label_writer import (
    AffinityLabelWriter as AffinityLabelWriter, SeedSource as SeedSource,
)
from scribbleseg.callbacks.collection_options import CollectionOptions as CollectionOptions
from scribbleseg.callbacks.confident_label_writer import (
    ConfidentLabelWriter as ConfidentLabelWriter,
)
from scribbleseg.callbacks.exact_resume import (
    ExactResume as ExactResume, get_rng_state as get_rng_state, set_rng_state as set_rng_state,
)
from scribbleseg.callbacks.feature_collection import FeatureCollector as FeatureCollector
from scribbleseg.callbacks.non_finite_guard import NonFiniteGuard as NonFiniteGuard
from scribbleseg.callbacks.prediction_panel import PredictionPanel as PredictionPanel
from scribbleseg.callbacks.preemption import PreemptionCheckpoint as PreemptionCheckpoint
from scribbleseg.callbacks.propagated_label_writer import (
    PropagatedLabelWriter as PropagatedLabelWriter,
)
from scribbleseg.callbacks.prototype_writer import PrototypeWriter as PrototypeWriter
from scribbleseg.callbacks.pseudo_label_quality import (
    PseudoLabelQuality as PseudoLabelQuality, score_pseudo_labels as score_pseudo_labels,
)
from scribbleseg.callbacks.pseudo_label_writer import PseudoLabelWriter as PseudoLabelWriter
from scribbleseg.callbacks.random_walk_writer import RandomWalkWriter as RandomWalkWriter
from scribbleseg.callbacks.reclassification_writer import (
    ReclassificationWriter as ReclassificationWriter,
)
from scribbleseg.callbacks.run_summary import RunSummary as RunSummary
from scribbleseg.callbacks.seed_writer import SeedWriter as SeedWriter
from scribbleseg.callbacks.training_image import TrainingImage as TrainingImage
from scribbleseg.callbacks.training_image_writer import TrainingImageWriter as TrainingImageWriter
