"""Runs pydensecrf for ``ops.py``, in an interpreter that has it; needs that and numpy only.

    PYTHON ops_peer_crf.py INPUTS.npz RESULT.npy

Answers one line for each on standard input: ``version``, ``run``, ``memory`` (MiB), ``save``.
"""

from __future__ import annotations

import sys
from importlib.metadata import packages_distributions, version

import numpy as np
from ops_memory import peak_mib
from pydensecrf.densecrf import DenseCRF2D


def inference(inputs: dict) -> np.ndarray:
    """Probabilities after the mean-field steps, ``(C, H, W)``."""
    probs, image = inputs["probs"], inputs["image"]
    smooth_xy, smooth_weight, sigma_xy, sigma_rgb, weight, iterations = inputs["params"].tolist()
    classes, height, width = probs.shape
    crf = DenseCRF2D(width, height, classes)
    unary = -np.log(np.clip(probs, 1e-5, 1)).reshape(classes, -1)
    crf.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
    crf.addPairwiseGaussian(sxy=smooth_xy, compat=smooth_weight)
    crf.addPairwiseBilateral(sxy=sigma_xy, srgb=sigma_rgb, rgbim=image, compat=weight)
    return np.array(crf.inference(int(iterations))).reshape(classes, height, width)


def distribution() -> str:
    """Whoever ships the module, and the version."""
    names = packages_distributions().get("pydensecrf", [])
    return ", ".join(f"{name} {version(name)}" for name in names) or "pydensecrf"


def main() -> None:
    with np.load(sys.argv[1]) as file:
        inputs = dict(file)
    result = None
    for line in sys.stdin:
        answer = "done"
        if line == "version\n":
            answer = distribution()
        elif line == "run\n":
            result = inference(inputs)
        elif line == "memory\n":
            answer = str(peak_mib(lambda: inference(inputs)))
        elif line == "save\n":
            np.save(sys.argv[2], result)
        print(answer, flush=True)


if __name__ == "__main__":
    main()
