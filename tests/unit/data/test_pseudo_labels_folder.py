import json
import logging

import numpy as np
import pytest
from helpers.tiny_folders import (
    STEMS,
    acdc_plain,
    blocks,
    plain_folder,
    save,
    scribble_of,
)
from jsonargparse import ArgumentParser

from scribbleseg import (
    ConfigError,
    LabelFormatError,
    ScribbleDataModule,
    ScribbleNotFoundError,
)
from scribbleseg.data import ScribbleSource, check_source
from scribbleseg.data.sources import FolderSource
from scribbleseg.functional import parent_facts, write_label, write_manifest

CLASSES = ("background", "cell", "vessel")


def guess(number, num_classes=3):
    """Dense labels that contradict the masks of the tiny folders, with undecided pixels."""
    labels = blocks(number + 1, num_classes)
    labels[:5] = 255
    return labels


def with_labels(folder, stems, num_classes=3):
    for number, stem in enumerate(stems):
        write_label(folder / f"{stem}.png", guess(number, num_classes))
    return folder


def pseudo(root, folder="pseudo", cls=FolderSource, **options):
    return cls(root, label_type="pseudo", pseudo_label_dir=str(folder), **options)


@pytest.fixture
def root(tmp_path):
    plain_folder(tmp_path)
    with_labels(tmp_path / "pseudo", STEMS[:6])
    return tmp_path


def test_absolute_folder_gray_files_and_sub_folders(tmp_path):
    stems = ("a/1", "a/2", "b/1", "b/2")
    plain_folder(tmp_path / "data", stems=stems)
    for number, stem in enumerate(stems):
        save(tmp_path / "made" / f"{stem}.png", guess(number))
    source = pseudo(tmp_path / "data", tmp_path / "made")
    np.testing.assert_array_equal(source.read_scribble(source.records("train")[1]), guess(1))


def test_own_coding_of_labels_does_not_touch_pseudo_labels(root):
    (root / "classes.txt").unlink()
    names = "{name: background, id: 10}, {name: cell, id: 20}, {name: vessel, id: 30}"
    (root / "classes.yaml").write_text(f"compact: true\nclasses: [{names}]\n")
    source = pseudo(root, unlabelled_value=0)
    np.testing.assert_array_equal(source.read_scribble(source.records("train")[0]), guess(0))


def test_validation_is_unaffected(root):
    plain = FolderSource(root)
    for folder in ("pseudo", "nowhere"):
        source = pseudo(root, folder)
        records = source.records("val")
        assert records == plain.records("val")
        np.testing.assert_array_equal(source.read_scribble(records[0]), scribble_of(blocks(6, 3)))
        np.testing.assert_array_equal(source.read_mask(records[0]), blocks(6, 3))


def test_class_labels_come_from_the_pseudo_labels(root):
    labels = np.full((40, 48), 255, np.uint8)
    labels[:20] = 2
    write_label(root / "pseudo" / f"{STEMS[0]}.png", labels)
    data = ScribbleDataModule(pseudo(root), batch_size=1, num_workers=0, crop_size=32)
    data.setup("fit")
    dataset = data.train_dataloader().dataset
    assert dataset[0]["class_labels"].tolist() == [1, 0, 1]  # background is always there
    assert dataset[1]["class_labels"].tolist() == [1, 1, 1]


def test_dense_and_contradicting_pseudo_labels_are_no_finding(root):
    assert not check_source(pseudo(root)).findings


def test_labels_of_another_size_are_refused(root):
    write_label(root / "pseudo" / f"{STEMS[0]}.png", guess(0)[::2])
    data = ScribbleDataModule(pseudo(root), batch_size=1, num_workers=0, crop_size=32, check=False)
    data.setup("fit")
    with pytest.raises(LabelFormatError, match=r"D201 .*pseudo/img_0\.png"):
        data.train_dataloader().dataset[0]


# --------------------------------------------------------------------------- sources


def test_option_in_a_configuration_file(tmp_path):
    acdc_plain(tmp_path)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ScribbleSource, "source")
    options = {"root": str(tmp_path), "label_type": "pseudo", "pseudo_label_dir": "made"}
    text = {"class_path": "scribbleseg.data.sources.ACDCSource", "init_args": options}
    source = parser.instantiate(parser.parse_object({"source": text})).source
    assert source.pseudo_label_dir == tmp_path / "made"


# -------------------------------------------------------------------------- manifest


def test_manifest_of_the_same_classes(root, caplog):
    write_manifest(root / "pseudo", class_names=CLASSES, files=6)
    with caplog.at_level(logging.WARNING):
        assert len(pseudo(root).records("train")) == 6
        assert not caplog.records


def test_labels_that_are_not_complete(root):
    write_manifest(root / "pseudo", class_names=CLASSES, files=6, complete=False)
    source = pseudo(root)
    with pytest.raises(LabelFormatError, match=r"D403 .*not complete.*goes on"):
        source.records("train")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("background", "vessel", "cell"),
            r"3 names in another order \(id 1: labels 'vessel', data 'cell'",
        ),
        (CLASSES[:2], r"2 classes in the labels, 3 in the data; only in the data: 'vessel' \(id 2"),
        (
            (*CLASSES, "dirt"),
            r"4 classes in the labels, 3 in the data; only in the labels: 'dirt' \(id 3",
        ),
    ],
)
def test_manifest_of_other_classes(root, names, message):
    write_manifest(root / "pseudo", class_names=names, files=6)
    source = pseudo(root)
    with pytest.raises(LabelFormatError, match=rf"D401 .*manifest\.json.*{message}.*Use labels"):
        source.records("train")


def test_manifest_that_cannot_be_read(root):
    path = root / "pseudo" / "manifest.json"
    for text, message in (("{", "not valid JSON"), ("[1]", "is a list"), ("\xff", "not valid")):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(LabelFormatError, match=rf"D202 .*manifest\.json.*{message}"):
            pseudo(root).records("train")
    path.write_text(json.dumps({"class_names": "cell"}))
    with pytest.raises(LabelFormatError, match=r"`class_names` is 'cell', expected a list of 3"):
        pseudo(root).records("train")
    path.write_text("{}")  # knows nothing, so there is nothing to compare
    assert len(pseudo(root).records("train")) == 6


def test_labels_are_stale_if_what_they_were_made_from_is_made_anew(root):
    seeds, strokes = root / "seeds", root / "scribbles"
    write_manifest(seeds, class_names=CLASSES, files=6, options={"epochs": 3, "seed": 0})
    made = parent_facts(seeds=seeds, scribbles=strokes, gone=root / "nothing", none=None)
    assert set(made["parents"]) == {"seeds", "scribbles"}
    assert parent_facts(gone=root / "nothing") == {}
    write_manifest(root / "pseudo", class_names=CLASSES, files=6, **made)
    assert len(pseudo(root).records("train")) == 6
    # what says nothing about the labels themselves may change
    write_manifest(seeds, class_names=CLASSES, files=5, options={"epochs": 3, "seed": 0})
    assert len(pseudo(root).records("train")) == 6
    write_manifest(seeds, class_names=CLASSES, files=6, options={"epochs": 4, "seed": 0})
    with pytest.raises(
        LabelFormatError, match=r"D403 .*stale: the seeds in .*seeds.*options\.epochs was 3, is 4\)"
    ):
        pseudo(root).records("train")
    (seeds / "manifest.json").unlink()
    seeds.rmdir()  # moved: nothing to compare with
    assert len(pseudo(root).records("train")) == 6
    (strokes / f"{STEMS[0]}.png").rename(strokes / "other.png")
    with pytest.raises(LabelFormatError, match=r"D403 .*stale: the scribbles in"):
        pseudo(root).records("train")


# ---------------------------------------------------------------------------- faults


def test_missing_files(root):
    (root / "pseudo" / f"{STEMS[1]}.png").unlink()
    with pytest.raises(
        ScribbleNotFoundError, match=r"D301 1 of 6 pseudo-labels of split 'train' .*pseudo .*img_1"
    ):
        pseudo(root).records("train")
    assert len(pseudo(root, on_missing="skip").records("train")) == 5
    source = pseudo(root, on_missing="unlabelled")
    assert (source.read_scribble(source.records("train")[1]) == 255).all()


def test_missing_folder(root):
    source = pseudo(root, "nowhere")
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*nowhere.*`pseudo_label_dir`"):
        source.records("train")
    (root / "nowhere").mkdir()
    with pytest.raises(ScribbleNotFoundError, match=r"D301 6 of 6 pseudo-labels .* missing in"):
        pseudo(root, "nowhere", on_missing="skip").records("train")


def test_one_option_without_the_other(root):
    with pytest.raises(ConfigError, match=r"without `pseudo_label_dir`: set it to"):
        FolderSource(root, label_type="pseudo")
    for labels in ("scribble", "mask"):
        with pytest.raises(ConfigError, match=rf"pseudo_label_dir=.*'{labels}'.*set `label_type"):
            FolderSource(root, label_type=labels, pseudo_label_dir="pseudo")
    (root / "dataset.yaml").write_text("pseudo_label_dir: pseudo\n")
    with pytest.raises(ConfigError, match="unknown option 'pseudo_label_dir'"):
        FolderSource(root)


def test_foreign_ids_are_refused(root):
    labels = guess(0)
    labels[10, 10] = 7
    write_label(root / "pseudo" / f"{STEMS[0]}.png", labels)
    source = pseudo(root)
    with pytest.raises(LabelFormatError, match=r"D101 .*pseudo/img_0\.png.*value 7 on 1 px"):
        source.read_scribble(source.records("train")[0])
