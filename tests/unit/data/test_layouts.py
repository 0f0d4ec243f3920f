"""Data sets that a YAML file describes: CamVid, DensePose points, block labels, and one's own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.internals import internal
from helpers.tiny_folders import photo, save, write_list
from helpers.trees_coco import densepose_tree
from helpers.trees_labels import (
    CAMVID_STEMS,
    CITIES,
    LABEL_IDS,
    TRAIN_IDS,
    as_ids,
    block_tree,
    camvid_tree,
    grey,
    middle_rows,
    stripes,
    write_json,
)
from PIL import Image

import scribbleseg.data
from scribbleseg import ConfigError, LabelFormatError, ScribbleDataModule, ScribbleNotFoundError
from scribbleseg.data import CLASS_KEYS, check_source
from scribbleseg.data.sources import (
    LAYOUTS,
    SOURCES,
    LayoutSource,
    known_layouts,
    read_layout,
    recognised,
)

SHARED = Path(__file__).parents[4] / "shared" / "data" / "camvid"


def camvid(root, **options):
    return LayoutSource(root, "camvid", **options)


def cityscapes(root, **options):
    return LayoutSource(root, "cityscapes_blocks", **options)


def ids(source, split):
    return tuple(record.image_id for record in source.records(split))


@pytest.mark.parametrize(
    ("layout", "number", "names", "colours"),
    [
        ("camvid", 11, {0: "sky", 4: "pavement", 10: "bicyclist"}, {4: (60, 40, 222)}),
        ("cityscapes_blocks", 19, {0: "road", 10: "sky", 18: "bicycle"}, {13: (0, 0, 142)}),
        ("ade20k_blocks", 150, {0: "wall", 12: "person", 76: "boat", 149: "flag"}, {}),
        ("densepose", 15, {0: "background", 2: "right_hand", 14: "head"}, {}),
        ("voc", 21, {0: "background", 1: "aeroplane", 20: "tvmonitor"}, {}),
        ("context", 60, {0: "background", 11: "table", 21: "bag", 42: "curtain", 59: "wood"}, {}),
    ],
)
def test_classes_of_the_package(layout, number, names, colours):
    table = read_layout(layout).classes
    assert len(table.names) == len(set(table.names)) == number
    assert {label: table.names[label] for label in names} == names
    assert {label: tuple(table.palette[label].tolist()) for label in colours} == colours
    assert table.background == (0 if table.names[0] == "background" else None)
    assert layout in LAYOUTS


def test_commands_say_which_folders_tell_a_layout():
    text = known_layouts()
    assert all(f"{name} (" in text for name in SOURCES)
    assert "voc (JPEGImages/)" in text
    assert "context (JPEGImages/ with SegmentationClassContext/ or pascal_context/ or" in text


# ------------------------------------------------------------------------------ CamVid


@pytest.mark.parametrize("below", ["", "CamVid"])
def test_places_and_splits_of_camvid(tmp_path, below):
    camvid_tree(tmp_path / below)
    source = camvid(tmp_path)
    assert "camvid" in recognised(tmp_path)
    assert {split: ids(source, split) for split in CAMVID_STEMS} == CAMVID_STEMS
    record = source.records("val")[0]
    expected = stripes((0, 3, 8, 255), start=1)  # of files that hold 11 where nothing is labelled
    np.testing.assert_array_equal(source.read_mask(record), expected)
    data = ScribbleDataModule(source, batch_size=2, num_workers=0, crop_size=32, check=False)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["class_labels"][0].nonzero().ravel().tolist() == [0, 3, 8]
    assert data.data_info.background is None


def test_missing_scribbles(tmp_path):
    source = camvid(camvid_tree(tmp_path, scribbles=False))
    with pytest.raises(ScribbleNotFoundError, match=r"D301 3 of 3 scribbles .*/scribbles"):
        source.records("train")
    dense = camvid(tmp_path, label_type="mask")
    record = dense.records("train")[0]
    np.testing.assert_array_equal(dense.read_scribble(record), stripes((0, 3, 8, 255)))


def test_training_images_may_be_repeated(tmp_path):
    camvid_tree(tmp_path)
    stems = CAMVID_STEMS["train"]
    write_list(tmp_path / "train.txt", [stems[0], stems[1], stems[0]])
    assert ids(camvid(tmp_path), "train") == (stems[0], stems[1], stems[0])
    write_list(tmp_path / "val.txt", CAMVID_STEMS["val"] * 2)
    with pytest.raises(LabelFormatError, match=r"D303 .*val\.txt"):
        camvid(tmp_path).records("val")


def test_faults_of_camvid(tmp_path):
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*no trainannot here"):
        camvid(tmp_path)
    camvid_tree(tmp_path)
    stem = CAMVID_STEMS["val"][0]
    save(tmp_path / "valannot" / f"{stem}.png", stripes((0, 12)))
    source = camvid(tmp_path)
    with pytest.raises(LabelFormatError, match=rf"D101 .*{stem}\.png: value 12 on 960 px"):
        source.read_mask(source.records("val")[0])
    with pytest.raises(ConfigError, match=r"label_ids='train': expected one of 'auto'"):
        camvid(tmp_path, label_ids="train")
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*masks: no such folder.*`mask_dir`"):
        camvid(tmp_path, mask_dir="masks").records("val")
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*other\.txt"):
        camvid(tmp_path, val_list="other.txt").records("val")
    write_list(tmp_path / "val.txt", ["/SegNet/CamVid/val/../secret.png x"])
    with pytest.raises(LabelFormatError, match=r"D501 .*val\.txt: line 1 leaves its folder"):
        source.records("val")
    save(tmp_path / "val" / f"{CAMVID_STEMS['train'][0]}.png", np.zeros((40, 48, 3), np.uint8))
    with pytest.raises(LabelFormatError, match=r"D303 .*val/0001TP_.*train/.* has the same name"):
        camvid(tmp_path).records("train")
    (tmp_path / "val" / f"{CAMVID_STEMS['train'][0]}.png").rename(tmp_path / "val" / "a.png")
    save(tmp_path / "val" / "b" / "a.png", np.zeros((40, 48, 3), np.uint8))
    with pytest.raises(LabelFormatError, match=r"D303 .*val/b/a\.png: .*val/a\.png has the same"):
        camvid(tmp_path).records("train")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the CamVid copy is not on this machine")
def test_names_agree_with_the_shared_copy():
    names = (SHARED / "classes.txt").read_text().split()
    assert tuple(names) == read_layout("camvid").classes.names


# ------------------------------------------------------------------------------ blocks


def test_blocks_of_cityscapes(tmp_path):
    root = block_tree(tmp_path / "cityscapes")
    source = cityscapes(root, scribbles="train/sparse_label/block50")
    assert "cityscapes_blocks" in recognised(root)
    assert (ids(source, "train"), ids(source, "val")) == (CITIES[:2], CITIES[2:])
    record = source.with_mask(source.records("train")[0])
    dense = as_ids(stripes(LABEL_IDS))
    np.testing.assert_array_equal(source.read_mask(record), dense)
    dense[dense.shape[0] // 2 :] = 255
    np.testing.assert_array_equal(source.read_scribble(record), dense)
    report = check_source(source)  # half of the pixels are labelled, which is no finding
    assert {finding.code for finding in report.findings} == {"D105"}
    assert report.statistics["splits"]["train"]["disagreement_percent"] == 0
    assert report.statistics["splits"]["train"]["labelled_percent"] == 50 * 3 / 4


def test_no_thread_reads_before_all_codings_are_known(tmp_path, monkeypatch):
    source = cityscapes(block_tree(tmp_path / "cityscapes"))
    which_ids = internal("layouts").which_ids

    def watched(*args):
        assert "codings" not in vars(source)
        return which_ids(*args)

    monkeypatch.setattr(internal("layouts"), "which_ids", watched)
    assert source.codings["mask"].num_classes == 19


def test_the_two_folders_may_differ(tmp_path):
    root = block_tree(tmp_path / "cityscapes")
    for stem in CITIES[:2]:
        save(root / "train" / "sparse_label" / "block10" / f"{stem}.png", stripes(TRAIN_IDS))
    source = cityscapes(root)
    record = source.with_mask(source.records("train")[0])
    np.testing.assert_array_equal(source.read_scribble(record), stripes(TRAIN_IDS))
    np.testing.assert_array_equal(source.read_mask(record), as_ids(stripes(LABEL_IDS)))
    forced = cityscapes(root, label_ids="label")
    # 0 and 13 are not labelIds of scored classes but "unlabelled" and "fence"
    assert set(np.unique(forced.read_scribble(record))) == {2 + 2, 255, 1}


def test_names_with_roles(tmp_path):
    root = tmp_path / "cityscapes"
    for split, stem in (("train", "ulm/ulm_1"), ("val", "bonn/bonn_1")):
        mask = stripes((7, 8))  # no value beyond 18: the name decides
        save(root / split / "image" / f"{stem}_leftImg8bit.png", grey(mask))
        save(root / split / "label" / f"{stem}_gtFine_labelIds.png", mask)
        save(root / split / "label" / f"{stem}_gtFine_color.png", grey(mask))
        save(root / split / "label" / f"{stem}_gtFine_labelTrainIds.png", mask)
    name = "ulm_1_gtFine_labelTrainIds.png"
    save(root / "train" / "sparse_label" / "block20" / "ulm" / name, grey(stripes((0, 1))))
    source = cityscapes(tmp_path, scribbles="train/sparse_label/block20")
    record = source.with_mask(source.records("train")[0])
    assert record.image_id == "ulm/ulm_1"
    np.testing.assert_array_equal(source.read_mask(record), stripes((0, 1)))
    np.testing.assert_array_equal(source.read_scribble(record), stripes((0, 1)))


def test_own_names_for_ade20k(tmp_path):
    root = block_tree(tmp_path / "ade20k", values=(0, 1))
    write_list(root / "classes.txt", [f"class_{number:03d}" for number in range(150)])
    source = LayoutSource(root, "ade20k_blocks")
    assert source.class_names[149] == "class_149"
    np.testing.assert_array_equal(
        source.read_mask(source.records("val")[0]), stripes((255, 0), start=2)
    )
    write_list(root / "classes.txt", [f"class_{number:03d}" for number in range(151)])
    with pytest.raises(LabelFormatError, match=r"D401 .*151 classes, expected the 150"):
        LayoutSource(root, "ade20k_blocks")


def test_values_out_of_range(tmp_path):
    root = block_tree(tmp_path / "ade20k", values=(0, 1))
    path = root / "val" / "label" / f"{CITIES[2]}.png"
    save(path, stripes((1, 210)))
    source = LayoutSource(root, "ade20k_blocks")
    with pytest.raises(LabelFormatError, match=rf"D101 .*{CITIES[2]}\.png: value 210 on 960 px"):
        source.read_mask(source.records("val")[0])


def test_faults_of_blocks(tmp_path):
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*no train/sparse_label here or in ci"):
        cityscapes(tmp_path)
    root = block_tree(tmp_path / "streets")
    with pytest.raises(ScribbleNotFoundError, match=r"no list of split 'test'"):
        cityscapes(root).records("test")
    (root / "train" / "sparse_label" / "block10" / f"{CITIES[0]}.png").unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"D301 1 of 2 scribbles.*block10.*ulm_000000"):
        cityscapes(root).records("train")
    save(root / "val" / "image" / f"{CITIES[0]}.png", grey(stripes((1, 2))))
    with pytest.raises(LabelFormatError, match=r"D303 .*val/image/.* has the same name"):
        cityscapes(root).records("train")
    root = block_tree(tmp_path / "cityscapes")
    save(root / "train" / "label" / f"{CITIES[0]}_gtFine_labelIds.png", stripes(LABEL_IDS))
    with pytest.raises(LabelFormatError, match=rf"D303 .*{CITIES[0]}.* is of the same image"):
        cityscapes(root).records("train")


def test_blocks_without_late_classes_are_coded_like_their_masks(tmp_path):
    root = block_tree(tmp_path)
    for path in (root / "train" / "sparse_label" / "block10").iterdir():
        values = np.array(Image.open(path))
        values[(values > 18) & (values != 255)] = 255
        save(path, values)
    source = cityscapes(root)
    for record in source.records("train"):
        scribble = source.read_scribble(record)
        mask = source.read_mask(source.with_mask(record))
        assert (scribble != 255).any()
        assert (scribble == mask)[scribble != 255].all()


# --------------------------------------------------------------------------- DensePose


def test_left_and_right_of_densepose(tmp_path):
    source = SOURCES["densepose"](densepose_tree(tmp_path))
    for first, second in source.flip_pairs:
        one, other = (source.class_names[label].split("_") for label in (first, second))
        assert ({one[0], other[0]}, one[1]) == ({"left", "right"}, other[1])
    assert len(source.flip_pairs) == 6
    write_list(tmp_path / "classes.txt", ["other", *source.class_names[1:]])
    own = LayoutSource(tmp_path, "densepose")
    assert (own.class_names[0], own.flip_pairs) == ("other", source.flip_pairs)
    assert recognised(tmp_path)[0] == "densepose"
    assert not recognised(tmp_path / "images")


def test_lists_of_densepose(tmp_path):
    densepose_tree(tmp_path)
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*no list of split 'test'"):
        LayoutSource(tmp_path, "densepose").records("test")
    second = tmp_path / "datasets" / "densepose" / "panoptic_train2014_points_all.txt"
    write_list(second, ["images/train2014/COCO_train2014_000000000036.jpg"])
    with pytest.raises(ConfigError, match=r"several lists could be split 'train': .*`train_list`"):
        LayoutSource(tmp_path, "densepose").records("train")
    chosen = LayoutSource(tmp_path, "densepose", train_list=f"datasets/densepose/{second.name}")
    assert len(chosen.records("train")) == 1


# ---------------------------------------------------------------------- one's own file


LAYOUT = """title: streets
places: [., data]
marker: [pixels]
images: {train: pixels}
masks: truth
scribbles: drawn
lists: {train: fit.csv, val: [held.txt]}
strip: _cam$
unlabelled_color: [9, 9, 9]
classes: [{name: road, color: [1, 0, 0]}, {name: car, color: [0, 1, 0]}]
"""


def test_a_layout_of_ones_own(tmp_path):
    (tmp_path / "streets.yaml").write_text(LAYOUT)
    colours = np.array([(1, 0, 0), (0, 1, 0), (9, 9, 9)], np.uint8)
    for number in range(3):
        truth = stripes((0, 1), start=number)
        save(tmp_path / "data" / "pixels" / f"{number}_cam.png", photo(number, truth))
        save(tmp_path / "data" / "drawn" / f"{number}.png", colours[middle_rows(truth, 2)])
        save(tmp_path / "data" / "truth" / f"{number}.png", truth)
    (tmp_path / "data" / "fit.csv").write_text("image\n0_cam.png\n2_cam.png\n")
    write_list(tmp_path / "data" / "held.txt", ["1"])
    source = LayoutSource(tmp_path, str(tmp_path / "streets.yaml"))
    assert (ids(source, "train"), ids(source, "val")) == (("0", "2"), ("1",))
    record = source.records("train")[1]
    np.testing.assert_array_equal(source.read_scribble(record), middle_rows(stripes((0, 1)), 255))
    np.testing.assert_array_equal(
        source.read_mask(source.records("val")[0]), stripes((0, 1), start=1)
    )

    (tmp_path / "streets.yaml").write_text(LAYOUT.replace("_cam$", "("))
    with pytest.raises(ConfigError, match=r"strip='\(': missing \)"):
        LayoutSource(tmp_path, str(tmp_path / "streets.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAYOUT.replace("marker: [pixels]\n", ""), r"D401 .*layout lacks \['marker'\]"),
        (LAYOUT + "mask: [x]\n", r"D401 .*has unknown keys \['mask'\]"),
        ("places: [", r"D202 .*layout cannot be read"),
    ],
)
def test_faulty_layouts(tmp_path, text, message):
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(LabelFormatError, match=message):
        LayoutSource(tmp_path, str(tmp_path / "a.yaml"))
    with pytest.raises(ConfigError, match=r"layout='nothing': expected one of ade20k_blocks, cam"):
        LayoutSource(tmp_path, "nothing")


def test_the_card_documents_all_keys(tmp_path):
    card = Path(scribbleseg.data.__file__).with_name("README.md").read_text(encoding="utf-8")
    keys = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    with pytest.raises(LabelFormatError, match=r"known keys are") as error:
        read_layout(str(write_json(tmp_path / "a.json", {})))
    known = set(re.findall(r"'(\w+)'", str(error.value).split("known keys are")[1]))
    assert known - set(keys) == CLASS_KEYS
    assert set(keys) < known
