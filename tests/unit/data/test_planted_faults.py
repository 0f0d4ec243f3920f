"""Every fault is planted in a clean tiny data set and must be named before the first step:
its code, the file, the value, and words of the cause and of the fix."""

import pytest
from helpers.planted_faults import FOLDER_FAULTS, VOC_FAULTS, VOC_NAMES, missing_mask
from helpers.tiny_folders import plain_folder, voc_tree

from scribbleseg import ScribbleSegError
from scribbleseg.data import check_source
from scribbleseg.data.sources import FolderSource, VOCSource


def found(build):
    """Findings of the check, or the error of the constructor, as one list of messages."""
    try:
        source = build()
    except ScribbleSegError as error:
        return [str(error)]
    return [str(finding) for finding in check_source(source).findings]


def assert_named(messages, code, words):
    text = "\n".join(messages)
    ours = [message for message in messages if message.startswith(code)]
    assert ours, f"{code} not found in:\n{text}"
    assert any(all(word in message for word in words) for message in ours), (words, text)


def test_the_trees_are_clean(tmp_path):
    assert found(lambda: FolderSource(plain_folder(tmp_path / "a"))) == []
    for scribbles in ("png", "xml"):
        root = voc_tree(tmp_path / scribbles, scribbles=scribbles)
        messages = found(lambda root=root: VOCSource(root))
        # 18 of the 20 VOC classes are not in three tiny images
        assert {message[:4] for message in messages} == {"D105"}


@pytest.mark.parametrize(
    ("plant", "code", "words"), FOLDER_FAULTS, ids=[fault[0].__name__ for fault in FOLDER_FAULTS]
)
def test_folder_fault_is_named(tmp_path, plant, code, words):
    root = plain_folder(tmp_path / "data")
    plant(root)
    assert_named(found(lambda: FolderSource(root)), code, words)


@pytest.mark.parametrize(("scribbles", "plant", "code", "words"), VOC_FAULTS, ids=VOC_NAMES)
def test_voc_fault_is_named(tmp_path, scribbles, plant, code, words):
    root = voc_tree(tmp_path / "data", scribbles=scribbles)
    plant(root)
    assert_named(found(lambda: VOCSource(root)), code, words)


def test_an_image_without_mask_is_left_out_and_logged(tmp_path, caplog):
    root = plain_folder(tmp_path / "data")
    missing_mask(root)
    assert found(lambda: FolderSource(root)) == []
    assert "1 of 2 images of split 'val' have no mask" in caplog.text
    assert "img_7" in caplog.text


WARNINGS = {"empty_scribble", "class_never_drawn", "deep_image", "exif_rotated"}
WARNINGS |= {"labelled_but_in_no_list"}


@pytest.mark.parametrize("fault", FOLDER_FAULTS, ids=[fault[0].__name__ for fault in FOLDER_FAULTS])
def test_only_harmless_faults_are_warnings(tmp_path, fault):
    plant, code, _ = fault
    root = plain_folder(tmp_path / "data")
    plant(root)
    try:
        report = check_source(FolderSource(root))
    except ScribbleSegError:
        return
    stops = any(finding.code == code for finding in report.errors)
    assert stops is (plant.__name__ not in WARNINGS)
