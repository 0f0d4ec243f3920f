"""Distances of voxels survive the way from volumes to pictures."""

from __future__ import annotations

import json

import pytest
from helpers.tiny_folders import acdc_plain, plain_folder

from scribbleseg import LabelFormatError, Record
from scribbleseg.data import read_spacings, write_spacings
from scribbleseg.data.sources import FolderSource


def test_stems_win_over_groups(tmp_path):
    root = acdc_plain(tmp_path)
    stems = (root / "train.txt").read_text().split()
    content = {"patient001": [9, 1.5, 1.5], stems[1]: [5, 2, 2]}
    (root / "spacing.json").write_text(json.dumps(content))
    records = FolderSource(root, group_regex=r"(patient\d+)_").records("train")
    assert [r.spacing for r in records[:3]] == [(9, 1.5, 1.5), (5, 2, 2), (9, 1.5, 1.5)]
    # without groups only stems are names
    assert [r.spacing for r in FolderSource(root).records("train")[:2]] == [None, (5, 2, 2)]


def test_images_of_unequal_groups_are_named_one_by_one(tmp_path):
    fine, coarse = (1.0, 0.5, 0.5), (2.0, 0.5, 0.5)
    records = [
        Record("a1", group="a", spacing=fine),
        Record("a2", group="a", spacing=coarse),
        Record("b1", group="b", spacing=fine),
        Record("b2", group="b", spacing=fine),
        Record("c1", group="c", spacing=fine),
        Record("c2", group="c"),
        Record("d"),
    ]
    write_spacings(tmp_path, records[:4], by_group=True)
    write_spacings(tmp_path, records[4:], by_group=True)  # keeps what is there
    assert read_spacings(tmp_path) == {"a1": fine, "a2": coarse, "b": fine, "c1": fine}
    write_spacings(tmp_path / "ids", records[:4], by_group=False)
    assert read_spacings(tmp_path / "ids").keys() == {"a1", "a2", "b1", "b2"}
    write_spacings(tmp_path / "none", records[-1:], by_group=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[1]", "is a list"),
        ('{"a": [1, 2]}', r"'a' has \[1, 2\]"),
        ('{"a": [1, 2, 0]}', r"'a' has \[1, 2, 0\]"),
        ('{"a": [1, 2, true]}', r"'a' has \[1, 2, True\]"),
        ('{"a": [1, 2, NaN]}', r"'a' has \[1, 2, nan\]"),
        ('{"a": "1 2 3"}', "'a' has '1 2 3'"),
    ],
)
def test_faulty_files(tmp_path, text, message):
    root = plain_folder(tmp_path)
    (root / "spacing.json").write_text(text)
    with pytest.raises(LabelFormatError, match=rf"D202 .*spacing\.json: {message}.*in mm; correct"):
        FolderSource(root).records("val")
