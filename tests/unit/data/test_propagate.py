import os
from pathlib import Path

import numpy as np
import pytest
from helpers.internals import internal
from helpers.tiny_folders import STEMS, acdc_release, plain_folder, save, write_list
from helpers.trees_convert import labels_of, manifest_of
from PIL import Image

from scribbleseg import ConfigError, ScribbleNotFoundError
from scribbleseg.data import main, map_in_processes, propagate_scribbles, source_settings
from scribbleseg.data.sources import ACDCSource, FolderSource
from scribbleseg.functional import random_walker_labels

ACDC = Path(__file__).parents[4] / "shared" / "data" / "acdc"


@pytest.fixture
def root(tmp_path):
    return plain_folder(tmp_path / "data")


def propagate(root, out, **options):
    return propagate_scribbles(FolderSource(root), out, progress=False, **options)


def test_labels_manifest_and_picture(root, tmp_path):
    out, source = tmp_path / "out", FolderSource(root)
    # a mask that is read would fail
    for stem in STEMS:
        (root / "masks" / f"{stem}.png").write_bytes(b"broken")
    report = propagate(root, out)
    for record in source.records("train"):
        image, scribble = source.read_image(record), source.read_scribble(record)
        expected = random_walker_labels(image, scribble)
        np.testing.assert_array_equal(labels_of(out, record.image_id), expected)
    assert sorted(p.name for p in out.iterdir()) == sorted(
        [*(f"{stem}.png" for stem in STEMS[:6]), "manifest.json", "overview.png"]
    )
    manifest = manifest_of(out)
    assert manifest.pop("version")
    assert manifest == {
        "command": "scribbleseg.data propagate",
        "data": source_settings(FolderSource(root)),
        "split": "train",
        "beta": 100.0,
        "min_confidence": None,
        "class_names": ["background", "cell", "vessel"],
        "files": 6,
        "complete": True,
    }
    assert (report.written, report.kept, report.failed, report.found["empty"]) == (6, 0, {}, [])
    assert report.found["labels"][255] == 0
    assert report.found["labels"].sum() == report.found["scribbles"].sum() == 6 * 40 * 48
    text = report.format()
    assert "6 images labelled" in text
    assert "100.00 %" in text
    assert len(text.splitlines()) < 30


def test_a_source_trains_on_the_folder(root, tmp_path):
    propagate(root, root / "propagated")
    source = FolderSource(root, label_type="pseudo", pseudo_label_dir="propagated")
    assert all((source.read_scribble(r) != 255).all() for r in source.records("train"))


def test_undecided_pixels(root, tmp_path):
    report = propagate(root, tmp_path / "out", min_confidence=0.9)
    assert 0 < report.found["labels"][255] < report.found["scribbles"][255]
    assert manifest_of(tmp_path / "out")["min_confidence"] == 0.9


def test_grey_images_count_as_one_channel(root, tmp_path):
    grey = {}
    for stem in STEMS[:6]:
        with Image.open(root / "images" / f"{stem}.png") as image:
            grey[stem] = np.array(image)[..., 0]
        save(root / "images" / f"{stem}.png", grey[stem])
    propagate(root, tmp_path / "out", beta=1000)
    source = FolderSource(root)
    for record in source.records("train"):
        expected = random_walker_labels(
            grey[record.image_id], source.read_scribble(record), beta=1000
        )
        np.testing.assert_array_equal(labels_of(tmp_path / "out", record.image_id), expected)


def test_released_acdc_slices(tmp_path):
    source = ACDCSource(acdc_release(tmp_path))
    report = propagate_scribbles(source, tmp_path / "out", progress=False)
    assert report.written == 4
    assert propagate_scribbles(source, tmp_path / "out", progress=False).kept == 4
    labels = labels_of(tmp_path / "out", "patient021_frame01_slice_1")
    assert labels.shape == (40, 48)
    assert set(np.unique(labels)) == {0, 1, 2, 3}


def test_images_without_scribble_stay_unlabelled(root, tmp_path):
    save(root / "scribbles" / f"{STEMS[2]}.png", np.full((40, 48), 255, np.uint8))
    report = propagate(root, tmp_path / "out")
    assert report.found["empty"] == [STEMS[2]]
    assert (labels_of(tmp_path / "out", STEMS[2]) == 255).all()
    assert f"1 images have no scribble, so nothing is labelled on them (e.g. {STEMS[2]})" in (
        report.format()
    )


def test_an_image_called_overview_keeps_its_labels(tmp_path):
    root = plain_folder(tmp_path, stems=("overview", "b", "c", "d"))
    report = propagate(root, tmp_path / "out")
    assert labels_of(tmp_path / "out", "overview").shape == (40, 48)
    assert report.overview == tmp_path / "out" / "_overview.png"


# ---------------------------------------------------------------------------- resume


def test_finished_files_are_kept(root, tmp_path):
    out = tmp_path / "out"
    first = propagate(root, out)
    before = {stem: (out / f"{stem}.png").stat().st_mtime_ns for stem in STEMS[:6]}
    (out / f"{STEMS[3]}.png").unlink()
    report = propagate(root, out)
    assert (report.written, report.kept) == (1, 5)
    after = {stem: (out / f"{stem}.png").stat().st_mtime_ns for stem in STEMS[:6]}
    assert [stem for stem in before if before[stem] != after[stem]] == [STEMS[3]]
    np.testing.assert_array_equal(report.found["labels"], first.found["labels"])
    assert manifest_of(out)["files"] == 6


def test_damaged_and_outdated_files_are_made_anew(root, tmp_path):
    out = tmp_path / "out"
    propagate(root, out)
    expected = [labels_of(out, stem) for stem in STEMS[:3]]
    (out / f"{STEMS[0]}.png").write_bytes(b"\x89PNG")
    save(out / f"{STEMS[1]}.png", np.zeros((5, 5), np.uint8))
    newer = (out / f"{STEMS[2]}.png").stat().st_mtime + 5
    os.utime(root / "scribbles" / f"{STEMS[2]}.png", (newer, newer))
    report = propagate(root, out)
    assert (report.written, report.kept) == (3, 3)
    for stem, labels in zip(STEMS, expected, strict=False):
        np.testing.assert_array_equal(labels_of(out, stem), labels)


def test_interruption_leaves_finished_files(root, tmp_path, monkeypatch, capsys):
    out, calls = tmp_path / "out", []

    def interrupted(*args, **kwargs):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return random_walker_labels(*args, **kwargs)

    monkeypatch.setattr(internal("propagate"), "random_walker_labels", interrupted)
    command = ["propagate", str(root), "--out", str(out), "--workers", "0"]
    assert main(command) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert len(list(out.glob("*.png"))) == 2
    assert manifest_of(out)["complete"] is False
    # the settings of an unfinished folder are known too
    assert main([*command, "--beta", "5"]) == 2
    capsys.readouterr()
    assert main(command) == 0
    assert "4 written, 2 kept" in capsys.readouterr().out
    assert manifest_of(out)["complete"] is True


@pytest.mark.parametrize(
    ("options", "change"),
    [({"beta": 90}, r"beta: 100\.0, now 90\.0"), ({"min_confidence": 0.5}, "min_confidence: None")],
)
def test_other_settings_need_another_folder(root, tmp_path, options, change):
    out = tmp_path / "out"
    propagate(root, out)
    made = labels_of(out, STEMS[0])
    with pytest.raises(ConfigError, match=rf"manifest\.json.*{change}.*another folder, or delete"):
        propagate(root, out, **options)
    np.testing.assert_array_equal(labels_of(out, STEMS[0]), made)
    assert manifest_of(out)["complete"] is True


def test_other_classes_need_another_folder(root, tmp_path):
    propagate(root, tmp_path / "out")
    write_list(root / "classes.txt", ["background", "vessel", "cell"])
    with pytest.raises(ConfigError, match=r"class_names: .*another folder"):
        propagate(root, tmp_path / "out")


def test_other_files_are_not_mixed_with_labels(root):
    for folder in ("scribbles", "masks", "."):
        with pytest.raises(ConfigError, match=r"holds files but no manifest\.json"):
            propagate(root, root / folder)
    with pytest.raises(ConfigError, match="is a file"):
        propagate(root, root / "classes.txt")


# ---------------------------------------------------------------------------- faults


class _Small(FolderSource):
    def read_scribble(self, record):
        return super().read_scribble(record)[:20]


def test_a_scribble_of_another_size_is_named_by_its_file(root, tmp_path):
    job = propagate_scribbles(_Small(root), tmp_path / "out", workers=0, progress=False)
    file = root / "scribbles" / f"{STEMS[0]}.png"
    assert job.failed[STEMS[0]].startswith(f"D201 {file}: scribble is ")


def test_a_broken_image_does_not_stop_the_others(root, tmp_path, capsys):
    (root / "images" / f"{STEMS[1]}.png").write_bytes(b"broken")
    save(root / "scribbles" / f"{STEMS[4]}.png", np.zeros((20, 20), np.uint8))
    command = ["propagate", str(root), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert "4 written" in captured.out
    assert "2 failed" in captured.out
    assert "2 images could not be propagated" in captured.err
    assert "D202" in captured.err
    assert "D201" in captured.err
    assert "Traceback" not in captured.err
    manifest = manifest_of(tmp_path / "out")
    assert (manifest["files"], manifest["complete"]) == (4, False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--beta", "-1"], "beta=-1.0"),
        (["--beta", "nan"], "beta=nan"),
        (["--min-confidence", "90"], "percentages"),
        (["--workers", "-1"], "workers=-1"),
        (["--source", "voc"], "JPEGImages"),
    ],
)
def test_mistakes_on_the_command_line(root, tmp_path, capsys, options, message):
    assert main(["propagate", str(root), "--out", str(tmp_path / "out"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "out").exists()


def test_missing_scribbles_are_found_before_the_work(root, tmp_path):
    (root / "scribbles" / f"{STEMS[0]}.png").unlink()
    (root / "scribbles" / f"{STEMS[7]}.png").unlink()
    with pytest.raises(ScribbleNotFoundError, match=r"D301 1 of 6 scribbles .*img_0"):
        propagate(root, tmp_path / "out")
    with pytest.raises(ScribbleNotFoundError, match=r"D301 1 of 2 images of split 'val' .*img_7"):
        propagate(root, tmp_path / "out", split="val")


def test_only_scribbles_are_propagated(root, tmp_path):
    with pytest.raises(ConfigError, match="label_type='mask'"):
        propagate_scribbles(FolderSource(root, label_type="mask"), tmp_path / "out")


# ------------------------------------------------------------------------- processes


def test_no_process_for_no_workers():
    assert list(map_in_processes(len, ["a", "bb", "ccc"], workers=0)) == [1, 2, 3]


@pytest.mark.slow
def test_processes_give_the_same_labels(root, tmp_path):
    threads = os.environ.get("OMP_NUM_THREADS")
    propagate(root, tmp_path / "one")
    report = propagate(root, tmp_path / "two", workers=2)
    assert report.written == 6
    assert os.environ.get("OMP_NUM_THREADS") == threads
    for stem in STEMS[:6]:
        np.testing.assert_array_equal(
            labels_of(tmp_path / "one", stem), labels_of(tmp_path / "two", stem)
        )


@pytest.mark.skipif(not ACDC.is_dir(), reason="needs the ACDC slices")
def test_cardiac_slices(tmp_path):
    stems = [f"patient001_frame01_slice{number:02d}" for number in (2, 4)]
    source = FolderSource(ACDC, train_list=str(write_list(tmp_path / "few.txt", stems)))
    report = propagate_scribbles(source, tmp_path / "out", progress=False)
    assert report.found["labels"][255] == 0
    for record in source.records("train"):
        mask = source.read_mask(source.with_mask(record))
        labels = labels_of(tmp_path / "out", record.image_id)
        for label in range(4):
            both = ((mask == label) & (labels == label)).sum()
            dice = 2 * both / ((mask == label).sum() + (labels == label).sum())
            assert dice > 0.5, (record.image_id, label)
