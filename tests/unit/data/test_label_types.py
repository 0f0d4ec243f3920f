import json

import numpy as np
import pytest
import torch
from helpers.tiny_folders import STEMS, blocks, camvid_folder, plain_folder, save, voc_tree
from helpers.trees_labels import click, write_annotation, write_json
from jsonargparse import ArgumentParser

from scribbleseg import ConfigError, LabelFormatError, ScribbleDataModule, ScribbleNotFoundError
from scribbleseg.data import Box, ScribbleSource, WeakLabels, check_source, render_boxes
from scribbleseg.data.sources import FolderSource, VOCSource


def source_of(root, label_type, cls=FolderSource, **weak):
    return cls(root, label_type=label_type, weak_labels=WeakLabels(**weak) if weak else None)


def item(source, index=0):
    data = ScribbleDataModule(source, batch_size=1, num_workers=0, crop_size=None, check=False)
    data.setup("fit")
    return data.train_dataloader().dataset[index]


def disc(size, x, y, radius):
    rows, columns = np.indices(size)
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


# --------------------------------------------------------------------------- points


@pytest.fixture
def clicked(tmp_path):
    plain_folder(tmp_path)
    clicks = {stem: [click(5, 6, 1), click(30, 20, "Vessel", 2)] for stem in STEMS}
    write_json(tmp_path / "points.json", clicks)
    return tmp_path


def test_clicks_are_discs(clicked):
    source = source_of(clicked, "point")
    records = source.records("train")
    assert [record.image_id for record in records] == list(STEMS[:6])
    assert all(record.mask is None for record in records)
    expected = np.full((40, 48), 255, np.uint8)
    expected[disc((40, 48), 5, 6, 3)] = 1
    expected[disc((40, 48), 30, 20, 3)] = 2
    np.testing.assert_array_equal(source.read_scribble(records[0]), expected)
    wide = source_of(clicked, "point", point_radius=5.5, max_rank=1)
    drawn = wide.read_scribble(wide.records("train")[0])
    np.testing.assert_array_equal(drawn == 1, disc((40, 48), 5, 6, 5.5))
    assert not (drawn == 2).any()
    assert source.class_labels(records[0]) is None  # the map knows


def test_background_clicks_lie_below(clicked):
    bare = {stem: [{"x": 7, "y": 6}, {"x": 40, "y": 30}] for stem in STEMS}
    write_json(clicked / "background_points.json", bare)
    source = source_of(clicked, "point")
    drawn = source.read_scribble(source.records("train")[0])
    np.testing.assert_array_equal(drawn == 1, disc((40, 48), 5, 6, 3))
    both = disc((40, 48), 7, 6, 3) & ~disc((40, 48), 5, 6, 3) | disc((40, 48), 40, 30, 3)
    np.testing.assert_array_equal(drawn == 0, both)
    write_json(clicked / "background_points.json", {STEMS[0]: [click(3, 3, 2)]})
    with pytest.raises(LabelFormatError, match=r"D101 .*background_points\.json.*class 2"):
        source_of(clicked, "point").records("train")


def test_voc_clicks(tmp_path):
    voc = voc_tree(tmp_path) / "VOCdevkit" / "VOC2012"
    stems = ("2007000032", "2007_000033.jpg", "2008_000008")
    write_json(voc / "clicks.json", {stem: [click(8.4, 9.6, 20)] for stem in stems})
    source = VOCSource(
        tmp_path,
        label_type="point",
        coordinate_offset=1,
        weak_labels=WeakLabels(points="clicks.json"),
    )
    for record in source.records("train"):
        drawn = source.read_scribble(record)
        np.testing.assert_array_equal(drawn == 20, disc((40, 48), 7.4, 8.6, 3))
        assert set(np.unique(drawn)) == {20, 255}


def test_points_alone_are_enough_to_validate(tmp_path):
    plain_folder(tmp_path, masks=False)
    for path in (tmp_path / "scribbles").iterdir():
        path.unlink()
    write_json(tmp_path / "points.json", {stem: [click(5, 6, 1)] for stem in STEMS})
    source = source_of(tmp_path, "point")
    (record, _) = source.records("val")
    assert record.mask is None
    assert (source.read_scribble(record) == 1).sum() == disc((40, 48), 5, 6, 3).sum()
    (tmp_path / "train.txt").unlink()
    (tmp_path / "val.txt").unlink()
    assert len(source_of(tmp_path, "point").records("train")) == 6


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([click(60, 6, 1)], r"D201 .*points\.json/img_0.*x=60.*48x40"),
        ([click(5, -4, 1)], r"D201 .*y=-4"),
        ([click(5, 6, 3)], r"D101 .*points\.json.*'img_0', click 1.*class 3.*0-2"),
        ([click(5, 6, "dog")], r"D401 .*points\.json.*'dog'.*'vessel'"),
        ([{"x": 5, "cls": 1}], r"D202 .*points\.json.*y missing"),
        ([click(float("nan"), 6, 1)], r"D202 .*x is nan"),
        ({"x": 5}, r"D202 .*'img_0' are a dict"),
    ],
)
def test_faulty_clicks(clicked, entries, message):
    clicks = {key: [click(5, 6, 1)] for key in STEMS} | {STEMS[0]: entries}
    write_json(clicked / "points.json", clicks)
    source = source_of(clicked, "point")
    with pytest.raises(LabelFormatError, match=message):
        source.read_scribble(source.records("train")[0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1]", r"D202 .*points\.json: is a list"),
        ("{", r"D202 .*points\.json: is not valid JSON"),
        ('{"img_0": [], "img_0": []}', r"D303 .*'img_0' is there 2 times"),
        ('{"img_0": [], "img_0.png": []}', r"D303 .*'img_0' is there under several names"),
        (" " * ((64 << 20) + 1), r"D501 .*points\.json: 67,108,865 bytes, more than 64 MiB"),
    ],
)
def test_faulty_click_files(clicked, text, message):
    (clicked / "points.json").write_text(text)
    with pytest.raises(LabelFormatError, match=message):
        source_of(clicked, "point").records("train")


def test_a_table_of_clicks_must_be_text(tmp_path):
    plain_folder(tmp_path)
    (tmp_path / "points").mkdir()
    for stem in STEMS:
        (tmp_path / "points" / f"{stem}.csv").write_bytes(b"x,y,cls\n5,6,caf\xe9\n")
    source = source_of(tmp_path, "point")
    with pytest.raises(LabelFormatError, match=r"D202 .*img_0\.csv: is not a CSV file in UTF-8"):
        source.read_scribble(source.records("train")[0])


def test_clicks_of_the_background_need_a_background(tmp_path):
    root = camvid_folder(tmp_path)
    write_json(root / "points.json", {stem: [click(5, 6, 1)] for stem in STEMS[:4]})
    write_json(root / "points_bg.json", {stem: [click(1, 1, 0)] for stem in STEMS[:4]})
    source = source_of(root, "point", background_points="points_bg.json")
    with pytest.raises(ConfigError, match=r"points_bg\.json: clicks of the background, but these"):
        source.records("train")


def test_missing_clicks_say_how_to_make_them(tmp_path):
    plain_folder(tmp_path)
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*synthesize .* --mode points"):
        source_of(tmp_path, "point").records("train")
    write_json(tmp_path / "points.json", {STEMS[1]: [click(5, 6, 1)]})
    with pytest.raises(ScribbleNotFoundError, match=r"D301 5 of 6 points .*points\.json.*img_0"):
        source_of(tmp_path, "point").records("train")
    skipping = FolderSource(tmp_path, label_type="point", on_missing="skip")
    assert [r.image_id for r in skipping.records("train")] == [STEMS[1]]


# --------------------------------------------------------------------------- boxes


def test_rendered_boxes():
    boxes = [Box(2, 2, 1, 4, 3), Box(1, 1, 0, 7, 4)]  # the small one is first in the file
    drawn = {
        fill: render_boxes(boxes, (5, 8), background=0, fill=fill, center=0.5)
        for fill in ("none", "center", "full")
    }
    assert (drawn["none"][:4, 1:7] == 255).all()
    assert (drawn["none"] == 0).sum() == 5 * 8 - 4 * 6
    full = np.zeros((5, 8), np.uint8)
    full[:4, 1:7] = 1
    full[1:3, 2:4] = 2
    np.testing.assert_array_equal(drawn["full"], full)
    center = np.where(full == 0, 0, 255)
    center[1:3, 2:5] = 1  # columns 2.5 to 5.5
    center[1:3, 2:4] = 255
    center[1, 2] = 2  # 2.5 to 3.5 and 1.5 to 2.5, one pixel
    np.testing.assert_array_equal(drawn["center"], center)


def test_tiny_and_clipped_boxes():
    drawn = render_boxes([Box(1, 2.6, 1.6, 2.8, 1.7)], (4, 4), background=0, fill="full")
    assert np.argwhere(drawn == 1).tolist() == [[1, 2]]
    drawn = render_boxes([Box(1, -3, -1, 2, 2), Box(2, 3, 3, 9, 9)], (4, 4), background=0)
    assert (drawn == 255).sum() == 4 + 1


def boxed(root):
    plain_folder(root)
    boxes = {stem: [{"box": [4, 5, 14, 25], "cls": "cell"}] for stem in STEMS}
    boxes[STEMS[1]] = []
    write_json(root / "boxes.json", boxes)
    return root


def test_boxes_can_be_read_whatever_trains(tmp_path):
    source = FolderSource(boxed(tmp_path))
    records = source.records("train")
    assert source.boxes(records[0]) == [(1, 4.0, 5.0, 14.0, 25.0)]
    assert source.boxes(records[1]) == []
    assert source.class_labels(records[0]) is None


def test_corners_of_a_devkit_count_from_one_and_are_inside(tmp_path):
    voc = voc_tree(tmp_path) / "VOCdevkit" / "VOC2012"
    for path in (voc / "JPEGImages").iterdir():
        objects = [("person", (3, 2, 12, 21), False, ("head", "hand"))]
        write_annotation(voc / "Annotations" / f"{path.stem}.xml", objects)
    source = source_of(tmp_path, "box", VOCSource)
    drawn = source.read_scribble(source.records("train")[0])
    expected = np.zeros((40, 48), np.uint8)
    expected[1:21, 2:12] = 255
    np.testing.assert_array_equal(drawn, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><object>", r"D202 .*\.xml: is not well-formed"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation/>', r"D501 .*\.xml: XML with a DTD"),
        (
            "<annotation><object><name>dog</name></object></annotation>",
            r"D202 .*object 1 \('dog'\): <bndbox/xmin> is ''",
        ),
        (
            "<annotation><object><name>unicorn</name></object></annotation>",
            r"D401 .*2007_000032\.xml.*unknown class 'unicorn'",
        ),
    ],
)
def test_faulty_annotations(tmp_path, text, message):
    voc = voc_tree(tmp_path) / "VOCdevkit" / "VOC2012"
    for path in (voc / "JPEGImages").iterdir():
        write_annotation(voc / "Annotations" / f"{path.stem}.xml", [])
    (voc / "Annotations" / "2007_000032.xml").write_text(text)
    source = source_of(tmp_path, "box", VOCSource)
    with pytest.raises(LabelFormatError, match=message):
        source.read_scribble(source.records("train")[0])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"box": [4, 5, 14, 60], "cls": 1}, r"D201 .*boxes\.json/img_0.*60\.0\].*48x40"),
        ({"box": [50, 5, 51, 9], "cls": 1}, r"D201 .*boxes\.json/img_0"),
        ({"box": [14, 5, 4, 25], "cls": 1}, r"D202 .*'img_0', box 1 is -10 x 20 px"),
        ({"box": [4, 5, 14], "cls": 1}, r"D202 .*'img_0', box 1.*x0, y0, x1, y1"),
        ({"box": [4, 5, 14, 25], "cls": -1}, r"D101 .*class -1"),
        ({"box": [4, 5, 4, 25], "cls": 1}, r"D202 .*'img_0', box 1 is 0 x 20 px"),
        (None, r"D202 .*boxes\.json: boxes of 'img_0' are a dict, expected a list"),
    ],
)
def test_faulty_boxes(tmp_path, entry, message):
    boxed(tmp_path)
    entries = {} if entry is None else [entry]
    write_json(tmp_path / "boxes.json", {key: [] for key in STEMS} | {STEMS[0]: entries})
    source = source_of(tmp_path, "box")
    with pytest.raises(LabelFormatError, match=message):
        source.read_scribble(source.records("train")[0])


def test_boxes_need_a_file_and_a_background(tmp_path):
    plain_folder(tmp_path / "a")
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*boxes\.json: no boxes"):
        source_of(tmp_path / "a", "box").records("train")
    with pytest.raises(ConfigError, match=r"label_type='box' needs a background class"):
        source_of(camvid_folder(tmp_path / "b"), "box")


# --------------------------------------------------------------------------- tags


def tagged(root):
    """Scribbles of image 0 show class 2 only, of image 1 only background."""
    plain_folder(root)
    for stem, label in ((STEMS[0], 2), (STEMS[1], 0)):
        scribble = np.full((40, 48), 255, np.uint8)
        scribble[:4] = label
        save(root / "scribbles" / f"{stem}.png", scribble)
    return root


def test_tags_come_from_the_scribbles_and_are_kept(tmp_path):
    source = source_of(tagged(tmp_path), "tag")
    records = source.records("train")
    assert (source.read_scribble(records[0]) == 255).all()
    assert source.read_scribble(records[0]).shape == (40, 48)
    assert [source.class_labels(record) for record in records[:3]] == [[2], [], [1, 2]]
    stored = json.loads((tmp_path / "class_labels.json").read_text())
    assert stored["source"] == "scribbles"
    assert stored["class_names"] == ["background", "cell", "vessel"]
    assert stored["class_labels"][STEMS[0]] == [2]
    assert set(stored["class_labels"]) == set(STEMS[:6])
    sample = item(source)
    assert sample["class_labels"].tolist() == [1, 0, 1]
    assert sample["class_labels"].dtype == torch.float32
    assert (sample["scribble"] == 255).all()


def test_kept_tags_are_used_and_follow_their_files(tmp_path, monkeypatch):
    source_of(tagged(tmp_path), "tag").records("train")
    before = (tmp_path / "class_labels.json").stat().st_mtime_ns
    source = source_of(tmp_path, "tag")
    with monkeypatch.context() as context:
        context.setattr(FolderSource, "_read", lambda *args: pytest.fail("computed again"))
        assert source.class_labels(source.records("train")[0]) == [2]
    assert (tmp_path / "class_labels.json").stat().st_mtime_ns == before
    scribble = np.full((40, 48), 255, np.uint8)
    scribble[:9] = 1
    save(tmp_path / "scribbles" / f"{STEMS[0]}.png", scribble)
    source = source_of(tmp_path, "tag")
    assert source.class_labels(source.records("train")[0]) == [1]


def test_written_tags(tmp_path):
    plain_folder(tmp_path)
    write_json(tmp_path / "class_labels.json", {key: ["Cell", 2] for key in STEMS})
    source = source_of(tmp_path, "tag")
    assert source.class_labels(source.records("train")[0]) == [1, 2]
    assert json.loads((tmp_path / "class_labels.json").read_text())[STEMS[0]] == ["Cell", 2]
    with pytest.raises(ConfigError, match=r"unnamed source.*tags_from='scribble'"):
        source_of(tmp_path, "tag", tags_from="scribble").records("train")


def test_tags_of_masks_only_on_request(tmp_path):
    tagged(tmp_path)
    source = source_of(tmp_path, "tag", tags_from="mask")
    assert source.class_labels(source.records("train")[0]) == [1, 2]
    assert json.loads((tmp_path / "class_labels.json").read_text())["source"] == "ground_truth"
    with pytest.raises(ConfigError, match=r"class_labels\.json.*ground truth.*tags_from: mask"):
        source_of(tmp_path, "tag").records("train")
    with pytest.raises(ConfigError, match=r"class_labels\.json.*ground truth"):
        source_of(tmp_path, "tag", tags_from="file").records("train")


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def test_pickles_are_never_opened(tmp_path):
    plain_folder(tmp_path)
    evil = np.empty(1, object)
    evil[0] = Evil()
    np.save(tmp_path / "cls_labels.npy", evil, allow_pickle=True)
    np.savez(tmp_path / "tags.npz", img_0=evil)
    (tmp_path / "cut.npz").write_bytes(b"PK\3\4 cut")
    for name, message in (
        ("cls_labels.npy", "D501 .*cls_labels.npy.*not opened"),
        ("tags.npz", "D501 .*tags.npz.*not opened"),
        ("cut.npz", r"D202 .*cut\.npz: .*it is not a complete \.npz"),
    ):
        with pytest.raises(LabelFormatError, match=message):
            source_of(tmp_path, "tag", class_labels=name).records("train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({STEMS[0]: [3]}, r"D101 .*class_labels\.json: 'img_0': class 3"),
        ({STEMS[0]: ["dog"]}, r"D401 .*'dog'"),
        ({STEMS[0]: 1}, r"D202 .*classes of 'img_0' are 1"),
        (
            {"class_names": ["a", "b"], "class_labels": {}},
            r"D401 .*2 classes in the labels, 3",
        ),
        (
            {"class_names": 3, "class_labels": {}},
            r"D401 .*`class_names` is 3, expected a list of 3",
        ),
        ({STEMS[0]: [1]}, r"D301 5 of 6 image-level labels .*class_labels\.json \(e\.g\. img_1"),
    ],
)
def test_faulty_tags(tmp_path, content, message):
    plain_folder(tmp_path)
    write_json(tmp_path / "class_labels.json", content)
    with pytest.raises((LabelFormatError, ScribbleNotFoundError), match=message):
        source_of(tmp_path, "tag").records("train")


def test_unlabelled_images_stay(tmp_path):
    plain_folder(tmp_path)
    write_json(tmp_path / "class_labels.json", {STEMS[0]: [1]})
    source = FolderSource(tmp_path, label_type="tag", on_missing="unlabelled")
    assert len(source.records("train")) == 6
    assert item(source, 1)["class_labels"].tolist() == [1, 0, 0]
    known, other = source.records("train")[:2]
    assert (source.class_labels(known), source.class_labels(other)) == ([1], None)
    assert (source.read_scribble(other) == 255).all()


def test_arrays_of_tags(tmp_path):
    plain_folder(tmp_path)
    rows = np.eye(3, dtype=np.uint8)[[1, 2, 0, 1, 2, 0]]
    np.savez(tmp_path / "tags.npz", stems=np.array(STEMS[:6]), labels=rows)
    source = source_of(tmp_path, "tag", class_labels="tags.npz")
    assert [source.class_labels(r) for r in source.records("train")[:3]] == [[1], [2], [0]]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"img_0": np.ones(5)}, "classes of 'img_0' are float64"),
        ({"img_0": np.array([0, 0.5, 1])}, "classes of 'img_0' hold 0.5, expected 0 or 1"),
        ({"stems": np.array(STEMS), "labels": np.eye(3)}, "8 stems and labels of shape"),
        ({"stems": np.array(STEMS), "labels": np.ones(8)}, "8 stems and labels of shape"),
    ],
)
def test_faulty_arrays_of_tags(tmp_path, arrays, message):
    np.savez(plain_folder(tmp_path) / "tags.npz", **arrays)
    with pytest.raises(LabelFormatError, match=rf"D202 .*tags\.npz: {message}"):
        source_of(tmp_path, "tag", class_labels="tags.npz").records("train")


def test_computed_tags_of_an_unknown_origin_are_refused(tmp_path):
    plain_folder(tmp_path)
    source_of(tmp_path, "tag").records("train")
    path = tmp_path / "class_labels.json"
    path.write_text(path.read_text().replace("scribble", "dream"))
    with pytest.raises(LabelFormatError, match=r"D202 .*`source` is 'dreams?', expected one of"):
        source_of(tmp_path, "tag").records("train")


# --------------------------------------------------------------------------- options and check


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"point_radius": 0}, "point_radius=0"),
        ({"box_center": 1.5}, "box_center=1.5"),
        ({"box_fill": "half"}, "box_fill='half'"),
        ({"tags_from": "nowhere"}, "tags_from='nowhere'"),
        ({"difficult": "no"}, "difficult='no'"),
        ({"max_rank": 0}, "max_rank=0"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        WeakLabels(**options)


def test_options_that_would_not_be_used(tmp_path):
    plain_folder(tmp_path)
    with pytest.raises(ConfigError, match=r"points='p\.json' with label_type='scribble'"):
        source_of(tmp_path, "scribble", points="p.json")
    with pytest.raises(ConfigError, match=r"tags_from='mask' with label_type='box'"):
        source_of(tmp_path, "box", tags_from="mask")
    with pytest.raises(ConfigError, match=r"label_type='dots'"):
        FolderSource(tmp_path, label_type="dots")


@pytest.mark.parametrize("label_type", ["point", "box", "tag"])
def test_validation_is_unaffected(clicked, label_type):
    write_json(clicked / "boxes.json", {key: [] for key in STEMS})
    plain, source = FolderSource(clicked), source_of(clicked, label_type)
    assert source.records("val") == plain.records("val")
    record = source.records("val")[0]
    np.testing.assert_array_equal(source.read_scribble(record), plain.read_scribble(record))
    np.testing.assert_array_equal(source.read_mask(record), blocks(6, 3))


@pytest.mark.parametrize(
    ("label_type", "fill"), [("box", "none"), ("box", "full"), ("tag", "none")]
)
def test_check_does_not_take_weak_labels_for_faults(tmp_path, label_type, fill):
    plain_folder(tmp_path)
    whole = [{"box": [0, 0, 48, 40], "cls": 1}, {"box": [0, 0, 48, 40], "cls": 2}]
    write_json(tmp_path / "boxes.json", dict.fromkeys(STEMS, whole))
    report = check_source(source_of(tmp_path, label_type, box_fill=fill))
    assert not report.findings


def test_check_of_points(clicked):
    classes = {stem: [click(5, 6, 1), click(30, 20, 2)] for stem in STEMS}
    write_json(clicked / "points.json", classes)
    report = check_source(source_of(clicked, "point"))
    assert [f.code for f in report.findings] == ["D105", "D107"]  # no background, wrong classes
    assert all(finding.severity == "warning" for finding in report.findings)
    good = {}
    for number, stem in enumerate(STEMS):
        mask = blocks(number, 3)
        good[stem] = [click(x, 20, int(mask[20, x])) for x in (7, 23, 40)]
    write_json(clicked / "points.json", good)
    assert not check_source(source_of(clicked, "point")).findings


def test_check_finds_a_class_without_tags(tmp_path):
    plain_folder(tmp_path)
    write_json(tmp_path / "class_labels.json", {key: [1] for key in STEMS})
    (finding,) = check_source(source_of(tmp_path, "tag")).findings
    assert finding.code == "D105"
    assert "'vessel' (id 2) has 0 tags in 6 training images" in finding.message


def test_from_yaml(clicked):
    parser = ArgumentParser()
    parser.add_subclass_arguments(ScribbleSource, "source")
    options = {"root": str(clicked), "label_type": "point", "weak_labels": {"point_radius": 1.0}}
    content = {"class_path": "scribbleseg.data.sources.FolderSource", "init_args": options}
    source = parser.instantiate(parser.parse_string(json.dumps({"source": content}))).source
    assert (source.read_scribble(source.records("train")[0]) == 1).sum() == 5
