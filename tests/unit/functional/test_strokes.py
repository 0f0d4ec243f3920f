import numpy as np
import pytest
from helpers.internals import internal

from scribbleseg.functional import Stroke, covered_pixels, rasterize


def naive(strokes, size, width):
    """The definition, pixel by pixel."""
    canvas = np.full(size, 255, np.uint8)
    for label, points in strokes:
        points = np.asarray(points, float)
        ends = points[1:] if len(points) > 1 else points
        for i in range(size[0]):
            for j in range(size[1]):
                for a, b in zip(points, ends, strict=False):
                    d, p = b - a, np.array([j, i], float)
                    t = np.clip((p - a) @ d / (d @ d), 0, 1) if d @ d > 0 else 0.0
                    if np.hypot(*(p - a - t * d)) <= width / 2 + 1e-9:
                        canvas[i, j] = label
    return canvas


@pytest.mark.parametrize("width", [1.0, 2.5, 3.0, 7.0])
def test_rasterize_equals_the_definition(width):
    rng = np.random.default_rng(0)
    strokes = [Stroke(k, rng.uniform(-6, 26, (n, 2))) for k, n in enumerate((1, 2, 5, 3))]
    drawn = rasterize(strokes, (18, 22), width=width)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, naive(strokes, (18, 22), width))


def test_width_three_is_three_rows_and_columns():
    assert (rasterize([Stroke(1, [(0, 5), (19, 5)])], (11, 20))[:, 10] == 1).sum() == 3
    assert (rasterize([Stroke(1, [(5, 0), (5, 10)])], (11, 20))[5] == 1).sum() == 3


def test_one_point_is_a_disc_and_repeated_points_are_too():
    disc = rasterize([Stroke(4, [(5, 5)])], (11, 11), width=3)
    assert (disc == 4).sum() == 9
    np.testing.assert_array_equal(disc, rasterize([Stroke(4, [(5, 5)] * 3)], (11, 11), width=3))


def test_later_strokes_win():
    cross = [Stroke(1, [(0, 5), (10, 5)]), Stroke(2, [(5, 0), (5, 10)])]
    assert rasterize(cross, (11, 11))[5, 5] == 2
    assert rasterize(cross[::-1], (11, 11))[5, 5] == 1


@pytest.mark.parametrize("renderer", ["distance", "pillow"])
def test_strokes_outside_are_clipped(renderer):
    far = [Stroke(1, [(-50, -50), (-20, -9)]), Stroke(2, [(500, 2)])]
    assert (rasterize(far, (8, 9), renderer=renderer) == 255).all()
    assert (rasterize([], (8, 9), renderer=renderer) == 255).all()


def test_coordinate_offset_moves_both_axes():
    np.testing.assert_array_equal(
        rasterize([Stroke(1, [(6, 5), (9, 8)])], (12, 12), coordinate_offset=1),
        rasterize([Stroke(1, [(5, 4), (8, 7)])], (12, 12)),
    )


def test_pillow_renderer_is_three_wide_with_round_ends():
    drawn = rasterize([Stroke(3, [(5, 5), (14, 5)])], (11, 20), renderer="pillow")
    assert (drawn[:, 10] == 3).sum() == 3
    assert set(np.unique(drawn)) == {3, 255}
    assert (rasterize([Stroke(3, [(5, 5)])], (11, 20), renderer="pillow") == 3).any()


@pytest.mark.parametrize(
    ("strokes", "size", "options", "message"),
    [
        ([], (0, 5), {}, "size must be positive"),
        ([], (5, 5), {"width": 0}, "width must be positive"),
        ([Stroke(255, [(1, 1)])], (5, 5), {}, "0..254"),
        ([Stroke(1, [])], (5, 5), {}, "shape"),
        ([Stroke(1, [(1, 2, 3)])], (5, 5), {}, "shape"),
        ([Stroke(1, [(1, np.nan)])], (5, 5), {}, "finite"),
        ([], (5, 5), {"renderer": "opencv"}, "renderer"),
    ],
)
def test_faults_are_named(strokes, size, options, message):
    with pytest.raises(ValueError, match=message):
        rasterize(strokes, size, **options)


def test_boxes_measured_in_portions_give_the_same_pixels(monkeypatch):
    rng = np.random.default_rng(0)
    strokes = [Stroke(k % 7, rng.uniform(-9, 50, (5, 2))) for k in range(12)]
    whole = rasterize(strokes, (40, 30), width=2.5)
    monkeypatch.setattr(internal("strokes"), "_BOX_PIXELS", 50)
    np.testing.assert_array_equal(rasterize(strokes, (40, 30), width=2.5), whole)
    assert len(list(covered_pixels([np.asarray(s.points) for s in strokes], (40, 30), width=2))) > 9


def test_far_vertices_are_clipped_before_they_become_integers():
    drawn = rasterize([Stroke(1, [(-1e30, 2), (1e30, 2)])], (5, 4), width=1)
    assert (drawn != 255).sum() <= 4
    assert (drawn[[0, 1, 3, 4]] == 255).all()
