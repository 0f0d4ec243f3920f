import json
import os
import time
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from helpers.internals import internal
from helpers.tiny_folders import plain_folder, save
from helpers.trees_convert import times
from helpers.trees_medical import channel_folder
from PIL import Image

from scribbleseg import ConfigError, LabelFormatError, ScribbleNotFoundError, ScribbleSegError
from scribbleseg.data import (
    SUPERPIXEL_FILL,
    find_images,
    find_superpixels,
    read_superpixels,
    superpixel_folder,
    write_superpixels,
)
from scribbleseg.data.sources import FolderSource, SyntheticSource
from scribbleseg.functional import (
    SuperpixelOptions,
    over_segment,
    resize_image,
)

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
        regions = over_segment(source.read_image(record), "slic", {"num_segments": 30})
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
        ({"min_size": 5}, "min_size=5 is not an option of method 'slic'"),
        ({"method": "felzenszwalb", "min_size": 0}, "min_size=0"),
        ({"workers": -1}, "workers=-1"),
    ],
)
def test_wrong_options(tmp_path, source, options, message):
    with pytest.raises(ConfigError, match=message):
        write(source, tmp_path / "sp", **options)
    assert not (tmp_path / "sp").exists()


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


# ------------------------------------------------------------------- cache for training

NINE = SuperpixelOptions(segments=9)


def cache(source, method="grid", options=NINE, **how):
    return superpixel_folder(
        source, source.records("train"), method, options, progress=False, **how
    )


def test_the_cache_is_beside_the_data_and_made_once(tmp_path, source):
    images = find_images(source.root, unique=False)
    folder = cache(source)
    assert find_images(source.root, unique=False) == images, "nobody takes them for images"
    assert folder.parent == tmp_path / "raw" / ".superpixel_cache"
    assert folder.name.startswith("grid_9_")
    for record in source.records("train"):
        np.testing.assert_array_equal(
            read_superpixels(folder / f"{record.image_id}.png"),
            over_segment(np.zeros((40, 48, 3), np.uint8), "grid", {"num_segments": 9}),
        )
    before = times(folder)
    assert cache(source) == folder
    (folder / "img_1.png").unlink()
    assert cache(source) == folder
    after = times(folder)
    changed = {"img_1.png", "overview.png", "manifest.json"}
    assert {name for name in before if before[name] != after[name]} == changed


def test_every_option_has_a_folder_of_its_own(tmp_path, source):
    folders = [
        cache(source),
        cache(source, options=SuperpixelOptions(segments=4)),
        cache(source, "slic"),
        cache(source, resize=24),
        cache(FolderSource(source.root, rgb_channels=(2, 1, 0))),
    ]
    assert len(set(folders)) == 5


def test_data_that_move_keep_their_cache(tmp_path, source):
    made = times(cache(source))
    source.root.rename(tmp_path / "moved")
    moved = cache(FolderSource(tmp_path / "moved"))
    assert moved.is_relative_to(tmp_path / "moved")
    assert times(moved) == made


def test_images_of_network_size(source):
    folder = cache(source, "slic", resize=24)
    record = source.records("train")[0]
    scaled = resize_image(source.read_image(record), 24)
    ours = read_superpixels(folder / f"{record.image_id}.png", size=scaled.shape[:2])
    np.testing.assert_array_equal(ours, over_segment(scaled, "slic", {"num_segments": 9}))


def test_data_that_cannot_be_written_to_use_the_cache_of_the_user(tmp_path, source, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert cache(source).is_relative_to(tmp_path / "home" / "scribbleseg")
    other = FolderSource(plain_folder(tmp_path / "other"))
    assert cache(other) != cache(source)
    made = [SyntheticSource(num_train=2, size=size) for size in (32, 40)]
    assert cache(made[0]) != cache(made[1]), "no file says that the images differ"


def test_of_several_processes_one_does_the_work(source, monkeypatch):
    calls = []

    def slowly(image, *args, **options):
        calls.append(image)
        time.sleep(0.02)
        return over_segment(image, *args, **options)

    monkeypatch.setattr(internal("superpixels"), "over_segment", slowly)
    with ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(cache, [source] * 3))
    assert len(folders) == 1
    assert sum(image.shape[0] == 40 for image in calls) == 6, "each image once"


def test_a_file_system_without_locks_is_no_obstacle(source, monkeypatch):
    def refuse(*args, **options):
        raise NotImplementedError("no flock here")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    assert len(find_superpixels(cache(source))) == 6


def test_images_without_superpixels_stop_the_training(source):
    (source.root / "images" / "img_1.png").write_text("404")
    with pytest.raises(
        ScribbleSegError, match=r"1 of 6 images .*img_1: D202 .*only what is missing"
    ):
        cache(source)
    with pytest.raises(ConfigError, match="method='watershed'"):
        cache(source, "watershed")


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
