from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from helpers.internals import internal
from PIL import Image
from scipy import ndimage

from scribbleseg.functional import boundary_distance_map, label_boundary, scribble_distance_map

distance_to_mask = internal("distance")._distance_to_mask

VOC = Path(__file__).parents[4] / "shared" / "data" / "voc_sample" / "VOC2012"


@pytest.fixture
def scribble() -> np.ndarray:
    rng = np.random.default_rng(0)
    labels = np.full((41, 57), 255, np.uint8)
    labels[rng.integers(0, 41, 12), rng.integers(0, 57, 12)] = rng.integers(0, 4, 12)
    return labels


def blobs(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.choice([0, 0, 1, 2, 255], size=(7, 9)).astype(np.uint8)
    return coarse.repeat(5, axis=0).repeat(6, axis=1)


def brute_force(mask: np.ndarray) -> np.ndarray:
    """Distance to every source pixel, then the least."""
    rows, columns = np.nonzero(mask)
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]]
    squared = (y[..., None] - rows) ** 2 + (x[..., None] - columns) ** 2
    return np.sqrt(squared.min(-1).astype(np.float64))


@pytest.mark.parametrize("sharpness", [1.0, math.e, math.e**4, 4.0, 0.3])
def test_scribble_map_is_the_equation(scribble, sharpness) -> None:
    distance = brute_force((scribble != 255) & (scribble != 0))
    expected = 255 - np.floor(np.minimum(math.sqrt(sharpness) * distance, 255))
    found = scribble_distance_map(scribble, sharpness=sharpness)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(np.rint(255 * found.astype(np.float64)), expected)
    np.testing.assert_allclose(255 * found, expected, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_boundary_is_what_an_erosion_removes(seed) -> None:
    labels = blobs(seed)
    foreground = (labels > 0) & (labels < 255)
    cross = ndimage.generate_binary_structure(2, 1)
    boundary = foreground & ~ndimage.binary_erosion(foreground, cross, border_value=0)
    np.testing.assert_array_equal(label_boundary(labels), boundary)
    expected = np.floor(np.minimum(math.sqrt(20.0) * brute_force(boundary), 255))
    found = boundary_distance_map(labels, sharpness=20.0)
    np.testing.assert_allclose(255 * found, expected, atol=1e-4)


def test_distance_is_exact_on_a_large_image() -> None:
    mask = np.zeros((700, 900), bool)
    mask[[3, 600, 350], [5, 880, 420]] = True
    found = distance_to_mask(mask)
    expected = ndimage.distance_transform_edt(~mask)
    np.testing.assert_array_equal(
        np.rint(found * found), np.rint(expected * expected).astype(np.float32)
    )


@pytest.mark.parametrize(
    "transform", [np.fliplr, np.flipud, np.transpose], ids=["left-right", "up-down", "transpose"]
)
def test_maps_follow_the_image(scribble, transform) -> None:
    for make in (scribble_distance_map, boundary_distance_map):
        np.testing.assert_array_equal(make(transform(scribble)), transform(make(scribble)))


def test_classes_do_not_matter_and_background_is_a_choice(scribble) -> None:
    drawn = (scribble > 0) & (scribble < 255)
    merged = np.where(drawn, np.uint8(1), scribble)
    np.testing.assert_array_equal(scribble_distance_map(merged), scribble_distance_map(scribble))
    everything = scribble_distance_map(scribble, background=None)
    np.testing.assert_array_equal(everything == 1, scribble != 255)


def test_boundary_between_classes_without_background() -> None:
    labels = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [255, 255, 1, 1]])
    expected = [[0, 1, 1, 0], [1, 1, 1, 0], [0, 0, 1, 0]]
    assert label_boundary(labels, background=None).astype(int).tolist() == expected


def test_without_sources() -> None:
    empty = np.full((5, 6), 255, np.uint8)
    empty[0, 0] = 0
    assert (scribble_distance_map(empty) == 0).all()
    assert (boundary_distance_map(empty) == 1).all()
    assert not label_boundary(empty).any()
    assert np.isinf(distance_to_mask(empty == 7)).all()


def test_input_is_not_changed(scribble) -> None:
    before = scribble.copy()
    scribble_distance_map(scribble)
    boundary_distance_map(scribble)
    np.testing.assert_array_equal(scribble, before)


def test_errors() -> None:
    labels = np.zeros((4, 4), np.uint8)
    with pytest.raises(ValueError, match="once per image"):
        scribble_distance_map(labels[None])
    with pytest.raises(ValueError, match="integer class ids"):
        label_boundary(labels.astype(np.float32))
    with pytest.raises(ValueError, match="saturates"):
        scribble_distance_map(labels, sharpness=0.0)


@pytest.mark.skipif(not VOC.is_dir(), reason=f"{VOC} is not here")
class TestSampleOfVOC:
    """Two images of the data set, and what is known of the maps that the authors made of one."""

    def label(self, kind: str, name: str) -> np.ndarray:
        return np.asarray(Image.open(VOC / kind / f"{name}.png"))

    def test_scribble_map_has_the_published_levels(self) -> None:
        scribble = self.label("pascal_2012_scribble", "2007_000032")
        levels = np.rint(255 * scribble_distance_map(scribble, sharpness=math.e)).astype(int)
        counts = np.bincount(levels.ravel(), minlength=256)
        assert (counts > 0).all(), "all 256 levels"
        assert counts[0] == 3164
        assert counts[255] == 1313
        assert np.array_equal(levels == 255, (scribble > 0) & (scribble < 255))

    @pytest.mark.parametrize("name", ["2007_000032", "2007_000033"])
    def test_maps_are_those_of_every_pair_of_pixels(self, name: str) -> None:
        scribble = self.label("pascal_2012_scribble", name)
        dense = self.label("SegmentationClassAug", name)
        near = scribble_distance_map(scribble, sharpness=math.e)
        squared = all_pairs((scribble > 0) & (scribble < 255))
        expected = 255 - np.floor(np.minimum(np.sqrt(math.e * squared), 255))
        assert np.array_equal(np.rint(255 * near), expected)
        far = boundary_distance_map(dense, sharpness=math.e**6)
        inside = np.pad((dense > 0) & (dense < 255), 1)
        around = inside[:-2, 1:-1] & inside[2:, 1:-1] & inside[1:-1, :-2] & inside[1:-1, 2:]
        squared = all_pairs(inside[1:-1, 1:-1] & ~around)
        expected = np.floor(np.minimum(np.sqrt(math.e**6 * squared), 255))
        assert np.array_equal(np.rint(255 * far), expected)


def all_pairs(mask: np.ndarray) -> np.ndarray:
    """Smallest squared distance to the pixels of a mask, by trying them all, some at a time."""
    rows, columns = (axis.astype(np.int32) for axis in np.indices(mask.shape))
    least = np.full(mask.shape, 2**30, np.int32)
    for y, x in np.argwhere(mask).astype(np.int32):
        np.minimum(least, (rows - y) ** 2 + (columns - x) ** 2, out=least)
    return least
