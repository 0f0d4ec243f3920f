from __future__ import annotations

import sys

import numpy as np
import pytest
from scipy import ndimage

from scribbleseg import MissingExtraError
from scribbleseg.functional import over_segment, region_boundaries

SMALL = {"felzenszwalb": {"min_size": 20, "sigma": 0.2}, "slic": {"num_segments": 40}}


@pytest.fixture
def image() -> np.ndarray:
    """Three flat areas with a little noise."""
    rng = np.random.default_rng(0)
    clean = np.zeros((48, 60, 3), np.int64)
    clean[:, 30:], clean[24:, :30] = (220, 30, 40), (20, 200, 60)
    return np.clip(clean + rng.integers(0, 6, clean.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("method", SMALL)
def test_ids_have_no_gaps_and_the_result_is_repeatable(image, method) -> None:
    pytest.importorskip("skimage")
    regions = over_segment(image, method, SMALL[method])
    assert regions.dtype == np.int32
    assert regions.shape == image.shape[:2]
    assert np.unique(regions).tolist() == list(range(regions.max() + 1))
    np.testing.assert_array_equal(over_segment(image, method, SMALL[method]), regions)


def test_regions_follow_strong_edges(image) -> None:
    pytest.importorskip("skimage")
    areas = np.zeros((48, 60), int)
    areas[:, 30:], areas[24:, :30] = 1, 2
    for method, arguments in SMALL.items():
        regions = over_segment(image, method, arguments)
        inside = [len(np.unique(areas[ndimage.binary_erosion(regions == i)])) for i in range(9)]
        assert max(inside) <= 1


@pytest.mark.parametrize("number", [1, 7, 40, 5000])
def test_grid_regions_are_equal_rectangles(number) -> None:
    regions = over_segment(np.zeros((48, 60, 3), np.uint8), "grid", {"num_segments": number})
    count = regions.max() + 1
    assert np.unique(regions).tolist() == list(range(count))
    assert count == pytest.approx(min(number, 48 * 60), rel=0.3, abs=1)
    sizes = np.bincount(regions.ravel())
    assert sizes.max() <= 3 * sizes.min() + 2
    for box, i in zip(ndimage.find_objects(regions + 1), range(count), strict=True):
        assert (regions[box] == i).all()


def test_boundaries_are_where_largest_and_smallest_id_differ() -> None:
    rng = np.random.default_rng(0)
    regions = rng.integers(-1, 4, (6, 7)).repeat(4, 0).repeat(5, 1)
    expected = ndimage.maximum_filter(regions, 3) != ndimage.minimum_filter(regions, 3)
    np.testing.assert_array_equal(region_boundaries(regions), expected)
    np.testing.assert_array_equal(region_boundaries(regions.T + 7), expected.T)
    assert not region_boundaries(np.zeros((5, 5), int)).any()


def test_missing_package_names_the_extra(image, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    for method in SMALL:
        with pytest.raises(MissingExtraError, match=r"scribbleseg\[regions\]"):
            over_segment(image, method, {})


def test_errors(image) -> None:
    pytest.importorskip("skimage")
    with pytest.raises(ValueError, match="8-bit colours"):
        over_segment(image / 255, "slic", {})
    with pytest.raises(ValueError, match="one image at a time"):
        region_boundaries(image)
