from __future__ import annotations

import pytest
import torch

from scribbleseg.functional import boundary_to_affinity, path_offsets
from scribbleseg.methods import affinity_targets, pair_displacement, pair_indices


@pytest.fixture
def boundary() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 6, 9, generator=generator, dtype=torch.float64)


def naive_affinity(boundary: torch.Tensor, radius: int) -> torch.Tensor:
    """Every pair on its own, 0 outside the grid."""
    batch, height, width = boundary.shape
    paths = path_offsets(radius)
    affinity = torch.zeros(batch, len(paths), height, width, dtype=boundary.dtype)
    for number, path in enumerate(paths):
        for y in range(height):
            for x in range(width):
                cells = [(y + dy, x + dx) for dy, dx in path]
                if all(0 <= i < height and 0 <= j < width for i, j in cells):
                    values = torch.stack([boundary[:, i, j] for i, j in cells])
                    affinity[:, number, y, x] = 1 - values.amax(0)
    return affinity


@pytest.mark.parametrize(("radius", "pairs", "cells"), [(3, 12, 56), (5, 34, 242), (10, 152, 2134)])
def test_paths(radius: int, pairs: int, cells: int) -> None:
    paths = path_offsets(radius)
    assert len(paths) == pairs
    assert sum(len(path) for path in paths) == cells
    assert [len(path) for path in paths] == sorted(len(path) for path in paths)
    ends = {path[0] for path in paths}
    assert len(ends) == pairs
    assert not ends & {(-dy, -dx) for dy, dx in ends}
    for path in paths:
        dy, dx = path[0]
        assert path[-1] == (0, 0)
        assert dy * dy + dx * dx < radius * radius
        # symmetric: seen from the other end the same cells are on the path
        assert {(dy - y, dx - x) for y, x in path} == set(path)


def test_pair_indices_are_the_displacements() -> None:
    source, partner = pair_indices((5, 8), radius=3)
    paths = path_offsets(3)
    for number, ((dy, dx), *_) in enumerate(paths):
        assert torch.equal(partner[number] // 8 - source // 8, torch.full_like(source, dy))
        assert torch.equal(partner[number] % 8 - source % 8, torch.full_like(source, dx))
    assert len(source) == (5 - 2) * (8 - 4)


@pytest.mark.parametrize("radius", [2, 3, 4])
def test_affinity_is_one_minus_the_path_maximum(boundary, radius) -> None:
    expected = naive_affinity(boundary, radius)
    torch.testing.assert_close(boundary_to_affinity(boundary, radius=radius, crop=False), expected)
    cropped = boundary_to_affinity(boundary, radius=radius)
    source, _ = pair_indices((6, 9), radius=radius)
    torch.testing.assert_close(cropped, expected.flatten(2)[..., source])


@pytest.mark.parametrize("crop", [True, False])
def test_gradient_goes_to_the_strongest_cell(boundary, crop) -> None:
    boundary = boundary[:, :4, :6].clone()
    assert torch.autograd.gradcheck(
        lambda b: boundary_to_affinity(b, radius=3, crop=crop), boundary.requires_grad_()
    )
    tracked = boundary_to_affinity(boundary, radius=3, crop=crop)
    assert torch.equal(tracked, boundary_to_affinity(boundary.detach(), radius=3, crop=crop))


def test_equal_cells_share_no_gradient() -> None:
    flat = torch.full((1, 4, 7), 0.5, dtype=torch.float64, requires_grad=True)
    affinity = boundary_to_affinity(flat, radius=3)
    affinity.sum().backward()
    assert flat.grad.sum().item() == -affinity.numel()
    assert flat.grad[0, 0, 0].item() == 0  # no pair starts here, and it is first on no path


def test_mirrored_boundary_gives_mirrored_affinity(boundary) -> None:
    ends = [path[0] for path in path_offsets(3)]
    plain = boundary_to_affinity(boundary, radius=3, crop=False)
    mirrored = boundary_to_affinity(boundary.flip(2), radius=3, crop=False).flip(3)
    for number, (dy, dx) in enumerate(ends):
        if dy > 0:
            torch.testing.assert_close(mirrored[:, ends.index((dy, -dx))], plain[:, number])


def test_small_grids_and_half_precision(boundary) -> None:
    assert boundary_to_affinity(boundary[:, :2, :2], radius=3).shape == (2, 12, 0)
    tiny = boundary_to_affinity(boundary[:, :1, :1], radius=3, crop=False)
    assert torch.equal(tiny, torch.zeros(2, 12, 1, 1, dtype=torch.float64))
    assert boundary_to_affinity(boundary[:0], radius=3).shape == (0, 12, 4 * 5)
    half = boundary_to_affinity(boundary.bfloat16(), radius=3)
    assert half.dtype == torch.float32
    torch.testing.assert_close(
        half.double(), boundary_to_affinity(boundary, radius=3), rtol=0, atol=4e-3
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert boundary_to_affinity(boundary.float(), radius=3).dtype == torch.float32


def test_targets_against_every_pair() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 4, (2, 5, 8), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = 255
    background, foreground, different = affinity_targets(labels, radius=3)
    source, partner = pair_indices((5, 8), radius=3)
    flat = labels.flatten(1).tolist()
    for image in range(2):
        for p in range(len(partner)):
            for n, i in enumerate(source.tolist()):
                a, b = flat[image][i], flat[image][int(partner[p, n])]
                valid = a != 255 and b != 255
                assert bool(background[image, p, n]) == (valid and a == b == 0)
                assert bool(foreground[image, p, n]) == (valid and a == b > 0)
                assert bool(different[image, p, n]) == (valid and a != b)
    nothing = affinity_targets(torch.full((1, 5, 8), 255, dtype=torch.uint8), radius=3)
    assert not any(kind.any() for kind in nothing)


def test_targets_treat_ids_beyond_the_classes_as_unlabelled() -> None:
    labels = torch.tensor([[[3, 3, 0], [3, 9, 0]]])
    limited = affinity_targets(labels, radius=2, num_classes=5)
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            limited, affinity_targets(labels.masked_fill(labels == 9, 255), radius=2), strict=True
        )
    )


def test_pair_displacement() -> None:
    generator = torch.Generator().manual_seed(2)
    field = torch.randn(2, 2, 4, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    source, partner = pair_indices((4, 7), radius=3)
    difference = pair_displacement(field, radius=3)
    flat = field.flatten(2)
    for p in range(len(partner)):
        torch.testing.assert_close(difference[:, :, p], flat[..., source] - flat[..., partner[p]])
    torch.testing.assert_close(pair_displacement(field + 5, radius=3), difference)
    assert torch.autograd.gradcheck(lambda d: pair_displacement(d, radius=3), field)


def test_bad_input(boundary) -> None:
    with pytest.raises(ValueError, match="radius must be 2 to 64"):
        path_offsets(1)
    with pytest.raises(ValueError, match="remove the channel"):
        boundary_to_affinity(boundary[None], radius=3)
    with pytest.raises(ValueError, match="labels must have shape"):
        affinity_targets(torch.zeros(4, 4, dtype=torch.int64), radius=3)
    with pytest.raises(ValueError, match="displacement must have shape"):
        pair_displacement(boundary, radius=3)


def test_only_the_first_call_copies_the_paths_to_the_device(boundary, monkeypatch) -> None:
    labels = torch.zeros(1, 6, 9, dtype=torch.int64)

    def step(size: int) -> None:
        affinity_targets(labels[..., :size], radius=4)
        pair_displacement(boundary[:, None, :, :size], radius=4)
        walls = boundary[..., :size].clone().requires_grad_()
        boundary_to_affinity(walls, radius=4).sum().backward()

    with torch.inference_mode():
        affinity_targets(labels, radius=4)  # what is kept must be usable with gradients too
    step(9)

    copies, original = [], torch.tensor

    def counted(*args, **kwargs):
        copies.append(args)
        return original(*args, **kwargs)

    monkeypatch.setattr(torch, "tensor", counted)
    for size in (9, 8, 7):
        step(size)
    assert not copies, "a copy of host data to the device is waited for"
