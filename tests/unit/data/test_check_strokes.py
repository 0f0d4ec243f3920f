"""Strokes are counted and measured per class, and shifted scribbles are recognised."""

import numpy as np
import pytest
from helpers.internals import internal

from scribbleseg.functional import Stroke, rasterize


def measured(labels):
    """Strokes and mean width of each class, from 0 to 7."""
    strokes, width, length = internal("check files").measure_strokes(labels)[:, :8]
    return strokes, width / np.maximum(length, 1)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("turned", [False, True])
def test_bars_are_as_wide_as_they_are(width, turned):
    labels = np.full((60, 60), 255, np.uint8)
    labels[20 : 20 + width, 2:50] = 7
    strokes, widths = measured(labels.T.copy() if turned else labels)
    # the ends of a bar are narrower
    assert widths[7] == pytest.approx(width, abs=0.25)
    assert strokes.tolist() == [0] * 7 + [1]


@pytest.mark.parametrize("width", [3.0, 5.0, 9.0])
def test_strokes_at_any_angle(width):
    rng = np.random.default_rng(0)
    found = []
    for angle in rng.uniform(0, np.pi, 12):
        step = 40 * np.array([np.cos(angle), np.sin(angle)])
        labels = rasterize([Stroke(0, [50 - step, 50 + step])], (100, 100), width=width)
        found.append(measured(labels)[1][0])
    assert np.abs(np.array(found) - width).max() < 1.0
    assert abs(np.mean(found) - width) < 0.5


def test_pieces_are_counted_per_class():
    labels = np.full((12, 12), 255, np.uint8)
    labels[1, 1:4], labels[5, 5], labels[6, 6] = 3, 3, 3  # a bar, and two pixels that touch
    labels[1, 4:7] = 4  # continues the bar in another class
    labels[10, 2], labels[10, 4], labels[10, 6] = 0, 0, 0
    assert measured(labels)[0].tolist() == [3, 0, 0, 2, 1, 0, 0, 0]
    # crossing diagonals of two classes
    assert measured(np.array([[1, 2], [2, 1]], np.uint8))[0][:3].tolist() == [0, 1, 1]


def test_touching_classes_are_not_one_thick_stroke():
    labels = np.full((30, 60), 255, np.uint8)
    assert not measured(labels)[0].any()
    labels[10:13, 5:55], labels[13:16, 5:55] = 1, 2
    assert measured(labels)[1][1:3] == pytest.approx([3, 3], abs=0.25)
    assert measured(np.zeros((20, 30), np.uint8))[1][0] == pytest.approx(20)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s[:, ::-1], "flipping it horizontally"),
        (lambda s: s[::-1], "flipping it vertically"),
        (lambda s: s[::-1, ::-1], "rotating it by 180 degrees"),
        (lambda s: np.roll(s, -6, 1), "shifting it by (6, 0) px"),
    ],
)
def test_contradictions_are_explained(change, words):
    explain = internal("check judgements").explain_contradiction
    mask = np.zeros((40, 60), np.uint8)
    mask[:15, :20], mask[25:, 35:] = 1, 2
    scribble = np.full_like(mask, 255)
    scribble[2:38:6, 7:53] = mask[2:38:6, 7:53]
    mask[:, ::3] = 255  # void contradicts nothing
    assert words in explain(change(scribble), mask)
    assert explain(np.where(scribble < 255, 3, 255).astype("u1"), mask) == ""
