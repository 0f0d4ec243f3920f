from __future__ import annotations

import inspect
import os
import shutil

import numpy as np
import pytest
from helpers.internals import internal
from helpers.tiny_folders import (
    STEMS,
    acdc_release,
    camvid_folder,
    plain_folder,
    save,
    scribble_xml,
    voc_tree,
)
from helpers.trees_convert import labels_of, manifest_of
from PIL import Image

from scribbleseg import ConfigError, ScribbleNotFoundError
from scribbleseg.data import main, source_settings, synthesize_folder
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
    degrade_scribble,
    image_seed,
    synthesize_points,
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


def test_labels_manifest_and_picture(root, tmp_path):
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
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*(f"{stem}.png" for stem in TRAIN), "manifest.json", "overview.png"]
    )
    manifest = manifest_of(out)
    assert manifest.pop("version")
    assert manifest == {
        "command": "scribbleseg.data synthesize",
        "synthetic": True,
        "mode": "scribbles",
        "data": source_settings(FolderSource(root)),
        "split": "train",
        "seed": 7,
        "width": 2,
        "length_ratio": 0.7,
        "erosion": 3.0,
        "min_area": 100,
        "jitter": 0.3,
        "max_strokes": 3,
        "skip": [],
        "class_names": ["background", "cell", "vessel"],
        "files": 6,
        "complete": True,
    }
    assert (report.written, report.kept, report.failed, report.found["empty"]) == (6, 0, {}, [])
    assert report.found["pixels"].sum() == 6 * 40 * 48
    assert report.found["images"][:4].tolist() == [6, 6, 6, 0]
    text = report.format()
    coverage = 100 * report.found["pixels"][:255].sum() / (6 * 40 * 48)
    assert f"coverage {coverage:.2f} % of the pixels" in text
    assert "images/s" in text
    assert report.overview == out / "overview.png"
    with Image.open(report.overview) as picture:
        assert picture.mode == "RGB"
        assert picture.height == 26 + 6 * 244


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


def test_points(root, tmp_path):
    style = PointStyle(count=2, radius=1, min_area=0)
    report = make(root, tmp_path / "out", style)
    for stem in TRAIN:
        expected = synthesize_points(masks_of(root, stem), style, seed=image_seed(0, stem))
        np.testing.assert_array_equal(labels_of(tmp_path / "out", stem), expected)
    assert manifest_of(tmp_path / "out")["mode"] == "points"
    assert report.found["pixels"][:3].min() > 6 * 5


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


def test_degraded_copies_of_pixels(root, tmp_path):
    settings = Degradation(shrink=0.5, drop=0.2, seed=3)
    report = make(root, tmp_path / "out", settings)
    source = FolderSource(root)
    for record in source.records("train"):
        expected = degrade_scribble(
            source.read_scribble(record), settings, image_id=record.image_id
        )
        np.testing.assert_array_equal(labels_of(tmp_path / "out", record.image_id), expected)
    manifest = manifest_of(tmp_path / "out")
    assert (manifest["mode"], manifest["shrink"], manifest["drop"]) == ("degrade", 0.5, 0.2)
    assert report.overview is not None


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


def test_an_image_called_overview_keeps_its_labels(tmp_path):
    root = plain_folder(tmp_path / "data", stems=("overview", "b", "c", "d"))
    report = make(root, tmp_path / "out")
    assert labels_of(tmp_path / "out", "overview").shape == (40, 48)
    assert report.overview == tmp_path / "out" / "_overview.png"


# ---------------------------------------------------------------------------- resume, faults


def test_only_what_is_missing_damaged_or_outdated_is_made(root, tmp_path):
    out = tmp_path / "out"
    first = make(root, out)
    before = {stem: (out / f"{stem}.png").stat().st_mtime_ns for stem in TRAIN}
    (out / f"{STEMS[0]}.png").unlink()
    (out / f"{STEMS[1]}.png").write_bytes(b"\x89PNG")
    future = (out / f"{STEMS[2]}.png").stat().st_mtime + 5
    os.utime(root / "masks" / f"{STEMS[2]}.png", (future, future))
    report = make(root, out)
    assert (report.written, report.kept) == (3, 3)
    after = {stem: (out / f"{stem}.png").stat().st_mtime_ns for stem in TRAIN}
    assert [stem for stem in TRAIN if before[stem] != after[stem]] == list(TRAIN[:3])
    np.testing.assert_array_equal(report.found["pixels"], first.found["pixels"])


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


def test_a_broken_mask_does_not_stop_the_others(root, tmp_path):
    (root / "masks" / f"{STEMS[2]}.png").write_bytes(b"broken")
    report = make(root, tmp_path / "out")
    assert (report.written, report.kept) == (5, 0)
    assert list(report.failed) == [STEMS[2]]
    assert report.failed[STEMS[2]].startswith("D202")
    assert f"{STEMS[2]}.png" in report.failed[STEMS[2]]
    assert (manifest_of(tmp_path / "out")["complete"]) is False
    save(root / "masks" / f"{STEMS[2]}.png", masks_of(root, STEMS[1]))
    assert (make(root, tmp_path / "out").written, manifest_of(tmp_path / "out")["complete"]) == (
        1,
        True,
    )


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


def test_command(root, tmp_path, capsys):
    out = tmp_path / "out"
    args = ["synthesize", str(root), "--out", str(out), "--workers", "0"]
    assert main([*args, "--width", "2", "--length-ratio", "0.5", "--seed", "4"]) == 0
    text = capsys.readouterr().out
    assert "6 label files" in text
    assert "coverage" in text
    manifest = manifest_of(out)
    assert (manifest["width"], manifest["length_ratio"], manifest["seed"]) == (2.0, 0.5, 4)
    points = [*args[:3], str(tmp_path / "p"), *args[4:], "--mode", "points", "--per", "component"]
    assert main([*points, "--radius", "1", "--no-background"]) == 0
    assert manifest_of(tmp_path / "p")["skip"] == [0]
    degraded = [*args[:3], str(tmp_path / "d"), *args[4:], "--mode", "degrade"]
    assert main([*degraded, "--shrink", "0.5", "--anchor", "center", "--seed", "9"]) == 0
    manifest = manifest_of(tmp_path / "d")
    assert (manifest["shrink"], manifest["anchor"], manifest["seed"]) == (0.5, "center", 9)


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


def test_command_names_what_failed(root, tmp_path, capsys):
    (root / "masks" / f"{STEMS[2]}.png").write_bytes(b"broken")
    args = ["synthesize", str(root), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main(args) == 1
    error = capsys.readouterr().err
    assert "1 images could not be made" in error
    assert f"{STEMS[2]}.png" in error


def test_help_names_a_way_for_every_source(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["synthesize", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(scribble_dir or scribbles), or, with any source, by label_type: pseudo" in text
    for kind in SOURCES.values():
        bases = getattr(kind, "func", kind).__mro__[:2]  # options may be those of the base class
        assert any("pseudo_label_dir" in inspect.signature(base).parameters for base in bases), kind


def test_interrupted_command(root, tmp_path, capsys, monkeypatch):
    calls = []

    def interrupt(*args, **options):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return synthesize_scribbles(*args, **options)

    monkeypatch.setattr(internal("synthesize"), "synthesize_scribbles", interrupt)
    out = tmp_path / "out"
    args = ["synthesize", str(root), "--out", str(out), "--workers", "0"]
    assert main(args) == 130
    assert "the same command goes on there" in capsys.readouterr().err
    assert manifest_of(out)["complete"] is False
    monkeypatch.undo()
    assert main(args) == 0
    assert "4 written, 2 kept" in capsys.readouterr().out


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
