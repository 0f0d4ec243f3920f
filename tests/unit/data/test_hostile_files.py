"""Damaged files of every format end in an error of the library, soon and in bounded memory."""

from __future__ import annotations

import json
import multiprocessing
import os

import pytest
from helpers.hostile_files import FORMATS, MIB, MUTATIONS, SECONDS, run
from helpers.tiny_folders import plain_folder, write_list

from scribbleseg import LabelFormatError, ScribbleNotFoundError, ScribbleSegError
from scribbleseg.data.sources import FolderSource, NnUNetSource


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files(tmp_path, kind):
    process = multiprocessing.get_context("spawn").Process(target=run, args=(kind, str(tmp_path)))
    process.start()
    process.join(MUTATIONS * SECONDS)
    process.kill()
    process.join()
    now = (tmp_path / "now.txt").read_text()
    assert process.exitcode == 0, f"mutation {now}: the process ended with {process.exitcode}"
    report = json.loads((tmp_path / "report.json").read_text())
    assert not report["faults"]
    assert report["refused"] > MUTATIONS // 10
    assert report["slowest"] <= SECONDS
    assert report["mib"] <= MIB


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"img_0": ' * 100_000,
        '{"img_0": [{"x": ' + "9" * 5000 + ', "y": 1, "cls": 1}]}',
        '{"img_0": [{"x": 1, "y": 1, "cls": ' + "9" * 4000 + "}]}",
        '{"img_0": [{"x": 1, "y": 1, "cls": ' + "[" * 900 + "]" * 900 + "}]}",
    ],
)
def test_deep_nesting_and_long_numbers(tmp_path, text):
    root = plain_folder(tmp_path)
    (root / "points.json").write_text(text)

    def read():
        source = FolderSource(root, label_type="point")
        source.read_scribble(source.records("train")[0])

    with pytest.raises(LabelFormatError, match=r"D[12]0\d .*points\.json") as error:
        read()
    assert len(str(error.value)) < 1000
    for name in ("spacing.json", "classes.json", "dataset.yaml"):
        (root / name).write_text(text)
        with pytest.raises(ScribbleSegError, match=name):
            FolderSource(root).records("train")
        (root / name).unlink()
    (root / "imagesTr").mkdir()
    (root / "dataset.json").write_text(text)
    with pytest.raises(LabelFormatError, match=r"dataset\.json"):
        NnUNetSource(root)


def test_pipes_are_no_files_of_a_data_set(tmp_path):
    root = plain_folder(tmp_path)
    os.mkfifo(root / "images" / "img_9.png")
    os.mkfifo(root / "spacing.json")
    assert len(FolderSource(root).records("predict")) == 8, "reading it would never end"
    os.mkfifo(root / "points.json")
    with pytest.raises(LabelFormatError, match=r"D202 .*points\.json.*a pipe"):
        FolderSource(root, label_type="point").records("train")
    (root / "classes.txt").unlink()
    os.mkfifo(root / "classes.txt")
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*no class file"):
        FolderSource(root)
    write_list(root / "labels.txt", ["a", "b"])
    assert FolderSource(root).class_names == ("a", "b")
