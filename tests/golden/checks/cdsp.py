"""Checks of CDSP's losses, and of its whole objective, against golden vectors."""

from __future__ import annotations

import numpy as np
import torch
from golden.registry import check
from golden.vectors import Vectors
from torch import nn

from scribbleseg.functional import schedule_factor
from scribbleseg.methods import (
    CDSPModule,
    LocalizationRectification,
    distance_entropy_loss,
    foreground_cells,
)
from scribbleseg.nn import ASPPLogitHead, CornerAligned, DilatedConvSum, SegNetwork

LEVELS = 255.0


def rectification(v: Vectors, **options) -> LocalizationRectification:
    """The module with the parameters of the vectors."""
    module = LocalizationRectification(len(v.param("query_bias")), **options)
    names = {"query.weight": "query_weight", "query.bias": "query_bias"}
    names |= {"key.weight": "key_weight", "key.bias": "key_bias", "gamma": "gamma"}
    module.load_state_dict({ours: torch.tensor(v.param(name)) for ours, name in names.items()})
    return module


@check("cdsp", "distance_entropy")
def check_distance_entropy(v: Vectors) -> None:
    maps = {name: v.tensor(f"distance_map_{name}") / LEVELS for name in "sc"}
    for name, weight in maps.items():
        logits = v.tensor("logits", grad=True)
        loss = distance_entropy_loss(logits, weight)
        v.compare(f"loss_{name}", loss)
        v.compare(f"grad_logits_{name}", torch.autograd.grad(loss, logits)[0], atol=1e-7)
    both = distance_entropy_loss(v.tensor("logits"), torch.stack(list(maps.values())))
    for name, loss in zip(maps, both, strict=True):
        v.compare(f"loss_{name}", loss)


@check("cdsp", "lorm_mask")
def check_mask(v: Vectors) -> None:
    size = tuple(int(n) for n in v.param("size"))
    v.compare("mask", foreground_cells(v.labels("pseudo"), size).float(), rtol=0, atol=0)


@check("cdsp", "lorm")
def check_rectification(v: Vectors) -> None:
    pseudo = v.labels("pseudo")
    for chunk in (None, 1, 4, 1000):
        module = rectification(v, chunk=chunk)
        features = v.tensor("features", grad=True)
        mask = foreground_cells(pseudo, tuple(features.shape[2:]))
        loss = module(features, mask)
        loss.backward()
        v.compare("mask", mask.float(), rtol=0, atol=0)
        v.compare("rectified", module.rectify(features, mask))
        v.compare("loss", loss)
        v.compare("grad_features", features.grad, rtol=1e-3)
        v.compare("grad_query_weight", module.query.weight.grad, rtol=1e-3)
        v.compare("grad_key_weight", module.key.weight.grad, rtol=1e-3)
        v.compare("grad_gamma", module.gamma.grad, atol=1e-5)
    # what the released code does to its caller's labels
    v.compare("pseudo_after", pseudo.masked_fill(pseudo == 255, 0), rtol=0, atol=0)


class Given(nn.Module):
    """Outputs that are given, whatever comes in."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output
        self.in_channels = self.out_channels = 1

    def forward(self, features: object) -> object:
        return self.output


def module_of(v: Vectors, low: torch.Tensor, features: torch.Tensor, **options) -> CDSPModule:
    """The module on a network with these logits and deepest features."""
    module = CDSPModule(
        low.shape[1],
        arch="unet",
        encoder="tu-test_resnet.r160_in1k",
        encoder_weights=None,
        pseudo_smoothing=v.scalar("epsilon"),
        **options,
    )
    # corner-aligned cells; any size is its own canvas
    module.network = SegNetwork(
        Given([features]), Given(low), Given(low), CornerAligned(), divisor=1, remainder=1
    )
    module.lorm = rectification(v.other("lorm"))
    module.log = module.log_dict = lambda *_, **__: None
    return module


@check("cdsp", "total")
def check_total(v: Vectors) -> None:
    scribble, pseudo = v.labels("scribble"), v.labels("pseudo")
    batch = {
        "image": torch.zeros(len(scribble), 3, *scribble.shape[1:]),
        "scribble": scribble,
        "pseudo_label": pseudo,
        "scribble_distance": v.labels("distance_map_s"),
        "pseudo_distance": v.labels("distance_map_c"),
        "valid": torch.ones(scribble.shape, dtype=torch.bool),
    }
    names = {"pce": "segs", "pseudo": "segc", "lorm": "lorm"}
    names |= {"entropy_scribble": "ds", "entropy_pseudo": "dc"}
    weights = dict(zip(("segs", "segc", "lorm", "ds", "dc"), v.param("weights"), strict=True))
    assert weights["segs"] == 1
    low = v.tensor("logits_lowres", grad=True)
    module = module_of(
        v,
        low,
        v.tensor("features"),
        reference_quirks=True,
        pseudo_weight=float(weights["segc"]),
        lorm_weight=float(weights["lorm"]),
        scribble_distance_weight=float(weights["ds"]),
        pseudo_distance_weight=float(weights["dc"]),
    )
    total = module.training_step(batch, 0)
    assert set(module.loss_terms) == set(names)
    for name, theirs in names.items():
        key = "weighted_lorm" if theirs == "lorm" else f"loss_{theirs}"
        factor = weights["lorm"] if theirs == "lorm" else 1.0
        v.compare(key, factor * module.loss_terms[name])
    epochs = [int(epoch) for epoch in v.param("epochs")]
    v.compare("total", total.expand(len(epochs)))  # no ramp
    v.compare("grad_logits_lowres", torch.autograd.grad(total, low)[0])
    ours = module_of(v, low, v.tensor("features"))
    ours.training_step(batch, 0)
    v.compare("loss_segc_ignore_kept", ours.loss_terms["pseudo"])
    rates = [1e-3 * schedule_factor(e, 50, schedule="cosine", warmup_steps=5) for e in epochs]
    v.compare("lr", np.array(rates), rtol=1e-6, atol=0)


@check("cdsp", "aspp_v2_head")
def check_head(v: Vectors) -> None:
    features = v.tensor("features")
    classes = len(v.param("bn1.weight"))
    head = ASPPLogitHead(features.shape[1], classes)
    branches = [f"aspp{number}" for number in (1, 2, 3, 4)]
    names = {f"decoder.pyramid.branches.{i}.0": f"{b}.atrous_conv" for i, b in enumerate(branches)}
    names |= {f"decoder.pyramid.branches.{i}.1": f"{b}.bn" for i, b in enumerate(branches)}
    names |= {
        "decoder.pyramid.pooled.1": "global_avg_pool.1",
        "decoder.pyramid.pooled.2": "global_avg_pool.2",
    }
    names |= {"classifier": "conv1", "classifier.norm": "bn1"}
    state = {}
    for key, value in head.state_dict().items():
        part, name = key.rsplit(".", 1)
        counter = name == "num_batches_tracked"
        state[key] = value if counter else torch.tensor(v.param(f"{names[part]}.{name}"))
    head.load_state_dict(state)
    with torch.no_grad():
        v.compare("logits", head.eval()([features]), atol=1e-5)


@check("spml_modules", "aspp_v2_head")
def check_dilated_sum(v: Vectors) -> None:
    feature = v.tensor("feature")
    outputs = v.param("conv0_weight").shape[0]
    for enlarge, name in ((1, "sum"), (2, "embedding_x2")):
        head = DilatedConvSum(feature.shape[1], outputs, enlarge=enlarge)
        state = {
            f"branches.{i}.{kind}": torch.tensor(v.param(f"conv{i}_{kind}"))
            for i in range(len(head.branches))
            for kind in ("weight", "bias")
        }
        head.load_state_dict(state)
        with torch.no_grad():
            v.compare(name, head(feature))
