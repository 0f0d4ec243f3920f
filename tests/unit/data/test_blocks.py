import numpy as np
import pytest
from helpers.tiny_folders import save, write_list
from helpers.trees_labels import CITIES, LABEL_IDS, TRAIN_IDS, as_ids, block_tree, grey, stripes
from PIL import Image

from scribbleseg import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.data import check_source
from scribbleseg.data.sources import (
    ADE20K_CLASSES,
    CITYSCAPES_CLASSES,
    BlockSource,
    ade20k_table,
    cityscapes_table,
)


def block_label(mask, percent):
    label = np.full_like(mask, 255)
    rows = percent * mask.shape[0] // 100
    label[:rows] = mask[:rows]
    return label


def test_facts():
    assert len(CITYSCAPES_CLASSES) == 19
    assert list(CITYSCAPES_CLASSES)[10] == "sky"
    assert len(ADE20K_CLASSES) == len(set(ADE20K_CLASSES)) == 150
    assert (ADE20K_CLASSES[0], ADE20K_CLASSES[12]) == ("wall", "person")
    assert (ADE20K_CLASSES[76], ADE20K_CLASSES[149]) == ("boat", "flag")
    table = cityscapes_table("label")
    wanted = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
    assert [int(table[value]) for value in wanted] == list(range(19))
    assert all(table[v] == 255 for v in {*range(34), 255} - set(wanted))
    assert (table[34:255] == -1).all()
    assert (cityscapes_table("label", 44)[34:45] == 255).all()
    ade = ade20k_table()
    assert (ade[0], ade[1], ade[150], ade[151], ade[255]) == (255, 0, 149, -1, 255)


@pytest.mark.parametrize("block", [10, 20, 50])
def test_label_ids(tmp_path, block):
    source = BlockSource(block_tree(tmp_path / "cityscapes"), block=block)
    assert (source.num_classes, source.background) == (19, None)
    assert source.palette[13].tolist() == [0, 0, 142]
    train, val = source.records("train"), source.records("val")
    # in the order of the names
    assert [record.image_id for record in train] == list(CITIES[:2])
    assert [record.image_id for record in val] == [CITIES[2]]
    dense = as_ids(stripes(LABEL_IDS))
    np.testing.assert_array_equal(source.read_scribble(train[0]), block_label(dense, block))
    np.testing.assert_array_equal(source.read_mask(source.with_mask(train[0])), dense)
    assert train[0].mask is None


def test_train_ids_are_kept(tmp_path):
    source = BlockSource(block_tree(tmp_path, values=TRAIN_IDS), dataset="cityscapes")
    mask = source.read_mask(source.records("val")[0])
    np.testing.assert_array_equal(mask, stripes(TRAIN_IDS, start=2))


def test_the_two_folders_may_differ(tmp_path):
    root = block_tree(tmp_path / "cityscapes")
    for stem in CITIES[:2]:
        save(root / "train" / "sparse_label" / "block10" / f"{stem}.png", stripes(TRAIN_IDS))
    source = BlockSource(root)
    record = source.with_mask(source.records("train")[0])
    np.testing.assert_array_equal(source.read_scribble(record), stripes(TRAIN_IDS))
    np.testing.assert_array_equal(source.read_mask(record), as_ids(stripes(LABEL_IDS)))
    forced = BlockSource(root, label_ids="label")
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
    source = BlockSource(tmp_path, block=20)
    record = source.with_mask(source.records("train")[0])
    assert record.image_id == "ulm/ulm_1"
    np.testing.assert_array_equal(source.read_mask(record), stripes((0, 1)))
    np.testing.assert_array_equal(source.read_scribble(record), stripes((0, 1)))


def test_ade20k_never_subtracts_from_bytes(tmp_path):
    source = BlockSource(block_tree(tmp_path / "ADE20K", values=(0, 1, 150, 255), unlabelled=0))
    assert (source.num_classes, source.class_names[0]) == (150, "wall")
    record = source.with_mask(source.records("train")[0])
    dense = stripes((255, 0, 149, 255))
    np.testing.assert_array_equal(source.read_mask(record), dense)
    np.testing.assert_array_equal(source.read_scribble(record), block_label(dense, 10))


def test_own_names_for_ade20k(tmp_path):
    root = block_tree(tmp_path / "ade20k", values=(0, 1))
    write_list(root / "classes.txt", [f"class_{number:03d}" for number in range(150)])
    assert BlockSource(root).class_names[149] == "class_149"
    write_list(root / "classes.txt", [f"class_{number:03d}" for number in range(151)])
    with pytest.raises(LabelFormatError, match=r"D401 .*151 classes, expected the 150"):
        BlockSource(root)


def test_values_out_of_range(tmp_path):
    root = block_tree(tmp_path / "ade20k", values=(0, 1))
    path = root / "val" / "label" / f"{CITIES[2]}.png"
    save(path, stripes((1, 210)))
    source = BlockSource(root)
    with pytest.raises(LabelFormatError, match=rf"D101 .*{CITIES[2]}\.png: value 210 on 960 px"):
        source.read_mask(source.records("val")[0])
    coloured = grey(stripes((1, 2)))
    coloured[0, :7, 1] = 9
    save(path, coloured)
    with pytest.raises(LabelFormatError, match=rf"D103 .*{CITIES[2]}\.png: 7 px are coloured"):
        source.read_mask(source.records("val")[0])


def test_faults(tmp_path):
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*no train/image"):
        BlockSource(tmp_path)
    block_tree(tmp_path / "streets")
    with pytest.raises(ConfigError, match=r"set `dataset: cityscapes`"):
        BlockSource(tmp_path / "streets")
    with pytest.raises(ConfigError, match=r"block=30: expected one of 10, 20, 50"):
        BlockSource(tmp_path / "streets", dataset="cityscapes", block=30)
    source = BlockSource(tmp_path / "streets", dataset="cityscapes")
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*no split 'test'"):
        source.records("test")
    (tmp_path / "streets" / "train" / "sparse_label" / "block10" / f"{CITIES[0]}.png").unlink()
    again = BlockSource(tmp_path / "streets", dataset="cityscapes")
    with pytest.raises(ScribbleNotFoundError, match=r"D301 1 of 2 scribbles.*block10.*ulm_000000"):
        again.records("train")
    save(tmp_path / "streets" / "val" / "image" / f"{CITIES[0]}.png", grey(stripes((1, 2))))
    with pytest.raises(LabelFormatError, match=r"D303 .*1 images are in train/image and in val"):
        BlockSource(tmp_path / "streets", dataset="cityscapes").records("train")
    block_tree(tmp_path / "cityscapes")
    block_tree(tmp_path / "ade20k")
    with pytest.raises(ConfigError, match=r"holds cityscapes and ade20k"):
        BlockSource(tmp_path)
    assert BlockSource(tmp_path, dataset="ade20k").root == tmp_path / "ade20k"


def test_two_label_files_of_one_image(tmp_path):
    root = block_tree(tmp_path / "cityscapes")
    save(root / "train" / "label" / f"{CITIES[0]}_gtFine_labelIds.png", stripes(LABEL_IDS))
    with pytest.raises(LabelFormatError, match=rf"D303 .*{CITIES[0]}.*1 images have two"):
        BlockSource(root).records("train")


def test_half_labelled_is_no_finding(tmp_path):
    source = BlockSource(block_tree(tmp_path / "cityscapes"), block=50)
    report = check_source(source)
    assert {finding.code for finding in report.findings} == {"D105"}
    assert report.statistics["splits"]["train"]["disagreement_percent"] == 0
    assert report.statistics["splits"]["train"]["labelled_percent"] == 50 * 3 / 4


def test_blocks_without_late_classes_are_coded_like_their_masks(tmp_path):
    root = block_tree(tmp_path)
    for path in (root / "train" / "sparse_label" / "block10").iterdir():
        values = np.array(Image.open(path))
        values[(values > 18) & (values != 255)] = 255
        save(path, values)
    source = BlockSource(root, dataset="cityscapes")
    for record in source.records("train"):
        scribble = source.read_scribble(record)
        mask = source.read_mask(source.with_mask(record))
        assert (scribble != 255).any()
        assert (scribble == mask)[scribble != 255].all()
