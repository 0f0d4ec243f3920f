"""What the check says of labels in another tool's convention, and of data that mean harm."""

import json
import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.tiny_folders import (
    STEMS,
    blocks,
    plain_folder,
    save,
    scribble_xml,
    voc_tree,
    write_list,
)
from helpers.trees_medical import LPS_THICK, nnunet_volumes, raw_acdc
from PIL import Image

import scribbleseg.data
from scribbleseg import DataCheckError, ScribbleDataModule
from scribbleseg.data import CheckReport, Finding, check_source, main, read_classes
from scribbleseg.data.sources import FolderSource, NiftiSource, NnUNetSource


def rewrite(folder, change):
    """Store the labels of a folder in another way; signed ids as TIFF."""
    for path in list(folder.iterdir()):
        with Image.open(path) as image:
            pixels = change(np.array(image))
        path.unlink()
        save(path.with_suffix(".tif" if pixels.dtype == np.int32 else ".png"), pixels)


def told(source, **options):
    """Code with severity and message of every finding."""
    report = check_source(source, **options)
    return [(f"{finding.code} {finding.severity}", finding.message) for finding in report.findings]


def only(source, **options):
    """The one finding that there is."""
    ((code, message),) = told(source, **options)
    return code, message


def codes(source, **options):
    return [code for code, _ in told(source, **options)]


# ---------------------------------------------------------- values of scribbles and masks


def from_one(label):
    """As ITK-SNAP, napari and ilastik number: 0 = unlabelled."""
    return np.where(label == 255, 0, label + 1).astype(np.uint8)


def coded(value, kind=np.uint8):
    """Another value than 255 for unlabelled pixels."""
    return lambda label: np.where(label == 255, value, label.astype(kind))


def over_strokes(mask):
    """Void over the strokes of class 2, which are in rows 20 and 21."""
    mask = mask.copy()
    mask[18:24][mask[18:24] == 2] = 255
    return mask


TWO, THREE = ("background", "thing"), ("background", "cell", "vessel")
FIRST = "scribbles/img_0"
# classes, folder, what becomes of its labels, the one finding, words of it
CONVENTIONS = {
    "ids from 1, 255 = unlabelled": (
        THREE, "scribbles", lambda s: np.where(s == 255, 255, s + 1).astype(np.uint8),
        "D101 error", [f"{FIRST}.png: value 3 on ", "ids count from 1", "`unlabelled_value: 0`"],
    ),
    "-1": (
        THREE, "scribbles", coded(-1, np.int32),
        "D101 error", [f"{FIRST}.tif: value -1 on 1,8", "`unlabelled_value: -1` to dataset.yaml"],
    ),
    "-1 of two classes is no grey tone": (
        TWO, "scribbles", coded(-1, np.int32), "D101 error", ["`unlabelled_value: -1`"],
    ),
    "65535": (
        THREE, "scribbles", coded(65535, np.uint16),
        "D101 error", [f"{FIRST}.png: value 65535 on 1,8", "`unlabelled_value: 65535`"],
    ),
    "binary masks": (
        TWO, "masks", lambda mask: np.where(mask > 0, 255, 0).astype(np.uint8),
        "D108 error", ["masks/img_6.png: 255 is on 1,9", "(50.0 %)", "'thing' (id 1) on 0 px",
                       "write 1 instead of 255 (255 → 1)"],
    ),
    "masks of void only": (
        THREE, "masks", lambda mask: np.full_like(mask, 255),
        "D104 error", ["2 of 2 masks of 'val' have 0 labelled pixels", "NaN"],
    ),
    "void for one of several classes": (
        THREE, "masks", lambda mask: np.where(mask == 2, 255, mask).astype(np.uint8),
        "D108 error", ["'vessel' (id 2) on 0 px", "(255 → 2)"],
    ),
    "void over most of what is scribbled": (
        THREE, "masks", over_strokes, "D108 warning", ["'vessel' (id 2) on 1,0"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONVENTIONS)
def test_labels_of_another_convention_are_told_once(tmp_path, name):
    classes, folder, change, code, words = CONVENTIONS[name]
    root = plain_folder(tmp_path, classes=classes)
    rewrite(root / folder, change)
    found, message = only(FolderSource(root))
    assert found == code
    for word in words:
        assert word in message
    if folder == "masks" and code.endswith("error"):
        data = ScribbleDataModule(FolderSource(root), num_workers=0)
        with pytest.raises(DataCheckError, match=code[:4]):
            data.setup("fit")


def test_masks_of_the_same_convention_are_told_with_the_scribbles(tmp_path):
    root = plain_folder(tmp_path)
    for folder in ("scribbles", "masks"):
        rewrite(root / folder, from_one)
    assert f"{FIRST}.png" in only(FolderSource(root))[1]
    save(root / "masks" / "img_7.png", np.full((40, 48), 9, np.uint8))
    # another value has another cause
    files = [message.split(":")[0][-10:] for _, message in told(FolderSource(root))]
    assert files == ["/img_0.png", "/img_7.png"]


def test_files_without_the_last_class_do_not_hide_the_coding(tmp_path):
    root = plain_folder(tmp_path)
    rewrite(root / "scribbles", from_one)
    for stem in STEMS[:4]:  # values 0 to 2 look like ids
        path = root / "scribbles" / f"{stem}.png"
        with Image.open(path) as image:
            save(path, np.where(np.array(image) == 3, 0, np.array(image)).astype(np.uint8))
    code, message = only(FolderSource(root))
    assert code == "D101 error"
    assert "img_4.png" in message
    assert "`unlabelled_value: 0`" in message


def test_ids_of_a_longer_class_list_are_no_code(tmp_path):
    root = plain_folder(tmp_path, masks=False)
    write_list(root / "classes.txt", TWO)
    found = told(FolderSource(root), splits=("train",))
    # 2 is a class of its own, since most pixels are 255
    assert [code for code, _ in found] == ["D101 error"] * 6
    assert all("value 2 on 24 px" in message for _, message in found)


def test_ids_of_the_class_file_are_not_taken_for_a_convention(tmp_path):
    root = plain_folder(tmp_path, masks=False)
    (root / "classes.txt").unlink()
    ids = "[{id: 3, name: background}, {id: 1, name: cell}, {id: 2, name: vessel}]"
    (root / "classes.yaml").write_text(f"compact: true\nclasses: {ids}\n")
    rewrite(root / "scribbles", from_one)
    found = told(FolderSource(root), splits=("train",))
    assert [code for code, _ in found] == ["D101 error"] * 6
    assert not any("1 then means" in message for _, message in found)


def test_a_chosen_code_is_not_proposed_again(tmp_path):
    root = plain_folder(tmp_path)
    rewrite(root / "scribbles", coded(3))
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


def test_a_sample_of_binary_masks_is_enough(tmp_path):
    root = plain_folder(tmp_path, classes=TWO)
    rewrite(root / "masks", CONVENTIONS["binary masks"][2])
    assert only(FolderSource(root), sample=2)[0] == "D108 error"  # one of the two
    trained = codes(FolderSource(root, label_type="mask"))
    assert trained == ["D105 warning", "D108 error", "D108 error"]


def test_negative_images_with_some_void_are_only_suspected(tmp_path):
    root = plain_folder(tmp_path, classes=TWO)
    rewrite(root / "masks", np.zeros_like)
    void = np.zeros((40, 48), np.uint8)
    void[:2] = 255
    write_list(root / "val.txt", STEMS[3:])
    write_list(root / "train.txt", STEMS[:3])
    save(root / "masks" / "img_3.png", void)
    found = codes(FolderSource(root), splits=("val",), sample=4, seed=1)
    assert [code for code in found if code.startswith("D108")] == ["D108 warning"]


def test_a_class_that_no_validation_mask_shows(tmp_path):
    root = plain_folder(tmp_path)
    rewrite(root / "masks", lambda mask: np.where(mask == 2, 1, mask).astype(np.uint8))
    rewrite(root / "scribbles", lambda s: np.where(s == 2, 255, s).astype(np.uint8))
    found = told(FolderSource(root))
    assert [code for code, _ in found] == ["D105 warning", "D105 warning"]
    (message,) = (text for _, text in found if "masks of 'val'" in text)
    assert "'vessel' (id 2) on 0 px of 2 masks of 'val' (void 255 on 0 px)" in message
    assert codes(FolderSource(root), sample=2) == []


def test_one_scribble_of_another_release_among_good_ones(tmp_path):
    root, mask = plain_folder(tmp_path), blocks(0, 3)
    scribble = np.full_like(mask, 255)
    scribble[20, 2:10] = mask[20, 2:10]
    scribble[20, 2:4] = 2
    save(root / "scribbles" / "img_0.png", scribble)
    code, message = only(FolderSource(root))
    assert code == "D107 warning"
    assert "img_0.png: 2 of 8 labelled pixels (25.0 %)" in message
    assert "2 of 368 (0.54 %)" in message


# ---------------------------------------------------------------- lists, volumes, options


def test_labelled_images_of_a_test_list_are_in_a_list(tmp_path):
    root = plain_folder(tmp_path)
    write_list(root / "train.txt", STEMS[:4])
    save(root / "images" / "unlabelled.png", np.zeros((40, 48, 3), np.uint8))
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
    report = CheckReport([Finding("D301", "error", "a\x1b[2J\nb is missing")])
    with pytest.raises(DataCheckError, match=re.escape(r"D301 a\x1b[2J\nb is missing")):
        report.raise_if_errors()
    write_list(root / "classes.txt", ["background", "ce\x1b[8mll", "ce\x1b[8mll"])
    assert main(["check", str(root)]) == 2
    assert r"ce\x1b[8mll" in capsys.readouterr().err


def test_a_pattern_that_searches_for_ever_is_a_finding(tmp_path):
    stems = tuple(f"{'a' * 40}{number}" for number in range(8))
    root = plain_folder(tmp_path, stems=stems)
    (root / "dataset.yaml").write_text("group_regex: (a+)+b\n")
    found = told(FolderSource(root))
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
