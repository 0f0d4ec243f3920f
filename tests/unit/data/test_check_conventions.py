"""What the check says of labels in another tool's convention, and of data that mean harm."""

import json
import re
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.tiny_folders import (
    STEMS,
    plain_folder,
    save,
    scribble_xml,
    voc_tree,
    write_list,
)
from helpers.trees_medical import LPS_THICK, nnunet_volumes, raw_acdc
from PIL import Image

import scribbleseg.data
from scribbleseg import DataCheckError, Record, ScribbleDataModule
from scribbleseg.data import CheckReport, Finding, ScribbleSource, check_source, main, read_classes
from scribbleseg.data.sources import FolderSource, NiftiSource, NnUNetSource


def rewrite(folder, change, *, suffix=".png"):
    """Store the labels of a folder in another way."""
    for path in list(folder.iterdir()):
        with Image.open(path) as image:
            pixels = np.array(image)
        path.unlink()
        save(path.with_suffix(suffix), change(pixels))


def told(source, **options):
    """Code with severity and message of every finding."""
    report = check_source(source, **options)
    return [(f"{finding.code} {finding.severity}", finding.message) for finding in report.findings]


def codes(source, **options):
    return [code for code, _ in told(source, **options)]


# ------------------------------------------------------------- codes of unlabelled pixels


def from_one(label):
    """As ITK-SNAP, napari and ilastik number: 0 = unlabelled."""
    return np.where(label == 255, 0, label + 1).astype(np.uint8)


CODINGS = {
    "ids from 1, 0 = unlabelled": (from_one, ".png", 0, "1 then means 'background' and 3 means"),
    "ids from 1, 255 = unlabelled": (
        lambda s: np.where(s == 255, 255, s + 1).astype(np.uint8), ".png", 0, "ids count from 1",
    ),
    "number of classes": (lambda s: np.where(s == 255, 3, s).astype(np.uint8), ".png", 3, ""),
    "-1": (lambda s: np.where(s == 255, -1, s.astype(np.int32)), ".tif", -1, "value -1 on 1,8"),
    "65535": (lambda s: np.where(s == 255, 65535, s.astype(np.uint16)), ".png", 65535, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", CODINGS)
def test_the_code_of_unlabelled_pixels_is_told_once(tmp_path, name):
    change, suffix, value, words = CODINGS[name]
    root = plain_folder(tmp_path)
    rewrite(root / "scribbles", change, suffix=suffix)
    ((code, message),) = told(FolderSource(root))
    assert code == "D101 error"
    assert f"scribbles/img_0{suffix}: value " in message
    assert f"add the line `unlabelled_value: {value}` to dataset.yaml" in message
    assert words in message


def test_masks_of_the_same_convention_are_told_with_the_scribbles(tmp_path):
    root = plain_folder(tmp_path)
    for folder in ("scribbles", "masks"):
        rewrite(root / folder, from_one)
    ((code, message),) = told(FolderSource(root))
    assert code == "D101 error"
    assert "scribbles/img_0.png" in message


def test_other_values_of_masks_are_told_as_well(tmp_path):
    root = plain_folder(tmp_path)
    rewrite(root / "scribbles", from_one)
    save(root / "masks" / "img_7.png", np.full((40, 48), 9, np.uint8))
    assert [message.split(":")[0][-10:] for _, message in told(FolderSource(root))] == [
        "/img_0.png",
        "/img_7.png",
    ]


def test_two_classes_and_minus_one_are_no_grey_tones(tmp_path):
    root = plain_folder(tmp_path, classes=("background", "cell"))
    rewrite(root / "scribbles", CODINGS["-1"][0], suffix=".tif")
    ((code, message),) = told(FolderSource(root))
    assert code == "D101 error"
    assert "`unlabelled_value: -1`" in message


def test_files_without_the_last_class_do_not_hide_the_coding(tmp_path):
    root = plain_folder(tmp_path)
    rewrite(root / "scribbles", from_one)
    for stem in STEMS[:4]:  # values 0 to 2 look like ids
        path = root / "scribbles" / f"{stem}.png"
        with Image.open(path) as image:
            save(path, np.where(np.array(image) == 3, 0, np.array(image)).astype(np.uint8))
    ((code, message),) = told(FolderSource(root))
    assert code == "D101 error"
    assert "img_4.png" in message
    assert "`unlabelled_value: 0`" in message


def test_zero_as_unlabelled_among_ids_is_told_once(tmp_path):
    root = plain_folder(tmp_path)
    rewrite(root / "scribbles", lambda s: np.where(s == 255, 0, s).astype(np.uint8))
    ((code, message),) = told(FolderSource(root))
    assert code == "D106 error"
    assert "`unlabelled_value: 0`" in message
    assert "(1 then means 'background', and so on)" in message


def test_ids_of_a_longer_class_list_are_no_code(tmp_path):
    root = plain_folder(tmp_path, masks=False)
    write_list(root / "classes.txt", ["background", "cell"])
    found = told(FolderSource(root), splits=("train",))
    # 2 is a class of its own, since most pixels are 255
    assert [code for code, _ in found] == ["D101 error"] * 6
    assert all("value 2 on 24 px" in message for _, message in found)


def test_a_chosen_code_is_not_proposed_again(tmp_path):
    root = plain_folder(tmp_path)
    rewrite(root / "scribbles", CODINGS["number of classes"][0])
    assert codes(FolderSource(root, unlabelled_value=9)) == ["D101 error"] * 8
    assert codes(FolderSource(root, unlabelled_value=3)) == []


def test_numbers_that_are_no_ids_at_all_are_told(tmp_path):
    raw_acdc(tmp_path, patients=5, unlabelled=255)
    path = tmp_path / "patient001" / "patient001_frame01_scribble.nii.gz"
    image = nibabel.load(path)
    large = np.asarray(image.dataobj).astype(np.int64) + 2**40
    nibabel.save(nibabel.Nifti1Image(large, image.affine, dtype=np.int64), path)
    found = [text for code, text in told(NiftiSource(tmp_path)) if code == "D101 error"]
    assert len(found) == 4
    assert "value 1099511628031 on " in found[0]
    assert "values above 255 are no ids of classes" in found[0]


def test_slices_of_volumes_are_told_once(tmp_path):
    write_list(raw_acdc(tmp_path, patients=5) / "classes.txt", ["background", "rv", "myo", "lv"])
    found = [text for code, text in told(NiftiSource(tmp_path)) if code == "D101 error"]
    assert len(found) == 1
    assert "`unlabelled_value: 4`" in found[0]


# --------------------------------------------------------------------------------- masks


def binary(root):
    plain_folder(root, classes=("background", "thing"))
    rewrite(root / "masks", lambda mask: np.where(mask > 0, 255, 0).astype(np.uint8))
    return root


@pytest.mark.parametrize("sample", [None, 4])
def test_binary_masks_of_0_and_255(tmp_path, sample):
    ((code, message),) = told(FolderSource(binary(tmp_path)), sample=sample)
    assert code == "D108 error"
    for words in ("masks/img_6.png: 255 is on 1,9", "(50.0 %)", "'thing' (id 1) on 0 px",
                  "write 1 instead of 255 (255 → 1)"):  # fmt: skip
        assert words in message


def test_binary_masks_stop_training(tmp_path):
    data = ScribbleDataModule(FolderSource(binary(tmp_path)), num_workers=0)
    with pytest.raises(DataCheckError, match="D108"):
        data.setup("fit")


def test_binary_masks_that_train(tmp_path):
    found = codes(FolderSource(binary(tmp_path), label_type="mask"))
    assert found == ["D105 warning", "D108 error", "D108 error"]


def test_negative_images_with_some_void_are_only_suspected(tmp_path):
    root = plain_folder(tmp_path, classes=("background", "thing"), stems=STEMS * 1)
    rewrite(root / "masks", np.zeros_like)
    void = np.zeros((40, 48), np.uint8)
    void[:2] = 255
    write_list(root / "val.txt", STEMS[3:])
    write_list(root / "train.txt", STEMS[:3])
    save(root / "masks" / "img_3.png", void)
    report = check_source(FolderSource(root), splits=("val",), sample=4, seed=1)
    assert [(f.code, f.severity) for f in report.findings if f.code == "D108"] == [
        ("D108", "warning")
    ]


def test_masks_of_void_only(tmp_path):
    root = plain_folder(tmp_path)
    rewrite(root / "masks", lambda mask: np.full_like(mask, 255))
    ((code, message),) = told(FolderSource(root))
    assert code == "D104 error"
    assert "2 of 2 masks of 'val' have 0 labelled pixels" in message
    assert "NaN" in message


def test_void_that_covers_one_of_several_classes(tmp_path):
    root = plain_folder(tmp_path)
    rewrite(root / "masks", lambda mask: np.where(mask == 2, 255, mask).astype(np.uint8))
    ((code, message),) = told(FolderSource(root))
    assert code == "D108 error"
    assert "'vessel' (id 2) on 0 px" in message
    assert "(255 → 2)" in message


def test_void_over_most_of_what_is_scribbled(tmp_path):
    root = plain_folder(tmp_path)

    def upper(mask):  # the strokes are in rows 20 and 21
        mask = mask.copy()
        mask[18:24][mask[18:24] == 2] = 255
        return mask

    rewrite(root / "masks", upper)
    ((code, message),) = told(FolderSource(root))
    assert code == "D108 warning"
    assert "'vessel' (id 2) on 1,0" in message


def test_a_class_that_no_validation_mask_shows(tmp_path):
    root = plain_folder(tmp_path)
    rewrite(root / "masks", lambda mask: np.where(mask == 2, 1, mask).astype(np.uint8))
    rewrite(root / "scribbles", lambda s: np.where(s == 2, 255, s).astype(np.uint8))
    found = told(FolderSource(root))
    assert [code for code, _ in found] == ["D105 warning", "D105 warning"]
    (message,) = (text for _, text in found if "masks of 'val'" in text)
    assert "'vessel' (id 2) on 0 px of 2 masks of 'val' (void 255 on 0 px)" in message
    assert codes(FolderSource(root), sample=2) == []


# ---------------------------------------------------------------- lists, volumes, own sources


def test_labelled_images_in_no_list(tmp_path):
    root = plain_folder(tmp_path)
    write_list(root / "train.txt", STEMS[:4])
    save(root / "images" / "unlabelled.png", np.zeros((40, 48, 3), np.uint8))
    ((code, message),) = told(FolderSource(root))
    assert code == "D301 warning"
    assert "2 of 8 labelled images are in no list (img_4, img_5)" in message
    write_list(root / "test.txt", STEMS[4:6])
    assert codes(FolderSource(root)) == []


TILTED = LPS_THICK.copy()
TILTED[:2, :2] = [[0.995, -0.0998], [0.0998, 0.995]] @ LPS_THICK[:2, :2]
GRIDS = {
    "spacing": (LPS_THICK @ np.diag([1, 1, 0.5, 1]), "D201 error", "voxels are 1.5x1.25x4 mm"),
    "origin": (LPS_THICK + np.eye(4, k=3) * 5, "D201 warning", "origin or direction differs"),
    "direction": (TILTED, "D201 warning", "origin or direction differs"),
    "rounding": (LPS_THICK * (1 + 1e-6), None, ""),
}


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("file", ["labelsTr/case_01.nii.gz", "imagesTr/case_01_0001.nii.gz"])
def test_volumes_off_the_grid_of_their_image(tmp_path, name, file):
    affine, code, words = GRIDS[name]
    path = nnunet_volumes(tmp_path) / file
    stored = np.asarray(nibabel.load(path).dataobj)
    nibabel.save(nibabel.Nifti1Image(stored, affine), path)
    found = [(c, text) for c, text in told(NnUNetSource(tmp_path)) if c.startswith("D201")]
    assert [c for c, _ in found] == ([code] if code else [])
    for _, message in found:
        assert message.startswith(f"{path}: its {words}")
        assert "case_01_0000.nii.gz" in message


class OwnSource(ScribbleSource):
    """A user's source that knows of a problem."""

    class_names = ("background", "thing")

    def records(self, split):
        return [Record(f"{split}_0")]

    def problems(self):
        return [Finding("D900", "warning", "the scanner was changed in May")]

    def read_image(self, record):
        return np.random.default_rng(len(record.image_id)).integers(0, 9, (8, 8, 3), np.uint8)

    def read_scribble(self, record):
        return np.array([[0, 1, *[255] * 6]] + [[255] * 8] * 7, np.uint8)

    def read_mask(self, record):
        return np.tile(np.uint8([0, 1]), (8, 4))


def test_a_source_tells_its_own_problems():
    assert told(OwnSource()) == [("D900 warning", "the scanner was changed in May")]


def test_a_source_that_cannot_tell_its_problems_is_a_finding(monkeypatch):
    monkeypatch.setattr(OwnSource, "problems", lambda self: 1 / 0)
    ((code, message),) = told(OwnSource())
    assert code == "D202 error"
    assert "ZeroDivisionError" in message


def test_the_examples_of_the_data_card_are_read(tmp_path):
    card = Path(scribbleseg.data.__file__).with_name("README.md").read_text(encoding="utf-8")
    names, classes, options = (
        "".join(line[4:] for line in block.splitlines(keepends=True))
        for block in re.findall(r"\n\n((?:    .*\n)+)", card)
    )
    root = plain_folder(tmp_path)
    (root / "classes.txt").write_text(names)
    (root / "dataset.yaml").write_text(options)
    source = FolderSource(root)
    assert source.class_names == ("background", "cell", "vessel")
    assert (source.unlabelled_value, source.resize_labels) == (0, True)
    (root / "classes.yaml").write_text(classes)
    table = read_classes(root)
    assert (table.names, table.background, table.ignore) == (source.class_names, 0, (9,))
    colours = {(0, 0, 0): 0, (255, 0, 0): 1, (0, 255, 0): 2, (255, 255, 255): 255}
    assert table.colours == colours
    found = [text for code, text in told(FolderSource(rgb_masks(root))) if code == "D103 error"]
    assert len(found) == 8  # every mask: those of training images are read for statistics
    assert "README.md documents the format of classes.yaml" in found[0]


def rgb_masks(root):
    (root / "classes.yaml").unlink()
    rewrite(root / "masks", lambda mask: np.stack([mask * 50, mask, mask], axis=-1))
    return root


# ------------------------------------------------------------------------------ bad intent


def test_escapes_of_names_do_not_reach_the_terminal(tmp_path, capsys):
    root = plain_folder(tmp_path)
    write_list(root / "train.txt", ["img_0", "img\x1b]0;owned\x07_1\x9b2J", "img_\u202egnp"])
    write_list(root / "classes.txt", ["background", "ce\x1b[8mll", "vessel"])
    for words in ([], ["--json"]):
        assert main(["check", str(root), *words]) == 1
        out = capsys.readouterr().out
        assert out.replace("\n", "").isprintable()
        assert "]0;owned" in out
    names = [finding["message"] for finding in json.loads(out)["findings"]]
    assert any("img\x1b]0;owned" in name for name in names)


def test_a_report_that_raises_shows_escapes():
    report = CheckReport([Finding("D301", "error", "a\x1b[2J\nb is missing")])
    with pytest.raises(DataCheckError, match=re.escape(r"D301 a\x1b[2J\nb is missing")):
        report.raise_if_errors()


def test_errors_of_a_command_show_escapes(tmp_path, capsys):
    root = plain_folder(tmp_path)
    write_list(root / "classes.txt", ["background", "ce\x1b[8mll", "ce\x1b[8mll"])
    assert main(["check", str(root)]) == 2
    assert r"ce\x1b[8mll" in capsys.readouterr().err


def test_a_pattern_that_searches_for_ever_is_a_finding(tmp_path):
    stems = tuple(f"{'a' * 40}{number}" for number in range(8))
    root = plain_folder(tmp_path, stems=stems)
    (root / "dataset.yaml").write_text("group_regex: (a+)+b\n")
    start = time.monotonic()
    found = told(FolderSource(root))
    assert time.monotonic() - start < 30
    assert {code for code, _ in found} == {"D501 error"}
    assert "group_regex='(a+)+b': searching the image names" in found[0][1]
    (root / "dataset.yaml").write_text("group_regex: a+(.)\n")
    assert [r.group for r in FolderSource(root).records("val")] == ["6", "7"]


DEEP, LONG = "[" * 20_000, "9" * 5_000


@pytest.mark.parametrize("text", [f"classes: {DEEP}", f"classes: [{{id: {LONG}, name: a}}]"])
def test_class_files_that_mean_harm_are_one_line(tmp_path, capsys, text):
    root = plain_folder(tmp_path)
    (root / "classes.yaml").write_text(text)
    assert main(["check", str(root)]) == 2
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("text", [f'{{"img_0": {DEEP}', f'{{"img_0": [{LONG}, 1, 1]}}'])
def test_numbers_that_mean_harm_are_findings(tmp_path, text):
    root = plain_folder(tmp_path)
    (root / "spacing.json").write_text(text)
    assert any(code.endswith("error") for code in codes(FolderSource(root)))


@pytest.mark.parametrize("head", ['<?xml version="1.0" encoding="x-secret"?>', "<a>" * 30_000])
def test_scribble_xml_that_means_harm_is_a_finding(tmp_path, head):
    from scribbleseg.data.sources import VOCSource

    root = voc_tree(tmp_path, scribbles="xml")
    path = root / "VOCdevkit/VOC2012/pascal_2012/2007_000032.xml"
    path.write_text(head + scribble_xml([("plane", [(4, 4), (9, 9)])]))
    errors = check_source(VOCSource(root)).errors
    assert [finding.file for finding in errors] == [str(path)]


def test_folders_in_folders_without_end(tmp_path):
    root = plain_folder(tmp_path / "data")
    deep = root / "notes"
    for _ in range(60):
        deep /= "d" * 20
    deep.mkdir(parents=True)
    (deep / "a.pth").write_bytes(b"")
    assert codes(FolderSource(root)) == ["D501 warning"]
