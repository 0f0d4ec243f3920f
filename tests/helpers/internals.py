"""Files that tests look into below the public names; the one table to mend when files move."""

from __future__ import annotations

from importlib import import_module
from typing import Any

FILES = {
    "check command": "scribbleseg.data.commands.check",
    "COCO mask writer": "scribbleseg.data.readers.coco_masks",
    "convert command": "scribbleseg.data.commands.convert",
    "encoder weights": "scribbleseg.nn.encoder_weights",
    "folder files": "scribbleseg.data.sources.folder",
    "folder prediction": "scribbleseg.folder_prediction",
    "gaussian": "scribbleseg.functional.gaussian",
    "grid edges": "scribbleseg.functional.grid_edges",
    "grid tree": "scribbleseg.functional.grid_tree",
    "image k-means": "scribbleseg.functional.image_kmeans",
    "intensity": "scribbleseg.functional.intensity",
    "JSON stream": "scribbleseg.data.readers.json_stream",
    "losses": "scribbleseg.functional.losses",
    "permutohedral": "scribbleseg.functional.permutohedral",
    "PFA augmentation": "scribbleseg.methods.pfa.augmentation",
    "predictor": "scribbleseg.predictor",
    "processes": "scribbleseg.data.processes",
    "run summary": "scribbleseg.callbacks.run_summary",
    "SPML pictures": "scribbleseg.methods.spml.visuals",
    "SPML retrieval": "scribbleseg.methods.spml.retrieval",
    "spread": "scribbleseg.data.spread",
    "strokes": "scribbleseg.functional.strokes",
    "superpixels command": "scribbleseg.data.commands.superpixels",
    "synthesize": "scribbleseg.data.synthesize",
    "tree filter": "scribbleseg.functional.tree_filter",
    "volumes": "scribbleseg.data.sources.volumes",
}


def internal(name: str) -> Any:
    """The file of this name in :data:`FILES`, whatever its path is today."""
    return import_module(FILES[name])
