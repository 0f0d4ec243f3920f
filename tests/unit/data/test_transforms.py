from __future__ import annotations

import collections

import numpy as np
import pytest

from scribbleseg import ConfigError
from scribbleseg.data import Augmentation, LabelMap, TrainTransform, resize_map

EVERYTHING = Augmentation(
    scale=(0.5, 2.0), rotate=30, rot90=True, hflip=True, vflip=True, blur=0.5, color_jitter=0.4
)


def sample(height: int = 40, width: int = 56) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[0:height, 0:width]
    scribble = np.full((height, width), 255, np.uint8)
    scribble[10:13, 5:50] = 1
    scribble[30, 20:30] = 2
    # the image encodes what each pixel is, so that geometry can be read off it
    image = np.stack([rows * 3, columns * 3, np.full_like(rows, 200)], axis=-1).astype(np.uint8)
    return image, scribble


def test_same_seed_same_sample_whatever_came_before() -> None:
    transform = TrainTransform(EVERYTHING, crop_size=(32, 32))
    image, scribble = sample()
    first = transform(image, [scribble], seed=11)
    for seed in (1, 2, 3):
        transform(image, [scribble], seed=seed)
    np.random.seed(0)  # noqa: NPY002
    again = transform(image, [scribble], seed=11)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.labels[0], again.labels[0])
    other = transform(image, [scribble], seed=12)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("seed", range(12))
def test_padding_is_never_a_class(seed: int) -> None:
    transform = TrainTransform(EVERYTHING, crop_size=(96, 96))
    image, _ = sample()
    dense = np.full(image.shape[:2], 3, np.uint8)
    out = transform(image, [dense], seed=seed)
    assert out.image.shape == (96, 96, 3)
    assert set(np.unique(out.labels[0])) <= {3, 255}
    assert not out.valid.all()
    assert (out.labels[0][~out.valid] == 255).all()
    assert (out.labels[0][out.valid] == 3).all(), (
        "255 is padding only, since all pixels had a label"
    )


@pytest.mark.parametrize("seed", range(6))
def test_labels_follow_the_image(seed: int) -> None:
    transform = TrainTransform(Augmentation(rot90=True, hflip=True, vflip=True), crop_size=(24, 24))
    image, scribble = sample()
    out = transform(image, [scribble], seed=seed)
    rows, columns = out.raw[..., 0] // 3, out.raw[..., 1] // 3
    np.testing.assert_array_equal(out.labels[0], scribble[rows, columns])


def test_colour_changes_do_not_touch_raw_or_labels() -> None:
    image, scribble = sample()
    plain = TrainTransform(Augmentation(hflip=False))
    colourful = TrainTransform(Augmentation(hflip=False, color_jitter=0.9, blur=1.0))
    out = colourful(image, [scribble], seed=3)
    np.testing.assert_array_equal(out.raw, plain(image, [scribble], seed=3).image)
    np.testing.assert_array_equal(out.labels[0], scribble)
    assert not np.array_equal(out.image, out.raw)


def test_scale_range_is_what_it_says() -> None:
    image, scribble = sample(64, 64)
    transform = TrainTransform(Augmentation(scale=(0.5, 2.0), hflip=False))
    sizes = [transform(image, [scribble], seed=s).image.shape[0] / 64 for s in range(60)]
    assert 0.5 <= min(sizes) < 0.7
    assert 1.7 < max(sizes) <= 2.0


def test_crop_finds_the_labels() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    scribble = np.full((200, 200), 255, np.uint8)
    scribble[20:120, 20:120] = 1
    transform = TrainTransform(Augmentation(hflip=False), crop_size=(32, 32))
    hits = [(transform(image, [scribble], seed=s).labels[0] != 255).any() for s in range(40)]
    assert all(hits)


def test_resize_keeps_ids() -> None:
    image, scribble = sample()
    out = TrainTransform(Augmentation(hflip=False), resize=(20, 28))(image, [scribble], seed=0)
    assert out.image.shape == (20, 28, 3)
    assert set(np.unique(out.labels[0])) <= {1, 2, 255}


def test_impossible_ranges_are_refused() -> None:
    with pytest.raises(ConfigError, match="scale"):
        Augmentation(scale=(0.0, 1.0))
    with pytest.raises(ConfigError, match="color_jitter"):
        Augmentation(color_jitter=2)
    for degrees in (-1, 180.5):
        with pytest.raises(ConfigError, match=rf"rotate={degrees}: expected 0 to 180 degrees"):
            Augmentation(rotate=degrees)
    assert Augmentation(rotate=180).rotate == 180


@pytest.mark.parametrize(
    ("augmentation", "crop"),
    [
        (Augmentation(hflip=True, vflip=True, rot90=True), None),
        (Augmentation(hflip=True, rot90=True), (40, 60)),
        (Augmentation(scale=(0.5, 1.5), rotate=30.0), (24, 24)),
    ],
)
def test_source_index_replays_any_geometry(augmentation, crop) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (32, 48, 3), dtype=np.uint8)
    labels = rng.integers(0, 20, (32, 48), dtype=np.uint8)
    transform = TrainTransform(augmentation, crop_size=crop)
    for seed in range(5):
        sample = transform(image, [labels], seed=seed, track=True)
        rows, columns = sample.source_index
        assert np.array_equal(rows >= 0, sample.valid)
        assert np.array_equal(labels[rows, columns][sample.valid], sample.labels[0][sample.valid])
        plain = transform(image, [labels], seed=seed)
        assert plain.source_index is None
        assert np.array_equal(plain.image, sample.image)


def test_steps_are_independent_of_each_other() -> None:
    transform = TrainTransform(Augmentation(rotate=20, hflip=True, vflip=True))
    image, scribble = np.zeros((48, 48, 3), np.uint8), np.zeros((48, 48), np.uint8)
    seen = collections.Counter()
    for seed in range(400):
        sample = transform(image, [scribble], seed=seed, track=True)
        assert sample.source_index is not None
        rows, columns = sample.source_index[:, 16:32, 16:32]
        down, right = rows[-1, 8] > rows[0, 8], columns[8, -1] > columns[8, 0]
        seen[bool(down), bool(right), bool(sample.valid.all())] += 1
    assert len(seen) == 8, seen
    assert min(seen.values()) > 25, "each of 8 combinations is expected 50 times"


@pytest.mark.parametrize(
    ("seed", "corners"),
    [
        (0, (26, 33, 7, 10)),
        (1, (19, 15, 38, 38)),
        (2, (21, 25, 2, 2)),
        (3, (38, 26, 15, 45)),
        (4, (20, 23, 1, 0)),
        (5, (4, 19, 27, 38)),
    ],
)
def test_a_seed_means_the_same_sample_for_good(seed, corners) -> None:
    # a run that is resumed with a later version must go on with the samples of the earlier one
    image, scribble = np.zeros((40, 56, 3), np.uint8), np.zeros((40, 56), np.uint8)
    transform = TrainTransform(Augmentation(rot90=True, hflip=True, vflip=True), crop_size=(20, 24))
    rows, columns = transform(image, [scribble], seed=seed, track=True).source_index
    assert (rows[0, 0], columns[0, 0], rows[-1, -1], columns[-1, -1]) == corners


def coordinate_maps(height: int, width: int) -> dict[str, LabelMap]:
    """Maps of several types that say where a pixel is, each with a fill of its own."""
    rows, columns = np.mgrid[0:height, 0:width]
    return {
        "large": LabelMap((1000 * rows + columns + 70_000).astype(np.int32), -1),
        "medium": LabelMap((width * rows + columns).astype(np.uint16), 65535),
        "negative": LabelMap((-(width * rows + columns)).astype(np.int16), 7),
        "small": LabelMap((3 * rows + columns).astype(np.uint8), 255),
    }


@pytest.mark.parametrize("crop", [None, (24, 30), (130, 140)])
@pytest.mark.parametrize(
    "augmentation",
    [
        Augmentation(hflip=False),
        Augmentation(rot90=True, hflip=True, vflip=True),
        Augmentation(scale=(0.5, 2.0), rotate=20),
        EVERYTHING,
    ],
)
def test_maps_share_the_geometry_and_change_nothing(augmentation, crop) -> None:
    image, scribble = sample()
    maps = coordinate_maps(*scribble.shape)
    transform = TrainTransform(augmentation, crop_size=crop)
    for seed in range(4):
        plain = transform(image, [scribble], seed=seed, track=True)
        out = transform(image, [scribble], seed=seed, maps=maps)
        for name in ("image", "raw", "valid"):
            np.testing.assert_array_equal(getattr(out, name), getattr(plain, name))
        np.testing.assert_array_equal(out.labels[0], plain.labels[0])
        assert out.source_index is None
        assert list(out.maps) == list(maps)
        rows, columns = plain.source_index
        for name, (values, fill) in maps.items():
            assert out.maps[name].dtype == values.dtype
            expected = np.where(plain.valid, values[rows, columns], values.dtype.type(fill))
            np.testing.assert_array_equal(out.maps[name], expected)


def test_maps_of_either_size_are_resized_without_mixing() -> None:
    image, scribble = sample()
    whole = coordinate_maps(*scribble.shape)
    transform = TrainTransform(Augmentation(), resize=(20, 28), crop_size=(16, 16))
    small = {name: LabelMap(values[1::2, 1::2], fill) for name, (values, fill) in whole.items()}
    for name, (values, fill) in whole.items():
        resized = resize_map(values, (20, 28))
        assert set(np.unique(resized)) <= set(np.unique(values))
        for given in (LabelMap(values, fill), LabelMap(resized, fill)):
            out = transform(image, [scribble], seed=0, track=True, maps={name: given})
            rows, columns = out.source_index
            np.testing.assert_array_equal(out.maps[name], resized[rows, columns])
        # network size: not resized again
        out = transform(image, [scribble], seed=1, track=True, maps=small)
        rows, columns = out.source_index
        np.testing.assert_array_equal(out.maps[name], small[name].values[rows, columns])


def test_resized_maps_agree_with_the_scribble() -> None:
    image, scribble = sample(41, 57)
    transform = TrainTransform(EVERYTHING, resize=33, crop_size=(40, 40))
    for seed in range(4):
        maps = {"copy": LabelMap(scribble.astype(np.int32), 255)}
        out = transform(image, [scribble], seed=seed, maps=maps)
        # strokes that the nearest pixels would lose are kept in labels, and in nothing else
        same = out.maps["copy"] == out.labels[0]
        assert (out.maps["copy"][~same] == 255).all()
        assert same.mean() > 0.95
