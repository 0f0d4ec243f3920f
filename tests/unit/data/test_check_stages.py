"""A data set against a checkpoint (D402) and against pseudo-labels (D601)."""

import json

import numpy as np
import pytest
import torch
from helpers.tiny_folders import acdc_release, plain_folder, save
from helpers.trees_convert import run_command
from helpers.trees_medical import nnunet_volumes

from scribbleseg import CheckpointError, ScribbleNotFoundError
from scribbleseg.data import check_checkpoint, check_pseudo_labels
from scribbleseg.data.sources import ACDCSource, FolderSource, NnUNetSource
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
    assert class_difference(theirs, tuple(theirs), owner="model") == ""


def test_other_classes_of_a_checkpoint(tmp_path, source):
    file = checkpoint(tmp_path / "m.ckpt", ("background", "cell", "nerve"))
    (finding,) = check_checkpoint(source, file)
    assert (finding.code, finding.severity, finding.file) == ("D402", "error", str(file))
    for word in ("only in the checkpoint: 'nerve' (id 2)", "only in the data: 'vessel' (id 2)"):
        assert word in finding.message


def test_checkpoints_that_cannot_be_read(tmp_path, source):
    (tmp_path / "text.ckpt").write_text("404")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    for name, words in (
        ("none", "does not exist"),
        ("text", "cannot be read as a checkpoint"),
        ("other", "does not say its classes"),
    ):
        with pytest.raises(CheckpointError, match=rf"{name}\.ckpt {words}"):
            check_checkpoint(source, tmp_path / f"{name}.ckpt")


def pseudo_folder(folder, source):
    for record in source.records("train"):
        size = source.read_image(record).shape[:2]
        write_label(folder / f"{record.image_id}.png", np.zeros(size, np.uint8))
    write_manifest(folder, class_names=source.class_names, files=6, split="train")
    return folder


@pytest.fixture
def source(tmp_path):
    return FolderSource(plain_folder(tmp_path / "data"))


def test_fitting_pseudo_labels(tmp_path, source):
    folder = pseudo_folder(tmp_path / "pl", source)
    save(folder / "overview.png", np.zeros((4, 4, 3), np.uint8))
    write_label(folder / "img_7.png", np.zeros((40, 48), np.uint8))  # an image of val
    assert check_pseudo_labels(source, folder) == []
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*none: folder of pseudo-labels"):
        check_pseudo_labels(source, tmp_path / "none")


@pytest.mark.parametrize(
    ("kind", "build"), [(ACDCSource, acdc_release), (NnUNetSource, nnunet_volumes)]
)
def test_pseudo_labels_of_images_in_volumes(tmp_path, kind, build):
    source = kind(build(tmp_path / "data"))
    folder = pseudo_folder(tmp_path / "pl", source)
    assert check_pseudo_labels(source, folder) == []
    first = source.records("train")[0].image_id
    write_label(folder / f"{first}.png", np.zeros((3, 5), np.uint8))
    (finding,) = check_pseudo_labels(source, folder)
    assert (finding.code, finding.severity) == ("D601", "error")
    assert f"{first}.png: label is 5x3 (width x height)" in finding.message


def test_pseudo_labels_of_seeds_that_have_changed(tmp_path, source):
    folder, seeds = pseudo_folder(tmp_path / "pl", source), tmp_path / "seeds"
    write_manifest(seeds, class_names=source.class_names, files=0, threshold=0.25)
    facts = parent_facts(seeds=seeds)
    write_manifest(folder, class_names=source.class_names, files=6, **facts)
    write_manifest(seeds, class_names=source.class_names, files=0, threshold=0.4)
    (finding,) = check_pseudo_labels(source, folder)
    assert (finding.code, finding.severity) == ("D601", "error")
    assert "threshold was 0.25, is 0.4" in finding.message


def test_findings_of_all_questions_are_in_one_order(tmp_path, capsys):
    root = plain_folder(tmp_path / "data")
    save(root / "masks" / "img_7.png", np.full((40, 48), 11, np.uint8))
    (root / "weights.pth").write_bytes(b"")
    file = checkpoint(tmp_path / "m.ckpt", ("background", "cell"))
    (tmp_path / "old").mkdir()
    save(tmp_path / "old" / "img_0.png", np.zeros((40, 48), np.uint8))
    command = ("check", root, "--checkpoint", file, "--pseudo-labels", tmp_path / "old", "--json")
    assert run_command(*command) == 1
    codes = [finding["code"] for finding in json.loads(capsys.readouterr().out)["findings"]]
    assert {"D101", "D402", "D501", "D601"} <= set(codes)
    assert codes == sorted(codes)


def test_a_folder_of_pseudo_labels_that_cannot_be_listed(tmp_path, source):
    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "far").symlink_to(tmp_path)
    errors = [f for f in check_pseudo_labels(source, folder) if f.severity == "error"]
    assert [finding.file for finding in errors if finding.code == "D501"] == [str(folder)]
    assert any("link leaves the folder" in finding.message for finding in errors)
