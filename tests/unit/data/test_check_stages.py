"""A data set against a checkpoint (D402) and against pseudo-labels (D601)."""

import json

import numpy as np
import pytest
import torch
from helpers.tiny_folders import plain_folder, save
from helpers.trees_convert import run_command

from scribbleseg import CheckpointError, ScribbleNotFoundError
from scribbleseg.data import check_checkpoint, check_pseudo_labels
from scribbleseg.data.sources import FolderSource
from scribbleseg.functional import class_difference, parent_facts, write_label, write_manifest


def checkpoint(path, names):
    torch.save({"scribbleseg": {"data": {"class_names": tuple(names)}}, "state_dict": {}}, path)
    return path


@pytest.mark.parametrize(("number", "more"), [(5, ""), (6, " and 1 more"), (9, " and 4 more")])
def test_five_names_of_other_classes_are_listed(number, more):
    theirs = [*"ab", *(f"name_{i}" for i in range(number))]
    listed = ", ".join(f"'name_{i}' (id {i + 2})" for i in range(5))
    words = f"{number + 2} classes in the model, 2 in the data; only in the model: {listed}{more}"
    assert class_difference(theirs, ["a", "b"], owner="model") == words


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("background", "vessel", "cell"), ["same 3 names in another order", "id 1: checkpoint "
                                            "'vessel', data 'cell'"]),
        (("background", "cell"), ["2 classes in the checkpoint, 3 in the data", "only in the data: "
                                  "'vessel' (id 2)"]),
        (("background", "cell", "nerve"), ["only in the checkpoint: 'nerve' (id 2)",
                                           "only in the data: 'vessel' (id 2)"]),
        (("Background", "cell", "vessel"), ["1 names are spelt otherwise"]),
    ],
)  # fmt: skip
def test_classes_of_a_checkpoint(tmp_path, capsys, names, words):
    root = plain_folder(tmp_path / "data")
    file = checkpoint(tmp_path / "m.ckpt", names)
    (finding,) = check_checkpoint(FolderSource(root), file)
    assert (finding.code, finding.severity, finding.file) == ("D402", "error", str(file))
    for word in [str(file), "use the class file of its training data", *words]:
        assert word in finding.message
    assert run_command("check", root, "--checkpoint", file) == 1
    assert "D402" in capsys.readouterr().out


def test_fitting_and_unreadable_checkpoints(tmp_path, capsys):
    root = plain_folder(tmp_path / "data")
    source = FolderSource(root)
    file = checkpoint(tmp_path / "m.ckpt", source.class_names)
    assert check_checkpoint(source, file) == []
    assert run_command("check", root, "--checkpoint", file) == 0
    with pytest.raises(CheckpointError, match=r"none\.ckpt does not exist"):
        check_checkpoint(source, tmp_path / "none.ckpt")
    (tmp_path / "text.ckpt").write_text("404")
    with pytest.raises(CheckpointError, match=r"text\.ckpt cannot be read as a checkpoint"):
        check_checkpoint(source, tmp_path / "text.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"other\.ckpt does not say its classes"):
        check_checkpoint(source, tmp_path / "other.ckpt")
    assert run_command("check", root, "--checkpoint", tmp_path / "none.ckpt") == 2


def test_class_difference_is_empty_only_for_equal_lists():
    assert class_difference(("a", "b"), ["a", "b"], owner="x") == ""
    long = class_difference([f"a{n}" for n in range(9)], [f"b{n}" for n in range(9)], owner="x")
    assert "and 4 more" in long


def pseudo_folder(folder, source, *, names=None, complete=True):
    records = source.records("train")
    for record in records:
        write_label(folder / f"{record.image_id}.png", np.zeros((40, 48), np.uint8))
    write_manifest(
        folder,
        class_names=names or source.class_names,
        files=len(records),
        complete=complete,
        split="train",
    )
    return folder


@pytest.fixture
def source(tmp_path):
    return FolderSource(plain_folder(tmp_path / "data"))


def test_fitting_pseudo_labels(tmp_path, source, capsys):
    folder = pseudo_folder(tmp_path / "pl", source)
    save(folder / "overview.png", np.zeros((4, 4, 3), np.uint8))
    write_label(folder / "img_7.png", np.zeros((40, 48), np.uint8))  # an image of val
    assert check_pseudo_labels(source, folder) == []
    assert run_command("check", source.root, "--pseudo-labels", folder) == 0
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*none: folder of pseudo-labels"):
        check_pseudo_labels(source, tmp_path / "none")


def other_classes(folder, source):
    pseudo_folder(folder, source, names=["background", "vessel", "cell"])


def not_complete(folder, source):
    pseudo_folder(folder, source, complete=False)


def no_manifest(folder, source):
    (folder / "manifest.json").unlink()


def broken_manifest(folder, source):
    (folder / "manifest.json").write_text("{")


def no_names(folder, source):
    (folder / "manifest.json").write_text('{"class_names": 3}')


def missing_label(folder, source):
    (folder / "img_2.png").unlink()


def foreign_label(folder, source):
    write_label(folder / "street.png", np.zeros((40, 48), np.uint8))


def small_label(folder, source):
    write_label(folder / "img_3.png", np.zeros((20, 24), np.uint8))


def wrong_id(folder, source):
    write_label(folder / "img_3.png", np.full((40, 48), 7, np.uint8))


def stale(folder, source):
    seeds = folder.parent / "seeds"
    write_manifest(seeds, class_names=source.class_names, files=0, threshold=0.25)
    facts = parent_facts(seeds=seeds)
    write_manifest(folder, class_names=source.class_names, files=6, **facts)
    write_manifest(seeds, class_names=source.class_names, files=0, threshold=0.4)


def text_label(folder, source):
    (folder / "img_3.png").write_text("404")


@pytest.mark.parametrize(
    ("plant", "code", "severity", "words"),
    [
        (other_classes, "D601", "error", ["manifest.json", "same 3 names in another order"]),
        (not_complete, "D601", "error", ["manifest.json", "not complete"]),
        (no_manifest, "D601", "warning", ["manifest.json", "does not exist"]),
        (broken_manifest, "D202", "error", ["manifest.json", "not valid JSON"]),
        (no_names, "D601", "error", ["manifest.json", "`class_names` is 3, expected a list"]),
        (stale, "D601", "error", ["manifest.json", "threshold was 0.25, is 0.4"]),
        (missing_label, "D601", "error", ["1 of 6 images of split 'train'", "img_2"]),
        (foreign_label, "D601", "warning", ["street.png", "1 labels belong to no image"]),
        (small_label, "D601", "error", ["img_3.png", "label is 24x20", "its image is 48x40"]),
        (wrong_id, "D101", "error", ["img_3.png", "value 7 on 1,920 px"]),
        (text_label, "D202", "error", ["img_3.png", "cannot be decoded"]),
    ],
)
def test_pseudo_labels_that_do_not_fit(tmp_path, source, plant, code, severity, words):
    folder = pseudo_folder(tmp_path / "pl", source)
    plant(folder, source)
    (finding,) = check_pseudo_labels(source, folder)
    assert (finding.code, finding.severity) == (code, severity)
    for word in [str(folder), *words]:
        assert word in finding.message
    status = run_command("check", source.root, "--pseudo-labels", folder)
    assert status == (1 if severity == "error" else 0)


def test_findings_of_all_questions_are_in_one_order(tmp_path, capsys):
    root = plain_folder(tmp_path / "data")
    save(root / "masks" / "img_7.png", np.full((40, 48), 11, np.uint8))
    file = checkpoint(tmp_path / "m.ckpt", ("background", "cell"))
    (tmp_path / "old").mkdir()
    save(tmp_path / "old" / "img_0.png", np.zeros((40, 48), np.uint8))
    command = ("check", root, "--checkpoint", file, "--pseudo-labels", tmp_path / "old", "--json")
    assert run_command(*command) == 1
    codes = [finding["code"] for finding in json.loads(capsys.readouterr().out)["findings"]]
    assert {"D101", "D402", "D601"} <= set(codes)
    assert codes == sorted(codes)


def test_a_folder_of_pseudo_labels_that_cannot_be_listed(tmp_path):
    root = plain_folder(tmp_path / "data")
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "far").symlink_to(tmp_path)
    errors = [f for f in check_pseudo_labels(FolderSource(root), folder) if f.severity == "error"]
    assert [finding.file for finding in errors if finding.code == "D501"] == [str(folder)]
    assert any("link leaves the folder" in finding.message for finding in errors)
