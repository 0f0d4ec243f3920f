"""Checks of distance maps against golden vectors."""

from __future__ import annotations

import numpy as np
from golden.registry import check
from golden.vectors import Vectors

from scribbleseg.functional import boundary_distance_map, label_boundary, scribble_distance_map

# The maps are compared in levels of 1/255: a wrong level differs by 1, float32 by less than 1e-4.
EXACT = {"rtol": 0, "atol": 1e-4}


@check("cdsp", "distance_map_scribble")
def check_scribble_map(v: Vectors) -> None:
    maps = [
        [scribble_distance_map(image, sharpness=float(lam)) for lam in v.param("lambda")]
        for image in v.labels("scribble").numpy()
    ]
    v.compare("map", 255 * np.array(maps), **EXACT)


@check("cdsp", "distance_map_boundary")
def check_boundary_map(v: Vectors) -> None:
    images = v.labels("pseudo").numpy()
    v.compare("boundary", np.array([label_boundary(image) for image in images]), rtol=0, atol=0)
    maps = [
        [boundary_distance_map(image, sharpness=float(lam)) for lam in v.param("lambda")]
        for image in images
    ]
    v.compare("map", 255 * np.array(maps), **EXACT)
