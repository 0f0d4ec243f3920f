from __future__ import annotations

import inspect
import shutil

import numpy as np
import pytest
from helpers.tiny_folders import (
    STEMS,
    acdc_release,
    camvid_folder,
    plain_folder,
    scribble_xml,
    voc_tree,
)
from helpers.trees_convert import labels_of, manifest_of
from PIL import Image

from scribbleseg import ConfigError, ScribbleNotFoundError
from scribbleseg.data import main, synthesize_folder
from scribbleseg.data.sources import (
    SOURCES,
    ACDCSource,
    FolderSource,
    SyntheticSource,
    VOCSource,
)
from scribbleseg.functional import (
    Degradation,
    PointStyle,
    ScribbleStyle,
    degrade_drawing,
    image_seed,
    synthesize_scribbles,
)

TRAIN = STEMS[:6]


@pytest.fixture
def root(tmp_path):
    return plain_folder(tmp_path / "data")


def make(root, out, recipe=None, **options):
    return synthesize_folder(FolderSource(root), out, recipe, progress=False, **options)


def masks_of(root, stem):
    return np.array(Image.open(root / "masks" / f"{stem}.png"))


def test_scribbles_of_a_seed(root, tmp_path):
    out = tmp_path / "out"
    shutil.rmtree(root / "scribbles")  # they need not exist
    report = make(root, out, ScribbleStyle(width=2, max_strokes=3), seed=7)
    for stem in TRAIN:
        mask, drawn = masks_of(root, stem), labels_of(out, stem)
        expected = synthesize_scribbles(
            mask, ScribbleStyle(width=2, max_strokes=3), seed=image_seed(7, stem)
        )
        np.testing.assert_array_equal(drawn, expected)
        assert ((drawn == mask) | (drawn == 255)).all()
        assert set(np.unique(drawn)) == {0, 1, 2, 255}
    assert report.found["pixels"].sum() == 6 * 40 * 48
    assert report.found["images"][:4].tolist() == [6, 6, 6, 0]
    coverage = 100 * report.found["pixels"][:255].sum() / (6 * 40 * 48)
    assert f"coverage {coverage:.2f} % of the pixels" in report.format()


def test_a_source_trains_on_the_folder(root):
    make(root, root / "drawn")
    source = FolderSource(root, scribble_dir="drawn")
    scribbles = [source.read_scribble(record) for record in source.records("train")]
    assert all(0 < (scribble != 255).mean() < 0.5 for scribble in scribbles)


def test_neither_order_nor_company_nor_workers_matter(root, tmp_path):
    make(root, tmp_path / "all")
    make(root, tmp_path / "two", workers=2)
    (root / "train.txt").write_text(f"{STEMS[4]}\n{STEMS[1]}\n")
    make(root, tmp_path / "few")
    for folder, stems in (("two", TRAIN), ("few", (STEMS[1], STEMS[4]))):
        for stem in stems:
            np.testing.assert_array_equal(
                labels_of(tmp_path / folder, stem), labels_of(tmp_path / "all", stem)
            )


@pytest.mark.parametrize("recipe", [ScribbleStyle(), PointStyle(min_area=0)])
def test_background_can_be_left_out(root, tmp_path, recipe):
    report = make(root, tmp_path / "out", recipe, background=False)
    assert report.found["pixels"][0] == 0
    assert report.found["pixels"][1] > 0
    assert manifest_of(tmp_path / "out")["skip"] == [0]


def test_background_that_does_not_exist(tmp_path):
    root = camvid_folder(tmp_path / "data")
    with pytest.raises(ConfigError, match=r"background=False: these classes have no background"):
        make(root, tmp_path / "out", background=False)
    report = make(root, tmp_path / "out")
    assert report.written == 3
    assert all((labels_of(tmp_path / "out", stem)[:3] == 255).all() for stem in STEMS[:3])


def test_degraded_copies_of_polylines(tmp_path):
    source = VOCSource(voc_tree(tmp_path / "data", scribbles="xml"))
    settings = Degradation(shrink=0.5)
    synthesize_folder(source, tmp_path / "out", settings, progress=False)
    for record in source.records("train"):
        expected = degrade_drawing(source.read_strokes(record), settings, image_id=record.image_id)
        drawn = labels_of(tmp_path / "out", record.image_id)
        np.testing.assert_array_equal(drawn, expected)
        assert 0 < (drawn != 255).sum() < (source.read_scribble(record) != 255).sum()


def test_images_that_lose_everything_are_named(root, tmp_path):
    report = make(root, tmp_path / "out", Degradation(drop=1.0))
    assert report.found["empty"] == list(TRAIN)
    assert f"6 images have no label (e.g. {STEMS[0]}" in report.format()


def test_other_sources(tmp_path):
    acdc = ACDCSource(acdc_release(tmp_path / "acdc"))
    report = synthesize_folder(acdc, tmp_path / "a", progress=False)
    assert (report.written, report.failed) == (4, {})
    assert synthesize_folder(acdc, tmp_path / "a", progress=False).kept == 4
    made = SyntheticSource(num_train=2, size=40)
    assert synthesize_folder(made, tmp_path / "b", progress=False).written == 2
    val = synthesize_folder(FolderSource(plain_folder(tmp_path / "f")), tmp_path / "c",
                            split="val", progress=False)  # fmt: skip
    assert val.written == 2


# ---------------------------------------------------------------------------- resume, faults


def test_other_settings_and_foreign_files_are_refused(root, tmp_path):
    out = tmp_path / "out"
    make(root, out)
    with pytest.raises(ConfigError, match=r"width: 3\.0, now 5.*another folder"):
        make(root, out, ScribbleStyle(width=5))
    with pytest.raises(ConfigError, match=r"seed: 0, now 1"):
        make(root, out, seed=1)
    with pytest.raises(ConfigError, match=r"mode: 'scribbles', now 'points'"):
        make(root, out, PointStyle())
    with pytest.raises(ConfigError, match=r"holds files but no manifest\.json"):
        make(root, root / "scribbles")


def test_missing_masks_and_scribbles(root, tmp_path):
    (root / "masks" / f"{STEMS[1]}.png").unlink()
    with pytest.raises(ScribbleNotFoundError, match=rf"D301 1 of 6 masks.*{STEMS[1]}"):
        make(root, tmp_path / "a")
    (root / "scribbles" / f"{STEMS[2]}.png").unlink()
    with pytest.raises(ScribbleNotFoundError, match=rf"D301 1 of 6 scribbles.*{STEMS[2]}"):
        make(root, tmp_path / "b", Degradation(shrink=0.5))
    (root / "scribbles" / f"{STEMS[6]}.png").unlink()
    with pytest.raises(ScribbleNotFoundError, match=rf"D301 1 of 2 images.*'val'.*{STEMS[6]}"):
        make(root, tmp_path / "c", Degradation(shrink=0.5), split="val")


def test_what_cannot_be_degraded(root, tmp_path):
    dense = FolderSource(root, label_type="mask")
    with pytest.raises(ConfigError, match="label_type='mask': only scribbles are degraded"):
        synthesize_folder(dense, tmp_path / "out", Degradation(drop=0.5), progress=False)
    with pytest.raises(ConfigError, match="nothing to take away"):
        make(root, tmp_path / "out", Degradation())
    for options in ({"workers": -1}, {"seed": -1}):
        with pytest.raises(ConfigError, match="-1: expected a whole number of at least 0"):
            make(root, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------- command


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--shrink", "0.5"], "--shrink: not an option of --mode scribbles"),
        (["--mode", "points", "--width", "3"], "--width: not an option of --mode points"),
        (["--mode", "degrade", "--no-background", "--shrink", "1"], "--no-background: not an"),
        (["--mode", "degrade"], "nothing to take away"),
        (["--length-ratio", "7"], "length_ratio=7.0: expected a share"),
        (["--mode", "degrade", "--drop", "30"], "drop=30.0: expected a share"),
    ],
)
def test_command_refuses(root, tmp_path, capsys, extra, message):
    out = tmp_path / "out"
    args = ["synthesize", str(root), "--out", str(out), "--workers", "0", *extra]
    assert main(args) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_help_names_a_way_for_every_source(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["synthesize", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(scribble_dir or scribbles), or, with any source, by label_type: pseudo" in text
    for kind in SOURCES.values():
        bases = getattr(kind, "func", kind).__mro__[:2]  # options may be those of the base class
        assert any("pseudo_label_dir" in inspect.signature(base).parameters for base in bases), kind
    assert "--width WIDTH Stroke width in pixels. (default: 3.0) --length-ratio" in text
    assert "``" not in text
    assert "See ImageJob" not in text


def test_scribble_xml_of_a_plain_folder_is_polylines(root):
    for stem in TRAIN:
        (root / "scribbles" / f"{stem}.png").unlink()
        strokes = [("cell", [(3, 3), (20, 20)])]
        (root / "scribbles" / f"{stem}.xml").write_text(scribble_xml(strokes))
    source = FolderSource(root)
    for record in source.records("train"):
        drawing = source.read_strokes(record)
        np.testing.assert_array_equal(drawing.rasterize(), source.read_scribble(record))
    assert source.read_strokes(source.records("predict")[0]) is None
    dense = FolderSource(root, label_type="mask")
    assert all(dense.read_strokes(record) is None for record in dense.records("train"))
