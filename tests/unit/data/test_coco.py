import json
import os
import pickle

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

from scribbleseg import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.data import convert_source
from scribbleseg.data.sources import COCO_CATEGORIES, COCOSource

NINE = "COCO_train2014_000000000009"
DOG, PERSON, TOOTHBRUSH = 17, 1, 80


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


def read_index(path, categories=COCO_CATEGORIES):
    return internal("COCO index").CocoIndex(path, categories)


def test_records(tmp_path):
    source = COCOSource(coco_tree(tmp_path))
    assert (source.num_classes, source.background, source.year) == (81, 0, 2014)
    assert [source.class_names[label] for label in (0, DOG, TOOTHBRUSH)] == [
        *("background", "dog", "toothbrush")
    ]
    absent = set(range(1, 91)) - set(COCO_CATEGORIES)
    assert absent == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    train, val = source.records("train"), source.records("val")
    assert [r.image_id[-3:] for r in train] == ["009", "025", "030"]  # by image number
    assert [r.image_id for r in val] == [f"COCO_val2014_{n:012d}" for n in (42, 73)]
    assert all(r.mask is None and r.scribble.path.parent.name == "scribbles" for r in train)
    assert set(np.unique(source.read_scribble(train[0]))) == {1, 255}
    assert source.read_image(val[0]).shape == (*COCO_SIZE, 3)
    assert source.boxes(train[0]) == [(DOG, 4.0, 4.0, 10.0, 10.0), (PERSON, 2.0, 2.0, 20.0, 20.0)]
    assert source.boxes(train[2]) == []
    with pytest.raises(ScribbleNotFoundError, match=r"no labelled split 'test'"):
        source.records("test")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),  # as in published comparisons
        ({"crowd": "ignore"}, {"crowd": 255}),
        ({"overlap": "area"}, {"small_on_top": True}),
        ({"crowd": "ignore", "overlap": "area"}, {"crowd": 255, "small_on_top": True}),
    ],
)
def test_painted_masks(tmp_path, options, expected):
    source = COCOSource(coco_tree(tmp_path), **options)
    nine, _, empty = (source.with_mask(record) for record in source.records("train"))
    source = pickle.loads(pickle.dumps(source))  # as worker processes get it
    np.testing.assert_array_equal(source.read_mask(nine), expected_nine(**expected))
    np.testing.assert_array_equal(source.read_mask(empty), np.zeros(COCO_SIZE, np.uint8))


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
    index = read_index(path)
    reference = coco.COCO(str(path))
    ids = {category: label for label, category in enumerate(sorted(COCO_CATEGORIES), 1)}
    for image in (9, 25):
        expected = np.zeros(COCO_SIZE, np.uint8)
        for item in reference.loadAnns(reference.getAnnIds(imgIds=[image])):
            expected[reference.annToMask(item) == 1] = ids[item["category_id"]]
        assert len(np.unique(expected)) > 3
        np.testing.assert_array_equal(index.paint(image, "background", "order"), expected)


def test_masks_of_a_folder(tmp_path):
    """Names end in the number of the image; nothing is painted where one is missing."""
    source = COCOSource(coco_tree(tmp_path / "coco"))
    convert_source(source, tmp_path / "plain", progress=False)
    mask = np.full(COCO_SIZE, 5, np.uint8)
    for folder, name in ((tmp_path / "plain" / "masks", NINE), (tmp_path / "coco" / "theirs", "9")):
        save(folder / f"{name}.png", mask)
        source = COCOSource(tmp_path / "coco", mask_dir=str(folder))
        np.testing.assert_array_equal(
            source.read_mask(source.with_mask(source.records("train")[0])), mask
        )
    assert source.with_mask(source.records("train")[1]).mask is None
    with pytest.raises(ScribbleNotFoundError, match=r"D301 2 of 3 masks of split 'train'"):
        COCOSource(tmp_path / "coco", mask_dir="theirs", label_type="mask").records("train")
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*/none: no such folder of masks"):
        COCOSource(tmp_path / "coco", mask_dir="none").records("val")
    with pytest.raises(ConfigError, match=r"crowd='ignore' and .*would not be used with mask_dir"):
        COCOSource(tmp_path / "coco", mask_dir="theirs", crowd="ignore")


def test_one_broken_image_does_not_stop_the_others(tmp_path):
    content = instances("val")
    content["annotations"][0]["segmentation"] = [[1, 1, 5, 5]]
    write_instances(coco_tree(tmp_path / "coco"), "val", content)
    report = convert_source(COCOSource(tmp_path / "coco"), tmp_path / "plain", progress=False)
    assert report.written == 4
    (reason,) = report.failed.values()
    assert "annotation 201 (image 42)" in reason


def test_2017_and_images_folder(tmp_path):
    coco_tree(tmp_path, year=2017)
    assert COCOSource.matches(tmp_path)
    (tmp_path / "images").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / split).rename(tmp_path / "images" / split)
    source = COCOSource(tmp_path)
    assert source.year == 2017
    assert [r.image_id for r in source.records("val")] == ["000000000042", "000000000073"]
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
    with pytest.raises(LabelFormatError, match=r"D303 .*0009\.png is of the same image"):
        COCOSource(tmp_path).records("train")
    write_list(tmp_path / "few.txt", ["cat"])
    (tmp_path / "scribbles" / "0009.png").unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"D301 1 of 1 images of split 'train'.*cat"):
        COCOSource(tmp_path, train_list="few.txt").records("train")


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
    for image in (tmp_path / "train2014").iterdir():
        image.unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*: no images in train2014"):
        COCOSource(tmp_path).records("train")


def faulty(change):
    content = instances("train")
    change(content)
    return content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["categories"].pop(), r"D401 .*category 90 is None, exp.*tooth"),
        (
            lambda c: c["categories"][0].update(name="human"),
            r"D401 .*category 1 is 'human', expected 'person' \(80 categories",
        ),
        (
            lambda c: c["annotations"][0].update(category_id=12),
            r"D401 .*annotation 101 has category_id 12, expected one of the 80",
        ),
        (
            lambda c: c["annotations"][1].update(image_id=7),
            r"D202 .*annotation 102 \(image 7\) is of an image that is not listed",
        ),
        (lambda c: c["images"].append(dict(c["images"][0])), r"D303 .*image id 25 is listed twice"),
        (lambda c: c["images"][0].update(height=0), r"D202 .*image 25 has size '32x0'"),
        (
            lambda c: c["annotations"][0].update(bbox=[1, 2]),
            r"D202 .*annotation 101 has bbox \[1, 2\]",
        ),
        (
            lambda c: c["annotations"][0].update(image_id="9"),
            r"D202 .*annotation 101 has image_id '9'",
        ),
        (
            lambda c: c["categories"][0].update(id="1"),
            r"D202 .*number 1 of `categories` has id '1', expected a whole number",
        ),
        (
            lambda c: c["annotations"][0].update(iscrowd="0"),
            r"D202 .*annotation 101 has iscrowd '0', expected 0 or 1",
        ),
        (
            lambda c: c["annotations"][0].update(iscrowd=2),
            r"D202 .*annotation 101 has iscrowd 2, expected 0 or 1",
        ),
        (
            lambda c: c["annotations"][0].update(bbox=[1, 2, float("nan"), 3]),
            r"D202 .*annotation 101 has bbox \[1, 2, nan, 3\]",
        ),
        (
            lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 3]),
            r"D202 .*annotation 101 has bbox \[1, 2, -3, 3\]",
        ),
        (
            lambda c: c["images"][0].update(height=100_000, width=100_000),
            r"D202 .*image 25 has size '100000x100000', expected 1 to 100,000,000 pixels",
        ),
        (lambda c: c.pop("annotations"), r"D202 .*has no annotations, expected"),
    ],
)
def test_faulty_annotation_files(tmp_path, change, message):
    path = write_instances(coco_tree(tmp_path), "train", faulty(change))
    with pytest.raises(LabelFormatError, match=message) as caught:
        read_index(path)
    assert str(path) in str(caught.value)


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
        ([[0, 0, float("nan"), 0, 4, 4]], "coordinate nan"),
        ([[0, 0, float("-inf"), 0, 4, 4]], "coordinate -inf"),
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
        ({"size": [24, 32], "counts": ""}, "run lengths of 0 pixels"),
        ({"size": [24, 32], "counts": "é"}, "character 'é'"),
        ({"counts": [768]}, "run lengths of size"),
    ],
)
def test_faulty_segmentations_are_refused_before_they_are_drawn(tmp_path, segmentation, message):
    content = faulty(lambda c: c["annotations"][1].update(segmentation=segmentation))
    index = read_index(write_instances(coco_tree(tmp_path), "train", content))
    with pytest.raises(LabelFormatError, match=message) as caught:
        index.paint(25, "background", "order")
    assert str(caught.value).startswith(f"D202 {index.path}: segmentation of annotation 102 (im")
    index.paint(9, "background", "order")
    assert index.object_labels(25) == [TOOTHBRUSH]  # what needs no pixels can be used


def test_box_and_area_are_needed_only_where_they_are_used(tmp_path):
    def change(content):
        del content["annotations"][1]["bbox"], content["annotations"][1]["area"]

    index = read_index(write_instances(coco_tree(tmp_path), "train", faulty(change)))
    assert index.paint(25, "background", "order").any()
    with pytest.raises(LabelFormatError, match=r"D202 .*annotation 102 \(image 25\) has bbox null"):
        index.object_boxes(25)
    with pytest.raises(LabelFormatError, match=r"D202 .*annotation 102 \(image 25\) has area null"):
        index.paint(25, "background", "area")
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*has no image 8 among 3"):
        index.paint(8, "background", "order")


@pytest.mark.parametrize("same", ["size", "time"])
def test_a_file_that_changes_while_it_is_used_is_noticed(tmp_path, same):
    path = coco_tree(tmp_path) / "annotations" / "instances_train2014.json"
    index, before = read_index(path), path.stat()
    content = instances("train")
    content["annotations"][1]["category_id"] = 18
    text = json.dumps(content, ensure_ascii=False)
    path.write_text(text if same == "size" else text + "\n", encoding="utf-8")
    after = before.st_mtime_ns + (1_000_000 if same == "size" else 0)
    os.utime(path, ns=(after, after))
    assert (path.stat().st_size == before.st_size) == (same == "size")
    with pytest.raises(LabelFormatError, match=r"D403 .*train2014\.json: has changed since"):
        index.object_boxes(25)
    assert read_index(path).object_labels(25) == [DOG]


@pytest.mark.parametrize("order", [("images", "annotations", "categories"), None])
def test_lists_may_come_in_any_order(tmp_path, order):
    content = instances("train")
    keys = order or ("categories", "annotations", "info", "images")
    path = write_instances(coco_tree(tmp_path), "train", {key: content[key] for key in keys})
    index = read_index(path)
    np.testing.assert_array_equal(index.paint(9, "background", "order"), expected_nine())
    assert list(index.sizes) == [9, 25, 30]


@pytest.mark.parametrize("chunk", [8, 61, 1 << 20])
def test_pieces_of_any_size_read_the_same(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(internal("JSON lists"), "_CHUNK", chunk)
    content = instances("train")
    content["images"][0]["file_name"] = "ü, NaN, [b"
    text = json.dumps(content, ensure_ascii=False, indent=1).replace("\n", "\r\n")
    path = coco_tree(tmp_path) / "annotations" / "instances_train2014.json"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    index = read_index(path)
    np.testing.assert_array_equal(index.paint(9, "background", "order"), expected_nine())


def test_an_element_is_limited(tmp_path, monkeypatch):
    lists = internal("JSON lists")
    monkeypatch.setattr(lists, "_CHUNK", 100)
    monkeypatch.setattr(lists, "_LARGEST", 300)
    path = coco_tree(tmp_path) / "annotations" / "instances_train2014.json"
    read_index(path)
    content = faulty(lambda c: c["annotations"][0].update(segmentation=[[0] * 1000]))
    with pytest.raises(LabelFormatError, match=r"D202 .*in element 1 of `annotations`"):
        read_index(write_instances(tmp_path, "train", content))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "D202 .*is not the JSON that was expected, in element 0 of ``"),
        ("[1]", "D202 .*in place of {"),
        ('{"images": 3}', "D202 .*has no images"),
        ('{"images": [3]}', "D202 .*number 1 of `images` has content 3, expected an object"),
        (
            '{"images": [{"id": 1, "height": 2, "width": 2}], "annot',
            "in element 1 of `images`",
        ),
        ('{"categories": ["a"]}', "number 1 of `categories` has content 'a'"),
        ('{"annotations": [[]], "images": []}', r"number 1 of `annotations` has content \[\]"),
        ('{"categories": [{"id": [1]}]}', r"number 1 of `categories` has id \[1\]"),
        ('{"images": [' + "[" * 100_000, "recursion"),
        ('{"images": ' + '{"a": ' * 100_000, "recursion"),
        ('{"images": [{"id": ' + "9" * 5000 + "}]}", "D202 .*element 1 of `images`"),
        ('{"images": [{"id": 1, "height": 1e999}]}', "D202 .*image 1 has height inf"),
    ],
)
def test_text_that_is_no_instance_file(tmp_path, text, message):
    path = tmp_path / "instances.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(LabelFormatError, match=message) as caught:
        read_index(path)
    assert str(path) in str(caught.value)
