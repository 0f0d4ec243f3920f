"""What holds for every sample; what a seed means is in the digests of batches."""

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


@pytest.mark.parametrize("seed", range(6))
def test_padding_is_never_a_class(seed: int) -> None:
    transform = TrainTransform(EVERYTHING, crop_size=(96, 96))
    image, _ = sample()
    dense = np.full(image.shape[:2], 3, np.uint8)
    out = transform(image, [dense], seed=seed)
    assert out.image.shape == (96, 96, 3)
    assert not out.valid.all()
    np.testing.assert_array_equal(out.labels[0], np.where(out.valid, 3, 255))


def test_impossible_ranges_are_refused() -> None:
    with pytest.raises(ConfigError, match="scale"):
        Augmentation(scale=(0.0, 1.0))
    for name in ("color_jitter", "blur"):
        with pytest.raises(ConfigError, match=f"{name}=2: expected 0 to 1"):
            Augmentation(**{name: 2})
    for degrees in (-1, 180.5):
        with pytest.raises(ConfigError, match=rf"rotate={degrees}: expected 0 to 180 degrees"):
            Augmentation(rotate=degrees)
    assert Augmentation(rotate=180).rotate == 180


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
def test_maps_and_places_share_the_geometry_and_change_nothing(augmentation, crop) -> None:
    image, scribble = sample()
    maps = coordinate_maps(*scribble.shape)
    dense = np.random.default_rng(0).integers(0, 20, scribble.shape, dtype=np.uint8)
    transform = TrainTransform(augmentation, crop_size=crop)
    for seed in range(4):
        plain = transform(image, [scribble, dense], seed=seed)
        assert (plain.source_index, plain.maps) == (None, {})
        placed = transform(image, [scribble, dense], seed=seed, track=True)
        out = transform(image, [scribble, dense], seed=seed, maps=maps)
        for other in (placed, out):
            for name in ("image", "raw", "valid"):
                np.testing.assert_array_equal(getattr(other, name), getattr(plain, name))
            np.testing.assert_array_equal(other.labels, plain.labels)
        assert out.source_index is None
        assert list(out.maps) == list(maps)
        rows, columns = placed.source_index
        np.testing.assert_array_equal(rows >= 0, plain.valid)
        expected = np.where(plain.valid, dense[rows, columns], 255)
        np.testing.assert_array_equal(plain.labels[1][plain.valid], expected[plain.valid])
        for name, (values, fill) in maps.items():
            assert out.maps[name].dtype == values.dtype
            expected = np.where(plain.valid, values[rows, columns], values.dtype.type(fill))
            np.testing.assert_array_equal(out.maps[name], expected)


def test_maps_of_either_size_are_resized_without_mixing() -> None:
    image, scribble = sample()
    transform = TrainTransform(Augmentation(), resize=(20, 28), crop_size=(16, 16))
    for name, (values, fill) in coordinate_maps(*scribble.shape).items():
        resized = resize_map(values, (20, 28))
        assert set(np.unique(resized)) <= set(np.unique(values))
        # a map of network size is not resized again
        for given in (values, resized, values[1::2, 1::2]):
            maps = {name: LabelMap(given, fill)}
            out = transform(image, [scribble], seed=0, track=True, maps=maps)
            shown = resized if given is values else given
            np.testing.assert_array_equal(out.maps[name], shown[tuple(out.source_index)])
