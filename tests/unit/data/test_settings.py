from __future__ import annotations

import json

import numpy as np
import pytest
from helpers.internals import internal
from helpers.tiny_folders import plain_folder

from scribbleseg import ConfigError
from scribbleseg.data import (
    source_settings,
    synthesize_folder,
    write_superpixels,
)
from scribbleseg.data.sources import FolderSource, SyntheticSource
from scribbleseg.functional import Intensity, SuperpixelOptions

coding_digest = internal("job settings").coding_digest
image_settings = internal("job settings").image_settings
SIX = SuperpixelOptions(segments=6)


def test_arguments_with_their_defaults_as_plain_values(tmp_path) -> None:
    root = plain_folder(tmp_path)
    source = FolderSource(root, scribble_dir="drawn")
    settings = source_settings(source)
    assert settings["source"] == "FolderSource"
    assert settings["options"]["root"] == str(root.resolve())
    assert settings["options"]["scribble_dir"] == "drawn"
    assert settings["options"]["val_list"] == "val.txt"
    assert json.loads(json.dumps(settings)) == settings
    assert source_settings(FolderSource(str(root), scribble_dir="drawn")) == settings
    assert source_settings(FolderSource(root)) != settings
    assert image_settings(FolderSource(root)) == image_settings(source), "no matter for images"
    deep = FolderSource(root, intensity=Intensity("range", 0, 9))
    assert image_settings(deep) != image_settings(source)
    assert source_settings(SyntheticSource(size=32))["options"]["size"] == 32


def test_coding_changes_with_the_class_file(tmp_path) -> None:
    root = plain_folder(tmp_path)
    before = coding_digest(FolderSource(root))
    assert coding_digest(FolderSource(root)) == before
    assert coding_digest(FolderSource(root, unlabelled_value=9)) != before
    names = (root / "classes.txt").read_text().split()
    (root / "classes.txt").unlink()
    classes = [{"id": i, "name": name} for i, name in enumerate(names)]
    (root / "classes.json").write_text(json.dumps({"classes": classes, "ignore": [7]}))
    assert coding_digest(FolderSource(root)) != before


def test_options_of_a_file_count_as_arguments_do(tmp_path) -> None:
    root = plain_folder(tmp_path / "data")
    before = source_settings(FolderSource(root))
    write_superpixels(FolderSource(root), tmp_path / "sp", method="grid", progress=False)
    (root / "dataset.yaml").write_text("rgb_channels: [2, 1, 0]\n")
    source = FolderSource(root)
    assert source_settings(source) == source_settings(FolderSource(root, rgb_channels=(2, 1, 0)))
    assert source_settings(source) != before
    with pytest.raises(ConfigError, match=r"rgb_channels': \[2, 1, 0\]"):
        write_superpixels(source, tmp_path / "sp", method="grid", progress=False)


def test_two_data_sets_do_not_share_a_folder(tmp_path) -> None:
    first, second = (FolderSource(plain_folder(tmp_path / name)) for name in "ab")
    write_superpixels(first, tmp_path / "sp", method="grid", options=SIX, progress=False)
    again = write_superpixels(first, tmp_path / "sp", method="grid", options=SIX, progress=False)
    assert again.written == 0
    with pytest.raises(ConfigError, match="other settings"):
        write_superpixels(second, tmp_path / "sp", method="grid", options=SIX, progress=False)
    synthesize_folder(first, tmp_path / "drawn", progress=False)
    with pytest.raises(ConfigError, match="other settings"):
        synthesize_folder(second, tmp_path / "drawn", progress=False)


def test_arguments_survive_being_sent_to_workers(tmp_path) -> None:
    import pickle

    source = FolderSource(plain_folder(tmp_path), unlabelled_value=9)
    copy = pickle.loads(pickle.dumps(source))
    assert source_settings(copy) == source_settings(source)
    record = source.records("train")[0]
    np.testing.assert_array_equal(copy.read_scribble(record), source.read_scribble(record))


@pytest.mark.parametrize("kind", [set, frozenset])
def test_sets_have_one_order_in_all_processes(kind) -> None:
    names = [f"class_{number:02}" for number in range(30)]
    assert internal("job settings")._plain(kind(names)) == names
    assert internal("job settings")._plain({"a": kind((3, 1, 2))}) == {"a": [1, 2, 3]}
