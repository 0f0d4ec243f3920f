"""Callbacks that watch or write; none of them changes a loss."""

from __future__ import annotations

from scribbleseg import Facade
from scribbleseg.callbacks.affinity_label_writer import AffinityLabelWriter
from scribbleseg.callbacks.collection_options import CollectionOptions
from scribbleseg.callbacks.confident_label_writer import ConfidentLabelWriter
from scribbleseg.callbacks.exact_resume import ExactResume
from scribbleseg.callbacks.non_finite_guard import NonFiniteGuard
from scribbleseg.callbacks.prediction_panel import PredictionPanel
from scribbleseg.callbacks.preemption import PreemptionCheckpoint
from scribbleseg.callbacks.propagated_label_writer import PropagatedLabelWriter
from scribbleseg.callbacks.prototype_writer import PrototypeWriter
from scribbleseg.callbacks.pseudo_label_quality import PseudoLabelQuality
from scribbleseg.callbacks.pseudo_label_writer import PseudoLabelWriter
from scribbleseg.callbacks.random_walk_writer import RandomWalkWriter
from scribbleseg.callbacks.reclassification_writer import ReclassificationWriter
from scribbleseg.callbacks.run_summary import RunSummary
from scribbleseg.callbacks.seed_writer import SeedWriter

__all__ = [
    "AffinityLabelWriter",
    "CollectionOptions",
    "ConfidentLabelWriter",
    "ExactResume",
    "NonFiniteGuard",
    "PredictionPanel",
    "PreemptionCheckpoint",
    "PropagatedLabelWriter",
    "PrototypeWriter",
    "PseudoLabelQuality",
    "PseudoLabelWriter",
    "RandomWalkWriter",
    "ReclassificationWriter",
    "RunSummary",
    "SeedWriter",
]

Facade.of(__name__)
