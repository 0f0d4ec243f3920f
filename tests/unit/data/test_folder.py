import logging
import pickle
import re

import numpy as np
import pytest
from helpers.internals import internal
from helpers.tiny_folders import (
    STEMS,
    blocks,
    plain_folder,
    save,
    scribble_of,
    write_list,
)
from PIL import Image

from scribbleseg import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.data import check_source
from scribbleseg.data.sources import FolderSource


def test_other_lists(tmp_path):
    plain_folder(tmp_path)
    write_list(tmp_path / "mini.txt", STEMS[:2])
    source = FolderSource(tmp_path, train_list="mini.txt", test_list="val.txt")
    assert (len(source.records("train")), len(source.records("test"))) == (2, 2)
    with pytest.raises(ScribbleNotFoundError, match=r"none\.txt"):
        FolderSource(tmp_path, train_list="none.txt").records("train")
    with pytest.raises(ConfigError, match=r"split='dev'"):
        source.records("dev")


# ---------------------------------------------------------------------------- automatic split


def test_split_is_by_group_seeded_and_written(tmp_path):
    stems = tuple(f"p{patient}_s{number}" for patient in range(4) for number in range(2))
    roots = [plain_folder(tmp_path / name, stems=stems, lists=False) for name in "ab"]
    sources = [FolderSource(root, group_regex=r"p\d+") for root in roots]
    ids = [
        {s: [r.image_id for r in source.records(s)] for s in ("train", "val")} for source in sources
    ]
    assert ids[0] == ids[1]
    groups = {s: {r.group for r in sources[0].records(s)} for s in ("train", "val")}
    assert not groups["train"] & groups["val"]
    assert sorted(ids[0]["train"] + ids[0]["val"]) == sorted(stems)
    assert (roots[0] / "train.txt").read_text().split() == ids[0]["train"]
    assert len(groups["val"]) == 1
    mixed = plain_folder(tmp_path / "c", stems=("a_2", "b_1", "b_0", "a_1", "c_1"), lists=False)
    source = FolderSource(mixed, group_regex=r"[0-9]$")  # groups lie across each other
    found = [record.image_id for record in source.records("train")]
    assert found == sorted(found)
    assert (mixed / "train.txt").read_text().split() == found


def test_split_of_a_read_only_folder(tmp_path, monkeypatch, caplog):
    plain_folder(tmp_path, lists=False)

    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr(internal("folder source"), "write_text", refuse)
    source = FolderSource(tmp_path)
    first = source.records("train")
    assert "not stored" in caplog.text
    assert first == FolderSource(tmp_path).records("train")
    assert not (tmp_path / "train.txt").exists()


def test_split_leaves_unlabelled_images_for_prediction(tmp_path):
    plain_folder(tmp_path, lists=False, masks=False)
    for stem in STEMS[:4]:
        (tmp_path / "scribbles" / f"{stem}.png").unlink()
    source = FolderSource(tmp_path)
    assert len(source.records("train")) + len(source.records("val")) == 4
    assert len(source.records("predict")) == 8


def test_images_with_masks_are_held_out(tmp_path):
    """Scribbles of 8 images, masks of 3 of them: those validate, and none that only trains."""
    plain_folder(tmp_path, lists=False)
    for stem in STEMS[3:]:
        (tmp_path / "masks" / f"{stem}.png").unlink()
    source = FolderSource(tmp_path)
    train, val = source.records("train"), source.records("val")
    assert len(val) == 2
    assert {record.image_id for record in val} < set(STEMS[:3])
    assert all(record.mask is not None for record in val)
    assert sorted(r.image_id for r in (*train, *val)) == list(STEMS)
    again = FolderSource(plain_folder(tmp_path / "b", lists=False))
    (tmp_path / "b" / "masks").rename(tmp_path / "b" / "unused")
    (tmp_path / "masks").rename(tmp_path / "b" / "masks")
    assert [r.image_id for r in again.records("val")] == [r.image_id for r in val]


def test_images_with_masks_only_validate(tmp_path):
    plain_folder(tmp_path, lists=False)
    for stem in STEMS[:3]:
        (tmp_path / "scribbles" / f"{stem}.png").unlink()
    source = FolderSource(tmp_path)
    assert [record.image_id for record in source.records("val")] == list(STEMS[:3])
    assert [record.image_id for record in source.records("train")] == list(STEMS[3:])


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("patient{:03d}_frame01_slice{:02d}", r"patient\d+"),
        ("case_{:02d}_z{}", r"case_\d+"),
        ("sub-{:02d}_ses-1_T1w_{}", r"sub-\d+"),
        ("site/Subject{}/img{}", r"Subject\d+"),
        ("vol{}-{:03d}", r"vol\d+"),
        ("lung{}_slice_{}", r"lung\d+"),
        ("drive{}/frame{:04d}", r"drive\d+"),
    ],
)
def test_patients_and_volumes_are_told_by_their_names(tmp_path, caplog, name, group):
    stems = tuple(name.format(patient, number) for patient in range(5) for number in range(3))
    source = FolderSource(plain_folder(tmp_path, stems=stems, lists=False))
    with caplog.at_level(logging.INFO):
        train, val = source.records("train"), source.records("val")
    patients = [{re.search(group, r.image_id)[0] for r in part} for part in (train, val)]
    assert (len(patients[0]), len(patients[1])) == (4, 1)
    assert not patients[0] & patients[1]
    assert len(train) + len(val) == 15
    assert "15 images of 5 patients, volumes or videos, told from their names by group_regex=" in (
        caplog.text
    )
    assert "wrote train.txt (12 images) and val.txt (3 images, with masks)" in caplog.text
    assert train[0].group is None, "scores are per group only if the option asks for it"


def test_names_without_groups_are_divided_by_image(tmp_path, caplog):
    source = FolderSource(plain_folder(tmp_path, lists=False, masks=False))
    with caplog.at_level(logging.INFO):
        assert len(source.records("val")) == 2
    assert "names tell no patients or videos; set `group_regex`" in caplog.text
    assert "val.txt (2 images, scored on scribbles)" in caplog.text


def test_nothing_to_split(tmp_path):
    plain_folder(tmp_path, lists=False)
    with pytest.raises(ScribbleNotFoundError, match=r"form 1 group"):
        FolderSource(tmp_path, group_regex="img").records("train")
    empty = plain_folder(tmp_path / "b", lists=False)
    source = FolderSource(empty, scribble_dir="none", mask_dir="none")
    with pytest.raises(ScribbleNotFoundError, match=r"none of 8 images has a scribble"):
        source.records("train")


def test_one_list_is_not_completed_by_guessing(tmp_path):
    plain_folder(tmp_path)
    (tmp_path / "val.txt").unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"val\.txt"):
        FolderSource(tmp_path).records("val")


@pytest.mark.parametrize(
    ("pattern", "group"), [(r"img_\d", "img_0"), (r"img_(\d)", "0"), ("zzz", "img_0"), (None, None)]
)
def test_group(tmp_path, pattern, group):
    source = FolderSource(plain_folder(tmp_path), group_regex=pattern)
    assert source.records("train")[0].group == group


# ---------------------------------------------------------------------------- missing files


def test_missing_scribbles(tmp_path):
    plain_folder(tmp_path)
    for stem in STEMS[:2]:
        (tmp_path / "scribbles" / f"{stem}.png").unlink()
    with pytest.raises(ScribbleNotFoundError) as error:
        FolderSource(tmp_path).records("train")
    for part in ("D301 2 of 6 scribbles", "img_0, img_1", "on_missing: skip"):
        assert part in str(error.value)
    assert len(FolderSource(tmp_path, on_missing="skip").records("train")) == 4
    source = FolderSource(tmp_path, on_missing="unlabelled")
    record = source.records("train")[0]
    assert record.scribble is None
    blank = source.read_scribble(record)
    assert blank.shape == (40, 48)
    assert (blank == 255).all()


def test_missing_images_and_masks(tmp_path, caplog):
    plain_folder(tmp_path)
    (tmp_path / "masks" / "img_7.png").unlink()
    assert [r.image_id for r in FolderSource(tmp_path).records("val")] == ["img_6"]
    assert "1 of 2 images of split 'val' have no mask in" in caplog.text
    assert "(e.g. img_7) and are left out" in caplog.text
    (tmp_path / "masks" / "img_6.png").unlink()
    scored = FolderSource(tmp_path).records("val")
    assert [(r.mask, r.scribble is None) for r in scored] == [(None, False)] * 2
    (tmp_path / "images" / "img_7.png").unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"1 of 2 images .* img_7"):
        FolderSource(tmp_path).records("val")
    with pytest.raises(ScribbleNotFoundError, match=r"no such folder"):
        FolderSource(tmp_path / "none")
    with pytest.raises(ScribbleNotFoundError, match=r"classes\.txt"):
        FolderSource(tmp_path / "images")


# ---------------------------------------------------------------------------- options


def test_dataset_yaml(tmp_path):
    plain_folder(tmp_path)
    (tmp_path / "dataset.yaml").write_text("unlabelled_value: 1\ngroup_regex: 'img_(.)'\n")
    source = FolderSource(tmp_path)
    assert (source.unlabelled_value, source.records("train")[0].group) == (1, "0")
    assert FolderSource(tmp_path, unlabelled_value=2).unlabelled_value == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unlabeled: 1", "unknown option 'unlabeled'"),
        ("unlabelled_value: '4'", "expected int"),
        ("unlabelled_value: true", "expected int"),
        ("unlabelled_color: [1, 2]", r"unlabelled_color=\[1, 2\]: color"),
        ("a: &x 1\nb: *x", "not valid YAML: aliases"),
        ("label_type: mask", "unknown option"),
        ("- a", "expected `option: value`"),
        ("on_missing: never", "on_missing='never'"),
        ("a: [", "not valid YAML"),
    ],
)
def test_dataset_yaml_faults(tmp_path, text, message):
    plain_folder(tmp_path)
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        FolderSource(tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        {"label_type": "dense"},
        {"on_missing": "x"},
        {"group_regex": "("},
        {"unlabelled_value": -2},
        {"unlabelled_color": "black"},
    ],
)
def test_option_faults(tmp_path, options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        FolderSource(plain_folder(tmp_path), **options)


def test_a_colour_of_scribbles_that_means_unlabelled(tmp_path):
    """Black is the background in masks, and "not drawn" in scribbles."""
    plain_folder(tmp_path)
    (tmp_path / "classes.yaml").write_text(
        "classes: [{name: background, color: [0, 0, 0]}, {name: cell, color: [9, 0, 0]},"
        " {name: vessel, color: [0, 9, 0]}]\n"
    )
    colours = np.array([(0, 0, 0), (9, 0, 0), (0, 9, 0)], np.uint8)
    for stem in STEMS:
        scribble = np.array(Image.open(tmp_path / "scribbles" / f"{stem}.png"))
        save(tmp_path / "scribbles" / f"{stem}.png", colours[np.where(scribble > 2, 0, scribble)])
        mask = np.array(Image.open(tmp_path / "masks" / f"{stem}.png"))
        save(tmp_path / "masks" / f"{stem}.png", colours[mask])
    expected = scribble_of(blocks(0, 3))
    expected[expected == 0] = 255
    for colour in ((0, 0, 0), "#000000"):
        source = FolderSource(tmp_path, unlabelled_color=colour)
        np.testing.assert_array_equal(source.read_scribble(source.records("train")[0]), expected)
        np.testing.assert_array_equal(source.read_mask(source.records("val")[0]), blocks(6, 3))
    (tmp_path / "dataset.yaml").write_text("unlabelled_color: [0, 0, 0]\n")
    source = FolderSource(tmp_path)
    np.testing.assert_array_equal(source.read_scribble(source.records("train")[0]), expected)


def recode(folder, change):
    for path in folder.iterdir():
        with Image.open(path) as image:
            values = np.array(image)
        save(path, change(values).astype(np.uint8))


ANY, FROM_ZERO, FROM_ONE = (
    lambda s: np.where(s == 255, 0, s + 1),
    lambda s: np.where((s == 255) | (s == 0), 0, s),
    lambda s: np.where(s >= 2, 0, s + 1),  # 1 and 2 of three classes
)
NUMBERED = {
    # scribbles, masks, option: what 1 means in scribbles and in masks
    "the last value tells": (ANY, None, {}, 0, 1),
    "masks count likewise": (ANY, lambda m: m + 1, {}, 0, 0),
    "masks with the last value tell": (FROM_ONE, lambda m: m + 1, {}, 0, 0),
    "masks with 0 tell": (FROM_ZERO, None, {}, 1, 1),
    "the user tells": (FROM_ONE, None, {"first_id": 1}, 0, 1),
    "the user tells of masks that tell nothing": (
        FROM_ONE, lambda m: np.where(m == 2, 1, m + 1), {"first_id": 1}, 0, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERED)
def test_ids_count_from_one_or_zero_where_zero_is_unlabelled(tmp_path, name, caplog):
    scribbles, masks, options, one, one_in_masks = NUMBERED[name]
    root = plain_folder(tmp_path)
    recode(root / "scribbles", scribbles)
    if masks is not None:
        recode(root / "masks", masks)
    with caplog.at_level("INFO"):
        source = FolderSource(root, unlabelled_value=0, **options)
        codings = source.codings
    found = [codings[role].index_of() for role in ("scribble", "mask")]
    assert [values[1] for values in found] == [one, one_in_masks]
    assert found[0][0] == 255
    assert f"1 means {source.class_names[one]!r}" in caplog.text


def test_ids_that_may_count_from_one_or_zero_are_refused(tmp_path):
    root = plain_folder(tmp_path, masks=False)
    recode(root / "scribbles", FROM_ONE)
    source = FolderSource(root, unlabelled_value=0)
    record = source.records("train")[0]
    with pytest.raises(LabelFormatError, match=r"D401 .*1 means 'background' or 'cell'.*first_id"):
        source.read_scribble(record)
    codes = {finding.code for finding in check_source(source).errors}
    assert codes == {"D401"}
    (root / "dataset.yaml").write_text("unlabelled_value: 0\nfirst_id: 1\n")
    assert set(np.unique(FolderSource(root).read_scribble(record))) == {0, 1, 255}
    with pytest.raises(ConfigError, match="first_id=2"):
        FolderSource(root, first_id=2)


def test_links_are_followed_within_the_root(tmp_path):
    root = plain_folder(tmp_path / "data", lists=False)
    for folder in ("images", "scribbles", "masks"):
        (root / "more" / folder).mkdir(parents=True)
        for path in (root / folder).glob("img_[57].png"):
            path.rename(root / "more" / folder / path.name)
        (root / folder / "linked").symlink_to(root / "more" / folder)
    source = FolderSource(root)
    stems = {r.image_id for split in ("train", "val") for r in source.records(split)}
    assert {"linked/img_5", "linked/img_7"} <= stems
    assert len(stems) == 8
    (tmp_path / "outside").mkdir()
    (root / "images" / "away").symlink_to(tmp_path / "outside")
    with pytest.raises(LabelFormatError, match=r"D501 .*images/away: link leaves the folder"):
        FolderSource(root).records("predict")


def test_lists_may_be_tables(tmp_path):
    root = plain_folder(tmp_path)
    for split in ("train", "val"):
        path = root / f"{split}.txt"
        path.with_suffix(".csv").write_text("name\n" + path.read_text())
        path.unlink()
    before = sorted(path.name for path in root.iterdir())
    source = FolderSource(root)
    assert [r.image_id for r in source.records("val")] == ["img_6", "img_7"]
    assert len(source.records("train")) == 6
    assert sorted(path.name for path in root.iterdir()) == before, "no list is invented"
    (root / "val.txt").write_text("img_7\n")
    assert [r.image_id for r in FolderSource(root).records("val")] == ["img_7"]


def test_sources_travel_to_workers(tmp_path):
    source = FolderSource(plain_folder(tmp_path))
    source.records("train")
    assert pickle.loads(pickle.dumps(source)).records("val") == source.records("val")
