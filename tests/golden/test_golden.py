"""Golden vectors: values and gradients computed independently of this library.

``pytest tests/golden --golden-dir DIR`` checks any folder with the documented keys. A file that is
not there is skipped. A component that is there must have a check; those of blocks that this release
does not contain yet are listed in ``NOT_BUILT`` and reported as skipped.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parent))
from vectors import Vectors

from scribbleseg.functional.geometry import class_labels_from_scribble, resize_labels
from scribbleseg.functional.losses import partial_cross_entropy
from scribbleseg.functional.schedules import schedule_factor
from scribbleseg.functional.tta import multi_scale_probabilities

CHECKS = {}

NOT_BUILT = {
    "cc4s": "*",
    "cdsp": "distance_map_scribble distance_map_boundary distance_entropy lorm lorm_mask total "
    "aspp_v2_head tta",
    "irn": "*",
    "losses_pairwise": "*",
    "losses_pixel": "entropy mumford_shah tv intensity_variance dmpls ustm s2l pseudo_label",
    "losses_structured": "*",
    "pfa": "local_prototypes bank_update bank_update_fast prediction_consistency soft_consistency "
    "predicted_class_set",
    "pfa_augmentation": "*",
    "pfa_train_step": "*",
    "ptrecl": "*",
    "spml_contrastive": "*",
    "spml_feature_affinity": "*",
    "spml_inference": "segment_retrieval majority_label",
    "spml_modules": "softmax_head aspp_v2_head",
    "spml_propagation": "*",
}


def check(file: str, component: str):
    def register(function):
        CHECKS[file, component] = function
        return function

    return register


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "component" not in metafunc.fixturenames:
        return
    folder = Path(metafunc.config.getoption("--golden-dir"))
    if not folder.is_dir():
        raise pytest.UsageError(f"--golden-dir {folder} is not a folder")
    cases = []
    there = {path.stem for path in folder.glob("*.npz")}
    for file in sorted({name for name, _ in CHECKS} | set(NOT_BUILT) | there):
        path = folder / f"{file}.npz"
        if not path.is_file():
            skip = pytest.mark.skip(reason=f"{file}.npz is not in this folder")
            cases.append(pytest.param(path, "", marks=skip, id=file))
            continue
        with np.load(path) as archive:
            components = sorted({key.split("/")[0] for key in archive})
        cases += [pytest.param(path, name, id=f"{file}-{name}") for name in components]
    metafunc.parametrize(("path", "component"), cases)


def test_component(path: Path, component: str) -> None:
    function = CHECKS.get((path.stem, component))
    if function is None:
        planned = NOT_BUILT.get(path.stem, "")
        if planned == "*" or component in planned.split():
            pytest.skip(f"{path.stem}/{component}: this block is not in the library yet")
        pytest.fail(f"{path.name} holds {component!r}, which no check covers")
    vectors = Vectors(path, component)
    function(vectors)
    vectors.assert_all_compared()


@check("losses_pixel", "pce")
def check_pce(v: Vectors) -> None:
    labels = v.labels("labels")
    logits = v.tensor("logits", grad=True)
    loss = partial_cross_entropy(logits, labels)
    v.compare("loss", loss)
    v.compare("grad_logits", torch.autograd.grad(loss, logits)[0])
    v.compare("loss_div_batch", loss / len(labels))
    weight = torch.from_numpy(v.param("class_weight"))
    weighted = partial_cross_entropy(logits, labels, class_weight=weight)
    v.compare("loss_weighted", weighted)
    v.compare("grad_logits_weighted", torch.autograd.grad(weighted, logits)[0])
    empty = partial_cross_entropy(logits, torch.full_like(labels, 255))
    v.compare("loss_empty", empty, atol=0)
    assert torch.equal(torch.autograd.grad(empty, logits)[0], torch.zeros_like(logits))


@check("losses_pixel", "tta")
def check_tta(v: Vectors) -> None:
    weight, bias = v.tensor("conv_weight"), v.tensor("conv_bias")
    image, scales = v.tensor("image"), [float(s) for s in v.param("scales")]

    def forward(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, weight, bias, padding=1)

    mean = multi_scale_probabilities(forward, image, scales=scales, flip=True)
    v.compare("probs_mean", mean)
    summed = multi_scale_probabilities(
        forward,
        image,
        scales=scales,
        flip=True,
        average="logits",
        align_corners=True,
        rounding="floor",
    )
    v.compare("logits_sum_tel", summed)


@check("cdsp", "partial_ce")
def check_cdsp_partial_ce(v: Vectors) -> None:
    logits = v.tensor("logits", grad=True)
    loss = partial_cross_entropy(logits, v.labels("scribble"))
    v.compare("loss", loss)
    v.compare("grad_logits", torch.autograd.grad(loss, logits)[0], atol=1e-7)


@check("cdsp", "smoothed_ce")
def check_cdsp_smoothed_ce(v: Vectors) -> None:
    logits = v.tensor("logits", grad=True)
    loss = partial_cross_entropy(logits, v.labels("pseudo"), label_smoothing=v.scalar("epsilon"))
    v.compare("loss", loss)
    v.compare("grad_logits", torch.autograd.grad(loss, logits)[0], atol=1e-7)


@check("cdsp", "image_tags")
def check_cdsp_image_tags(v: Vectors) -> None:
    tags = class_labels_from_scribble(v.labels("scribble"), int(v.scalar("num_classes")))
    v.compare("tags", tags[:, 1:], rtol=0, atol=0)


@check("cdsp", "lr_schedule")
def check_cdsp_lr(v: Vectors) -> None:
    per_epoch = v.scalar("steps_per_epoch")
    total, warmup = v.scalar("epochs") * per_epoch, v.scalar("warmup_epochs") * per_epoch
    found = [
        v.scalar("base_lr")
        * schedule_factor(int(t), int(total), schedule="cosine", warmup_steps=int(warmup))
        for t in v.labels("step")
    ]
    v.compare("lr", found, rtol=1e-6, atol=0)


@check("pfa", "partial_ce")
def check_pfa_partial_ce(v: Vectors) -> None:
    logits, target = v.tensor("logits", grad=True), v.labels("target")
    upsampled = F.interpolate(logits, target.shape[1:], mode="bilinear", align_corners=True)
    v.compare("upsampled_corner", upsampled[:, :, :3, :3])
    loss = partial_cross_entropy(upsampled, target)
    v.compare("loss", loss)
    v.compare("grad_logits", torch.autograd.grad(loss, logits)[0], rtol=1e-3, atol=1e-7)


@check("pfa", "lr_schedule")
def check_pfa_lr(v: Vectors) -> None:
    total, base = int(v.scalar("epochs")) + 1, np.array([6e-5, 0, 6e-4, 6e-4])
    found = [base * schedule_factor(int(e), total, schedule="linear") for e in v.labels("epoch")]
    v.compare("lr", found, rtol=1e-5, atol=1e-12)


@check("spml_modules", "lr_poly")
def check_spml_lr(v: Vectors) -> None:
    found = [
        v.scalar("base_lr")
        * schedule_factor(
            int(t),
            int(v.scalar("max_iter")),
            schedule="poly",
            warmup_steps=int(v.scalar("warmup")),
            warmup_start=0.1,
        )
        for t in v.labels("iteration")
    ]
    v.compare("lr", found, rtol=1e-5, atol=1e-12)


@check("spml_inference", "label_resize")
def check_label_resize(v: Vectors) -> None:
    height, width = (int(n) for n in v.param("size"))
    v.compare("label", resize_labels(v.labels("label"), (height, width)), rtol=0, atol=0)
