import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.internals import internal
from helpers.tiny_folders import acdc_release, blocks, plain_folder, save, voc_tree
from PIL import Image

from scribbleseg import DataCheckError, Record
from scribbleseg.data import ScribbleSource, check_source, main, write_check_report
from scribbleseg.data.sources import FolderSource, SyntheticSource

SHARED = Path(__file__).parents[4] / "shared" / "data"


def codes(report):
    return sorted({finding.code for finding in report.findings})


class MemorySource(ScribbleSource):
    """A source without files, as a user might write it."""

    class_names = ("background", "thing")

    def records(self, split):
        return [Record(f"{split}_{number}") for number in range(3)]

    def read_image(self, record):
        rng = np.random.default_rng(list(record.image_id.encode()))
        return rng.integers(0, 255, (20, 24, 3)).astype(np.uint8)

    def read_scribble(self, record):
        scribble = np.full((20, 24), 255, np.uint8)
        scribble[3, :5], scribble[9, :5] = 0, 1
        return scribble

    def read_mask(self, record):
        mask = np.zeros((20, 24), np.uint8)
        mask[6:] = 1
        return mask


def test_clean_data_has_no_findings_and_true_statistics(tmp_path):
    source = FolderSource(plain_folder(tmp_path))
    report = check_source(source)
    assert report.findings == []
    report.raise_if_errors()
    train = report.statistics["splits"]["train"]
    assert (train["images"], train["checked"], train["sizes"]) == (6, 6, {"48x40": 6})
    assert train["disagreement_percent"] == train["on_void_percent"] == 0
    drawn = [source.read_scribble(r) != 255 for r in source.records("train")]
    assert train["labelled_percent"] == pytest.approx(100 * np.mean(drawn))
    assert sum(train["coverage_histogram"].values()) == 6
    images = np.stack([source.read_image(r) for r in source.records("train")]) / 255
    assert train["mean"] == pytest.approx(images.mean((0, 1, 2)))
    assert train["std"] == pytest.approx(images.std((0, 1, 2)))
    cell = report.statistics["classes"][1]
    masks = [blocks(number, 3) == 1 for number in range(8)]
    assert (cell["name"], cell["mask_px"], cell["images_present"]) == ("cell", np.sum(masks), 8)
    assert (cell["images_scribbled"], cell["images_unscribbled"]) == (8, 0)


def test_unscribbled_classes_are_counted(tmp_path):
    plain_folder(tmp_path)
    scribble = np.full((40, 48), 255, np.uint8)
    scribble[20, 2:8] = blocks(0, 3)[20, 2:8]
    save(tmp_path / "scribbles" / "img_0.png", scribble)
    statistics = check_source(FolderSource(tmp_path)).statistics
    assert statistics["splits"]["train"]["images_with_unscribbled_class"] == 1
    assert sum(row["images_unscribbled"] for row in statistics["classes"]) == 2


def test_sources_without_files_can_be_checked():
    report = check_source(MemorySource())
    assert not report.findings
    assert report.statistics["splits"]["val"]["disagreement_percent"] == 0


def test_own_source_that_raises_anything_is_a_finding():
    class Broken(MemorySource):
        def read_image(self, record):
            raise RuntimeError("disk on fire")

    report = check_source(Broken(), splits=("train",))
    assert codes(report) == ["D202"]
    assert "train_0" in report.findings[0].message
    assert "disk on fire" in report.findings[0].message


def test_sample_is_seeded_and_leaves_statistics_of_rare_classes_alone(tmp_path):
    plain_folder(tmp_path, classes=("background", "cell", "never"))
    source = FolderSource(tmp_path)
    first = check_source(source, sample=4, seed=3)
    assert first.to_dict() == check_source(source, sample=4, seed=3).to_dict()
    assert first.statistics["splits"]["train"]["checked"] == 2
    assert "D105" not in codes(first)


def test_one_broken_file_does_not_hide_the_others(tmp_path):
    plain_folder(tmp_path)
    (tmp_path / "scribbles" / "img_0.png").write_text("x")
    (tmp_path / "images" / "img_1.png").write_text("x")
    save(tmp_path / "masks" / "img_2.png", np.full((40, 48), 9, np.uint8))
    report = check_source(FolderSource(tmp_path))
    assert [f.code for f in report.errors] == ["D101", "D202", "D202"]
    assert report.statistics["splits"]["train"]["checked"] == 6


def test_masks_as_labels_are_not_called_dense(tmp_path):
    report = check_source(FolderSource(plain_folder(tmp_path), label_type="mask"))
    assert not report.findings


def test_dense_scribbles_can_be_allowed(tmp_path):
    root = plain_folder(tmp_path)
    assert codes(check_source(FolderSource(root, scribble_dir="masks"))) == ["D106"]
    source = FolderSource(root, scribble_dir="masks", allow_dense_scribbles=True)
    assert not check_source(source).findings


def test_groups_in_two_splits_are_a_warning(tmp_path):
    source = FolderSource(plain_folder(tmp_path), group_regex="img")
    report = check_source(source)
    assert [(f.code, f.severity) for f in report.findings] == [("D302", "warning")]


def test_images_of_one_colour_are_no_leak(tmp_path):
    plain_folder(tmp_path)
    for stem in ("img_0", "img_7"):
        save(tmp_path / "images" / f"{stem}.png", np.zeros((40, 48, 3), np.uint8))
    assert not check_source(FolderSource(tmp_path)).findings


def test_errors_are_listed_once_per_code_and_counted(tmp_path):
    """Values that fit no coding of unlabelled pixels are told file by file."""
    stems = tuple(f"i{number}" for number in range(8))
    plain_folder(tmp_path, stems=stems)
    for stem in stems:
        save(tmp_path / "scribbles" / f"{stem}.png", np.full((40, 48), 3, np.uint8))
    report = check_source(FolderSource(tmp_path))
    with pytest.raises(DataCheckError, match=r"8 error\(s\)") as error:
        report.raise_if_errors()
    assert "D101 … and 3 more" in str(error.value)
    assert str(error.value).count("value 3 on 1,920 px") == 5


def test_strokes_are_in_the_statistics(tmp_path):
    statistics = check_source(FolderSource(plain_folder(tmp_path))).statistics
    train = statistics["splits"]["train"]
    # one bar of two rows per class, cut where the stripes meet
    assert train["strokes_per_image"] == pytest.approx(3, abs=0.5)
    assert train["stroke_width"] == pytest.approx(2, abs=0.3)
    assert statistics["classes"][1]["stroke_width"] == pytest.approx(2, abs=0.3)
    assert train["longer_side_histogram"] == {"0-127": 6}
    assert train["coverage_histogram"]["2-5"] == 6


def test_masks_as_labels_have_no_strokes(tmp_path):
    source = FolderSource(plain_folder(tmp_path), label_type="mask")
    assert check_source(source, splits=("train",)).statistics["all"]["stroke_width"] is None


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_number_of_channels(tmp_path, channels):
    class Many(SyntheticSource):
        in_channels = channels

        def read_image(self, record):
            image = super().read_image(record)
            return np.concatenate([image] * 2, 2)[..., :channels]

    source = Many(num_train=3, num_val=1, size=32)
    report = check_source(source, splits=("train",))
    images = np.concatenate(
        [source.read_image(r).reshape(-1, channels) for r in source.records("train")]
    )
    train = report.statistics["splits"]["train"]
    assert train["mean"] == pytest.approx(images.mean(0) / 255)
    assert train["std"] == pytest.approx(images.std(0) / 255)
    write_check_report(source, report, tmp_path / "out", splits=("train",))


def test_loading_is_measured(tmp_path):
    source = FolderSource(plain_folder(tmp_path))
    measure = internal("check report").measure_loading
    loading = measure(source, source.records("train"))
    assert (loading["images"], loading["measured"]) == (6, 6)
    assert loading["ms_per_sample"] > 0
    assert loading["epoch_seconds"] == pytest.approx(6 * loading["ms_per_sample"] / 1000)
    assert loading["sample_mib"] == 40 * 48 * (3 * 4 + 8 + 1) / 2**20
    assert loading["worker_mib"] == pytest.approx(17 * loading["sample_mib"])
    assert measure(source, []) is None


# ---------------------------------------------------------------------------- command


def test_command_prints_a_table_and_succeeds(tmp_path, capsys):
    assert main(["check", str(plain_folder(tmp_path))]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^images +6 +2 +8$", out, re.MULTILINE)
    assert re.search(r"^2 vessel +192 +8 ", out, re.MULTILINE)
    assert "0 errors" in out


def test_command_fails_on_errors_and_speaks_json(tmp_path, capsys):
    plain_folder(tmp_path)
    save(tmp_path / "scribbles" / "img_0.png", np.full((40, 48), 3, np.uint8))
    assert main(["check", str(tmp_path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["findings"][0]["code"] == "D101"
    assert main(["check", str(tmp_path), "--unlabelled-value", "3"]) == 0


@pytest.mark.parametrize("tree", [voc_tree, acdc_release])
def test_command_recognises_layouts(tmp_path, capsys, tree):
    assert main(["check", str(tree(tmp_path))]) == 0
    assert ("VOCSource" in capsys.readouterr().out) is (tree is voc_tree)


@pytest.mark.parametrize("arguments", [["none"], [""], ["", "--source", "folder"]])
def test_user_mistakes_are_one_line_and_status_two(tmp_path, capsys, arguments):
    assert main(["check", str(tmp_path / arguments[0]), *arguments[1:]]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert not captured.out


def test_interruption_is_status_130(tmp_path, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(internal("check command"), "check_source", stop)
    assert main(["check", str(plain_folder(tmp_path))]) == 130
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["acdc", "camvid"])
def test_released_folders(name):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not on this machine")
    report = check_source(FolderSource(SHARED / name), sample=120)
    report.raise_if_errors()
    low, high = {"acdc": (0.8, 1.3), "camvid": (2.3, 2.7)}[name]
    assert low < report.statistics["all"]["labelled_percent"] < high
    assert report.statistics["all"]["disagreement_percent"] < 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "images", "labelled", "disagreement"),
    [("acdc", [1156, 298], 1.04, 0.012), ("camvid", [367, 101], 2.5, 0.0)],
)
def test_known_statistics_of_whole_folders(name, images, labelled, disagreement):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not on this machine")
    start = time.process_time()
    statistics = check_source(FolderSource(SHARED / name)).statistics
    assert time.process_time() - start < 20
    splits = statistics["splits"]
    assert [splits[split]["images"] for split in ("train", "val")] == images
    assert round(statistics["all"]["labelled_percent"], 2) == labelled
    assert round(splits["train"]["disagreement_percent"], 3) == disagreement


def test_a_chosen_window_of_deep_images_is_not_complained_about(tmp_path) -> None:
    root = plain_folder(tmp_path)
    for path in (root / "images").iterdir():
        shape = np.asarray(Image.open(path)).shape[:2]
        deep = np.arange(shape[0] * shape[1])
        Image.fromarray(deep.reshape(shape).astype(np.uint16)).save(path)
    codes = {finding.code for finding in check_source(FolderSource(root)).findings}
    assert "D203" in codes
    chosen = FolderSource(root, intensity={"mode": "range", "low": 0, "high": 4000})
    assert "D203" not in {finding.code for finding in check_source(chosen).findings}
