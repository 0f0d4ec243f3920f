"""Filter on the permutohedral lattice and mean-field inference of dense CRFs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch

from ops_cases import Setup, Way, case
from ops_cases.inputs import photo, soft_masks
from scribbleseg.functional import (
    CRFParams,
    PermutohedralLattice,
    dense_crf,
    exact_gaussian_filter,
    pixel_features,
)

WORKER = Path(__file__).parents[1] / "ops_peer_crf.py"
PARAMS = CRFParams(3, 3, 80, 13, 10)
FULL = {"height": 375, "width": 500, "classes": 21}
SMALL = {"height": 36, "width": 48, "classes": 21}
QUICK = {"height": 12, "width": 15, "classes": 3}


def _inputs(setup: Setup, height: int, width: int, classes: int) -> tuple[torch.Tensor, ...]:
    image = torch.from_numpy(photo(height, width)).permute(2, 0, 1)[None].contiguous()
    return soft_masks(1, classes, height, width).to(setup.device), image.to(setup.device)


def _filter_ways(setup: Setup, sizes: dict[str, int], *, exact: bool) -> list[Way]:
    probs, image = _inputs(setup, **sizes)
    features = pixel_features(image, sigma_xy=PARAMS.sigma_xy, sigma_rgb=PARAMS.sigma_rgb)
    values = probs.flatten(2).transpose(1, 2).contiguous()
    lattice = PermutohedralLattice(features)
    ways = [
        Way("ours", "built and applied", lambda: PermutohedralLattice(features).filter(values)),
        Way("ours", "applied", lambda: lattice.filter(values)),
    ]
    if exact:
        # absolute values of the lattice are scaled down, see there: nothing to compare
        ways.append(Way("naive", "exact sums", lambda: exact_gaussian_filter(features, values)))
        ways = [Way(w.kind, w.label, _silent(w.run)) for w in ways]
    return ways


def _silent(run):
    def silent() -> None:
        run()

    return silent


@case("lattice", "Gaussian filter in colour and position", full=FULL, quick=QUICK)
def lattice_filter(setup: Setup, **sizes: int) -> list[Way]:
    return _filter_ways(setup, sizes, exact=False)


@case("lattice_small", "the same, small enough for exact sums", full=SMALL, quick=QUICK)
def small_lattice_filter(setup: Setup, **sizes: int) -> list[Way]:
    return _filter_ways(setup, sizes, exact=True)


def all_pairs_mean_field(probs: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """The same inference with both kernel matrices in memory."""
    classes, height, width = probs.shape
    kernels = []
    for weight, sigma_xy, sigma_rgb in (
        (PARAMS.smooth_weight, PARAMS.smooth_xy, float("inf")),
        (PARAMS.weight, PARAMS.sigma_xy, PARAMS.sigma_rgb),
    ):
        features = pixel_features(image[None], sigma_xy=sigma_xy, sigma_rgb=sigma_rgb)[0]
        kernel = (torch.cdist(features, features).square() / -2).exp()
        norm = kernel.sum(1).rsqrt()
        kernel = weight * norm[:, None] * kernel * norm
        # below, products are denormal and ten times as slow
        kernels.append(kernel.masked_fill_(kernel < 1e-30, 0))
    unary = -probs.flatten(1).clamp(1e-5, 1).log()
    marginals = (-unary).softmax(0)
    for _ in range(PARAMS.iterations):
        marginals = (sum(marginals @ kernel for kernel in kernels) - unary).softmax(0)
    return marginals.view(classes, height, width)


def ours(probs: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return dense_crf(probs, image, params=PARAMS, prune=None)[0]


@case("dense_crf", "dense CRF, 10 iterations, no class pruned", full=FULL, quick=QUICK)
def inference(setup: Setup, **sizes: int) -> list[Way]:
    probs, image = _inputs(setup, **sizes)
    python = setup.peer_python or sys.executable
    worker = Worker(python, probs[0].cpu().numpy(), image[0].permute(1, 2, 0).cpu().numpy())
    return [
        Way("ours", "dense_crf on the lattice", lambda: ours(probs, image)),
        Way(
            "peer",
            "pydensecrf",
            worker.run,
            missing=why_worker_is_missing(python),
            on_host=True,
            outcome=worker.outcome,
            memory=lambda: float(worker.ask("memory")),
        ),
    ]


@case("dense_crf_small", "the same, small enough for all pairs", full=SMALL, quick=QUICK)
def small_inference(setup: Setup, **sizes: int) -> list[Way]:
    probs, image = _inputs(setup, **sizes)
    return [
        Way("ours", "dense_crf on the lattice", lambda: ours(probs, image)),
        Way("naive", "all pairs at once", lambda: all_pairs_mean_field(probs[0], image[0])),
    ]


@cache
def why_worker_is_missing(python: str) -> str | None:
    command = [python, "-c", "import pydensecrf.densecrf"]
    try:
        found = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        found = False
    return None if found else f"no pydensecrf in {python}; give an interpreter by --peer-python"


class Worker:
    """pydensecrf in another interpreter, started at the first question."""

    def __init__(self, python: str, probs: np.ndarray, image: np.ndarray) -> None:
        self._python, self._inputs = python, (probs, np.ascontiguousarray(image))
        self._process: subprocess.Popen | None = None

    def _started(self) -> subprocess.Popen:
        if self._process is None:
            self._folder = tempfile.TemporaryDirectory()
            files = [str(Path(self._folder.name) / name) for name in ("inputs.npz", "result.npy")]
            probs, image = self._inputs
            params = (PARAMS.smooth_xy, PARAMS.smooth_weight, PARAMS.sigma_xy, PARAMS.sigma_rgb)
            params += (PARAMS.weight, PARAMS.iterations)
            np.savez(files[0], probs=probs, image=image, params=np.array(params, dtype=float))
            self._process = subprocess.Popen(
                [self._python, str(WORKER), *files],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        return self._process

    def ask(self, question: str) -> str:
        process = self._started()
        process.stdin.write(question + "\n")
        process.stdin.flush()
        answer = process.stdout.readline().strip()
        if not answer:
            raise RuntimeError(f"{self._python} ended in the midst of {question!r}")
        return answer

    def run(self) -> None:
        self.ask("run")

    def outcome(self) -> np.ndarray:
        self.ask("run")
        self.ask("save")
        return np.load(Path(self._folder.name) / "result.npy")

    def __del__(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()


def peer_version(python: str) -> str | None:
    if why_worker_is_missing(python):
        return None
    return Worker(python, np.zeros((2, 1, 1), np.float32), np.zeros((1, 1, 3), np.uint8)).ask(
        "version"
    )
