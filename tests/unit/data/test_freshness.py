"""Prepared files follow everything that they were made of, not only the file a record names."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from helpers.tiny_folders import plain_folder, save
from helpers.trees_coco import coco_tree, context_mat_labels, context_tree, instances
from helpers.trees_labels import CITIES, grey, middle_rows, s4_cityscapes, stripes, write_s4
from helpers.trees_medical import nnunet_volumes

from scribbleseg import Record
from scribbleseg.data import convert_source, synthesize_folder, write_superpixels
from scribbleseg.data.sources import (
    COCOSource,
    FolderSource,
    NnUNetSource,
    PascalContextSource,
    S4Source,
)
from scribbleseg.functional import PointStyle, SuperpixelOptions


def later(path, seconds=10):
    """Give a file a time after everything that has been made so far."""
    moment = path.stat().st_mtime + seconds
    os.utime(path, (moment, moment))


def convert(source, out):
    report = convert_source(source, out, progress=False)
    return report.written, report.kept


def test_masks_follow_the_annotations_of_coco(tmp_path):
    root, out = coco_tree(tmp_path / "coco"), tmp_path / "plain"
    assert convert(COCOSource(root), out) == (5, 0)
    assert convert(COCOSource(root), out) == (0, 5)
    before = FolderSource(out).read_mask(FolderSource(out).records("val")[0])
    content = instances("val")
    content["annotations"] = [{**a, "category_id": 4} for a in content["annotations"]]
    path = root / "annotations" / "instances_val2014.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    later(path)
    assert convert(COCOSource(root), out) == (2, 3), "the annotations of train are as they were"
    after = FolderSource(out).read_mask(FolderSource(out).records("val")[0])
    assert (set(np.unique(before)), set(np.unique(after))) == ({0, 2}, {0, 4})


def test_points_follow_the_annotations_of_coco(tmp_path):
    root, out = coco_tree(tmp_path / "coco"), tmp_path / "points"

    def make():
        return synthesize_folder(COCOSource(root), out, PointStyle(), progress=False).written

    assert (make(), make()) == (3, 0)
    later(root / "annotations" / "instances_train2014.json")
    assert make() == 3


def test_masks_of_a_file_do_not_depend_on_the_annotations(tmp_path):
    root, plain = coco_tree(tmp_path / "coco"), tmp_path / "plain"
    convert(COCOSource(root), plain)
    for source, place in (
        (COCOSource(root), root / "annotations" / "instances_val2014.json"),
        (COCOSource(root, mask_dir=str(plain / "masks")), plain / "masks"),
    ):
        record = source.records("val")[0]
        assert source.inputs(record, "image") == [record.image]
        (path,) = source.inputs(record, "mask")
        assert place in (path, path.parent)


@pytest.mark.parametrize("place", ["VOC2010", "VOC2010/trainval"])
def test_masks_follow_the_names_of_context(tmp_path, place):
    context_mat_labels(context_tree(tmp_path, labels="none"))
    out, devkit = tmp_path / "plain", tmp_path / "VOCdevkit"
    names = devkit / place / "labels.txt"
    (devkit / "VOC2010" / "labels.txt").rename(names)
    assert convert(PascalContextSource(tmp_path), out) == (5, 0)
    assert convert(PascalContextSource(tmp_path), out) == (0, 5)
    # two classes change their ids
    text = names.read_text().replace(": wall\n", ": -\n").replace(": sky\n", ": wall\n")
    names.write_text(text.replace(": -\n", ": sky\n"))
    later(names)
    assert convert(PascalContextSource(tmp_path), out) == (5, 0)
    plain, source = FolderSource(out), PascalContextSource(tmp_path)
    for record, own in zip(plain.records("val"), source.records("val"), strict=True):
        np.testing.assert_array_equal(plain.read_mask(record), source.read_mask(own))


def test_scribbles_follow_the_value_that_their_h5_notes(tmp_path):
    root, out = s4_cityscapes(tmp_path / "s4"), tmp_path / "plain"
    assert convert(S4Source(root, dataset="cityscapes"), out) == (3, 0)
    (strokes, _) = sorted((root / "scribbles").rglob("*.h5"))
    later(strokes)
    assert convert(S4Source(root, dataset="cityscapes"), out) == (1, 2)


def test_every_png_of_s4_has_a_value_of_its_own(tmp_path):
    root = s4_cityscapes(tmp_path, background=0)
    mask, stem = stripes((7, 26, 0, 21)), f"{CITIES[1]}_gtFine_labelIds"
    place = root / "scribbles" / "gtFine" / "train" / "ulm" / stem
    save(place.with_name(f"{stem}.png"), grey(middle_rows(mask, 99)))
    write_s4(place.with_name(f"{stem}.h5"), (((4.0, 21.0), (9.0, 21.0)),), (7,), background=99)
    source = S4Source(root, dataset="cityscapes")
    first, second = (source.read_scribble(record) for record in source.records("train"))
    np.testing.assert_array_equal(first, second)
    assert set(np.unique(second)) == {0, 8, 13, 255}


def test_superpixels_follow_every_channel_of_a_case(tmp_path):
    root, out = nnunet_volumes(tmp_path / "raw", cases=2), tmp_path / "sp"

    def make():
        source = NnUNetSource(root)
        how = {"method": "grid", "splits": ("predict",), "progress": False}
        return write_superpixels(source, out, options=SuperpixelOptions(segments=4), **how).written

    everything = make()
    assert (everything > 2, make()) == (True, 0)
    later(root / "imagesTr" / "case_00_0001.nii.gz")
    assert make() == everything // 2


def test_a_source_without_files_has_no_inputs(tmp_path):
    source = FolderSource(plain_folder(tmp_path))
    assert source.inputs(Record("made"), "image") == []
    record = source.records("val")[0]
    assert source.inputs(record, "scribble") == [record.scribble.path]
    assert source.inputs(record, "mask") == [record.mask.path]
