"""Digests of the sources: order, classes, images and labels of every layout and kind of label."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
from helpers.data_facts import refusal, source_facts, training_facts
from helpers.source_cases import (
    CASES,
    READERS,
    block_source,
    case,
    click_files,
    devkit_boxes,
    labelled_source,
    tag_table,
)
from helpers.tiny_folders import plain_folder
from helpers.trees_coco import coco_tree
from helpers.trees_labels import block_tree

from scribbleseg import ScribbleSegError
from scribbleseg.data import LabelType, WeakLabels, synthesize_folder
from scribbleseg.data.sources import (
    ACDCSource,
    COCOSource,
    FolderSource,
    VOCSource,
)
from scribbleseg.functional import PointStyle

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize("name", CASES)
def test_a_source_reads(digest, tmp_path, name) -> None:
    first = 8 if "left to right" in name else None  # 120 slices
    digest.check(name, source_facts(CASES[name](tmp_path), first=first))


def trained_on(root: Path, reader: str, label_type: str, **options: Any) -> Any:
    """What one kind of labels makes of a tree that has all of them, or why it is refused."""
    try:
        return training_facts(labelled_source(root, reader, label_type, **options))
    except ScribbleSegError as error:
        return refusal(error)


@pytest.mark.parametrize("reader", READERS)
def test_kinds_of_labels(digest, tmp_path, reader) -> None:
    facts = {kind: trained_on(tmp_path, reader, kind) for kind in get_args(LabelType)}
    digest.check(f"label types/{reader}", facts)


WAYS = {
    "point": [
        {"point_radius": 5.5, "max_rank": 1},
        {"point_radius": 1},
    ],
    "box": [{"box_fill": "full"}, {"box_fill": "center", "box_center": 0.5}],
    "tag": [{"tags_from": "mask", "class_labels": "of masks.json"}, {"tags_from": "annotations"}],
}


@pytest.mark.parametrize("label_type", WAYS)
def test_options_of_weak_labels(digest, tmp_path, label_type) -> None:
    facts = {}
    for options in WAYS[label_type]:
        text = ", ".join(f"{name}={value}" for name, value in options.items())
        weak = WeakLabels(**options)
        facts[text] = trained_on(tmp_path, "folder", label_type, weak_labels=weak)
    digest.check(f"weak labels/{label_type}", facts)


FILES = {
    "clicks of each image": case(FolderSource, click_files, {"label_type": "point"}),
    "boxes of a devkit": case(VOCSource, devkit_boxes, {"label_type": "box"}),
    "boxes of a devkit, easy": case(
        VOCSource,
        devkit_boxes,
        {"label_type": "box", "weak_labels": WeakLabels(box_fill="full", difficult=False)},
    ),
    "tags of a devkit": case(
        VOCSource,
        devkit_boxes,
        {"label_type": "tag", "weak_labels": WeakLabels(tags_from="annotations")},
    ),
    "tags by name": case(FolderSource, tag_table, {"label_type": "tag"}),
    "tags as vectors": case(
        FolderSource,
        tag_table,
        {"label_type": "tag", "weak_labels": WeakLabels(class_labels="tags.npz")},
    ),
    "boxes of COCO": case(
        COCOSource,
        coco_tree,
        {"label_type": "box", "weak_labels": WeakLabels(box_fill="full")},
        scribbles=False,
    ),
    "tags of COCO": case(
        COCOSource,
        coco_tree,
        {"label_type": "tag", "weak_labels": WeakLabels(tags_from="annotations")},
        scribbles=False,
    ),
    "masks as upper bound": case(
        FolderSource, plain_folder, {"label_type": "mask", "unlabelled_value": 0}
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_weak_labels(digest, tmp_path, name) -> None:
    digest.check(f"weak files/{name}", training_facts(FILES[name](tmp_path)))


def test_labels_of_this_library_are_ids_whatever_the_coding(digest, tmp_path) -> None:
    root = block_tree(tmp_path / "city")
    options = {"dataset": "cityscapes"}
    synthesize_folder(
        block_source(root, **options), root / "points", PointStyle(min_area=1), progress=False
    )
    points = block_source(root, label_type="point", **options)
    digest.check("weak files/own points", training_facts(points))


def shared(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"the data set {name} is not on this machine (looked in {SHARED})")
    return SHARED / name


def test_samples_of_voc(digest) -> None:
    """Released scribbles and masks of two images."""
    root = shared("voc_sample")
    digest.check("samples/voc", source_facts(VOCSource(root / "VOC2012"), first=4))
    strong = training_facts(VOCSource(root / "VOC2012", label_type="mask"))
    digest.check("samples/voc, masks", strong)


@pytest.mark.parametrize(
    ("name", "source"), [("acdc", ACDCSource), ("acdc", FolderSource), ("camvid", FolderSource)]
)
def test_samples_of_other_data(digest, name, source) -> None:
    """All names, and the first images of every split."""
    facts = source_facts(source(shared(name)), first=3)
    digest.check(f"samples/{name} {source.__name__}", facts)
