import numpy as np
import pytest

from scribbleseg.data import measure_strokes
from scribbleseg.functional import Stroke, rasterize


def widths(shape):
    return shape.thickness / np.maximum(shape.length, 1)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("turned", [False, True])
def test_bars_are_as_wide_as_they_are(width, turned):
    labels = np.full((60, 60), 255, np.uint8)
    labels[20 : 20 + width, 2:50] = 7
    shape = measure_strokes(labels.T.copy() if turned else labels)
    # the ends of a bar are narrower
    assert widths(shape)[7] == pytest.approx(width, abs=0.25)
    assert shape.strokes[7] == shape.strokes.sum() == 1
    assert not shape.thickness[:7].any()


@pytest.mark.parametrize("width", [3.0, 5.0, 9.0])
def test_strokes_at_any_angle(width):
    rng = np.random.default_rng(0)
    found = []
    for angle in rng.uniform(0, np.pi, 12):
        step = 40 * np.array([np.cos(angle), np.sin(angle)])
        points = [50 - step, 50 + step]
        labels = rasterize([Stroke(0, points)], (100, 100), width=width)
        found.append(widths(measure_strokes(labels))[0])
    assert np.abs(np.array(found) - width).max() < 1.0
    assert abs(np.mean(found) - width) < 0.5


def test_pieces_are_counted_per_class():
    labels = np.full((12, 12), 255, np.uint8)
    labels[1, 1:4], labels[5, 5], labels[6, 6] = 3, 3, 3  # a bar, and two pixels that touch
    labels[1, 4:7] = 4  # continues the bar in another class
    labels[10, 2], labels[10, 4], labels[10, 6] = 0, 0, 0
    shape = measure_strokes(labels)
    assert {k: int(shape.strokes[k]) for k in np.flatnonzero(shape.strokes)} == {0: 3, 3: 2, 4: 1}


def test_crossing_diagonals_of_two_classes_stay_apart():
    labels = np.array([[1, 2], [2, 1]], np.uint8)
    assert measure_strokes(labels).strokes[:3].tolist() == [0, 1, 1]


def test_touching_classes_are_not_one_thick_stroke():
    labels = np.full((30, 60), 255, np.uint8)
    labels[10:13, 5:55], labels[13:16, 5:55] = 1, 2
    assert widths(measure_strokes(labels))[1:3] == pytest.approx([3, 3], abs=0.6)


def test_nothing_drawn():
    shape = measure_strokes(np.full((4, 5), 255, np.uint8))
    assert shape.strokes.sum() == shape.length.sum() == shape.thickness.sum() == 0
    assert len(shape.strokes) == len(shape.length) == len(shape.thickness) == 256


def test_whole_image():
    shape = measure_strokes(np.zeros((20, 30), np.uint8))
    assert shape.strokes[0] == 1
    assert widths(shape)[0] == pytest.approx(20)
