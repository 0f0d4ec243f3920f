import json
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.internals import internal
from helpers.tiny_folders import STEMS, blocks, plain_folder, save, write_list
from PIL import Image

from scribbleseg import DataCheckError, Record, ScribbleNotFoundError
from scribbleseg.data import Finding, ScribbleSource, check_source, main, write_check_report
from scribbleseg.data.sources import FolderSource, SyntheticSource

SHARED = Path(__file__).parents[4] / "shared" / "data"


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


def test_disagreement_is_that_of_images_with_a_mask(tmp_path):
    root = plain_folder(tmp_path)
    save(root / "masks" / "img_0.png", (blocks(0, 3) + 1) % 3)
    for stem in STEMS[1:6]:
        (root / "masks" / f"{stem}.png").unlink()
    statistics = check_source(FolderSource(root)).statistics
    assert statistics["splits"]["train"]["disagreement_percent"] == 100


def burn(record):
    raise RuntimeError("disk on fire")


@pytest.mark.parametrize(
    ("method", "reader", "expected"),
    [
        ("read_mask", MemorySource().read_mask, []),
        ("read_image", burn, ["D202 train_0: cannot be read (RuntimeError: disk on fire)"]),
        ("read_mask", lambda record: np.full((20, 24), 7, np.uint8), ["D101 train_0: value 7 on"]),
    ],
)
def test_sources_without_files_can_be_checked(monkeypatch, method, reader, expected):
    source = MemorySource()
    monkeypatch.setattr(source, method, reader)
    findings = check_source(source, splits=("train",)).findings
    assert len(findings) == 3 * len(expected)  # for each image
    for finding, text in zip(findings, expected, strict=False):
        assert str(finding).startswith(text)


def test_a_source_tells_its_own_problems(monkeypatch):
    source, own = MemorySource(), Finding("D900", "warning", "the scanner was changed in May")
    monkeypatch.setattr(source, "problems", lambda: [own])
    assert check_source(source).findings == [own]
    monkeypatch.setattr(source, "problems", lambda: 1 / 0)
    (finding,) = check_source(source).findings
    assert (finding.code, finding.severity) == ("D202", "error")
    assert "ZeroDivisionError" in finding.message

    def lost(*_):
        raise ScribbleNotFoundError("D301 images: folder does not exist")

    monkeypatch.setattr(source, "problems", lost)
    monkeypatch.setattr(source, "records", lost)
    codes = [finding.code for finding in check_source(source).findings]
    assert codes == ["D301"], "of all splits and of the source"


def test_sample_is_seeded(tmp_path):
    source = FolderSource(plain_folder(tmp_path))
    first = check_source(source, sample=4, seed=3)
    assert first.to_dict() == check_source(source, sample=4, seed=3).to_dict()
    assert first.statistics["splits"]["train"]["checked"] == 2


def test_masks_as_labels_are_not_called_dense_and_have_no_strokes(tmp_path):
    source = FolderSource(plain_folder(tmp_path), label_type="mask")
    report = check_source(source)
    assert not report.findings
    assert report.statistics["splits"]["train"]["stroke_width"] is None


@pytest.mark.parametrize(
    ("val", "groups", "expected"),
    [
        (STEMS[6:], None, []),
        (STEMS[5:], None, ["error images/img_5.png: 1 images are in 'train' and in 'val' (img_5)"]),
        (STEMS[6:], "img", ["warning 1 groups have images in 'train' and in 'val' (img)"]),
        # images tell more than the groups that they belong to
        (
            STEMS[5:],
            "img",
            ["error images/img_5.png: 1 images are in 'train' and in 'val' (img_5)"],
        ),
    ],
)
def test_images_and_groups_in_two_splits(tmp_path, val, groups, expected):
    write_list(plain_folder(tmp_path) / "val.txt", val)
    report = check_source(FolderSource(tmp_path, group_regex=groups))
    found = [f"{f.severity} {f.message}".replace(f"{tmp_path}/", "") for f in report.findings]
    assert [text.split(", expected none")[0] for text in found] == expected


def test_images_without_files_in_two_splits_are_told_by_name(monkeypatch):
    source = MemorySource()
    monkeypatch.setattr(source, "records", lambda split: [Record("same")])
    (finding,) = check_source(source).findings
    assert (finding.code, finding.severity, finding.file) == ("D302", "error", "same")


def test_an_image_that_its_label_needs_is_told_once(tmp_path):
    root = plain_folder(tmp_path)
    clicks = {stem: [{"x": 9, "y": 9, "cls": number % 3}] for number, stem in enumerate(STEMS)}
    (root / "points.json").write_text(json.dumps(clicks))
    (root / "images" / "img_0.png").write_text("404")
    found = check_source(FolderSource(root, label_type="point")).findings
    assert [finding.code for finding in found if finding.severity == "error"] == ["D202"]


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


RELEASED = {"acdc": ([1156, 298], 1.04, 0.012), "camvid": ([367, 101], 2.5, 0.0)}


@pytest.mark.parametrize("sample", [120, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", RELEASED)
def test_known_statistics_of_released_folders(name, sample):
    images, labelled, disagreement = RELEASED[name]
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not on this machine")
    start = time.process_time()
    report = check_source(FolderSource(SHARED / name), sample=sample)
    assert time.process_time() - start < 20
    report.raise_if_errors()
    splits = report.statistics["splits"]
    assert [splits[split]["images"] for split in ("train", "val")] == images
    near = 0.25 if sample else 0.005
    assert report.statistics["all"]["labelled_percent"] == pytest.approx(labelled, abs=near)
    near = 0.1 if sample else 0.0005
    assert splits["train"]["disagreement_percent"] == pytest.approx(disagreement, abs=near)


def test_command_takes_the_code_of_unlabelled_pixels(tmp_path):
    plain_folder(tmp_path)
    save(tmp_path / "scribbles" / "img_0.png", np.full((40, 48), 3, np.uint8))
    assert main(["check", str(tmp_path)]) == 1
    assert main(["check", str(tmp_path), "--unlabelled-value", "3"]) == 0


def test_a_chosen_window_of_deep_images_is_not_complained_about(tmp_path) -> None:
    root = plain_folder(tmp_path)
    for path in (root / "images").iterdir():
        with Image.open(path) as image:
            save(path, np.array(image)[..., 0].astype(np.uint16) * 16)
    assert [f.code for f in check_source(FolderSource(root)).findings] == ["D203"] * 2
    chosen = FolderSource(root, intensity={"mode": "range", "low": 0, "high": 4000})
    assert not check_source(chosen).findings
