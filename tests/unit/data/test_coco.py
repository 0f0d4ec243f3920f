import json
import os
import pickle
import random
import re
import resource
import sqlite3
import time
from functools import partial

import numpy as np
import pytest
from helpers.internals import internal
from helpers.tiny_folders import save, write_list
from helpers.trees_coco import (
    COCO_SIZE,
    annotation,
    coco_tree,
    instances,
    rectangle,
)
from PIL import Image

from scribbleseg import ConfigError, LabelFormatError, ScribbleNotFoundError, ScribbleSegError
from scribbleseg.data import ImageJob, WeakLabels, read_coco_index
from scribbleseg.data.sources import COCO_CATEGORIES, COCOSource, image_number
from scribbleseg.functional import read_manifest
from scribbleseg.types import Record

NINE = "COCO_train2014_000000000009"
DOG, PERSON, TOOTHBRUSH, BICYCLE, MOTORCYCLE = 17, 1, 80, 2, 4


def expected_nine(*, crowd=0, small_on_top=False):
    """Image 9: a dog, then a person over it, a crowd of cars behind both."""
    mask = np.zeros(COCO_SIZE, np.uint8)
    mask[16:] = crowd
    order = [(DOG, np.s_[4:10, 4:10]), (PERSON, np.s_[2:20, 2:20])]
    for label, place in reversed(order) if small_on_top else order:
        mask[place] = label
    return mask


def write_instances(root, split, content):
    path = root / "annotations" / f"instances_{split}2014.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def by_id(source, split):
    return {record.image_id: record for record in source.records(split)}


def test_classes_are_the_categories_in_ascending_order():
    assert len(COCO_CATEGORIES) == 80
    assert (min(COCO_CATEGORIES), max(COCO_CATEGORIES)) == (1, 90)
    absent = set(range(1, 91)) - set(COCO_CATEGORIES)
    assert absent == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert len(set(COCO_CATEGORIES.values())) == 80


def test_records(tmp_path):
    source = COCOSource(coco_tree(tmp_path))
    assert (source.num_classes, source.background, source.year) == (81, 0, 2014)
    assert (source.class_names[0], source.class_names[17], source.class_names[80]) == (
        "background",
        "dog",
        "toothbrush",
    )
    train, val = source.records("train"), source.records("val")
    assert [r.image_id[-3:] for r in train] == ["009", "025", "030"]  # by image number
    assert [r.image_id for r in val] == [f"COCO_val2014_{n:012d}" for n in (42, 73)]
    assert all(r.mask is None and r.scribble.path.parent.name == "scribbles" for r in train)
    assert set(np.unique(source.read_scribble(train[0]))) == {1, 255}
    assert source.read_image(val[0]).shape == (*COCO_SIZE, 3)
    assert len(source.records("predict")) == 5
    with pytest.raises(ScribbleNotFoundError, match=r"no labelled split 'test'"):
        source.records("test")


def test_grey_and_cmyk_images(tmp_path):
    source = COCOSource(coco_tree(tmp_path))
    grey, ink = tmp_path / "train2014" / f"{NINE}.jpg", source.records("train")[1].image
    Image.new("L", COCO_SIZE[::-1], 90).save(grey)
    Image.new("CMYK", COCO_SIZE[::-1], (0, 255, 255, 0)).save(ink)
    first, second = (source.read_image(record) for record in source.records("train")[:2])
    assert first.shape == second.shape == (*COCO_SIZE, 3)
    assert (first == 90).all()
    assert (np.abs(second[0, 0].astype(int) - [255, 0, 0]) < 12).all()


def test_wsss_masks_are_painted_in_file_order_and_crowds_are_background(tmp_path):
    source = COCOSource(coco_tree(tmp_path))
    record = source.with_mask(by_id(source, "train")[NINE])
    np.testing.assert_array_equal(source.read_mask(record), expected_nine())
    nothing = source.with_mask(source.records("train")[2])
    np.testing.assert_array_equal(source.read_mask(nothing), np.zeros(COCO_SIZE, np.uint8))
    # a source that is asked without naming a file paints as well
    np.testing.assert_array_equal(source.read_mask(by_id(source, "train")[NINE]), expected_nine())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"crowd": "ignore"}, {"crowd": 255}),
        ({"overlap": "area"}, {"small_on_top": True}),
        ({"crowd": "ignore", "overlap": "area"}, {"crowd": 255, "small_on_top": True}),
    ],
)
def test_own_masks(tmp_path, options, expected):
    source = COCOSource(coco_tree(tmp_path), mask_style="custom", **options)
    record = source.with_mask(by_id(source, "train")[NINE])
    np.testing.assert_array_equal(source.read_mask(record), expected_nine(**expected))
    with pytest.raises(ConfigError, match=r"'background' and 'order'; set `mask_style: custom`"):
        COCOSource(tmp_path, **options)


def test_masks_are_those_of_the_reference_package(tmp_path):
    coco = pytest.importorskip("pycocotools.coco")
    mask_api = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(3)
    content = instances("train")
    content["annotations"] = []
    for number in range(1, 25):
        corners = (rng.uniform(0, 1, (2, rng.integers(3, 9), 2)) * COCO_SIZE[::-1]).round(2)
        item = annotation(
            number, int(rng.choice([9, 25])), int(rng.choice(list(COCO_CATEGORIES))), (0, 0, 4, 4)
        )
        item["segmentation"] = [polygon.ravel().tolist() for polygon in corners]
        if number % 4 == 0:  # text form of run lengths
            noise = np.asfortranarray(rng.uniform(size=COCO_SIZE) < 0.3, dtype=np.uint8)
            runs = mask_api.encode(noise)
            item["segmentation"] = {**runs, "counts": runs["counts"].decode()}
        content["annotations"].append(item)
    path = write_instances(coco_tree(tmp_path), "train", content)
    index = read_coco_index(path, COCO_CATEGORIES)
    reference = coco.COCO(str(path))
    ids = {category: label for label, category in enumerate(sorted(COCO_CATEGORIES), 1)}
    for image in (9, 25):
        expected = np.zeros(COCO_SIZE, np.uint8)
        for item in reference.loadAnns(reference.getAnnIds(imgIds=[image])):
            expected[reference.annToMask(item) == 1] = ids[item["category_id"]]
        assert len(np.unique(expected)) > 3
        np.testing.assert_array_equal(index.paint(image), expected)


def test_masks_are_written_once(tmp_path):
    source = COCOSource(coco_tree(tmp_path))
    report = source.prepare(progress=False)
    assert (report.written, report.kept, report.failed) == (5, 0, {})
    folder = tmp_path / "masks_coco2014-wsss"
    assert sorted(p.name for p in folder.glob("*.png")) == sorted(
        f"{n}.png" for n in (9, 25, 30, 42, 73)
    )
    with Image.open(folder / "9.png") as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.asarray(image), expected_nine())
    manifest = read_manifest(folder)
    facts = ("mask_style", "crowd", "overlap", "year", "splits", "files", "complete")
    assert [manifest[key] for key in facts] == [
        "coco2014-wsss",
        "background",
        "order",
        2014,
        {"train2014": 3, "val2014": 2},
        5,
        True,
    ]
    assert manifest["pycocotools"][0].isdigit()

    # the file is read now, even if the annotations say something else
    source = COCOSource(tmp_path)
    mask = np.full(COCO_SIZE, 5, np.uint8)
    save(folder / "42.png", mask)
    record = source.records("val")[0]
    assert record.mask.path == folder / "42.png"
    np.testing.assert_array_equal(source.read_mask(record), mask)

    # interrupted: what is missing is made, the rest is kept
    (folder / "25.png").unlink()
    report = source.prepare(splits=("train",), progress=False)
    assert (report.written, report.kept) == (1, 2)
    assert read_manifest(folder)["splits"] == {"train2014": 3, "val2014": 2}
    # older than the annotations: painted again
    os.utime(folder / "9.png", (1, 1))
    assert source.prepare(progress=False).written == 1


def test_a_writer_travels_to_other_processes(tmp_path):
    source = COCOSource(coco_tree(tmp_path))
    write = internal("COCO mask writer")._write
    settings = {"crowd": "background", "overlap": "order"}
    job = ImageJob(tmp_path / "masks", "masks", settings, source.class_names)
    make = partial(write, source.index("train"), job, {"out/9": 9})
    assert pickle.loads(pickle.dumps(make))(Record("out/9")) == (True, None)
    mask = np.asarray(Image.open(tmp_path / "masks/out/9.png"))
    np.testing.assert_array_equal(mask, expected_nine())
    assert make(Record("out/9")) == (False, None)


@pytest.mark.slow
def test_masks_in_processes(tmp_path):
    source = COCOSource(coco_tree(tmp_path), mask_style="custom", crowd="ignore")
    report = source.prepare(workers=2, progress=False)
    assert report.written == 5
    assert report.output == tmp_path / "masks_custom_ignore_order"
    label = np.asarray(Image.open(report.output / f"{NINE}.png"))
    np.testing.assert_array_equal(label, expected_nine(crowd=255))


def test_one_broken_image_does_not_stop_the_others(tmp_path):
    content = instances("val")
    content["annotations"][0]["segmentation"] = [[1, 1, 5, 5]]
    write_instances(coco_tree(tmp_path), "val", content)
    report = COCOSource(tmp_path).prepare(progress=False)
    assert report.written == 4
    (reason,) = report.failed.values()
    assert "annotation 201 (image 42)" in reason
    assert read_manifest(report.output)["complete"] is False


def test_masks_of_another_style_are_refused(tmp_path):
    source = COCOSource(coco_tree(tmp_path))
    source.prepare(progress=False)
    other = COCOSource(
        tmp_path, mask_style="custom", crowd="ignore", mask_dir="masks_coco2014-wsss"
    )
    with pytest.raises(ConfigError, match=r"manifest\.json: .*mask_style='coco2014-wsss'.*`mask_d"):
        other.records("val")
    with pytest.raises(ConfigError, match=r"crowd: 'background', now 'ignore'"):
        other.prepare(progress=False)


def test_missing_masks_can_be_an_error(tmp_path):
    source = COCOSource(coco_tree(tmp_path), on_missing_mask="error")
    with pytest.raises(ScribbleNotFoundError) as caught:
        source.records("val")
    message = str(caught.value)
    assert message.startswith("D301 2 of 2 masks of split 'val' missing in")
    assert f"python -m scribbleseg.data convert {tmp_path} --source coco --out" in message
    assert "mask_style='coco2014-wsss').prepare(workers=8)" in message
    source.records("train")  # scribbles need none
    with pytest.raises(ScribbleNotFoundError, match=r"3 of 3 masks of split 'train'"):
        COCOSource(tmp_path, on_missing_mask="error", label_type="mask").records("train")
    source.prepare(progress=False)
    assert len(COCOSource(tmp_path, on_missing_mask="error").records("val")) == 2


def test_training_on_masks(tmp_path):
    source = COCOSource(coco_tree(tmp_path, scribbles=False), label_type="mask")
    record = by_id(source, "train")[NINE]
    assert record.mask is None
    np.testing.assert_array_equal(source.read_scribble(record), expected_nine())


def test_tags_and_boxes(tmp_path):
    source = COCOSource(coco_tree(tmp_path))
    train = source.records("train")
    assert [source.image_tags(r) for r in train] == [[PERSON, DOG], [TOOTHBRUSH], []]
    assert source.boxes(train[0]) == [(DOG, 4.0, 4.0, 10.0, 10.0), (PERSON, 2.0, 2.0, 20.0, 20.0)]
    assert source.boxes(train[2]) == []
    assert source.boxes(source.records("val")[0]) == [(BICYCLE, 1.0, 1.0, 9.0, 9.0)]
    assert source.class_labels(train[0]) is None  # scribbles train: no annotation is used
    kept = [r.image_id for r in COCOSource(tmp_path, keep_unannotated=False).records("train")]
    assert kept == [r.image_id for r in train[:2]]


def test_training_on_tags_of_the_annotations(tmp_path):
    """There are no scribbles to take them from."""
    source = COCOSource(
        coco_tree(tmp_path, scribbles=False),
        label_type="tag",
        weak_labels=WeakLabels(tags_from="annotations"),
    )
    record = by_id(source, "train")[NINE]
    assert source.class_labels(record) == [PERSON, DOG]
    assert (source.read_scribble(record) == 255).all()


def test_training_on_boxes(tmp_path):
    source = COCOSource(
        coco_tree(tmp_path, scribbles=False),
        label_type="box",
        weak_labels=WeakLabels(box_fill="full"),
    )
    record = by_id(source, "train")[NINE]
    expected = expected_nine(small_on_top=True)
    np.testing.assert_array_equal(source.read_scribble(record), expected)
    assert source.class_labels(record) == [PERSON, DOG]


def test_2017_and_images_folder(tmp_path):
    coco_tree(tmp_path, year=2017)
    assert COCOSource.matches(tmp_path)
    (tmp_path / "images").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / split).rename(tmp_path / "images" / split)
    source = COCOSource(tmp_path)
    assert source.year == 2017
    assert [r.image_id for r in source.records("val")] == ["000000000042", "000000000073"]
    assert source.image_tags(source.records("train")[0]) == [PERSON, DOG]
    with pytest.raises(ScribbleNotFoundError, match=r"no folder train2014, val2014"):
        COCOSource(tmp_path, year=2014)
    with pytest.raises(ConfigError, match=r"year=2015"):
        COCOSource(tmp_path, year=2015)
    assert not COCOSource.matches(tmp_path / "images")


def test_lists_and_files_by_number(tmp_path):
    coco_tree(tmp_path)
    write_list(tmp_path / "few.txt", [f"train2014/{NINE}.jpg", "25"])
    (tmp_path / "scribbles" / f"{NINE}.png").rename(tmp_path / "scribbles" / "9.png")
    source = COCOSource(tmp_path, train_list="few.txt")
    assert [r.image_id for r in source.records("train")] == [
        NINE,
        "COCO_train2014_000000000025",
    ]
    assert source.records("train")[0].scribble.path.name == "9.png"
    save(tmp_path / "scribbles" / "0009.png", np.zeros(COCO_SIZE, np.uint8))
    with pytest.raises(LabelFormatError, match=r"D303 .*'0009' and '9' are both of image 9"):
        COCOSource(tmp_path).records("train")
    write_list(tmp_path / "few.txt", ["cat"])
    (tmp_path / "scribbles" / "0009.png").unlink()
    with pytest.raises(LabelFormatError, match=r"D501 .*few\.txt: 1 names.*'cat'"):
        COCOSource(tmp_path, train_list="few.txt").records("train")
    assert image_number("9a") is None


def test_an_incomplete_download_is_not_a_smaller_data_set(tmp_path):
    coco_tree(tmp_path)
    (tmp_path / "train2014" / f"{NINE}.jpg").unlink()
    with pytest.raises(
        ScribbleNotFoundError, match=rf"D301 1 of 3 images of split 'train'.*{NINE}"
    ):
        COCOSource(tmp_path).records("train")


def test_without_annotations_the_images_of_the_folder_train(tmp_path):
    coco_tree(tmp_path)
    (tmp_path / "annotations" / "instances_train2014.json").unlink()
    source = COCOSource(tmp_path)
    records = source.records("train")
    assert [r.image_id[-3:] for r in records] == ["009", "025", "030"]
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*instances_train2014\.json: does not"):
        source.read_mask(source.with_mask(records[0]))


def faulty(change):
    content = instances("train")
    change(content)
    return content


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda c: c["categories"].pop(),
            LabelFormatError,
            r"D401 .*category 90 is None, exp.*tooth",
        ),
        (
            lambda c: c["categories"][0].update(name="human"),
            LabelFormatError,
            r"D401 .*category 1 is 'human', expected 'person' \(80 categories",
        ),
        (
            lambda c: c["annotations"][0].update(category_id=12),
            LabelFormatError,
            r"D401 .*annotation 101 has category_id 12, expected one of the 80",
        ),
        (
            lambda c: c["annotations"][1].update(image_id=7),
            LabelFormatError,
            r"D202 .*annotation 102 is of image 7, which is not listed",
        ),
        (
            lambda c: c["images"].append(dict(c["images"][0])),
            LabelFormatError,
            r"D303 .*image id 25 is listed twice",
        ),
        (
            lambda c: c["images"][0].update(height=0),
            LabelFormatError,
            r"D202 .*image 25 has size '32x0'",
        ),
        (
            lambda c: c["annotations"][0].update(bbox=[1, 2]),
            LabelFormatError,
            r"D202 .*annotation 101 has bbox \[1, 2\]",
        ),
        (
            lambda c: c["annotations"][0].update(image_id="9"),
            LabelFormatError,
            r"D202 .*annotation 101 has image_id '9'",
        ),
        (
            lambda c: c["categories"][0].update(id="1"),
            LabelFormatError,
            r"D202 .*number 1 of `categories` has id '1', expected a whole number",
        ),
        (
            lambda c: c["annotations"][0].update(iscrowd="0"),
            LabelFormatError,
            r"D202 .*annotation 101 has iscrowd '0', expected 0 or 1",
        ),
        (
            lambda c: c["annotations"][0].update(iscrowd=2),
            LabelFormatError,
            r"D202 .*annotation 101 has iscrowd 2, expected 0 or 1",
        ),
        (
            lambda c: c["annotations"][0].update(bbox=[1, 2, float("nan"), 3]),
            LabelFormatError,
            r"D202 .*annotation 101 has bbox \[1, 2, null or NaN, 3\]",
        ),
        (
            lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 3]),
            LabelFormatError,
            r"D202 .*annotation 101 has bbox \[1, 2, -3, 3\]",
        ),
        (
            lambda c: c["images"][0].update(height=100_000, width=100_000),
            LabelFormatError,
            r"D202 .*image 25 has size '100000x100000', expected 1 to 100,000,000 pixels",
        ),
        (lambda c: c.pop("annotations"), LabelFormatError, r"D202 .*has no annotations, expected"),
    ],
)
def test_faulty_annotation_files(tmp_path, change, error, message):
    path = write_instances(coco_tree(tmp_path), "train", faulty(change))
    with pytest.raises(error, match=message) as caught:
        read_coco_index(path, COCO_CATEGORIES)
    assert str(path) in str(caught.value)
    assert not path.with_suffix(".index.sqlite").exists()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], r"polygons \[\]"),
        (None, "polygons null"),
        ("text", "polygons 'text'"),
        ([[0, 0, 4, 4]], "polygon 1 of 4 numbers"),
        ([rectangle(1, 1, 5, 5), 7], "polygon 2 of 7"),
        ([[0, 0, "4", 0, 4, 4]], "coordinate '4'"),
        ([[0, 0, [4], 0, 4, 4]], r"coordinate \[4\]"),
        ([[0, 0, float("nan"), 0, 4, 4]], "coordinate null or NaN"),
        ([[0, 0, float("-inf"), 0, 4, 4]], "coordinate null or NaN"),
        ([[0, 0, 1e30, 0, 4, 4]], r"coordinate 1e\+30"),
        ([[0, 0, 4, 0, 4, -30]], "coordinate -30"),
        ([[0, 0, 60, 40] * 40_000], "outline of 4,800,000 pixels"),
        ({"size": [24, 32], "counts": [3, 100000]}, "run lengths of 100,003 pixels"),
        ({"size": [24, 32], "counts": [3, 4]}, "run lengths of 7 pixels"),
        ({"size": [24, 32], "counts": [-1, 769]}, "run lengths -1"),
        ({"size": [24, 32], "counts": [0.5, 767.5]}, "run lengths 0.5"),
        ({"size": [24, 32], "counts": 768}, "run lengths 768"),
        ({"size": [32, 24], "counts": [768]}, r"run lengths of size \[32, 24\]"),
        ({"size": [24, 32], "counts": "1"}, "run lengths of 1 pixels"),
        ({"size": [24, 32], "counts": "oooooooo1"}, "more than 30 bits"),
        ({"size": [24, 32], "counts": "1o"}, "cut off"),
        ({"size": [24, 32], "counts": ""}, "cut off"),
        ({"size": [24, 32], "counts": "é"}, "character 'é'"),
        ({"counts": [768]}, "run lengths of size"),
    ],
)
def test_faulty_segmentations_are_refused_before_they_are_drawn(tmp_path, segmentation, message):
    content = faulty(lambda c: c["annotations"][1].update(segmentation=segmentation))
    index = read_coco_index(write_instances(coco_tree(tmp_path), "train", content), COCO_CATEGORIES)
    with pytest.raises(LabelFormatError, match=message) as caught:
        index.paint(25)
    assert str(caught.value).startswith(f"D202 {index.path}: segmentation of annotation 102 (im")
    index.paint(9)
    assert index.object_labels(25) == [TOOTHBRUSH]  # what needs no pixels can be used


def test_an_image_of_another_file_has_no_mask(tmp_path):
    index = COCOSource(coco_tree(tmp_path)).index("train")
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*has no image 8 among 3"):
        index.paint(8)


def test_box_and_area_are_needed_only_where_they_are_used(tmp_path):
    def change(content):
        del content["annotations"][1]["bbox"], content["annotations"][1]["area"]

    path = write_instances(coco_tree(tmp_path), "train", faulty(change))
    index = read_coco_index(path, COCO_CATEGORIES)
    assert index.paint(25).any()
    with pytest.raises(LabelFormatError, match=r"D202 .*annotation 102 \(image 25\) has no bbox"):
        index.object_boxes(25)
    with pytest.raises(LabelFormatError, match=r"D202 .*annotation 102 \(image 25\) has no area"):
        index.paint(25, overlap="area")


def test_index_is_stored_and_follows_the_file(tmp_path):
    path = coco_tree(tmp_path) / "annotations" / "instances_train2014.json"
    first = read_coco_index(path, COCO_CATEGORIES)
    stored = path.with_suffix(".index.sqlite")
    before = stored.stat().st_mtime_ns
    second = read_coco_index(path, COCO_CATEGORIES)
    assert stored.stat().st_mtime_ns == before
    assert list(second.sizes.items()) == [(n, COCO_SIZE) for n in (9, 25, 30)]
    path.rename(tmp_path / "elsewhere.json")  # the masks need the index only
    np.testing.assert_array_equal(first.paint(9), expected_nine())
    (tmp_path / "elsewhere.json").rename(path)
    stored.write_bytes(stored.read_bytes()[:40])  # damaged: made again
    assert read_coco_index(path, COCO_CATEGORIES).object_labels(25) == [TOOTHBRUSH]
    write_instances(tmp_path, "train", faulty(lambda c: c["annotations"].pop(1)))
    assert read_coco_index(path, COCO_CATEGORIES).object_labels(25) == []
    assert not list(path.parent.glob(".index-*"))


def test_a_damaged_index_never_reaches_the_decoder(tmp_path):
    index = COCOSource(coco_tree(tmp_path)).index("train")
    with sqlite3.connect(index.stored) as database:
        database.execute("UPDATE annotations SET runs = ?", (b"oooo",))
    with pytest.raises(LabelFormatError, match=r"index\.sqlite is damaged .*delete that file"):
        index.paint(25)
    index.stored.write_bytes(b"no database")
    with pytest.raises(LabelFormatError, match=r"D202 .*index\.sqlite: .*delete it"):
        index.object_boxes(25)


def test_index_of_a_folder_that_cannot_be_written_is_in_the_cache(tmp_path, monkeypatch):
    path = coco_tree(tmp_path) / "annotations" / "instances_train2014.json"
    places = internal("COCO index")
    real = places.TemporaryDirectory

    def refused(prefix, dir):  # noqa: A002 - name of the original; root may write anywhere
        if dir in closed:
            raise PermissionError(13, "read-only")
        return real(prefix=prefix, dir=dir)

    closed = [path.parent]
    monkeypatch.setattr(places, "TemporaryDirectory", refused)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    index = read_coco_index(path, COCO_CATEGORIES)
    assert index.stored.parent == tmp_path / "cache" / "scribbleseg"
    np.testing.assert_array_equal(index.paint(9), expected_nine())
    closed.append(index.stored.parent)
    assert read_coco_index(path, COCO_CATEGORIES).stored == index.stored
    index.stored.unlink()
    with pytest.raises(ScribbleSegError, match="set XDG_CACHE_HOME to a folder"):
        read_coco_index(path, COCO_CATEGORIES)


@pytest.mark.parametrize("same", ["size", "time"])
def test_index_follows_a_file_of_the_same_size_or_time(tmp_path, same):
    path = coco_tree(tmp_path) / "annotations" / "instances_train2014.json"
    assert read_coco_index(path, COCO_CATEGORIES).object_labels(25) == [TOOTHBRUSH]
    before = path.stat()
    content = instances("train")
    content["annotations"][1]["category_id"] = 18
    text = json.dumps(content, ensure_ascii=False)
    path.write_text(text if same == "size" else text + "\n", encoding="utf-8")
    after = before.st_mtime_ns + (1_000_000 if same == "size" else 0)
    os.utime(path, ns=(after, after))
    assert (path.stat().st_size == before.st_size) == (same == "size")
    assert read_coco_index(path, COCO_CATEGORIES).object_labels(25) == [DOG]


def test_masks_as_old_as_the_annotations_are_kept_and_empty_files_are_not(tmp_path):
    source = COCOSource(coco_tree(tmp_path))
    source.prepare(progress=False)
    path = tmp_path / "annotations" / "instances_val2014.json"
    folder, moment = tmp_path / "masks_coco2014-wsss", path.stat().st_mtime_ns
    os.utime(folder / "42.png", ns=(moment, moment))
    assert source.prepare(progress=False).written == 0
    os.utime(folder / "42.png", ns=(moment, moment - 1_000_000))
    assert source.prepare(progress=False).written == 1
    (folder / "73.png").write_bytes(b"")
    assert source.prepare(progress=False).written == 1


@pytest.mark.parametrize("order", [("images", "annotations", "categories"), None])
def test_lists_may_come_in_any_order(tmp_path, order):
    content = instances("train")
    keys = order or ("categories", "annotations", "info", "images")
    path = write_instances(coco_tree(tmp_path), "train", {key: content[key] for key in keys})
    index = read_coco_index(path, COCO_CATEGORIES)
    np.testing.assert_array_equal(index.paint(9), expected_nine())
    assert list(index.sizes) == [9, 25, 30]


@pytest.mark.parametrize("chunk", [8, 61, 1 << 20])
def test_pieces_of_any_size_read_the_same(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(internal("COCO index"), "_CHUNK", chunk)
    path = coco_tree(tmp_path) / "annotations" / "instances_train2014.json"
    content = faulty(lambda c: c["annotations"][1].update(segmentation=[[0, -float("inf")] * 3]))
    content["images"][0]["file_name"] = "a, NaN, [b"
    text = json.dumps(content, ensure_ascii=False, indent=1)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    index = read_coco_index(path, COCO_CATEGORIES)
    np.testing.assert_array_equal(index.paint(9), expected_nine())
    with pytest.raises(LabelFormatError, match="coordinate null or NaN"):
        index.paint(25)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "D202 .*is not the JSON that was expected, after 0 entries"),
        ("[1]", "D202 .*has no images and no annotations and no categories"),
        ('{"images": 3}', "D202 .*has no images"),
        ('{"images": [3]}', "D202 .*number 1 of `images` has content 3, expected an object"),
        ('{"images": [{"id": 1, "height": 2, "width": 2}], "annot', "after 1 entries, in `images`"),
        ('{"categories": ["a"]}', "number 1 of `categories` has content 'a'"),
        ('{"annotations": [[]], "images": []}', r"number 1 of `annotations` has content \[\]"),
        ('{"categories": [{"id": [1]}]}', r"number 1 of `categories` has id \[1\]"),
        ('{"images": [' + "[" * 100_000, "nested more than 50 deep"),
        ('{"images": ' + '{"a": ' * 100_000, "nested more than 50 deep"),
        ('{"images": [{"id": ' + "9" * 5000 + "}]}", "D202 .*in `images`"),
        ('{"images": [{"id": 1, "height": 1e999}]}', "D202 .*in `images`"),
    ],
)
def test_text_that_is_no_instance_file(tmp_path, text, message):
    path = tmp_path / "instances.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LabelFormatError, match=message) as caught:
        read_coco_index(path, COCO_CATEGORIES)
    assert str(path) in str(caught.value)


def mutated(data, random_state):
    """A few bytes replaced, removed, repeated, or exchanged for something nasty."""
    nasty = (
        b"1e308",
        b"-1",
        b"[]",
        b"null",
        b"0.5",
        b"[[1, 2]]",
        b"1e7",
        b"7",
        b'"1"',
        b"{}",
        b"9" * 5000,
        b"NaN",
        b"1e9",
        b"true",
    )
    for _ in range(random_state.randint(1, 4)):
        at = random_state.randrange(len(data))
        end = min(len(data), at + random_state.choice((1, 1, 3, 40)))
        kind = random_state.randrange(12)
        if kind == 0:
            data = data[:at] + bytes([random_state.randrange(256)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at] + data[end:]
        elif kind == 2:
            data = data[:end] + data[at:end] * random_state.choice((1, 100)) + data[end:]
        elif kind == 3:
            data = data[:at] or b" "
        else:  # a number becomes something else
            numbers = [found.span() for found in re.finditer(rb"-?[0-9.]+", data)] or [(0, 1)]
            at, end = random_state.choice(numbers)
            data = data[:at] + random_state.choice(nasty) + data[end:]
    return data


@pytest.mark.slow
def test_mutated_files_raise_library_errors_only(tmp_path):
    content = instances("train")
    content["categories"] = content["categories"][:3]
    content["annotations"] = [{**a, "category_id": 1} for a in content["annotations"]]
    categories = {item["id"]: item["name"] for item in content["categories"]}
    valid, path = json.dumps(content).encode(), tmp_path / "instances.json"
    random_state, messages = random.Random(5), []
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(300):
        path.write_bytes(mutated(valid, random_state))
        os.utime(path, (number, number))
        begin = time.monotonic()
        try:
            index = read_coco_index(path, categories)
            for image in index.sizes:
                index.paint(image, crowd="ignore")
                index.object_boxes(image)
        except ScribbleSegError as error:
            messages.append(str(error))
        assert time.monotonic() - begin < 10
    assert 150 < len(messages) < 300
    assert all(str(path) in message for message in messages)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 500 << 10  # KiB
