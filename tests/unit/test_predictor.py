import json
import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.internals import internal
from PIL import Image
from torch import nn
from torch.nn import functional as F

from scribbleseg import (
    CheckpointError,
    ConfigError,
    DataInfo,
    InferenceConfig,
    LabelFormatError,
    Predictor,
    ScribbleNotFoundError,
    predict_logits,
)
from scribbleseg.data import read_image
from scribbleseg.functional import preprocess


class Brightness(nn.Module):
    """Class 2 where an image is bright, class 1 where it is grey, class 0 where it is dark."""

    def __init__(self, resize=None, names=("dark", "grey", "bright")) -> None:
        super().__init__()
        self.data_info = DataInfo(names, mean=(0.0,) * 3, std=(1.0,) * 3, resize=resize)
        self.inference = InferenceConfig()
        self.frozen = nn.BatchNorm2d(3)
        self.frozen.eval()
        self.seen: list[tuple[int, ...]] = []

    def predict_logits(self, image):
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.seen.append(tuple(image.shape))
        return predict_logits(self._logits, image, self.inference)

    def _logits(self, image):
        mean = image.mean(1, keepdim=True)
        return -20 * (mean - torch.tensor([0.0, 0.5, 1.0])[:, None, None]).abs()


def _picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Large blocks of dark, grey and bright."""
    rng = np.random.default_rng(seed)
    blocks = rng.choice(np.array([10, 128, 245], np.uint8), (-(-height // 4), -(-width // 4)))
    grey = blocks.repeat(4, 0).repeat(4, 1)[:height, :width]
    return np.repeat(grey[..., None], 3, axis=-1)


def _expected(pixels: np.ndarray) -> np.ndarray:
    return np.digitize(pixels[..., 0], (64, 192)).astype(np.uint8)


def _save(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def _ids(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.asarray(image)


def _times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(Brightness(), device="cpu")


# ------------------------------------------------------------------ one image


@pytest.mark.parametrize("size", [(7, 9), (1, 1), (33, 65), (40, 20)])
@pytest.mark.parametrize("resize", [None, 32, (24, 48)])
def test_labels_have_the_size_of_the_image(size, resize):
    module = Brightness(resize)
    pixels = _picture(*size)
    labels, probabilities = Predictor(module, device="cpu")(pixels, probabilities=True)
    assert labels.shape == size
    assert labels.dtype == np.uint8
    assert probabilities.shape == (3, *size)
    np.testing.assert_allclose(probabilities.sum(0), 1, rtol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(0), labels)
    if resize is None:
        np.testing.assert_array_equal(labels, _expected(pixels))


def test_scores_are_scaled_before_the_argmax():
    module = Brightness(resize=(12, 10))
    pixels = _picture(29, 31)
    logits = module.eval()._logits(preprocess(pixels, module.data_info)[None])
    expected = F.interpolate(logits, (29, 31), mode="bilinear", align_corners=False)
    labels = Predictor(module, device="cpu")(pixels).labels
    np.testing.assert_array_equal(labels, expected.argmax(1)[0])


def test_probabilities_only_if_asked_for(predictor):
    prediction = predictor(_picture(8, 8))
    assert prediction.probabilities is None
    assert prediction.confidence is None
    confidence = predictor(_picture(8, 8), probabilities=True).confidence
    assert confidence.shape == (8, 8)
    assert (confidence > 0.5).all()


def test_grey_arrays_and_views(predictor):
    pixels = _picture(16, 12)
    np.testing.assert_array_equal(predictor(pixels[..., 0]).labels, _expected(pixels))
    np.testing.assert_array_equal(predictor(pixels[:, ::-1]).labels, _expected(pixels[:, ::-1]))


@pytest.mark.parametrize("shape", [(4, 4, 4), (4,), (0, 4, 3)])
def test_other_arrays_are_refused(predictor, shape):
    with pytest.raises(ValueError, match="expected a uint8 image"):
        predictor(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="float32"):
        predictor(np.zeros((4, 4, 3), np.float32))


def test_files_of_many_kinds(predictor, tmp_path):
    pixels = _picture(15, 22)
    grey = pixels[..., 0]
    alpha = np.dstack([pixels, np.full((15, 22), 7, np.uint8)])
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    turned = np.ascontiguousarray(np.rot90(pixels))
    files = {
        "grey": _save(tmp_path / "grey.png", grey),
        "alpha": _save(tmp_path / "alpha.png", alpha),
        "deep": _save(tmp_path / "deep.png", grey.astype(np.uint16) * 200),
        "turned": _save(tmp_path / "turned.png", turned, exif=exif),
    }
    for name, path in files.items():
        np.testing.assert_array_equal(predictor(path).labels, _expected(pixels), err_msg=name)
        np.testing.assert_array_equal(predictor(str(path)).labels, _expected(pixels), err_msg=name)


def test_unreadable_files_raise(predictor, tmp_path):
    with pytest.raises(ScribbleNotFoundError):
        predictor(tmp_path / "missing.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(LabelFormatError):
        predictor(tmp_path / "broken.png")


def test_module_state_is_put_back():
    module = Brightness().train()
    module.frozen.eval()
    options = module.inference
    predictor = Predictor(module, device="cpu", inference=InferenceConfig(flip=True))
    predictor(_picture(8, 8))
    assert module.training
    assert not module.frozen.training
    assert module.inference is options
    with pytest.raises(ValueError, match="expected a uint8"):
        predictor(np.zeros((2, 2, 2), np.uint8))
    assert module.training


def test_state_is_put_back_after_an_error():
    module = Brightness(names=("a", "b")).train()
    with pytest.raises(CheckpointError, match="predicts 3 classes"):
        Predictor(module, device="cpu")(_picture(8, 8))
    assert module.training


def test_options_reach_the_module():
    module = Brightness()
    options = InferenceConfig(window=8, scales=(0.5, 1.0), flip=True)
    pixels = _picture(24, 24)
    labels = Predictor(module, device="cpu", inference=options)(pixels).labels
    assert (labels == _expected(pixels)).mean() > 0.8


def test_module_without_data_facts_is_refused():
    module = Brightness()
    module.data_info = None
    with pytest.raises(CheckpointError, match="data_info"):
        Predictor(module, device="cpu")


# -------------------------------------------------------------------- folders


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    _save(root / "one.png", _picture(7, 9, 1))
    _save(root / "sub" / "two.png", _picture(30, 21, 2))
    _save(root / "sub" / "deep" / "three.bmp", _picture(12, 40, 3))
    return root


def test_folder_results(predictor, photos, tmp_path):
    output = tmp_path / "out"
    report = predictor.predict_folder(photos, output, save_prob=True)
    assert (report.written, report.skipped, report.failed) == (3, 0, ())
    palette = np.array(predictor.data_info.palette, np.uint8)
    for name, suffix in (("one", "png"), ("sub/two", "png"), ("sub/deep/three", "bmp")):
        pixels = read_image(photos / f"{name}.{suffix}")
        ids = _ids(output / "labels" / f"{name}.png")
        np.testing.assert_array_equal(ids, _expected(pixels))
        with Image.open(output / "labels" / f"{name}.png") as image:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), palette[ids])
        with Image.open(output / "overlays" / f"{name}.jpg") as image:
            assert image.size == ids.shape[::-1]
        with np.load(output / "probabilities" / f"{name}.npz", allow_pickle=False) as stored:
            probs = stored["probs"]
        assert probs.dtype == np.float16
        np.testing.assert_allclose(probs.astype(np.float32).sum(0), 1, atol=2e-3)
        np.testing.assert_array_equal(probs.argmax(0), ids)
    assert read_image(output / "overview.jpg").shape[0] > 3 * 240
    assert not list(output.rglob(".*"))


def test_report_file(predictor, photos, tmp_path):
    predictor.module.checkpoint_info = {"class_path": "x.Y", "version": "1"}
    report = predictor.predict_folder(photos, tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "report.json").read_text())
    labels = [_ids(path) for path in (tmp_path / "out" / "labels").rglob("*.png")]
    counts = np.bincount(np.concatenate([ids.ravel() for ids in labels]), minlength=3)
    assert stored["complete"] is True
    assert (stored["images"], stored["predicted"], stored["failed"]) == (3, 3, [])
    assert stored["classes"] == ["dark", "grey", "bright"]
    assert stored["checkpoint"] == {"class_path": "x.Y", "version": "1"}
    assert stored["inference"]["scales"] == [1.0]
    assert list(stored["pixels"].values()) == counts.tolist()
    assert list(report.pixel_share.values()) == pytest.approx(counts / counts.sum())


def test_second_call_writes_nothing(predictor, photos, tmp_path):
    output = tmp_path / "out"
    first = predictor.predict_folder(photos, output)
    before, seen = _times(output), len(predictor.module.seen)
    second = predictor.predict_folder(photos, output)
    assert (second.written, second.skipped) == (0, 3)
    assert second.pixel_share == first.pixel_share
    assert _times(output) == before
    assert len(predictor.module.seen) == seen


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_of_a_folder(terminal, predictor, tmp_path, caplog, capsys, monkeypatch):
    # every image takes 15 seconds; a log file has a line every 30, and one at the end
    now = iter(range(100, 1000, 15))
    clock = SimpleNamespace(monotonic=lambda: float(next(now)))
    monkeypatch.setattr(internal("folder prediction"), "time", clock)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    for number in range(5):
        _save(tmp_path / "in" / f"{number}.png", _picture(4, 4, number))
    with caplog.at_level(logging.INFO, logger="scribbleseg"):
        predictor.predict_folder(tmp_path / "in", tmp_path / "out")
        shown = capsys.readouterr().err
        predictor.predict_folder(tmp_path / "in", tmp_path / "again", progress=False)
    lines = [record.message for record in caplog.records]
    bar = re.findall(r"predict: +(\d+)%", shown)
    if terminal:
        assert lines == []
        assert (bar[0], bar[-1]) == ("0", "100")
        assert "5/5" in shown
        assert "image/s]" in shown
    else:
        assert not bar
        assert lines == [
            "predicted 2 of 5 images, 45 s left",
            "predicted 4 of 5 images, 15 s left",
            "predicted 5 of 5 images, 0 s left",
        ]
    assert "predict" not in capsys.readouterr().err


def test_interrupted_run_is_continued(predictor, photos, tmp_path, monkeypatch):
    output = tmp_path / "out"
    original, calls = internal("folder prediction").write_label, []

    def killed(path, *args):
        calls.append(path)
        if len(calls) == 2:
            raise KeyboardInterrupt
        original(path, *args)

    monkeypatch.setattr(internal("folder prediction"), "write_label", killed)
    with pytest.raises(KeyboardInterrupt):
        predictor.predict_folder(photos, output)
    assert json.loads((output / "report.json").read_text())["complete"] is False
    monkeypatch.undo()
    report = predictor.predict_folder(photos, output)
    assert (report.written, report.skipped) == (2, 1)
    assert json.loads((output / "report.json").read_text())["complete"] is True


def test_damaged_or_missing_results_are_made_anew(predictor, photos, tmp_path, caplog):
    output = tmp_path / "out"
    predictor.predict_folder(photos, output)
    (output / "labels" / "one.png").write_bytes(b"")
    (output / "overlays" / "sub" / "two.jpg").unlink()
    report = predictor.predict_folder(photos, output)
    assert (report.written, report.skipped) == (2, 1)
    assert "damaged" in caplog.text
    np.testing.assert_array_equal(
        _ids(output / "labels" / "one.png"), _expected(read_image(photos / "one.png"))
    )


def test_overwrite_predicts_again(predictor, photos, tmp_path):
    output = tmp_path / "out"
    predictor.predict_folder(photos, output)
    wrong = output / "labels" / "one.png"
    _save(wrong, np.zeros((3, 3), np.uint8))
    assert predictor.predict_folder(photos, output, overwrite=True).written == 3
    np.testing.assert_array_equal(_ids(wrong), _expected(read_image(photos / "one.png")))


def test_broken_file_does_not_end_the_run(predictor, photos, tmp_path, caplog):
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    truncated = (photos / "sub" / "two.png").read_bytes()[:60]
    (photos / "cut.png").write_bytes(truncated)
    output = tmp_path / "out"
    with caplog.at_level(logging.WARNING):
        report = predictor.predict_folder(photos, output)
    assert report.written == 3
    assert [failure.image for failure in report.failed] == ["broken.jpg", "cut.png"]
    assert all("cannot be decoded" in failure.reason for failure in report.failed)
    assert "no prediction for broken.jpg" in caplog.text
    stored = json.loads((output / "report.json").read_text())
    assert [failure["image"] for failure in stored["failed"]] == ["broken.jpg", "cut.png"]
    before = _times(output)
    assert predictor.predict_folder(photos, output).failed == report.failed
    assert _times(output) == before


def test_odd_decoder_errors_are_reported(predictor, photos, tmp_path, monkeypatch):
    def decode(path, **options):
        if path.name == "one.png":
            raise KeyError(273)
        return read_image(path, **options)

    monkeypatch.setattr(internal("predictor"), "read_image", decode)
    report = predictor.predict_folder(photos, tmp_path / "out")
    assert [failure.image for failure in report.failed] == ["one.png"]


def test_image_too_large_for_memory_is_reported(predictor, photos, tmp_path):
    original = predictor.module.predict_logits

    def limited(image):
        if image.shape[-1] == 40:
            raise RuntimeError("CUDA out of memory")
        return original(image)

    predictor.module.predict_logits = limited
    report = predictor.predict_folder(photos, tmp_path / "out")
    assert [failure.image for failure in report.failed] == ["sub/deep/three.bmp"]
    assert report.written == 2


def test_faults_of_the_module_end_the_run(predictor, photos, tmp_path):
    def faulty(image):
        raise RuntimeError("size mismatch")

    predictor.module.predict_logits = faulty
    with pytest.raises(RuntimeError, match="size mismatch"):
        predictor.predict_folder(photos, tmp_path / "out")


def test_same_stem_twice(predictor, tmp_path):
    _save(tmp_path / "in" / "a.png", _picture(8, 8, 1))
    _save(tmp_path / "in" / "a.bmp", _picture(12, 8, 2))
    predictor.predict_folder(tmp_path / "in", tmp_path / "out", overlay=False)
    labels = tmp_path / "out" / "labels"
    assert sorted(path.name for path in labels.iterdir()) == ["a.bmp.png", "a.png.png"]
    assert _ids(labels / "a.bmp.png").shape == (12, 8)
    assert not (tmp_path / "out" / "overlays").exists()


@pytest.mark.parametrize("inside", ["", "predictions"])
def test_output_inside_the_input_is_no_input(predictor, photos, inside):
    output = photos / inside
    assert predictor.predict_folder(photos, output, save_prob=True).written == 3
    again = predictor.predict_folder(photos, output, save_prob=True)
    assert (again.written, again.skipped) == (0, 3)


def test_pattern_file_and_list(predictor, photos, tmp_path):
    assert predictor.predict_folder(f"{photos}/**/*.png", tmp_path / "a").written == 2
    assert (tmp_path / "a" / "labels" / "sub" / "two.png").is_file()
    assert predictor.predict_folder(photos / "one.png", tmp_path / "b").written == 1
    files = [photos / "one.png", photos / "gone.png"]
    report = predictor.predict_folder(files, tmp_path / "c")
    assert report.written == 1
    assert [failure.image for failure in report.failed] == ["gone.png"]


def test_empty_folder_says_what_is_an_image(predictor, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ScribbleNotFoundError, match=r"\.tiff"):
        predictor.predict_folder(tmp_path / "in", tmp_path / "out")


def test_results_of_other_classes_are_not_mixed(predictor, photos, tmp_path, caplog):
    output = tmp_path / "out"
    predictor.predict_folder(photos, output)
    other = Predictor(Brightness(names=("a", "b", "c")), device="cpu")
    with pytest.raises(ConfigError, match="another output folder"):
        other.predict_folder(photos, output)
    assert other.predict_folder(photos, output, overwrite=True).written == 3
    flipped = Predictor(other.module, device="cpu", inference=InferenceConfig(flip=True))
    with pytest.raises(ConfigError, match=r"made otherwise \(inference: "):
        flipped.predict_folder(photos, output)


def test_results_of_other_weights_are_not_mixed(photos, tmp_path, monkeypatch):
    def predictor_of(value: float) -> Predictor:
        module = Brightness()
        module.register_buffer("own", torch.tensor(value))  # buffers count as well
        module.checkpoint_info = {"checkpoint": "last.ckpt", "step": 7}  # written over in between
        return Predictor(module, device="cpu")

    output = tmp_path / "out"
    predictor_of(1.0).predict_folder(photos, output, save_prob=True)
    assert predictor_of(1.0).predict_folder(photos, output).skipped == 3
    second = predictor_of(2.0)
    with pytest.raises(ConfigError, match=r"made otherwise \(weights: .*--overwrite true"):
        second.predict_folder(photos, output)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "__call__", stop)
        with pytest.raises(KeyboardInterrupt):
            second.predict_folder(photos, output, overwrite=True, overlay=False)
    left = {path.name for path in output.rglob("*") if path.is_file()}
    assert left == {"report.json", "overview.jpg"}, "no result of the first"
    assert second.predict_folder(photos, output).written == 3
    (output / "report.json").unlink()
    with pytest.raises(ConfigError, match=r"no report\.json says how"):
        second.predict_folder(photos, output)


def test_progress_is_logged_without_a_terminal(predictor, photos, tmp_path, caplog, capsys):
    with caplog.at_level(logging.INFO, "scribbleseg"):
        predictor.predict_folder(photos, tmp_path / "out")
        assert "predicted 3 of 3 images" in caplog.text
        caplog.clear()
        predictor.predict_folder(photos, tmp_path / "out", progress=False)
        assert not caplog.text
    assert capsys.readouterr().err == ""


def test_progress_bar_on_a_terminal(predictor, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    predictor.predict_folder(photos, tmp_path / "out")
    assert "3/3" in capsys.readouterr().err
