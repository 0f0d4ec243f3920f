"""Checks of pseudo-label filters against golden vectors."""

from __future__ import annotations

from golden.registry import check
from golden.vectors import Vectors

from scribbleseg.functional import filter_pseudo_labels

EXACT = {"rtol": 0, "atol": 0}


@check("losses_pixel", "pseudo_label")
def check_pseudo_label(v: Vectors) -> None:
    inputs = {
        "present": v.tensor("present"),
        "labels": v.labels("labels"),
        "valid": v.tensor("valid"),
    }
    for key in ("confidence", "entropy"):
        found = filter_pseudo_labels(v.tensor("probs"), **inputs, **{key: v.scalar(key)})
        v.compare(f"by_{key}", found, **EXACT)


@check("cc4s", "pseudo_label")
def check_cc4s_pseudo_label(v: Vectors) -> None:
    probs, scribble = v.tensor("prob").permute(2, 0, 1), v.labels("scribble")
    for name in ("0", "0.5", "0.9"):
        plain = filter_pseudo_labels(probs, confidence=float(name))
        v.compare(f"label_{name}", plain, **EXACT)
        pasted = filter_pseudo_labels(probs, confidence=float(name), labels=scribble)
        v.compare(f"label_scribble_{name}", pasted, **EXACT)
