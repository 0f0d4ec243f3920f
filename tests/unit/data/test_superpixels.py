import json

import h5py
import numpy as np
import pytest
from helpers.internals import internal
from helpers.tiny_folders import plain_folder, save
from helpers.trees_convert import run_command, times
from helpers.trees_medical import channel_folder
from PIL import Image

from scribbleseg import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.data import (
    SUPERPIXEL_FILL,
    find_superpixels,
    read_distance_map,
    read_superpixels,
    write_superpixels,
)
from scribbleseg.data.sources import FolderSource
from scribbleseg.functional import SuperpixelOptions, grid_regions, slic_regions

OWN = ("splits", "method", "workers")


def write(source, out, **options):
    own = {name: options.pop(name) for name in OWN if name in options}
    return write_superpixels(
        source, out, options=SuperpixelOptions(**options), progress=False, **own
    )


@pytest.fixture
def source(tmp_path):
    return FolderSource(plain_folder(tmp_path / "raw"))


def test_files_hold_the_regions(tmp_path, source):
    report = write(source, tmp_path / "sp", segments=30, splits=("train", "val"))
    assert (report.written, report.kept, report.failed) == (8, 0, {})
    for record in [*source.records("train"), *source.records("val")]:
        path = tmp_path / "sp" / f"{record.image_id}.png"
        with Image.open(path) as image:
            assert image.mode == "I;16"
        regions = slic_regions(source.read_image(record), num_segments=30)
        ours = read_superpixels(path, size=(40, 48))
        assert ours.dtype == np.int32
        np.testing.assert_array_equal(ours, regions)
        assert report.found["counts"][record.image_id] == regions.max() + 1
    manifest = json.loads((tmp_path / "sp" / "manifest.json").read_text())
    assert (manifest["files"], manifest["complete"], manifest["method"]) == (8, True, "slic")
    assert manifest["options"] == {"num_segments": 30, "adaptive": True}
    assert list(find_superpixels(tmp_path / "sp")) == sorted(report.found["counts"])
    with Image.open(report.overview) as picture:
        yellow = (np.asarray(picture) == (255, 221, 0)).all(-1)
    middle = yellow.shape[1] // 2
    assert yellow[:, middle:].any()
    assert not yellow[:, :middle].any()


def test_second_run_writes_nothing_and_a_broken_one_goes_on(tmp_path, source, monkeypatch):
    read, seen = FolderSource.read_image, []

    def stop(self, record):
        seen.append(record)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return read(self, record)

    monkeypatch.setattr(FolderSource, "read_image", stop)
    with pytest.raises(KeyboardInterrupt):
        write(source, tmp_path / "sp", method="grid", segments=6)
    monkeypatch.undo()
    assert json.loads((tmp_path / "sp" / "manifest.json").read_text())["complete"] is False
    report = write(source, tmp_path / "sp", method="grid", segments=6)
    assert (report.written, report.kept) == (4, 2)
    before = times(tmp_path / "sp")
    assert write(source, tmp_path / "sp", method="grid", segments=6).written == 0
    assert times(tmp_path / "sp") == before
    (tmp_path / "sp" / "img_0.png").write_text("half a file")
    again = write(source, tmp_path / "sp", method="grid", segments=6)
    assert (again.written, again.kept) == (1, 5)
    np.testing.assert_array_equal(
        read_superpixels(tmp_path / "sp" / "img_0.png"), grid_regions(40, 48, num_segments=6)
    )


def test_other_settings_are_refused(tmp_path, source):
    write(source, tmp_path / "sp", method="grid", segments=6)
    with pytest.raises(ConfigError, match=r"other settings \(options: .*'num_segments': 6.*7"):
        write(source, tmp_path / "sp", method="grid", segments=7)
    with pytest.raises(ConfigError, match=r"method: 'grid', now 'felzenszwalb'"):
        write(source, tmp_path / "sp", method="felzenszwalb")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "watershed"}, "method='watershed'"),
        ({"segments": 0}, "segments=0"),
        ({"segments": 65536}, "segments=65536: expected at most 65535"),
        ({"segments": 2.5}, "segments=2.5"),
        ({"compactness": 0.0}, "compactness=0.0"),
        ({"method": "grid", "compactness": 1.0}, "compactness=1.0 is not an option of method"),
        ({"method": "felzenszwalb", "segments": 9}, "segments=9 is not an option"),
        ({"method": "felzenszwalb", "scale": -1.0}, "scale=-1.0"),
        ({"scale": 5.0}, "scale=5.0 is not an option of method 'slic'"),
        ({"workers": -1}, "workers=-1"),
    ],
)
def test_wrong_options(tmp_path, source, options, message):
    with pytest.raises(ConfigError, match=message):
        write(source, tmp_path / "sp", **options)
    assert not (tmp_path / "sp").exists()


def test_fixed_compactness_and_scale_reach_the_method(tmp_path, source):
    write(source, tmp_path / "a", compactness=30.0, segments=12, splits=("val",))
    record = source.records("val")[0]
    regions = slic_regions(
        source.read_image(record), num_segments=12, compactness=30.0, adaptive=False
    )
    np.testing.assert_array_equal(
        read_superpixels(tmp_path / "a" / f"{record.image_id}.png"), regions
    )
    report = write(source, tmp_path / "b", method="felzenszwalb", scale=50.0, splits=("val",))
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["options"] == {"scale": 50.0}
    assert "2 written" in report.format()


@pytest.mark.parametrize("method", ["slic", "felzenszwalb"])
def test_regions_follow_the_channels_that_stand_for_colours(tmp_path, method):
    root = channel_folder(tmp_path / "raw", "bands")
    noise = np.random.default_rng(0).integers(0, 256, (40, 48), np.uint8)
    halves = np.zeros((40, 48, 4), np.uint8)
    halves[..., 0], halves[:, 24:, 3] = noise, 200
    for path in (root / "images").iterdir():
        path.unlink()
        np.save(path.with_suffix(".npy"), halves)
    source = FolderSource(root, channels=4, rgb_channels=(3, 3, 1))
    write(source, tmp_path / "sp", method=method, segments=2 if method == "slic" else None)
    regions = read_superpixels(tmp_path / "sp" / "img_0.png")
    assert len(np.unique(regions)) == 2
    assert len(np.unique(regions[:, :24])) == len(np.unique(regions[:, 24:])) == 1
    other = FolderSource(root, channels=4, rgb_channels=(0, 0, 0))
    with pytest.raises(ConfigError, match="rgb_channels"):
        write(other, tmp_path / "sp", method=method, segments=2 if method == "slic" else None)


def test_smallest_region_reaches_the_method(tmp_path, source):
    write(source, tmp_path / "sp", method="felzenszwalb", min_size=900, splits=("val",))
    assert read_superpixels(tmp_path / "sp" / "img_6.png").max() <= 1
    with pytest.raises(ConfigError, match="min_size=5 is not an option of method 'slic'"):
        write(source, tmp_path / "other", min_size=5)


def test_command(tmp_path, source, capsys):
    (tmp_path / "raw" / "images" / "img_1.png").write_text("404")
    arguments = (tmp_path / "raw", "--out", tmp_path / "sp", "--method", "grid", "--workers", "0")
    assert run_command("superpixels", *arguments) == 1
    captured = capsys.readouterr()
    assert "5 written, 0 kept from earlier, 1 failed" in captured.out
    assert "img_1: D202" in captured.err
    assert json.loads((tmp_path / "sp" / "manifest.json").read_text())["complete"] is False
    assert (
        run_command("superpixels", tmp_path / "raw", "--out", tmp_path / "sp", "--segments", "0")
        == 2
    )


def test_interruption_is_status_130(tmp_path, source, monkeypatch, capsys):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(internal("superpixels"), "over_segment", stop)
    assert run_command("superpixels", tmp_path / "raw", "--out", tmp_path / "sp") == 130
    assert "the same command goes on there" in capsys.readouterr().err


# ---------------------------------------------------------------------------- readers

IDS = np.arange(6).reshape(2, 3)


@pytest.mark.parametrize("key", ["var1", "L", "W", "superpixels"])
@pytest.mark.parametrize("dtype", [np.float64, np.uint16, np.int32])
def test_matlab_files_are_transposed_and_count_from_one(tmp_path, key, dtype):
    path = tmp_path / "a.mat"
    with h5py.File(path, "w") as content:
        content["other"] = 1
        content[key] = (IDS + 1).T.astype(dtype)
    ours = read_superpixels(path, size=(2, 3))
    assert ours.dtype == np.int32
    np.testing.assert_array_equal(ours, IDS)


def test_fill_of_sixteen_bits(tmp_path):
    stored = IDS.astype(np.uint16)
    stored[0, 0] = 65535
    ours = read_superpixels(save(tmp_path / "a.png", stored))
    assert ours[0, 0] == SUPERPIXEL_FILL == -1
    np.testing.assert_array_equal(ours.ravel()[1:], IDS.ravel()[1:])
    # in 8 bits 255 is an id like any other
    eight = np.full((2, 2), 255, np.uint8)
    assert read_superpixels(save(tmp_path / "b.png", eight)).max() == 255


def _mat(path, **arrays):
    with h5py.File(path, "w") as content:
        for key, value in arrays.items():
            content[key] = value
    return path


def test_faulty_superpixel_files(tmp_path):
    with pytest.raises(ScribbleNotFoundError, match=r"a\.png"):
        read_superpixels(tmp_path / "a.png")
    with pytest.raises(ScribbleNotFoundError, match=r"a\.mat"):
        read_superpixels(tmp_path / "a.mat")
    (tmp_path / "old.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(
        LabelFormatError,
        match=r"D202 .*old\.mat: cannot be decoded .*is not a complete HDF5 file.*-v7\.3",
    ):
        read_superpixels(tmp_path / "old.mat")
    with pytest.raises(LabelFormatError, match=r"D202 .*x\.mat: holds \['x'\], expected one of"):
        read_superpixels(_mat(tmp_path / "x.mat", x=IDS + 1))
    with pytest.raises(LabelFormatError, match=r"D101 .*z\.mat: 'L' has value 0 on 1 px"):
        read_superpixels(_mat(tmp_path / "z.mat", L=IDS))
    with pytest.raises(LabelFormatError, match=r"D101 .*h\.mat: 'L' has value 1\.5 on 1 px"):
        read_superpixels(_mat(tmp_path / "h.mat", L=np.array([[1.5, 2.0], [1.0, 1.0]])))
    with pytest.raises(LabelFormatError, match=r"D202 .*d\.mat: 'L' is .*shape \(2, 2, 2\)"):
        read_superpixels(_mat(tmp_path / "d.mat", L=np.ones((2, 2, 2))))
    path = save(tmp_path / "s.png", IDS.astype(np.uint16))
    with pytest.raises(LabelFormatError, match=r"D201 .*s\.png: superpixels are 3x2 .* is 2x3"):
        read_superpixels(path, size=(3, 2))
    with pytest.raises(LabelFormatError, match=r"D103 .*rgb\.png"):
        read_superpixels(save(tmp_path / "rgb.png", np.zeros((2, 2, 3), np.uint8)))
    with pytest.raises(ScribbleNotFoundError, match=r"D301 .*none: folder of superpixels"):
        find_superpixels(tmp_path / "none")


def test_distance_maps(tmp_path):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for name, pixels in {
        "l.png": grey,
        "rgb.png": np.repeat(grey[..., None], 3, 2),
        "deep.png": grey.astype(np.uint16) * 300,
    }.items():
        ours = read_distance_map(save(tmp_path / name, pixels))
        np.testing.assert_array_equal(ours, pixels if pixels.ndim == 2 else grey)
    colour = np.repeat(grey[..., None], 3, 2)
    colour[0, 0] = (1, 2, 3)
    with pytest.raises(LabelFormatError, match=r"D103 .*c\.png: the channels differ on 1 px"):
        read_distance_map(save(tmp_path / "c.png", colour))
    with pytest.raises(LabelFormatError, match=r"D103 .*p\.png: mode P"):
        read_distance_map(save(tmp_path / "p.png", grey, palette=True))
    with pytest.raises(ScribbleNotFoundError, match=r"none\.png"):
        read_distance_map(tmp_path / "none.png")
    (tmp_path / "t.png").write_text("404")
    with pytest.raises(LabelFormatError, match=r"D202 .*t\.png"):
        read_distance_map(tmp_path / "t.png")
