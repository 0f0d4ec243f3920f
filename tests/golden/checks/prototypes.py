"""Checks of prototypes, their vote and the prototype bank against golden vectors."""

from __future__ import annotations

import torch
from golden.registry import check
from golden.vectors import Vectors

from scribbleseg.methods import (
    confidence_weights,
    confident_prototypes,
    decode_margin,
    predicted_class_labels,
    prototype_margin,
)
from scribbleseg.nn import PrototypeBank


@check("pfa", "local_prototypes")
def check_local_prototypes(v: Vectors) -> None:
    features, logits = v.tensor("features"), v.tensor("logits")
    found = confident_prototypes(features, logits, v.tensor("class_labels"))
    v.compare("prototypes", found.prototypes, atol=1e-5)
    chosen = confidence_weights(logits).weights.flatten(2).count_nonzero(dim=2)
    v.compare("k", chosen.max(), rtol=0, atol=0)


def run_bank(v: Vectors) -> None:
    prototypes, valid = v.tensor("prototypes"), v.tensor("class_labels") > 0
    bank = PrototypeBank(
        valid.shape[2],
        k=int(v.scalar("num_prototypes")),
        dim=prototypes.shape[3],
        rate=v.scalar("momentum"),
    )
    banks, counts, ready = [], [], []
    for p, there in zip(prototypes, valid, strict=True):
        bank.update(p, there)
        banks.append(bank.prototypes.clone())
        counts.append(bank.count)
        ready.append(float(bank.is_ready()))
    v.compare("bank", torch.stack(banks), atol=1e-5)
    v.compare("count", torch.stack(counts), rtol=0, atol=0)
    v.compare("ready", ready, rtol=0, atol=0)


@check("pfa", "bank_update")
def check_bank_update(v: Vectors) -> None:
    run_bank(v)


@check("pfa", "bank_update_fast")
def check_bank_update_fast(v: Vectors) -> None:
    run_bank(v)


@check("pfa", "predicted_class_set")
def check_predicted_class_set(v: Vectors) -> None:
    height, width = (int(n) for n in v.tensor("image_size"))
    found = predicted_class_labels(
        v.tensor("logits"), (height, width), min_pixels=int(v.scalar("min_pixels"))
    )
    v.compare("class_labels", found, rtol=0, atol=0)


@check("ptrecl", "reclassify")
def check_reclassify(v: Vectors) -> None:
    labels = v.labels("image_label")
    top_m = [int(m) for m in v.param("top_m")]

    def margin(m: int | list[int], mode: str) -> torch.Tensor:
        return prototype_margin(
            v.tensor("features"),
            v.tensor("proto_fg"),
            v.tensor("proto_bg"),
            num_foreground=v.labels("n_fg"),
            num_background=v.labels("n_bg"),
            class_labels=labels,
            top_m=m,
            mode=mode,
        )

    for m in top_m:
        v.compare(f"margin_m{m}", margin(m, "per_set"), atol=1e-5)
        v.compare(f"joint_vote_m{m}", margin(m, "joint_vote"), atol=1e-5)
    mean = margin(top_m, "per_set")
    v.compare("margin_mean", mean, atol=1e-5)
    v.compare("joint_vote_mean", margin(top_m, "joint_vote"), atol=1e-5)
    v.compare("map", mean.relu(), atol=1e-5)
    v.compare("label", decode_margin(mean, labels, threshold=v.scalar("threshold")), rtol=0, atol=0)
