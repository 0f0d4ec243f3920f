"""Files that tests look into below the public names; the one table to mend when files move."""

from __future__ import annotations

from importlib import import_module
from typing import Any

FILES = {
    "check judgements": "scribbleseg.data.check.judge",
    "CAM refinement": "scribbleseg.functional.cam_refinement",
    "check command": "scribbleseg.data.commands.check",
    "check files": "scribbleseg.data.check.files",
    "check report": "scribbleseg.data.check.report",
    "COCO index": "scribbleseg.data.sources.coco_index",
    "JSON lists": "scribbleseg.data.sources.json_lists",
    "command line": "scribbleseg.cli",
    "convert": "scribbleseg.data.jobs.convert",
    "crf": "scribbleseg.functional.crf",
    "degrade": "scribbleseg.functional.degrade",
    "distance": "scribbleseg.functional.distance",
    "encoder weights": "scribbleseg.nn.encoder_weights",
    "folder prediction": "scribbleseg.folder_prediction",
    "folder source": "scribbleseg.data.sources.folder",
    "gaussian": "scribbleseg.functional.gaussian",
    "grid edges": "scribbleseg.functional.tree_energy",
    "grid tree": "scribbleseg.functional.grid_tree",
    "history": "scribbleseg.data.history",
    "image job": "scribbleseg.data.jobs.job",
    "image k-means": "scribbleseg.methods.spml.clusters",
    "intensity": "scribbleseg.functional.intensity",
    "job settings": "scribbleseg.data.jobs.settings",
    "layouts": "scribbleseg.data.sources.layouts",
    "losses": "scribbleseg.functional.losses",
    "MATLAB": "scribbleseg.data.matlab",
    "permutohedral": "scribbleseg.functional.permutohedral",
    "PFA augmentation": "scribbleseg.methods.pfa.augmentation",
    "predictor": "scribbleseg.predictor",
    "processes": "scribbleseg.data.jobs.processes",
    "propagate": "scribbleseg.data.jobs.labels",
    "pseudo-labels": "scribbleseg.functional.pseudo_labels",
    "random walker": "scribbleseg.functional.random_walker",
    "regions": "scribbleseg.functional.regions",
    "run summary": "scribbleseg.callbacks.run_summary",
    "SPML pictures": "scribbleseg.methods.spml.visuals",
    "SPML retrieval": "scribbleseg.methods.spml.retrieval",
    "strokes": "scribbleseg.functional.strokes",
    "superpixel affinity": "scribbleseg.functional.regions",
    "superpixels": "scribbleseg.data.jobs.superpixels",
    "synthesis": "scribbleseg.functional.synthesis",
    "synthesize": "scribbleseg.data.jobs.labels",
    "test-time averaging": "scribbleseg.functional.tta",
    "tree filter": "scribbleseg.functional.tree_filter",
    "volumes": "scribbleseg.data.sources.volumes",
}


def internal(name: str) -> Any:
    """The file of this name in :data:`FILES`, whatever its path is today."""
    return import_module(FILES[name])
