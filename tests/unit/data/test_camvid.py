from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_folders import save, write_list
from helpers.trees_labels import CAMVID_STEMS, camvid_tree, middle_rows, stripes, write_json

from scribbleseg import ConfigError, LabelFormatError, ScribbleDataModule, ScribbleNotFoundError
from scribbleseg.data import WeakLabels, check_source
from scribbleseg.data.sources import CAMVID_CLASSES, CamVidSource

SHARED = Path(__file__).parents[4] / "shared" / "data" / "camvid"


def ids(source, split):
    return tuple(record.image_id for record in source.records(split))


def test_classes(tmp_path):
    source = CamVidSource(camvid_tree(tmp_path))
    assert source.class_names == CAMVID_CLASSES
    assert (source.num_classes, source.background) == (11, None)
    assert source.class_names[0] == "sky"
    assert source.class_names[10] == "bicyclist"
    assert source.palette[[0, 4, 10]].tolist() == [[128, 128, 128], [60, 40, 222], [0, 128, 192]]
    assert source.palette[255].tolist() == [224, 224, 192]


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("below", ["", "CamVid"])
def test_splits(tmp_path, lists, below):
    camvid_tree(tmp_path / below, lists=lists)
    source = CamVidSource(tmp_path)
    assert CamVidSource.matches(tmp_path)
    for split, stems in CAMVID_STEMS.items():
        assert ids(source, split) == stems
    assert len(source.records("predict")) == 6
    assert all(record.mask is None for record in source.records("train"))


def test_value_11_is_unlabelled(tmp_path):
    source = CamVidSource(camvid_tree(tmp_path))
    train, val = source.records("train")[0], source.records("val")[0]
    mask = stripes((0, 3, 8, 255), start=1)
    np.testing.assert_array_equal(source.read_mask(val), mask)
    first = stripes((0, 3, 8, 255))
    np.testing.assert_array_equal(source.read_scribble(train), middle_rows(first, 255))
    np.testing.assert_array_equal(source.read_mask(source.with_mask(train)), first)
    assert source.read_image(train).shape == (40, 48, 3)


def test_scribbles_in_sub_folders(tmp_path):
    camvid_tree(tmp_path)
    (tmp_path / "scribbles").rename(tmp_path / "drawn_train")
    (tmp_path / "drawn_train").rename(tmp_path / "x")
    (tmp_path / "drawn").mkdir()
    (tmp_path / "x").rename(tmp_path / "drawn" / "train")
    source = CamVidSource(tmp_path, scribbles="drawn")
    assert source.records("train")[0].scribble.parent == tmp_path / "drawn" / "train"


def test_missing_scribbles(tmp_path):
    source = CamVidSource(camvid_tree(tmp_path, scribbles=False))
    with pytest.raises(ScribbleNotFoundError, match=r"D301 3 of 3 scribbles .*/scribbles"):
        source.records("train")
    dense = CamVidSource(tmp_path, label_type="mask")
    record = dense.records("train")[0]
    np.testing.assert_array_equal(dense.read_scribble(record), stripes((0, 3, 8, 255)))


def test_videos_as_groups(tmp_path):
    source = CamVidSource(camvid_tree(tmp_path), group_regex="^([^_]+)_")
    assert [r.group for r in source.records("train")] == ["0001TP", "0006R0", "0016E5"]
    assert CamVidSource(tmp_path).records("train")[0].group is None


def test_tags_instead_of_scribbles(tmp_path):
    camvid_tree(tmp_path)
    source = CamVidSource(tmp_path, label_type="tag")
    assert source.class_labels(source.records("train")[0]) == [0, 3, 8]
    write_json(tmp_path / "t.json", dict.fromkeys(CAMVID_STEMS["train"], ("car",)))
    named = CamVidSource(tmp_path, label_type="tag", weak_labels=WeakLabels(class_labels="t.json"))
    assert named.class_labels(named.records("train")[0]) == [8]
    with pytest.raises(ConfigError, match=r"label_type='box' needs a background"):
        CamVidSource(tmp_path, label_type="box")


def test_faults(tmp_path):
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*no trainannot/"):
        CamVidSource(tmp_path)
    camvid_tree(tmp_path)
    stem = CAMVID_STEMS["val"][0]
    save(tmp_path / "valannot" / f"{stem}.png", stripes((0, 12)))
    source = CamVidSource(tmp_path)
    with pytest.raises(LabelFormatError, match=rf"D101 .*{stem}\.png: value 12 on 960 px"):
        source.read_mask(source.records("val")[0])
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*other\.txt"):
        CamVidSource(tmp_path, val_list="other.txt").records("val")
    write_list(tmp_path / "val.txt", ["/SegNet/CamVid/val/../secret.png x"])
    with pytest.raises(LabelFormatError, match=r"D501 .*val\.txt: line 1 leaves its folder"):
        source.records("val")
    save(tmp_path / "val" / f"{CAMVID_STEMS['train'][0]}.png", np.zeros((40, 48, 3), np.uint8))
    with pytest.raises(LabelFormatError, match=r"D303 .*val: 1 images.*0001TP_006690"):
        CamVidSource(tmp_path).records("train")


def test_check_and_batch(tmp_path):
    source = CamVidSource(camvid_tree(tmp_path))
    report = check_source(source)
    assert {finding.code for finding in report.findings} == {"D105"}  # eight classes never appear
    assert report.statistics["splits"]["train"]["disagreement_percent"] == 0
    data = ScribbleDataModule(source, batch_size=2, num_workers=0, crop_size=32, check=False)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch["class_labels"][0].nonzero().ravel().tolist() == [0, 3, 8]
    assert data.data_info.background is None


@pytest.mark.skipif(not SHARED.is_dir(), reason="the CamVid copy is not on this machine")
def test_names_agree_with_the_shared_copy():
    names = (SHARED / "classes.txt").read_text().split()
    assert tuple(names) == CAMVID_CLASSES
