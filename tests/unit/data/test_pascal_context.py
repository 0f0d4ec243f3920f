import logging
from pathlib import Path

import numpy as np
import pytest
from helpers.tiny_folders import VOC_STEMS, scribble_xml, write_list
from helpers.trees_coco import context_mask, context_mat_labels, context_tree

from scribbleseg import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.data import overlap_warning, read_split
from scribbleseg.data.sources import PascalContextSource

LISTS = Path(__file__).parents[4] / "shared" / "data" / "voc_lists"


def base(root):
    return root / "VOCdevkit" / "VOC2010"


def without_background(mask):
    shifted = mask.astype(int) - 1
    shifted[(mask == 0) | (mask == 255)] = 255
    return shifted


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2010"])
def test_roots_and_codings(tmp_path, below):
    root = context_tree(tmp_path) / below
    many, few = PascalContextSource(root), PascalContextSource(root, num_classes=59)
    assert (many.num_classes, many.background, many.class_names[0]) == (60, 0, "background")
    assert (few.num_classes, few.background, few.class_names[0]) == (59, None, "aeroplane")
    assert [r.image_id for r in many.records("train")] == list(VOC_STEMS[:3])
    for number, record in enumerate(many.records("val"), 3):
        mask, scribble = context_mask(number), many.read_scribble(record)
        np.testing.assert_array_equal(many.read_mask(record), mask)
        np.testing.assert_array_equal(scribble, np.where(scribble == 255, 255, mask))
        np.testing.assert_array_equal(few.read_mask(record), without_background(mask))
        np.testing.assert_array_equal(few.read_scribble(record), without_background(scribble))


def test_labels_out_of_range_name_the_coding_of_the_files(tmp_path):
    root = base(context_tree(tmp_path, labels="none"))
    from helpers.tiny_folders import save

    save(root / "SegmentationClassContext" / f"{VOC_STEMS[3]}.png", np.full((20, 24), 60, np.uint8))
    save(root / "SegmentationClassContext" / f"{VOC_STEMS[4]}.png", context_mask(4))
    source = PascalContextSource(tmp_path, num_classes=59)
    with pytest.raises(LabelFormatError, match=r"D101 .*2008_000015\.png: value 60 on 480 px") as e:
        source.read_mask(source.records("val")[0])
    assert "the ids 1, 2, 3, 4, 5, 6, 7, 8 … of 59 classes" in str(e.value)


def test_blank_lines_and_a_mark_in_the_list_of_names(tmp_path):
    expected = context_mat_labels(context_tree(tmp_path, labels="none"))
    names = base(tmp_path) / "labels.txt"
    first, *others = names.read_text().splitlines()
    text = "\n".join([first, "", f"  {others[0]}  ", "   ", "\t", *others[1:], "", ""])
    names.write_text(text, encoding="utf-8-sig")
    source = PascalContextSource(tmp_path)
    for record in source.records("val"):
        np.testing.assert_array_equal(source.read_mask(record), expected[record.image_id])
    names.write_bytes(b"1: caf\xe9\n" + text.encode())
    with pytest.raises(LabelFormatError, match=r"D202 .*labels\.txt: is not UTF-8 .* at byte 6"):
        PascalContextSource(tmp_path).read_mask(record)


def test_mat_faults(tmp_path):
    from scipy.io import savemat

    context_mat_labels(context_tree(tmp_path, labels="none"))
    root = base(tmp_path)
    names = root / "labels.txt"
    text = names.read_text()

    def read():
        source = PascalContextSource(tmp_path)
        return source.read_mask(source.records("val")[0])

    names.write_text("\n".join(line for line in text.splitlines() if ": wood" not in line))
    with pytest.raises(LabelFormatError, match=r"D401 .*labels\.txt: names 458 classes.*not wood"):
        read()
    names.write_text(text.replace(": wood", " wood"))
    with pytest.raises(LabelFormatError, match=r"D401 .*labels\.txt: line \d+ is '\d+ wood'"):
        read()
    names.unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*labels\.txt: .*459.*`mask_dir`"):
        read()
    names.write_text(text)
    label = root / "trainval" / f"{VOC_STEMS[3]}.mat"
    savemat(label, {"LabelMap": np.full((20, 24), 460, np.uint16)})
    with pytest.raises(LabelFormatError, match=r"D101 .*\.mat: value 460 on 480 px.*the ids 0, 1"):
        read()
    savemat(label, {"Other": np.zeros((2, 2))})
    with pytest.raises(LabelFormatError, match=r"D202 .*\.mat: cannot be read.*LabelMap"):
        read()


def test_all_unknown_tags_in_one_error(tmp_path):
    root = base(context_tree(tmp_path))
    for stem, tag in zip(
        VOC_STEMS, ("bed clothes", "diningtable", "tvmon", "sky", "sky"), strict=True
    ):
        text = scribble_xml([(tag, [(3, 10), (5, 10)])], (20, 24))
        (root / "pascal_context" / f"{stem}.xml").write_text(text)
    source = PascalContextSource(tmp_path)
    records = source.records("train")
    with pytest.raises(LabelFormatError) as caught:
        source.read_scribble(records[0])
    message = str(caught.value)
    assert message.startswith("D401")
    assert f"{VOC_STEMS[0]}.xml: 2 class names in 5 stroke files are unknown" in message
    assert "'bed clothes', 'tvmon'" in message
    assert "`aliases`" in message
    assert set(np.unique(source.read_scribble(records[1]))) == {11, 255}  # a known short form
    aliases = {"bed clothes": "bedclothes", "tvmon": "tvmonitor"}
    source = PascalContextSource(tmp_path, aliases=aliases)
    drawn = [set(np.unique(source.read_scribble(r))) - {255} for r in source.records("train")]
    assert drawn == [{source.class_names.index("bedclothes")}, {11}, {20}]
    few = PascalContextSource(tmp_path, aliases=aliases, num_classes=59)
    assert set(np.unique(few.read_scribble(few.records("train")[2]))) == {19, 255}
    with pytest.raises(ConfigError, match=r"aliases=.*'tvmon': 'television'"):
        PascalContextSource(tmp_path, aliases={"tvmon": "television"})


@pytest.mark.parametrize("place", ["option", "root", "folder"])
def test_pickles_are_refused(tmp_path, place):
    root = base(context_tree(tmp_path, labels="none"))
    option = {"option": "train.pth", "root": None, "folder": "labels"}[place]
    (root / "labels").mkdir()
    (root / ("labels/train.pkl" if place == "folder" else "train.pth")).write_bytes(b"x")
    with pytest.raises(LabelFormatError, match=r"D501 .*train\.p(th|kl): labels in a pickle"):
        PascalContextSource(tmp_path, mask_dir=option).records("val")


def test_faults_of_options(tmp_path):
    root = base(context_tree(tmp_path))
    with pytest.raises(ConfigError, match=r"num_classes=61: expected one of 60, 59"):
        PascalContextSource(tmp_path, num_classes=61)
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*none: no such folder.*`mask_dir`"):
        PascalContextSource(tmp_path, mask_dir="none").records("val")
    with pytest.raises(ScribbleNotFoundError, match=r"no list of split 'test'"):
        PascalContextSource(tmp_path).records("test")
    with pytest.raises(ScribbleNotFoundError, match=r"no JPEGImages here or in VOC2010"):
        PascalContextSource(tmp_path / "nowhere")
    (root / "ImageSets" / "SegmentationContext" / "val.txt").unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*ImageSets: no list of split 'val'"):
        PascalContextSource(tmp_path).records("val")
    write_list(root / "val_context.txt", ["2008000015"])
    assert [r.image_id for r in PascalContextSource(tmp_path).records("val")] == ["2008_000015"]


def test_is_told_from_voc(tmp_path):
    root = context_tree(tmp_path)
    assert PascalContextSource.matches(root)
    assert PascalContextSource.matches(base(root))
    (base(root) / "pascal_2012").mkdir()
    assert not PascalContextSource.matches(root)
    assert not PascalContextSource.matches(tmp_path / "nowhere")


def test_overlap_with_voc(tmp_path, caplog):
    root = base(context_tree(tmp_path))
    source = PascalContextSource(tmp_path)
    with caplog.at_level(logging.WARNING):
        source.records("val")
    assert not caplog.records
    write_list(root / "ImageSets" / "SegmentationAug" / "train.txt", ["2008000015", "2010_000001"])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            source = source if _ else PascalContextSource(tmp_path)
            source.records("val")
    (record,) = caplog.records  # once
    assert record.message.startswith("D302 1 of 2 images of Context's validation list are in VOC's")
    assert "2008_000015" in record.message


@pytest.mark.skipif(not LISTS.is_dir(), reason="VOC lists are not on this machine")
def test_overlap_of_the_released_lists():
    names = {
        n: read_split(LISTS / f"{n}.txt") for n in ("train_aug", "train_context", "val_context")
    }
    assert (len(names["train_context"]), len(names["val_context"])) == (4998, 5105)
    val = overlap_warning(names["train_aug"], names["val_context"])
    assert (val.code, val.severity) == ("D302", "warning")
    assert val.message.startswith("4116 of 5105 images")
    train = overlap_warning(names["train_aug"], names["train_context"])
    assert train.message.startswith("4936 of 4998 images")
    assert overlap_warning(names["train_context"], names["val_context"]) is None
