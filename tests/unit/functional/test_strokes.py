import tracemalloc

import numpy as np
import pytest
from helpers.internals import internal

from scribbleseg.functional import Stroke, covered_pixels, rasterize


def distances(points, size):
    """Of every pixel to a polyline, by the definition."""
    points = np.asarray(points, float)
    nearest = np.full(size, np.inf)
    pixels = np.stack(np.meshgrid(np.arange(size[1]), np.arange(size[0])), axis=-1).astype(float)
    for a, b in zip(points, points[1:] if len(points) > 1 else points, strict=False):
        along = np.clip((pixels - a) @ (b - a) / max((b - a) @ (b - a), 1e-300), 0, 1)
        gap = pixels - a - along[..., None] * (b - a)
        nearest = np.minimum(nearest, np.hypot(*gap.transpose(2, 0, 1)))
    return nearest


def naive(strokes, size, width):
    canvas = np.full(size, 255, np.uint8)
    for label, points in strokes:
        canvas[distances(points, size) <= width / 2 + 1e-9] = label
    return canvas


@pytest.mark.parametrize("width", [1.0, 2.5, 3.0, 7.0])
def test_rasterize_equals_the_definition(width):
    rng = np.random.default_rng(0)
    strokes = [Stroke(k, rng.uniform(-6, 26, (n, 2))) for k, n in enumerate((1, 2, 5, 3))]
    drawn = rasterize(strokes, (18, 22), width=width)
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn, naive(strokes, (18, 22), width))


@pytest.mark.parametrize("seed", range(20))
def test_long_segments_equal_the_definition(seed):
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 400, 2))
    around = np.array(size[::-1]) * [[1.5], [30]][seed % 2] - 20
    strokes = [
        Stroke(k, rng.uniform(-around, around, (n, 2)).round(1)) for k, n in enumerate((2, 4))
    ]
    strokes.append(Stroke(3, [(-50, size[0] // 2), (size[1] + 900, size[0] // 2)]))
    width = float(rng.choice([1, 2.5, 9, 40]))
    np.testing.assert_array_equal(
        rasterize(strokes, size, width=width), naive(strokes, size, width)
    )


@pytest.mark.parametrize("seed", range(6))
def test_pillow_differs_from_the_definition_at_borders_only(seed):
    rng = np.random.default_rng(seed)
    points = rng.integers(-20, 320, (4, 2))
    drawn = rasterize([Stroke(1, points)], (300, 280), width=5, renderer="pillow") == 1
    distance = distances(points, (300, 280))
    assert drawn[distance <= 1.4].all()
    assert not drawn[distance > 4].any()


def test_memory_does_not_grow_with_the_box_of_a_segment():
    tracemalloc.start()
    drawn = rasterize([Stroke(1, [(0, 0), (3999, 2999)])], (3000, 4000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (drawn == 1).sum() == 14994
    assert peak < 60e6, "bytes; the picture has 12e6"


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
