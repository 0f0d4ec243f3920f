"""Checks of label geometry against golden vectors."""

from __future__ import annotations

from golden.registry import check
from golden.vectors import Vectors

from scribbleseg.functional import class_labels_from_scribble, resize_labels


@check("cdsp", "image_tags")
def check_cdsp_image_tags(v: Vectors) -> None:
    tags = class_labels_from_scribble(v.labels("scribble"), int(v.scalar("num_classes")))
    v.compare("tags", tags[:, 1:], rtol=0, atol=0)


@check("spml_inference", "label_resize")
def check_label_resize(v: Vectors) -> None:
    height, width = (int(n) for n in v.param("size"))
    v.compare("label", resize_labels(v.labels("label"), (height, width)), rtol=0, atol=0)
