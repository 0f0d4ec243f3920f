from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_folders import VOC_STEMS, save, voc_tree, write_list

from scribbleseg import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.data import check_source, read_split
from scribbleseg.data.sources import VOCSource

SAMPLE = Path(__file__).parents[4] / "shared" / "data" / "voc_sample" / "VOC2012"


def ids(source, split):
    return [record.image_id for record in source.records(split)]


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_roots(tmp_path, below):
    source = VOCSource(voc_tree(tmp_path) / below)
    assert (source.num_classes, source.background) == (21, 0)
    assert (source.class_names[1], source.class_names[20]) == ("aeroplane", "tvmonitor")
    assert ids(source, "train") == list(VOC_STEMS[:3])
    assert ids(source, "val") == list(VOC_STEMS[3:])
    assert all(record.mask is None for record in source.records("train"))
    label = source.read_mask(source.records("val")[0])
    assert sorted(np.unique(label)) == [0, 2, 20, 255]


def sbd_tree(root, stems, mask):
    from scipy.io import savemat

    for stem in stems:
        save(root / "img" / f"{stem}.jpg", np.full((*mask.shape, 3), 90, np.uint8))
        (root / "cls").mkdir(exist_ok=True)
        savemat(root / "cls" / f"{stem}.mat", {"GTcls": {"Segmentation": mask}})
    write_list(root / "train.txt", [*stems, VOC_STEMS[0]])
    write_list(root / "val.txt", [VOC_STEMS[2], VOC_STEMS[4]])


def test_train_aug_is_derived_and_voc_masks_win(tmp_path):
    voc = voc_tree(tmp_path, aug_list=False) / "VOCdevkit" / "VOC2012"
    mask = np.zeros((40, 48), np.uint8)
    mask[:, 20:] = 7
    sbd_tree(tmp_path / "benchmark_RELEASE" / "dataset", ["2010_000009"], mask)
    save(voc / "pascal_2012_scribble" / "2010_000009.png", np.where(mask == 7, 7, 255).astype("u1"))
    source = VOCSource(tmp_path, label_type="mask")
    assert ids(source, "train") == sorted([*VOC_STEMS[:3], "2010_000009"])
    records = {record.image_id: record for record in source.records("train")}
    np.testing.assert_array_equal(source.read_scribble(records["2010_000009"]), mask)
    assert records[VOC_STEMS[0]].scribble.path.parent.name == "SegmentationClass"
    with pytest.raises(ScribbleNotFoundError, match=r"D301 1 of 4 masks .*2010_000009"):
        VOCSource(tmp_path, label_type="mask", mask_dir="SegmentationClass").records("train")
    (tmp_path / "benchmark_RELEASE" / "dataset" / "cls" / "2010_000009.mat").write_text("x")
    with pytest.raises(LabelFormatError, match=r"D202 .*2010_000009\.mat"):
        source.read_scribble(records["2010_000009"])


def test_masks_of_voc_are_preferred_over_augmented_ones(tmp_path):
    voc = voc_tree(tmp_path) / "VOCdevkit" / "VOC2012"
    for stem in VOC_STEMS:
        save(voc / "SegmentationClassAug" / f"{stem}.png", np.full((40, 48), 3, np.uint8))
    (voc / "SegmentationClass" / f"{VOC_STEMS[0]}.png").unlink()
    source = VOCSource(tmp_path, label_type="mask")
    first, *others = source.records("train")
    assert first.scribble.path.parent.name == "SegmentationClassAug"
    assert (source.read_scribble(first) == 3).all()
    chosen = [r.scribble for r in others] + [r.mask for r in source.records("val")]
    assert {label.path.parent.name for label in chosen} == {"SegmentationClass"}
    assert (source.read_scribble(others[0])[:2] == 255).all(), "void borders are kept"


def test_images_of_voc_are_preferred_over_those_of_sbd(tmp_path):
    voc_tree(tmp_path)
    sbd = tmp_path / "benchmark_RELEASE" / "dataset"
    sbd_tree(sbd, [VOC_STEMS[0], "2010_000009"], np.zeros((40, 48), np.uint8))
    places = {r.image_id: r.image.parent.name for r in VOCSource(tmp_path).records("predict")}
    assert (places[VOC_STEMS[0]], places["2010_000009"]) == ("JPEGImages", "img")


def test_small_train_list_is_never_taken_silently(tmp_path):
    voc_tree(tmp_path, aug_list=False)
    with pytest.raises(ScribbleNotFoundError, match=r"train_aug.*train_list: train"):
        VOCSource(tmp_path).records("train")
    assert ids(VOCSource(tmp_path, train_list="train"), "train") == list(VOC_STEMS[:2])


def test_ids_without_underscore_and_path_lists(tmp_path):
    voc = voc_tree(tmp_path) / "VOCdevkit" / "VOC2012"
    write_list(voc / "mini.txt", ["2007000032", "/JPEGImages/2007_000033.jpg /x/2007_000033.png"])
    assert ids(VOCSource(tmp_path, train_list="mini.txt"), "train") == list(VOC_STEMS[:2])


def test_faults(tmp_path):
    with pytest.raises(ScribbleNotFoundError, match=r"JPEGImages"):
        VOCSource(tmp_path)
    voc_tree(tmp_path)
    with pytest.raises(ConfigError, match=r"renderer"):
        VOCSource(tmp_path, renderer="cv2")
    with pytest.raises(ConfigError, match=r"scribble_width"):
        VOCSource(tmp_path, scribble_width=0)
    with pytest.raises(ScribbleNotFoundError, match=r"correct `scribbles`"):
        VOCSource(tmp_path, scribbles="none").records("train")
    with pytest.raises(ScribbleNotFoundError, match=r"split 'test'"):
        VOCSource(tmp_path).records("test")


needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="VOC samples are not on this machine")


@needs_sample
@pytest.mark.parametrize(
    ("stem", "void", "labelled", "contradicting", "on_void", "percent", "classes"),
    [
        ("2007_000032", 5355, 4812, 44, 542, 3.4, [0, 1, 15]),
        ("2007_000033", 8195, 5341, 6, 349, 2.9, [0, 1]),
    ],
)
def test_released_samples(stem, void, labelled, contradicting, on_void, percent, classes):
    source = VOCSource(SAMPLE)
    record = {r.image_id: r for r in source.records("val")}[stem]
    scribble, mask = source.read_scribble(record), source.read_mask(record)
    assert scribble.shape == mask.shape == source.read_image(record).shape[:2]
    assert sorted(np.unique(scribble)) == [*classes, 255]
    assert (mask == 255).sum() == void
    drawn = scribble != 255
    assert drawn.sum() == labelled
    assert round(100 * drawn.mean(), 1) == percent
    assert ((scribble != mask) & drawn & (mask != 255)).sum() == contradicting
    assert (drawn & (mask == 255)).sum() == on_void


@needs_sample
def test_check_of_the_released_samples():
    report = check_source(VOCSource(SAMPLE), splits=("val",))
    assert [finding.code for finding in report.findings] == ["D105"]  # few images, few classes
    val = report.statistics["splits"]["val"]
    assert round(val["disagreement_percent"], 2) == 0.49
    assert report.statistics["classes"][15]["mask_px"] == 866


@pytest.mark.skipif(
    not (SAMPLE.parents[1] / "voc_lists").is_dir(), reason="VOC lists are not on this machine"
)
def test_released_lists():
    lists = SAMPLE.parents[1] / "voc_lists"
    names = {n: read_split(lists / f"{n}.txt") for n in ("train", "val", "train_aug")}
    assert {n: len(stems) for n, stems in names.items()} == {
        "train": 1464,
        "val": 1449,
        "train_aug": 10582,
    }
    assert not set(names["train_aug"]) & set(names["val"])
