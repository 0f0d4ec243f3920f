from __future__ import annotations

import pytest
import torch

from scribbleseg.functional import (
    boundary_to_affinity,
    cam_background_score,
    normalize_class_scores,
    path_offsets,
    sparse_random_walk,
)


@pytest.fixture
def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 7, 9, generator=generator, dtype=torch.float64)
    return x, torch.rand(7, 9, generator=generator, dtype=torch.float64)


def dense_transition(boundary: torch.Tensor, radius: int, beta: float) -> torch.Tensor:
    height, width = boundary.shape
    affinity = boundary_to_affinity(boundary[None], radius=radius, crop=False)[0] ** beta
    similarity = torch.eye(height * width, dtype=boundary.dtype)
    for number, ((dy, dx), *_) in enumerate(path_offsets(radius)):
        for y in range(height):
            for x in range(width):
                if 0 <= y + dy < height and 0 <= x + dx < width:
                    i, j = y * width + x, (y + dy) * width + x + dx
                    similarity[i, j] = similarity[j, i] = affinity[number, y, x]
    return similarity / similarity.sum(1, keepdim=True)


@pytest.mark.parametrize("steps", [0, 1, 5, 64])
def test_equals_the_power_of_the_dense_matrix(example, steps) -> None:
    x, boundary = example
    power = torch.linalg.matrix_power(dense_transition(boundary, 4, 3.0), steps)
    expected = power @ (x * (1 - boundary)).flatten(1).T
    walked = sparse_random_walk(x, boundary, radius=4, beta=3, num_steps=steps).flatten(1)
    torch.testing.assert_close(walked.T, expected)


def test_known_cells_are_imposed_after_every_step(example) -> None:
    x, boundary = example
    mask = torch.zeros(7, 9, dtype=torch.bool)
    mask[2, 3:6] = mask[5, 1] = True
    value = (x > 0.5).to(x)
    transition = dense_transition(boundary, 3, 5.0)
    expected = torch.where(mask, value, x * (1 - boundary))
    for _ in range(20):
        moved = (transition @ expected.flatten(1).T).T.reshape(x.shape)
        expected = torch.where(mask, value, moved)
    walked = sparse_random_walk(x, boundary, radius=3, beta=5, num_steps=20, clamp=(mask, value))
    torch.testing.assert_close(walked, expected)
    assert torch.equal(walked[:, mask], value[:, mask])


def test_batch_is_image_by_image(example) -> None:
    x, boundary = example
    maps, walls = torch.stack([x, x.flip(0)]), torch.stack([boundary, boundary.flip(1)])
    clamp = (walls > 0.9, maps.round())
    both = sparse_random_walk(maps, walls, num_steps=8, clamp=clamp)
    for image in range(2):
        known = (clamp[0][image], clamp[1][image])
        alone = sparse_random_walk(maps[image], walls[image], num_steps=8, clamp=known)
        torch.testing.assert_close(both[image], alone)


def test_averages_stay_in_bounds_and_constants_stay_constant(example) -> None:
    x, boundary = (part.float() for part in example)
    walked = sparse_random_walk(x, boundary)
    start = x * (1 - boundary)
    for channel in range(3):
        assert start[channel].min() <= walked[channel].min()
        assert walked[channel].max() <= start[channel].max()
    same = sparse_random_walk(torch.full_like(x, 0.3), boundary, suppress_boundary=False)
    assert torch.equal(same, torch.full_like(x, 0.3))


def test_single_precision_stays_accurate_over_many_steps(example) -> None:
    x, boundary = example
    exact = sparse_random_walk(x, boundary, beta=1, num_steps=400)
    single = sparse_random_walk(x.float(), boundary.float(), beta=1, num_steps=400)
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=2e-6)


def test_walls_stop_the_walk_and_turns_do_not_matter(example) -> None:
    x, boundary = example
    wall = boundary * 0.3
    wall[:, 4] = 1
    cut = x.clone()
    cut[:, :, 4:] = 0
    walked = sparse_random_walk(cut, wall)
    assert torch.equal(walked[:, :, 4:], torch.zeros_like(walked[:, :, 4:]))
    assert (walked[:, :, :4] > 0).all()
    turned = sparse_random_walk(cut.rot90(1, (1, 2)), wall.rot90(1, (0, 1)))
    torch.testing.assert_close(turned.rot90(-1, (1, 2)), walked)


def test_many_clamped_steps_reach_the_harmonic_solution(example) -> None:
    x, boundary = example
    mask = torch.zeros(7, 9, dtype=torch.bool)
    mask[0, 0] = mask[6, 8] = True
    seeds = torch.zeros(1, 7, 9, dtype=x.dtype)
    seeds[0, 6, 8] = 1
    transition = dense_transition(boundary, 3, 1.0)
    free, fixed = ~mask.flatten(), mask.flatten()
    system = torch.eye(int(free.sum()), dtype=x.dtype) - transition[free][:, free]
    expected = torch.linalg.solve(system, transition[free][:, fixed] @ seeds.flatten()[fixed])
    walked = sparse_random_walk(
        x[:1], boundary, radius=3, beta=1, num_steps=3000, clamp=(mask, seeds)
    )
    torch.testing.assert_close(walked.flatten()[free], expected, rtol=0, atol=1e-9)


def test_degenerate_sizes_and_types(example) -> None:
    x, boundary = example
    one = sparse_random_walk(x[:, :1, :1], boundary[:1, :1])
    torch.testing.assert_close(one, x[:, :1, :1] * (1 - boundary[:1, :1]))
    assert sparse_random_walk(x[:0], boundary).shape == (0, 7, 9)
    half = sparse_random_walk(x.half(), boundary.half(), num_steps=4)
    assert half.dtype == torch.float32
    exact = sparse_random_walk(x, boundary, num_steps=4)
    torch.testing.assert_close(half.double(), exact, rtol=0, atol=5e-3)
    before = x.clone()
    tracked = sparse_random_walk(x.requires_grad_(), boundary, num_steps=2)
    assert not tracked.requires_grad
    assert torch.equal(x.detach(), before)


def test_nothing_to_do_is_a_copy_without_graph(example) -> None:
    x, boundary = example
    for maps, walls in ((x, boundary), (x[None], boundary[None]), (x[:0], boundary)):
        maps = maps.clone().requires_grad_()
        for start in (maps, maps * 2):
            found = sparse_random_walk(start, walls, num_steps=0, suppress_boundary=False)
            assert torch.equal(found, start)
            assert not found.requires_grad
            found += 1  # no view of the input either
            assert torch.equal(start, maps if start is maps else maps * 2)


def test_class_maxima() -> None:
    scores = torch.tensor([[[0.05, 0.1]], [[0.2, 0.4]], [[0.0, 0.0]], [[0.3, 0.6]]])
    labels = torch.tensor([1, 1, 1, 0])
    zeroed = normalize_class_scores(scores, labels)
    torch.testing.assert_close(
        zeroed[:, 0], torch.tensor([[0.5, 1.0], [0.5, 1.0], [0.0, 0.0], [0.0, 0.0]])
    )
    kept = normalize_class_scores(scores, labels, floor=0.2, absent="keep")
    torch.testing.assert_close(
        kept[:, 0], torch.tensor([[0.25, 0.5], [0.5, 1.0], [0.0, 0.0], [0.3, 0.6]])
    )
    torch.testing.assert_close(normalize_class_scores(3 * scores, labels), zeroed)
    both = normalize_class_scores(scores[None].bfloat16(), labels[None])
    assert both.dtype == torch.float32


def test_background_of_activations() -> None:
    cam = torch.tensor([[[0.0, 0.5]], [[1.0, 0.2]]])
    torch.testing.assert_close(cam_background_score(cam), torch.tensor([[[0.0, 0.5**6]]]))
    torch.testing.assert_close(cam_background_score(cam.flip(0)), cam_background_score(cam))


def test_bad_input(example) -> None:
    x, boundary = example
    with pytest.raises(ValueError, match="disagree"):
        sparse_random_walk(x, boundary[None])
    with pytest.raises(ValueError, match="clamp has mask"):
        sparse_random_walk(x, boundary, clamp=(boundary > 0.5, x[:1]))
    with pytest.raises(ValueError, match="num_steps"):
        sparse_random_walk(x, boundary, num_steps=-1)
    with pytest.raises(ValueError, match="beta"):
        sparse_random_walk(x, boundary, beta=0)
    with pytest.raises(ValueError, match="floating-point"):
        sparse_random_walk(x.int(), boundary)
    with pytest.raises(ValueError, match="radius must be"):
        sparse_random_walk(x, boundary, radius=0)
    with pytest.raises(ValueError, match="class_labels"):
        normalize_class_scores(x, torch.ones(2))
    with pytest.raises(ValueError, match="absent must be"):
        normalize_class_scores(x, torch.ones(3), absent="drop")
    with pytest.raises(ValueError, match="without classes"):
        cam_background_score(x[:0])
    with pytest.raises(ValueError, match="alpha"):
        cam_background_score(x, alpha=0)
