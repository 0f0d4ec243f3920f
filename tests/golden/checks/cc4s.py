"""Checks of CC4S's losses and views against golden vectors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from golden.registry import check
from golden.vectors import Vectors

from scribbleseg import IMAGENET_MEAN, IMAGENET_STD
from scribbleseg.functional import entropy_loss, partial_cross_entropy, resized_window_probabilities
from scribbleseg.methods import (
    HorizontalFlipView,
    Lattice,
    TranslationView,
    eigenspace_consistency,
    eigenspace_consistency_from_logits,
    feature_consistency_loss,
)

CELLS = Lattice(1)
TRACE_WEIGHT = 0.01


def factors(energy: torch.Tensor, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps q and k with these products: the rows of the matrix, and unit vectors."""
    batch, cells, _ = energy.shape
    identity = torch.eye(cells).expand(batch, -1, -1)
    return energy.mT.reshape(batch, cells, *size), identity.reshape(batch, cells, *size)


def both_forms(
    v: Vectors, name: str, energy: torch.Tensor, target: torch.Tensor, *, weight: float, grad: str
) -> None:
    """Whole matrices, and their factors in chunks that do not divide the cells."""
    dense = eigenspace_consistency_from_logits(energy, target).loss(weight)
    v.compare(name, dense)
    v.compare(grad, torch.autograd.grad(dense, energy)[0], atol=1e-8)
    cells = (energy.shape[1], 1)
    for chunk_size in (None, 7):
        terms = eigenspace_consistency(
            *factors(energy, cells), *factors(target, cells), chunk_size=chunk_size
        )
        v.compare(name, terms.loss(weight))
        v.compare(grad, torch.autograd.grad(terms.loss(weight), energy)[0], atol=1e-8)


@check("cc4s", "eig_loss")
def check_eig_loss(v: Vectors) -> None:
    energy, target = v.tensor("energy", grad=True), v.tensor("energy_target")
    both_forms(v, "loss", energy, target, weight=TRACE_WEIGHT, grad="grad_energy")
    both_forms(v, "loss_kl_only", energy, target, weight=0.0, grad="grad_energy_kl_only")
    for name, logits in (("trace", energy), ("trace_target", target)):
        one = [eigenspace_consistency_from_logits(m[None], m[None]).trace for m in logits]
        v.compare(name, torch.stack(one))


@check("cc4s", "self_sup_flip")
def check_flip(v: Vectors) -> None:
    size = (int(v.param("hw")[0]), int(v.param("hw")[1]))
    view, cells = HorizontalFlipView(size, CELLS), size[0] * size[1]
    identity = torch.eye(cells).reshape(1, cells, *size)
    v.compare("flip_matrix", view.align_view(identity, CELLS).flatten(2)[0], atol=0)
    energy = v.tensor("energy", grad=True)
    q, k = factors(energy, size)
    seen = [view.align_view(m, CELLS) for m in factors(v.tensor("energy_view"), size)]
    v.compare("aligned", seen[0].flatten(2).mT @ seen[1].flatten(2))
    terms = eigenspace_consistency(q, k, *seen, chunk_size=8)
    v.compare("loss", terms.loss(TRACE_WEIGHT))
    loss = torch.autograd.grad(terms.loss(TRACE_WEIGHT), energy)[0]
    v.compare("grad_energy", loss, atol=1e-8)


@check("cc4s", "self_sup_translation")
def check_translation(v: Vectors) -> None:
    rows, columns, left = (int(n) for n in v.param("hw_hs"))
    for name, last in (("top", False), ("bottom", True)):
        view = TranslationView((rows, columns), rows - left, last=last)
        energy = v.tensor("energy", grad=True)
        q, k = (view.crop_reference(m, CELLS) for m in factors(energy, (rows, columns)))
        other = factors(v.tensor(f"energy_view_{name}"), (left, columns))
        # the factors of the part have fewer channels; what is missing is 0
        seen = [
            F.pad(view.align_view(m, CELLS), (0, 0, 0, 0, 0, q.shape[1] - m.shape[1]))
            for m in other
        ]
        loss = eigenspace_consistency(q, k, *seen, chunk_size=8).loss(TRACE_WEIGHT)
        v.compare(f"loss_{name}", loss)
        grad = torch.autograd.grad(loss, energy)[0]
        v.compare(f"grad_energy_{name}", grad, atol=1e-8)


@check("cc4s", "self_sup_feature")
def check_feature(v: Vectors) -> None:
    size = (v.tensor("feature").shape[2], v.tensor("feature").shape[3])
    offset = size[0] - int(v.scalar("hs"))
    views = {
        "flip": HorizontalFlipView(size, CELLS),
        "top": TranslationView(size, offset),
        "bottom": TranslationView(size, offset, last=True),
    }
    for name, view in views.items():
        feature = v.tensor("feature", grad=True)
        seen = view.align_view(v.tensor(f"feature_{name}"), CELLS)
        loss = feature_consistency_loss(view.crop_reference(feature, CELLS), seen)
        v.compare(f"loss_{name}", loss)
        v.compare(f"grad_{name}", torch.autograd.grad(loss, feature)[0])


@check("cc4s", "ur_objective")
def check_certainty_objective(v: Vectors) -> None:
    low, labels = v.tensor("logits", grad=True), v.labels("label")
    size = (labels.shape[1], labels.shape[2])
    logits = F.interpolate(low, size=size, mode="bilinear", align_corners=True)
    weight = 1 - v.tensor("boundary") / 255
    pce, entropy = partial_cross_entropy(logits, labels), entropy_loss(logits, mask=weight, eps=0)
    v.compare("ce", pce)
    v.compare("entropy", entropy)
    v.compare("total", pce + entropy)
    v.compare("grad_logits", torch.autograd.grad(pce + entropy, low)[0])


@check("cc4s", "ms_infer")
def check_windows_over_scales(v: Vectors) -> None:
    image = v.tensor("image").permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(m).view(1, 3, 1, 1) for m in (IMAGENET_MEAN, IMAGENET_STD))
    weight, bias = (torch.from_numpy(v.param(f"conv_{name}")) for name in ("weight", "bias"))
    window, base_size = (int(n) for n in v.param("crop_base"))

    def forward(x: torch.Tensor) -> torch.Tensor:
        low = F.conv2d(x, weight, bias, stride=4, padding=1)
        return F.interpolate(low, x.shape[2:], mode="bilinear", align_corners=True)

    probs = resized_window_probabilities(
        forward,
        (image - mean) / std,
        base_size=base_size,
        window=window,
        scales=[float(scale) for scale in v.param("scales")],
    )
    v.compare("prob", probs[0].permute(1, 2, 0), rtol=1e-3, atol=1e-5)
