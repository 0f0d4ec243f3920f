from __future__ import annotations

import numpy as np
import pytest
from helpers.internals import internal

from scribbleseg import ConfigError
from scribbleseg.functional import (
    Degradation,
    Stroke,
    StrokeDrawing,
    degrade_drawing,
    degrade_scribble,
    rasterize,
)

sub_polyline = internal("degrade")._sub_polyline

RATIOS = (0.0, 0.1, 0.35, 0.5, 0.77, 0.999, 1.0)


def random_strokes(seed, count=8, size=(60, 80), labels=4):
    rng = np.random.default_rng(seed)
    strokes = []
    for _ in range(count):
        start = rng.uniform(5, [size[1] - 5, size[0] - 5])
        steps = rng.normal(0, 6, (rng.integers(1, 7), 2)).cumsum(axis=0)
        points = np.clip(start + np.vstack([[0, 0], steps]), 0, [size[1] - 1, size[0] - 1])
        strokes.append(Stroke(int(rng.integers(labels)), points))
    return strokes


def degraded(kind, drawing, degradation, image_id="a"):
    if kind == "raster":
        return degrade_scribble(drawing.rasterize(), degradation, image_id=image_id)
    return degrade_drawing(drawing, degradation, image_id=image_id)


def degrade_strokes(strokes, degradation, *, image_id):
    left = internal("degrade")._remaining(strokes, degradation, image_id)
    return [stroke for stroke in left if stroke is not None]


def length(points):
    return np.hypot(*np.diff(np.asarray(points), axis=0).T).sum()


CASES = [("raster", "distance"), ("lines", "distance"), ("lines", "pillow")]


@pytest.mark.parametrize(("kind", "renderer"), CASES)
@pytest.mark.parametrize("name", ["shrink", "drop"])
@pytest.mark.parametrize("seed", range(3))
def test_nested_subsets_with_the_same_labels(kind, renderer, name, seed):
    drawing = StrokeDrawing(random_strokes(seed), (60, 80), 3.0, renderer)
    full = drawing.rasterize()
    before = full
    for ratio in RATIOS:
        now = degraded(kind, drawing, Degradation(**{name: ratio}, seed=seed))
        assert now.dtype == np.uint8
        assert ((now == 255) | (now == before)).all()
        if ratio == 0:
            np.testing.assert_array_equal(now, full)
        before = now
    count = (before != 255).sum()
    assert (count == 0) if name == "drop" else (0 < count < 0.5 * (full != 255).sum())


@pytest.mark.parametrize("kind", ["raster", "lines"])
def test_both_together_are_nested(kind):
    drawing = StrokeDrawing(random_strokes(11), (60, 80))
    before = drawing.rasterize()
    for ratio in RATIOS[1:]:
        now = degraded(kind, drawing, Degradation(shrink=ratio, drop=ratio / 2))
        assert ((now == 255) | (now == before)).all()
        before = now


@pytest.mark.parametrize("anchor", ["random", "center"])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.9])
def test_length_that_is_left(anchor, ratio):
    strokes = random_strokes(4)
    left = degrade_strokes(strokes, Degradation(shrink=ratio, anchor=anchor), image_id="x")
    for stroke, rest in zip(strokes, left, strict=True):
        assert rest.label == stroke.label
        assert length(rest.points) == pytest.approx((1 - ratio) * length(stroke.points))


def test_centre_and_random_places():
    line = [Stroke(1, [(0, 5), (100, 5)])]
    (middle,) = degrade_strokes(line, Degradation(shrink=0.5, anchor="center"), image_id="x")
    assert middle.points.tolist() == [[25, 5], [75, 5]]
    starts = [
        degrade_strokes(line, Degradation(shrink=0.5), image_id=f"{i}")[0].points[0][0]
        for i in range(200)
    ]
    assert 0 <= min(starts) < 5
    assert 45 < max(starts) <= 50
    assert np.mean(starts) == pytest.approx(25, abs=3)


def test_all_that_is_left_is_a_dot_of_the_stroke_width():
    drawing = StrokeDrawing([Stroke(2, [(5, 10), (35, 10)])], (20, 40), 5.0)
    dot = degrade_drawing(drawing, Degradation(shrink=1.0, anchor="center"), image_id="x")
    np.testing.assert_array_equal(dot, rasterize([Stroke(2, [(20, 10)])], (20, 40), width=5.0))
    raster = degrade_scribble(
        drawing.rasterize(), Degradation(shrink=1.0, anchor="center"), image_id="x"
    )
    rows, columns = np.nonzero(raster == 2)
    assert (np.ptp(rows), np.ptp(columns)) == (4, 4)
    assert np.mean(columns) == pytest.approx(20, abs=1)


def test_share_of_a_raster_that_is_left():
    drawing = StrokeDrawing([Stroke(0, [(10, 10), (90, 10), (90, 70)])], (80, 100))
    full = drawing.rasterize()
    for ratio in (0.25, 0.5, 0.75):
        now = degrade_scribble(full, Degradation(shrink=ratio, anchor="center"), image_id="x")
        share = (now == 0).sum() / (full == 0).sum()
        assert share == pytest.approx(1 - ratio, abs=0.04)


def test_raster_and_lines_keep_about_the_same():
    drawing = StrokeDrawing([Stroke(0, [(10, 10), (90, 30), (60, 70)])], (80, 100))
    settings = Degradation(shrink=0.4, anchor="center")
    first, second = (degraded(kind, drawing, settings) == 0 for kind in ("raster", "lines"))
    assert (first & second).sum() / (first | second).sum() > 0.8


def test_share_of_strokes_that_is_dropped():
    strokes = [Stroke(0, [(0, 0)])] * 2000
    left = degrade_strokes(strokes, Degradation(drop=0.3), image_id="x")
    assert len(left) == pytest.approx(1400, abs=60)
    assert degrade_strokes(strokes, Degradation(drop=1.0), image_id="x") == []


def test_a_stroke_has_its_own_numbers():
    strokes = random_strokes(5)
    settings = Degradation(shrink=0.5, drop=0.4, seed=3)
    few = degrade_strokes(strokes[:4], settings, image_id="x")
    many = degrade_strokes(strokes, settings, image_id="x")
    for one, other in zip(few, many, strict=False):
        np.testing.assert_array_equal(one.points, other.points)
    again = degrade_strokes(strokes, settings, image_id="x")
    assert all((a.points == b.points).all() for a, b in zip(many, again, strict=True))
    other = degrade_strokes(strokes, settings, image_id="y")
    assert [s.points.tolist() for s in other] != [s.points.tolist() for s in many]
    assert Degradation(seed=0).plan("img", 2)[1] == pytest.approx([0.46888333, 0.85835091])


def test_strokes_of_a_raster_are_parts_of_one_class():
    scribble = np.full((20, 30), 255, np.uint8)
    scribble[5, 2:12], scribble[5, 12:20], scribble[10, 2:20] = 0, 1, 1
    dropped, _ = Degradation(drop=0.5, seed=0).plan("x", 3)
    now = degrade_scribble(scribble, Degradation(drop=0.5), image_id="x")
    kept = [(now[5, 3] == 0), (now[5, 15] == 1), (now[10, 5] == 1)]
    assert kept == (~dropped).tolist()
    assert 0 < sum(kept) < 3


def test_a_crossing_is_not_relabelled():
    drawing = StrokeDrawing(
        [Stroke(0, [(2, 10), (28, 10)]), Stroke(1, [(15, 2), (15, 18)])], (20, 30)
    )
    full = drawing.rasterize()
    assert full[10, 15] == 1
    for seed in range(40):
        now = degrade_drawing(drawing, Degradation(drop=0.5, seed=seed), image_id="x")
        if (now == 0).any() and not (now == 1).any():
            assert now[10, 15] == 255
            return
    raise AssertionError("no seed drops the second stroke alone")


def test_more_strokes_than_a_byte_counts():
    rng = np.random.default_rng(0)
    strokes = [Stroke(i % 3, [p, p + 3]) for i, p in enumerate(rng.uniform(2, 50, (600, 2)))]
    drawing = StrokeDrawing(strokes, (60, 60))
    full = drawing.rasterize()
    tiny = degrade_drawing(drawing, Degradation(shrink=1e-12), image_id="x")
    np.testing.assert_array_equal(tiny, full)
    half = degrade_drawing(drawing, Degradation(drop=0.5), image_id="x")
    assert ((half == 255) | (half == full)).all()
    assert 0.1 < (half != 255).sum() / (full != 255).sum() < 0.9


def test_nothing_drawn():
    empty = np.full((5, 6), 255, np.uint8)
    assert (degrade_scribble(empty, Degradation(shrink=0.5, drop=0.5), image_id="x") == 255).all()
    drawing = StrokeDrawing([], (5, 6))
    assert (degrade_drawing(drawing, Degradation(shrink=0.5), image_id="x") == 255).all()
    assert degrade_strokes([], Degradation(drop=1.0), image_id="x") == []


def test_a_loop_and_a_filled_area():
    scribble = np.full((40, 60), 255, np.uint8)
    scribble[5:35, 5:35] = 3
    scribble[10:30, 10:30] = 255
    scribble[5:35, 40:58] = 0
    before = scribble
    for ratio in RATIOS[1:]:
        now = degrade_scribble(scribble, Degradation(shrink=ratio), image_id="x")
        assert ((now == 255) | (now == before)).all()
        assert {0, 3} <= set(np.unique(now))
        before = now


def test_parts_of_a_polyline():
    corner = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0], [3.0, 9.0]])
    assert sub_polyline(corner, 0, 10).tolist()[-1] == [3, 9]
    assert sub_polyline(corner, 5, 5).tolist() == [[3, 4]]
    assert sub_polyline(corner, 2.5, 7.5).tolist() == [[1.5, 2], [3, 4], [3, 6.5]]
    assert sub_polyline(corner[:1], 0, 0).tolist() == [[0, 0]]
    same = np.array([[2.0, 2.0], [2.0, 2.0]])
    assert sub_polyline(same, 0, 0).tolist() == [[2, 2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shrink": 1.2}, r"shrink=1\.2: expected a share in \[0, 1\]"),
        ({"drop": -0.1}, r"drop=-0\.1"),
        ({"drop": 50}, "drop=50.*percentages"),
        ({"seed": -1}, "seed=-1"),
        ({"anchor": "start"}, "anchor='start'.*'center'"),
        ({"shrink": True}, "shrink=True"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        Degradation(**options)
