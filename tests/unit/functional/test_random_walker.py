from __future__ import annotations

import time

import cv2
import numpy as np
import pytest
from helpers.internals import internal

from scribbleseg.functional import random_walker, random_walker_labels


@pytest.fixture
def example() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    image = rng.random((11, 13))
    seeds = np.full((11, 13), 255)
    seeds[1, 2:5], seeds[8, 3], seeds[6, 9:12], seeds[2, 11] = 0, 2, 4, 2
    return image, seeds


def dense_solution(
    image: np.ndarray, seeds: np.ndarray, num_classes: int, beta: float
) -> np.ndarray:
    height, width = seeds.shape
    channels = image.reshape(height, width, -1)
    scale = beta / (10 * channels.std() * np.sqrt(channels.shape[2]))
    index = np.arange(height * width).reshape(height, width)
    laplacian = np.zeros((index.size, index.size))
    for y in range(height):
        for x in range(width):
            for v, u in ((y + 1, x), (y, x + 1)):
                if v < height and u < width:
                    squared = ((channels[y, x] - channels[v, u]) ** 2).sum()
                    weight = np.exp(-scale * squared) + 1e-10
                    i, j = index[y, x], index[v, u]
                    laplacian[i, j] = laplacian[j, i] = -weight
                    laplacian[i, i] += weight
                    laplacian[j, j] += weight
    drawn = seeds.reshape(-1) != 255
    one_hot = np.eye(256)[seeds.reshape(-1)][:, :num_classes]
    found = one_hot.copy()
    found[~drawn] = np.linalg.solve(
        laplacian[~drawn][:, ~drawn], -laplacian[~drawn][:, drawn] @ one_hot[drawn]
    )
    return found.T.reshape(num_classes, height, width)


@pytest.mark.parametrize("channels", [(), (1,), (3,)])
def test_equals_a_dense_solution(example, channels) -> None:
    _, seeds = example
    image = np.random.default_rng(1).random((11, 13, *channels))
    found = random_walker(image, seeds, num_classes=6, beta=50)
    np.testing.assert_allclose(found, dense_solution(image, seeds, 6, 50), rtol=0, atol=1e-7)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(0), 1, rtol=0, atol=1e-6)
    assert not found[[1, 3, 5]].any()


def test_seeds_keep_their_class(example) -> None:
    image, seeds = example
    found = random_walker(image, seeds, num_classes=5)
    for row, column in np.argwhere(seeds != 255):
        assert found[:, row, column].tolist() == np.eye(5)[seeds[row, column]].tolist()


def test_invariances(example) -> None:
    image, seeds = example
    found = random_walker(image, seeds, num_classes=5)
    turned = random_walker(image.T, seeds.T, num_classes=5)
    np.testing.assert_allclose(turned.transpose(0, 2, 1), found, rtol=0, atol=1e-6)
    brighter = random_walker(image + 3, seeds, num_classes=5)
    np.testing.assert_allclose(brighter, found, rtol=0, atol=1e-6)
    order = np.array([3, 0, 4, 1, 2])
    renamed = np.where(seeds == 255, 255, order[np.minimum(seeds, 4)])
    permuted = random_walker(image, renamed, num_classes=5)
    np.testing.assert_allclose(permuted[order], found, rtol=0, atol=1e-6)
    # a class drawn where its probability is already one changes nothing
    wall = np.where(np.arange(13) < 6, 0.0, 50.0) * np.ones((11, 1))
    apart = np.where(seeds == 4, 4, np.where(np.arange(13) < 6, seeds, 255))
    more = apart.copy()
    more[10, 12] = 4
    np.testing.assert_allclose(
        random_walker(wall, more, num_classes=5),
        random_walker(wall, apart, num_classes=5),
        rtol=0,
        atol=1e-6,
    )


def test_integers_are_scaled_by_their_range(example) -> None:
    _, seeds = example
    image = np.random.default_rng(2).integers(0, 256, (11, 13, 3), dtype=np.uint8)
    np.testing.assert_array_equal(
        random_walker(image, seeds, num_classes=5),
        random_walker(image / 255.0, seeds, num_classes=5),
    )
    np.testing.assert_array_equal(
        random_walker(image.astype(np.uint16) * 257, seeds, num_classes=5),
        random_walker(image, seeds, num_classes=5),
    )
    binary = image[..., 0] > 128
    np.testing.assert_array_equal(
        random_walker(binary, seeds, num_classes=5),
        random_walker(binary.astype(float), seeds, num_classes=5),
    )


def test_edges_of_the_image_stop_the_walker() -> None:
    image = np.zeros((20, 30))
    image[:, 12:] = 1
    scribble = np.full((20, 30), 255, dtype=np.uint8)
    scribble[3, 1], scribble[17, 28] = 7, 2
    labels = random_walker_labels(image, scribble)
    assert labels.dtype == np.uint8
    assert (labels[:, :12] == 7).all()
    assert (labels[:, 12:] == 2).all()


def test_degenerate_seeds(example) -> None:
    image, seeds = example
    nothing = np.full_like(seeds, 255)
    assert not random_walker(image, nothing, num_classes=5).any()
    assert (random_walker_labels(image, nothing) == 255).all()
    single = np.where(seeds == 4, 4, 255)
    assert (random_walker(image, single, num_classes=5)[4] == 1).all()
    assert (random_walker_labels(image, single, min_confidence=1.0) == 4).all()
    full = np.random.default_rng(3).integers(0, 5, seeds.shape)
    np.testing.assert_array_equal(random_walker_labels(image, full), full)
    np.testing.assert_array_equal(
        random_walker(image, full, num_classes=5), np.eye(5)[full].transpose(2, 0, 1)
    )
    alone = random_walker(np.zeros((1, 1)), np.array([[1]]), num_classes=2)
    assert alone.tolist() == [[[0]], [[1]]]


def test_constant_image_spreads_by_distance() -> None:
    seeds = np.full((3, 9), 255)
    seeds[:, 0], seeds[:, 8] = 0, 1
    for value in (0.0, 0.7):
        found = random_walker(np.full((3, 9), value), seeds, num_classes=2)
        np.testing.assert_allclose(found[1], np.tile(np.arange(9) / 8, (3, 1)), atol=1e-6)


def test_confidence_leaves_pixels_undecided(example) -> None:
    image, seeds = example
    found = random_walker(image, seeds, num_classes=5)
    full = random_walker_labels(image, seeds)
    np.testing.assert_array_equal(full, found.argmax(0))
    sure = random_walker_labels(image, seeds, min_confidence=0.8)
    kept = found.max(0) >= 0.8
    np.testing.assert_array_equal(sure != 255, kept)
    np.testing.assert_array_equal(sure[kept], full[kept])
    assert 0 < kept.mean() < 1
    strict = random_walker_labels(image, seeds, min_confidence=1.0)
    np.testing.assert_array_equal(strict[seeds != 255], seeds[seeds != 255])


@pytest.mark.parametrize("steps", [3, 5, 6, 7, 8, 10, 12, 20])
def test_a_confidence_that_is_met_exactly_is_enough(steps: int) -> None:
    scribble = np.full((3, steps + 1), 255)
    scribble[:, 0], scribble[:, -1] = 0, 1
    image = np.zeros(scribble.shape)
    columns = np.arange(1, steps)
    certainty = np.maximum(steps - columns, columns)  # of the nearer class, in steps
    for needed in range(1, steps):
        labels = random_walker_labels(image, scribble, min_confidence=needed / steps)
        kept = np.broadcast_to(certainty >= needed, (3, steps - 1))
        np.testing.assert_array_equal(labels[:, 1:-1] != 255, kept)
        labels = random_walker_labels(image, scribble, min_confidence=needed / steps + 1e-6)
        kept = np.broadcast_to(certainty > needed, (3, steps - 1))
        np.testing.assert_array_equal(labels[:, 1:-1] != 255, kept)


def test_other_value_for_not_drawn(example) -> None:
    image, seeds = example
    moved = np.where(seeds == 255, -1, seeds)
    np.testing.assert_array_equal(
        random_walker(image, moved, num_classes=5, ignore_index=-1),
        random_walker(image, seeds, num_classes=5),
    )


def test_bad_input(example) -> None:
    image, seeds = example
    with pytest.raises(ValueError, match="channels come last"):
        random_walker(image[None], seeds, num_classes=5)
    with pytest.raises(ValueError, match="seeds hold class 4 but num_classes=3"):
        random_walker(image, seeds, num_classes=3)
    with pytest.raises(ValueError, match="integer class ids"):
        random_walker(image, seeds.astype(float), num_classes=5)
    with pytest.raises(ValueError, match="NaN"):
        random_walker(np.where(seeds == 0, np.nan, image), seeds, num_classes=5)
    for kind in (np.int64, complex):
        with pytest.raises(ValueError, match="range says nothing"):
            random_walker(image.astype(kind), seeds, num_classes=5)
    with pytest.raises(ValueError, match="beta"):
        random_walker(image, seeds, num_classes=5, beta=-1)
    with pytest.raises(ValueError, match="min_confidence"):
        random_walker_labels(image, seeds, min_confidence=80)
    with pytest.raises(ValueError, match="8-bit"):
        random_walker_labels(image, seeds + 300)


# ------------------------------------------------------------------------- large images


def scene(seed: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Blurred and noisy polygons of five classes, and strokes inside of them."""
    rng = np.random.default_rng(seed)
    height, width = size
    mask = np.zeros(size, np.uint8)
    scribble = np.full(size, 255, np.uint8)
    scribble[3:5, 3 : width // 2] = 0
    for label in (1, 2, 3, 4):
        middle = rng.uniform(0.25, 0.75, 2) * [width, height]
        angles = np.sort(rng.uniform(0, 2 * np.pi, 8))
        reach = rng.uniform(0.1, 0.3, 8) * min(size)
        corners = middle + reach[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        cv2.fillPoly(mask, [corners.astype(np.int32)], label)
    for label in (1, 2, 3, 4):
        depth = cv2.distanceTransform((mask == label).astype(np.uint8), cv2.DIST_L2, 5)
        y, x = np.unravel_index(depth.argmax(), size)
        cv2.circle(scribble, (int(x), int(y)), int(max(depth.max() / 3, 1)), label, -1)
    colours = rng.uniform(60, 190, (5, 3))
    image = np.clip(colours[mask] + rng.normal(0, 8, (*size, 3)), 0, 255).astype(np.uint8)
    return cv2.GaussianBlur(image, (0, 0), 1.0), scribble


@pytest.mark.parametrize(
    ("size", "pixels"), [((120, 160), 5000), ((101, 143), 2000), ((90, 7), 99)]
)
def test_large_images_are_solved_on_blocks(monkeypatch, size, pixels) -> None:
    agreeing = []
    for seed in range(4):
        image, scribble = scene(seed, size)
        full = random_walker_labels(image, scribble)
        with monkeypatch.context() as patch:
            patch.setattr(internal("random walker"), "_FULL_SIZE", pixels)
            labels = random_walker_labels(image, scribble)
            sure = random_walker_labels(image, scribble, min_confidence=0.9)
        np.testing.assert_array_equal(labels[scribble != 255], scribble[scribble != 255])
        np.testing.assert_array_equal(sure[sure != 255], labels[sure != 255])
        agreeing.append((labels == full).mean())
    assert min(agreeing) > 0.95
    assert np.mean(agreeing) > 0.97


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (3, 17)])
def test_narrow_images_on_blocks(monkeypatch, shape) -> None:
    monkeypatch.setattr(internal("random walker"), "_FULL_SIZE", 4)
    scribble = np.full(shape, 255)
    scribble[0, 0], scribble[-1, -1] = 2, 7
    labels = random_walker_labels(np.zeros(shape), scribble)
    assert set(np.unique(labels)) == {2, 7}
    assert (labels[0, 0], labels[-1, -1]) == (2, 7)


@pytest.mark.slow
def test_a_photograph_takes_seconds() -> None:
    image, scribble = scene(0, (1536, 2048))
    start = time.process_time()
    labels = random_walker_labels(image, scribble)
    assert time.process_time() - start < 10
    assert set(np.unique(labels)) == {0, 1, 2, 3, 4}
