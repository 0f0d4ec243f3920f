from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from scribbleseg.functional.distance import (
    boundary_distance_map,
    distance_to_mask,
    label_boundary,
    scribble_distance_map,
)


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


def test_unquantized_map_is_within_one_level(scribble) -> None:
    cut, smooth = (scribble_distance_map(scribble, quantize=q) for q in (True, False))
    assert (cut >= smooth - 1e-6).all()
    assert (cut - smooth < 1 / 255 + 1e-6).all()
    assert len(np.unique(smooth)) > len(np.unique(cut))


def test_without_sources() -> None:
    empty = np.full((5, 6), 255, np.uint8)
    empty[0, 0] = 0
    for quantize in (True, False):
        assert (scribble_distance_map(empty, quantize=quantize) == 0).all()
        assert (boundary_distance_map(empty, quantize=quantize) == 1).all()
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
    with pytest.raises(ValueError, match="compare first"):
        distance_to_mask(labels)
