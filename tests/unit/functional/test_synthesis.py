from __future__ import annotations

import cv2
import numpy as np
import pytest
from helpers.internals import internal
from scipy import ndimage

from scribbleseg import ConfigError
from scribbleseg.functional import (
    PointStyle,
    ScribbleStyle,
    image_seed,
    rasterize,
    synthesize_points,
    synthesize_scribbles,
)


def synthesize_strokes(mask, style=None, *, seed=0):
    _, plans = internal("synthesis")._plan_strokes(mask, style or ScribbleStyle(), seed)
    return [plan.stroke for plan in plans]


def random_mask(seed, size=(60, 80), classes=5):
    """Blobs, lines one to three pixels wide, specks and void."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(classes, *size))
    mask = ndimage.gaussian_filter(noise, (0, 6, 6)).argmax(0).astype(np.uint8)
    for _ in range(4):
        ends = rng.integers(0, min(size), 4).tolist()
        cv2.line(mask, ends[:2], ends[2:], int(rng.integers(classes)), int(rng.integers(1, 4)))
    mask[rng.random(size) < 0.003] = 255
    mask[:2] = 255
    return mask


def drawn_classes(labels):
    return set(np.unique(labels)) - {255}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    "style",
    [
        ScribbleStyle(min_area=0),
        ScribbleStyle(width=7, jitter=1, length_ratio=1, erosion=0, min_area=0),
        ScribbleStyle(width=1, erosion=8),
    ],
)
def test_no_pixel_contradicts_the_mask(seed, style):
    mask = random_mask(seed)
    drawn = synthesize_scribbles(mask, style, seed=seed)
    assert drawn.dtype == np.uint8
    assert ((drawn == mask) | (drawn == 255)).all()
    assert 0 < (drawn != 255).mean() < 0.9
    points = synthesize_points(
        mask, PointStyle(count=2, radius=style.width, per="component", min_area=0), seed=seed
    )
    assert ((points == mask) | (points == 255)).all()
    assert drawn_classes(points) == drawn_classes(mask)


@pytest.mark.parametrize("seed", range(4))
def test_strokes_stay_in_their_region_where_there_is_room(seed):
    mask = np.zeros((90, 120), np.uint8)
    mask[20:70, 10:110] = 1
    strokes = synthesize_strokes(mask, ScribbleStyle(jitter=1, width=5), seed=seed)
    raw = rasterize(strokes, mask.shape, width=5)
    assert ((raw == mask) | (raw == 255)).all()  # before anything is cut off
    assert [stroke.label for stroke in strokes] == [0, 1]


def test_a_stroke_does_not_jump_to_another_region_of_its_class():
    mask = np.zeros((41, 90), np.uint8)
    mask[20] = 1  # one pixel wide, between two regions of class 0
    drawn = synthesize_scribbles(mask, ScribbleStyle(width=9, min_area=0), seed=1)
    for rows in (slice(0, 20), slice(21, 41)):
        assert ndimage.label(drawn[rows] == 0)[1] == 1
    assert (drawn[20] == 1).any()
    dots = synthesize_points(mask[12:29], PointStyle(radius=30, per="class", min_area=0), seed=0)
    assert not ((dots[:8] == 0).any() and (dots[9:] == 0).any())


def test_length_is_the_asked_share():
    mask = np.full((21, 300), 2, np.uint8)
    lengths = {}
    for ratio in (0.3, 0.6, 1.0):
        (stroke,) = synthesize_strokes(mask, ScribbleStyle(length_ratio=ratio, jitter=0))
        lengths[ratio] = np.hypot(*np.diff(np.asarray(stroke.points), axis=0).T).sum()
    assert lengths[0.3] == pytest.approx(0.3 * lengths[1.0], rel=0.1)
    assert lengths[0.6] == pytest.approx(0.6 * lengths[1.0], rel=0.1)
    assert lengths[1.0] > 250


def test_a_round_region_gets_a_line_and_a_small_one_a_dot():
    rows, columns = np.mgrid[-30:31, -30:31]
    mask = np.where(np.hypot(rows, columns) <= 20.2, 1, 255).astype(np.uint8)
    (line,) = synthesize_strokes(mask, ScribbleStyle(length_ratio=1, jitter=0))
    assert np.hypot(*(line.points[-1] - line.points[0])) > 25
    small = np.full((20, 20), 255, np.uint8)
    small[8:12, 8:12] = 3
    (dot,) = synthesize_strokes(small, ScribbleStyle(min_area=0))
    assert len(dot.points) == 1
    assert (synthesize_scribbles(small, ScribbleStyle(min_area=0)) == 3).any()
    assert synthesize_strokes(small, ScribbleStyle(min_area=17)) == []
    assert len(synthesize_strokes(small, ScribbleStyle(min_area=16))) == 1


def test_thin_lines_are_not_eroded_away():
    mask = np.zeros((60, 60), np.uint8)
    mask[:, 30] = 1
    drawn = synthesize_scribbles(mask, ScribbleStyle(erosion=10, min_area=10))
    assert (drawn[:, 30] == 1).sum() >= 0.6 * 60


def test_erosion_cuts_a_region_at_its_neck():
    mask = np.full((30, 90), 255, np.uint8)
    mask[2:28, 2:35] = mask[2:28, 55:88] = mask[14:17, 30:60] = 4
    labels = [stroke.label for stroke in synthesize_strokes(mask, ScribbleStyle(erosion=4))]
    assert labels == [4, 4]
    assert len(synthesize_strokes(mask, ScribbleStyle(erosion=0))) == 1
    assert len(synthesize_strokes(mask, ScribbleStyle(erosion=4, max_strokes=1))) == 1


def test_largest_regions_come_first_and_classes_can_be_left_out():
    mask = np.zeros((50, 100), np.uint8)
    mask[5:15, 5:25] = mask[5:45, 40:95] = mask[25:45, 5:30] = 1
    style = ScribbleStyle(max_strokes=2)
    strokes = [stroke for stroke in synthesize_strokes(mask, style) if stroke.label == 1]
    middles = [np.mean(np.asarray(stroke.points), axis=0) for stroke in strokes]
    assert len(strokes) == 2
    assert middles[0][0] > 40
    assert middles[1][1] > 25
    assert drawn_classes(synthesize_scribbles(mask, ScribbleStyle(skip=(0,)))) == {1}
    assert drawn_classes(synthesize_points(mask, PointStyle(skip=(0,)))) == {1}


def test_seeds():
    mask = random_mask(3)
    style = ScribbleStyle(min_area=50)
    first = synthesize_scribbles(mask, style, seed=image_seed(0, "a"))
    np.testing.assert_array_equal(first, synthesize_scribbles(mask, style, seed=image_seed(0, "a")))
    for other in (image_seed(0, "b"), image_seed(1, "a")):
        assert (first != synthesize_scribbles(mask, style, seed=other)).any()
    assert image_seed(0, "img_1") == [0, 3213246189, 3430503711, 4288490544, 1576829908]


def test_a_stroke_depends_on_its_own_region_only():
    mask = np.zeros((60, 120), np.uint8)
    mask[10:50, 10:50] = 1
    alone = [s for s in synthesize_strokes(mask, seed=5) if s.label == 1]
    mask[10:50, 70:110] = 2
    beside = [s for s in synthesize_strokes(mask, seed=5) if s.label == 1]
    np.testing.assert_array_equal(alone[0].points, beside[0].points)


@pytest.mark.parametrize(
    ("per", "expected"), [("class", {0: 3, 1: 3}), ("component", {0: 3, 1: 6})]
)
def test_number_of_points(per, expected):
    mask = np.zeros((40, 80), np.uint8)
    mask[5:35, 5:30] = mask[5:35, 50:75] = 1
    drawn = synthesize_points(mask, PointStyle(count=3, radius=0, per=per), seed=2)
    assert {c: int((drawn == c).sum()) for c in (0, 1)} == expected


def test_discs_are_whole_where_there_is_room():
    mask = np.zeros((60, 60), np.uint8)
    mask[10:50, 10:50] = 1
    for seed in range(5):
        drawn = synthesize_points(mask, PointStyle(radius=3), seed=seed)
        assert (drawn == 1).sum() == 29  # all (x, y) with x² + y² <= 9


def test_more_points_than_pixels():
    mask = np.full((2, 2), 7, np.uint8)
    assert (synthesize_points(mask, PointStyle(count=9, radius=0, min_area=0)) == 7).all()


@pytest.mark.parametrize("mask", [np.full((9, 9), 255, np.uint8), np.zeros((1, 1), np.uint8)])
def test_nothing_to_draw_on(mask):
    assert (synthesize_scribbles(mask) == 255).all()
    assert (synthesize_points(mask) == 255).all()


def test_one_pixel_image():
    mask = np.zeros((1, 1), np.uint8)
    assert synthesize_scribbles(mask, ScribbleStyle(min_area=1)).tolist() == [[0]]


@pytest.mark.parametrize(
    ("style", "options", "message"),
    [
        (ScribbleStyle, {"width": 0}, "width=0: expected a positive"),
        (ScribbleStyle, {"length_ratio": 1.5}, r"length_ratio=1\.5: expected a share"),
        (ScribbleStyle, {"length_ratio": 0}, "length_ratio=0"),
        (ScribbleStyle, {"erosion": -1}, "erosion=-1"),
        (ScribbleStyle, {"jitter": 2}, "jitter=2"),
        (ScribbleStyle, {"min_area": 1.5}, r"min_area=1\.5: expected a whole number"),
        (ScribbleStyle, {"max_strokes": 0}, "max_strokes=0"),
        (ScribbleStyle, {"width": float("nan")}, "width=nan"),
        (PointStyle, {"count": 0}, "count=0"),
        (PointStyle, {"radius": -1}, "radius=-1"),
        (PointStyle, {"per": "image"}, "per='image'.*'class'"),
        (PointStyle, {"min_area": -1}, "min_area=-1"),
    ],
)
def test_options_out_of_range(style, options, message):
    with pytest.raises(ConfigError, match=message):
        style(**options)
