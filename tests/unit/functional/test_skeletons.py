from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from scribbleseg.functional import longest_paths, medial_axis, pixel_graph, region_distance


def test_no_pixel_no_path():
    nothing = np.zeros((4, 6), np.int32)
    assert longest_paths(pixel_graph(nothing > 0, nothing)) == []


@pytest.mark.parametrize("width", [3, 4, 5, 9])
def test_axis_of_a_band_is_its_middle_line(width):
    ids = np.ones((width, 40), np.int32)
    axis = medial_axis(ids, *region_distance(ids))
    rows, columns = np.nonzero(axis)
    middle = (columns >= width) & (columns < 40 - width)
    assert set(columns[middle]) == set(range(width, 40 - width))
    assert (np.abs(rows[middle] - (width - 1) / 2) <= 0.5).all()


def test_axis_of_a_disc_is_its_centre():
    rows, columns = np.mgrid[-20:21, -20:21]
    ids = (np.hypot(rows, columns) <= 15.3).astype(np.int32)
    distance, nearest = region_distance(ids)
    axis = medial_axis(ids, distance, nearest) & (ids > 0)
    inner = np.hypot(rows, columns)[axis & (distance > 8)]
    # a cross of few pixels: the grid's outline has four flat sides
    assert 1 <= len(inner) <= 13
    assert np.median(inner) <= 3.2
    assert inner.min() == 0


def test_edges_of_the_graph():
    selected = np.array([[1, 0, 1], [0, 1, 1]], bool)
    ids = np.array([[1, 0, 1], [0, 1, 2]], np.int32)
    graph = pixel_graph(selected, ids)
    assert (graph.rows.tolist(), graph.columns.tolist()) == ([0, 0, 1, 1], [0, 2, 1, 2])
    np.testing.assert_allclose(graph.edges.toarray()[[0, 1], [2, 2]], [2**0.5, 2**0.5])
    assert graph.edges.nnz == 2  # the pixel of the other region is alone
    assert graph.num_parts == 2
    priced = graph.priced(np.array([1.0, 3.0, 5.0, 1.0]))
    np.testing.assert_allclose(priced.edges.toarray()[[0, 1], [2, 2]], [3 * 2**0.5, 4 * 2**0.5])
    np.testing.assert_allclose(graph.edges.data, 2**0.5)
    cost, before = graph.walk(np.array([0]), limit=2.0)
    np.testing.assert_allclose(cost, [0, np.inf, 2**0.5, np.inf])
    assert before[2] == 0


@pytest.mark.parametrize("seed", range(4))
def test_paths_are_as_long_as_the_longest_shortest_path_of_a_tree(seed):
    rng = np.random.default_rng(seed)
    selected = np.zeros((30, 60), bool)
    selected[15, 2:50] = True
    selected[20:28, 55] = True
    for column in rng.choice(np.arange(4, 48, 4), 4, replace=False):
        selected[15 - rng.integers(3, 14) : 15, column] = True
    ids = ndimage.label(selected, np.ones((3, 3)))[0].astype(np.int32)
    graph = pixel_graph(selected, ids)
    paths = longest_paths(graph)
    assert len(paths) == graph.num_parts == 2
    for part, path in enumerate(paths):
        assert (graph.parts[path] == part).all()
        steps = np.hypot(np.diff(graph.rows[path]), np.diff(graph.columns[path]))
        assert (steps < 1.5).all()
        nodes = np.flatnonzero(graph.parts == part)
        longest = max(graph.walk(np.array([n]))[0][nodes].max() for n in nodes)
        assert steps.sum() == pytest.approx(longest)


def test_a_single_pixel_is_a_path():
    selected = np.zeros((3, 3), bool)
    selected[1, 1] = True
    (path,) = longest_paths(pixel_graph(selected, selected.astype(np.int32)))
    assert path.tolist() == [0]
