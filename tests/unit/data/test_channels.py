"""Images beyond 8-bit RGB, from the file through training to a predicted folder."""

import numpy as np
import pytest
import torch
from helpers.contract import TINY_ENCODER
from helpers.training import quiet_trainer
from helpers.trees_medical import channel_folder
from PIL import Image

from scribbleseg import (
    ConfigError,
    DataInfo,
    Predictor,
    RegularizedModule,
    load,
)
from scribbleseg.data import (
    Augmentation,
    ScribbleDataModule,
    TrainTransform,
    check_source,
)
from scribbleseg.data.sources import FolderSource
from scribbleseg.functional import Intensity, normalize, resize_image
from scribbleseg.methods import DMPLSModule

EVERYTHING = Augmentation(
    scale=(0.5, 2.0), rotate=30, rot90=True, hflip=True, vflip=True, blur=0.5, color_jitter=0.4
)


def noise(*shape: int, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 255, shape).astype(dtype)


# -------------------------------------------------------------- transforms


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_every_transform_works_on_any_channels(channels):
    mean = tuple(np.linspace(0.2, 0.8, channels))
    transform = TrainTransform(EVERYTHING, crop_size=(64, 64), mean=mean)
    image, label = noise(40, 56, channels), np.full((40, 56), 3, np.uint8)
    original = image.copy()
    fill = np.round(255 * np.array(mean)).astype(np.uint8)
    padded = changed = False
    for seed in range(12):
        out = transform(image, [label], seed=seed)
        assert out.image.shape == out.raw.shape == (64, 64, channels)
        assert out.image.dtype == np.uint8
        assert (out.labels[0][~out.valid] == 255).all()
        # the edge of a rotated image is a mixture
        far = ~out.valid
        far[1:] &= far[:-1]
        far[:-1] &= far[1:]
        far[:, 1:] &= far[:, :-1]
        far[:, :-1] &= far[:, 1:]
        np.testing.assert_array_equal(out.raw[far], np.broadcast_to(fill, out.raw[far].shape))
        padded |= bool(far.any())
        changed |= not np.array_equal(out.image, out.raw)
        again = transform(image, [label], seed=seed)
        np.testing.assert_array_equal(again.image, out.image)
    assert padded
    assert changed
    np.testing.assert_array_equal(image, original)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_channels_move_together(channels):
    rows, columns = np.mgrid[0:40, 0:56]
    image = np.stack([(rows * 4, columns * 4)[c % 2] for c in range(channels)], -1).astype(np.uint8)
    label = (rows % 7).astype(np.uint8)
    augmentation = Augmentation(rot90=True, hflip=True, vflip=True)
    transform = TrainTransform(augmentation, crop_size=(24, 24), mean=(0.5,) * channels)
    for seed in range(6):
        out = transform(image, [label], seed=seed, track=True)
        np.testing.assert_array_equal(out.raw, image[tuple(out.source_index)])
        np.testing.assert_array_equal(out.labels[0], label[tuple(out.source_index)])


def test_jitter_of_other_channels_is_brightness_and_contrast():
    image = noise(40, 56, 4)
    transform = TrainTransform(Augmentation(hflip=False, color_jitter=0.3), mean=(0.5,) * 4)
    outs = [transform(image, [noise(40, 56)], seed=seed) for seed in range(40)]
    unchanged = sum(np.array_equal(out.image, image) for out in outs)
    assert 2 <= unchanged <= 16
    for out in outs:
        np.testing.assert_array_equal(out.raw, image)
        order = np.argsort(image.ravel(), kind="stable")
        assert (np.diff(out.image.ravel()[order].astype(int)) >= 0).all()
    brightness = [out.image.mean() / image.mean() for out in outs]
    assert 0.65 < min(brightness) < 0.85
    assert 1.1 < max(brightness) < 1.35


@pytest.mark.parametrize("channels", [1, 2, 4, 5, 7])
@pytest.mark.parametrize("size", [(20, 28), (60, 61)])
def test_resizing_and_normalising_treat_channels_alike(channels, size):
    image = noise(40, 56, channels)
    resized = resize_image(image, size)
    assert resized.shape == (*size, channels)
    for channel in range(channels):
        single = resize_image(np.ascontiguousarray(image[..., channel : channel + 1]), size)
        # OpenCV rounds halves of one channel and of several differently
        assert np.abs(resized[..., channel : channel + 1].astype(int) - single).max() <= 1
    mean, std = np.linspace(0.1, 0.9, channels), np.linspace(0.2, 0.4, channels)
    expected = ((image / 255 - mean) / std).transpose(2, 0, 1).astype(np.float32)
    np.testing.assert_array_equal(normalize(image, tuple(mean), tuple(std)), expected)
    with pytest.raises(ValueError, match=rf"expected a uint8 .*{channels}"):
        normalize(noise(4, 4, channels + 1), tuple(mean), tuple(std))


# ------------------------------------------------------------ sources, data module


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("channels: 4\nintensity: {mode: minmax}\n", r"intensity\.mode='minmax'"),
        ("channels: 0\n", r"channels=0"),
    ],
)
def test_options_of_the_folder_file(tmp_path, options, message):
    root = channel_folder(tmp_path, "bands")
    assert len(check_source(FolderSource(root)).statistics["all"]["mean"]) == 4
    assert FolderSource(root, intensity=Intensity("dtype")).intensity.mode == "dtype"
    (root / "dataset.yaml").write_text(options)
    with pytest.raises(ConfigError, match=message):
        FolderSource(root)


def test_statistics_of_the_data_module(tmp_path):
    bands = FolderSource(channel_folder(tmp_path / "a", "bands"))
    module = ScribbleDataModule(bands)
    assert module.in_channels == 4
    assert module.mean == (0.449,) * 4
    assert module.std == (0.226,) * 4
    own = ScribbleDataModule(bands, mean=(0.1, 0.2, 0.3, 0.4), std=(1, 1, 1, 2))
    assert own.data_info.mean == (0.1, 0.2, 0.3, 0.4)
    with pytest.raises(ConfigError, match=r"mean=\[0\.5, 0\.5, 0\.5\].*4 channels"):
        ScribbleDataModule(bands, mean=(0.5, 0.5, 0.5))
    with pytest.raises(ConfigError, match=r"std=\(1, 1, 1, 0\)"):
        ScribbleDataModule(bands, std=(1, 1, 1, 0))
    assert module.data_info.rgb_channels == (2, 1, 0)
    assert DataInfo.from_dict(module.data_info.to_dict()) == module.data_info


def test_facts_of_checkpoints():
    state = DataInfo(("a", "b")).to_dict()
    for name in ("in_channels", "intensity", "rgb_channels"):
        del state[name]
    info = DataInfo.from_dict(state)
    assert (info.in_channels, info.intensity) == (3, ("percentile", 0.5, 99.5))
    state |= {"intensity": ["range", 1, 2], "rgb_channels": [2, 1, 0]}  # as JSON has them
    info = DataInfo.from_dict(state)
    assert (info.intensity, info.rgb_channels) == (("range", 1, 2), (2, 1, 0))


@pytest.mark.parametrize(("kind", "channels"), [("deep", 1), ("bands", 4)])
def test_train_and_predict(tmp_path, kind, channels):
    source = FolderSource(channel_folder(tmp_path / "set", kind))
    data = ScribbleDataModule(
        source, batch_size=2, num_workers=0, crop_size=32, augmentation=EVERYTHING, seed=0
    )
    options = {"encoder": TINY_ENCODER, "encoder_weights": None, "in_channels": data.in_channels}
    module = RegularizedModule(3, regularizers={"gated_crf": 0.1}, **options)
    trainer = quiet_trainer(max_epochs=1, limit_train_batches=1, num_sanity_val_steps=0)
    trainer.fit(module, data)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])
    record, val = source.records("val")[0], next(iter(data.val_dataloader()))
    pixels = source.read_image(record)
    shown = [2, 1, 0] if kind == "bands" else [0, 0, 0]
    np.testing.assert_array_equal(val["image_raw"][0].permute(1, 2, 0), pixels[..., shown])

    trainer.save_checkpoint(tmp_path / "model.ckpt")
    loaded = load(tmp_path / "model.ckpt")
    assert loaded.data_info.in_channels == loaded.hparams["in_channels"] == channels
    assert loaded.data_info.intensity == ("percentile", 0.5, 99.5)
    predictor = Predictor(loaded, device="cpu")
    labels = predictor(record.image).labels
    np.testing.assert_array_equal(predictor(pixels).labels, labels)
    report = predictor.predict_folder(record.image.parent, tmp_path / "out", progress=False)
    assert (report.written, report.failed) == (6, ())
    with Image.open(tmp_path / "out" / "labels" / f"{record.image_id}.png") as stored:
        np.testing.assert_array_equal(np.asarray(stored), labels)
    # the same path as in validation
    with torch.no_grad():
        logits = loaded.eval().predict_logits(val["image"][:1])
    np.testing.assert_array_equal(logits.argmax(1)[0], labels)
    with pytest.raises(ValueError, match=rf"\(H, W, {channels}\)"):
        predictor(noise(8, 8, channels + 1))


def test_networks_take_any_channels(tmp_path):
    for module_class in (RegularizedModule, DMPLSModule):
        module = module_class(2, in_channels=2, encoder=TINY_ENCODER, encoder_weights=None)
        assert module(torch.zeros(1, 2, 33, 40)).shape == (1, 2, 33, 40)
    with pytest.raises(ConfigError, match="in_channels=0"):
        RegularizedModule(2, in_channels=0, encoder=TINY_ENCODER, encoder_weights=None)
