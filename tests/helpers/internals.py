"""Files that tests look into below the public names; the one table to mend when files move."""

from __future__ import annotations

from importlib import import_module
from typing import Any

FILES = {
    "check command": "scribbleseg.data.commands.check",
    "check files": "scribbleseg.data.check.files",
    "check inspection": "scribbleseg.data.check.inspection",
    "check statistics": "scribbleseg.data.check.statistics",
    "COCO index": "scribbleseg.data.sources.coco_index",
    "JSON lists": "scribbleseg.data.sources.json_lists",
    "command line": "scribbleseg.cli",
    "convert": "scribbleseg.data.jobs.convert",
    "encoder weights": "scribbleseg.nn.encoder_weights",
    "folder prediction": "scribbleseg.folder_prediction",
    "folder source": "scribbleseg.data.sources.folder",
    "gaussian": "scribbleseg.functional.gaussian",
    "grid edges": "scribbleseg.functional.grid_edges",
    "grid tree": "scribbleseg.functional.grid_tree",
    "history": "scribbleseg.data.history",
    "image k-means": "scribbleseg.functional.image_kmeans",
    "image job": "scribbleseg.data.jobs.job",
    "intensity": "scribbleseg.functional.intensity",
    "job settings": "scribbleseg.data.jobs.settings",
    "losses": "scribbleseg.functional.losses",
    "MATLAB": "scribbleseg.data.matlab",
    "permutohedral": "scribbleseg.functional.permutohedral",
    "PFA augmentation": "scribbleseg.methods.pfa.augmentation",
    "predictor": "scribbleseg.predictor",
    "processes": "scribbleseg.data.jobs.processes",
    "propagate": "scribbleseg.data.jobs.propagate",
    "random walker": "scribbleseg.functional.random_walker",
    "run summary": "scribbleseg.callbacks.run_summary",
    "SPML pictures": "scribbleseg.methods.spml.visuals",
    "SPML retrieval": "scribbleseg.methods.spml.retrieval",
    "strokes": "scribbleseg.functional.strokes",
    "superpixels": "scribbleseg.data.jobs.superpixels",
    "synthesize": "scribbleseg.data.jobs.synthesize",
    "tree filter": "scribbleseg.functional.tree_filter",
    "volumes": "scribbleseg.data.sources.volumes",
}


def internal(name: str) -> Any:
    """The file of this name in :data:`FILES`, whatever its path is today."""
    return import_module(FILES[name])
