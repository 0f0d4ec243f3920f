from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from scribbleseg.functional import label_regions, region_depth, region_distance


def random_labels(seed, size=(40, 50), classes=4):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (size[0] // 5, size[1] // 5)).astype(np.uint8)
    labels = coarse.repeat(5, 0).repeat(5, 1)
    labels[rng.random(size) < 0.02] = 255
    return labels


@pytest.mark.parametrize("connectivity", [4, 8])
def test_regions_are_the_connected_parts_of_each_class(connectivity):
    labels = random_labels(0)
    regions = label_regions(labels, connectivity=connectivity)
    assert regions.classes[0] == 255
    assert ((regions.ids == 0) == (labels == 255)).all()
    np.testing.assert_array_equal(regions.classes[regions.ids], labels)
    structure = np.ones((3, 3)) if connectivity == 8 else None
    total = 0
    for label in range(4):
        expected, count = ndimage.label(labels == label, structure)
        total += count
        # one to one: as many pairs of (ours, theirs) as regions
        assert len(np.unique(regions.ids[labels == label] * 10000 + expected[labels == label])) == (
            count
        )
    assert len(regions.classes) == total + 1
    np.testing.assert_array_equal(regions.areas, np.bincount(regions.ids.ravel()))
    flat = regions.ids.ravel()
    assert regions.first_pixels.tolist() == [
        int(np.flatnonzero(flat == region)[0]) for region in range(total + 1)
    ]


def test_nothing_but_void():
    regions = label_regions(np.full((4, 6), 255, np.uint8))
    assert regions.classes.tolist() == [255]
    assert not regions.ids.any()


def test_regions_are_ordered_by_class_and_first_pixel():
    regions = label_regions(random_labels(2), connectivity=8)
    order = np.lexsort((regions.first_pixels[1:], regions.classes[1:]))
    assert order.tolist() == list(range(len(order)))


def test_one_column_and_one_row():
    column = np.array([[0], [0], [255], [0]], np.uint8)
    for labels in (column, column.T):
        for connectivity in (4, 8):
            regions = label_regions(labels, connectivity=connectivity)
            assert regions.ids.ravel().tolist() == [1, 1, 0, 2]
            assert regions.first_pixels.tolist() == [2, 0, 3]
            assert regions.areas.tolist() == [1, 2, 1]


def test_distance_to_the_border_of_the_own_region():
    ids = label_regions(random_labels(1)).ids
    border = np.zeros(ids.shape, bool)
    padded = np.pad(ids, 1, constant_values=-1)
    for down, right in ((0, 1), (2, 1), (1, 0), (1, 2)):
        shifted = padded[down : down + ids.shape[0], right : right + ids.shape[1]]
        border |= shifted != ids
    exact = ndimage.distance_transform_edt(~border)
    np.testing.assert_allclose(region_depth(ids), exact, atol=1e-4)
    distance, nearest = region_distance(ids)
    assert border[nearest[0], nearest[1]].all()
    rows, columns = np.indices(ids.shape)
    np.testing.assert_allclose(
        distance, np.hypot(nearest[0] - rows, nearest[1] - columns), rtol=1e-6
    )
    assert (distance >= exact - 1e-4).all()
    assert (distance <= 1.03 * exact + 1e-4).all()
