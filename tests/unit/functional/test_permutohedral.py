from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from helpers.internals import internal

from scribbleseg.functional import PermutohedralLattice, exact_gaussian_filter


def _random(*shape: int, seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def _naive(features: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """The lattice with a dictionary, one point at a time."""
    dims = features.shape[1]
    lattice: dict[tuple[int, ...], torch.Tensor] = {}
    corners = []
    for point, value in zip(features.tolist(), values, strict=True):
        scaled = [
            x * (dims + 1) * math.sqrt(2 / 3) / math.sqrt((j + 1) * (j + 2))
            for j, x in enumerate(point)
        ]
        elevated = [sum(scaled[i:]) - (i * scaled[i - 1] if i else 0) for i in range(dims + 1)]
        rounded = []
        for x in elevated:
            up = math.ceil(x / (dims + 1)) * (dims + 1)
            down = math.floor(x / (dims + 1)) * (dims + 1)
            rounded.append(up if up - x < x - down else down)
        order = sorted(range(dims + 1), key=lambda i: rounded[i] - elevated[i])
        rank = [order.index(i) + sum(rounded) // (dims + 1) for i in range(dims + 1)]
        for i, r in enumerate(rank):
            shift = (r < 0) - (r > dims)
            rank[i] += shift * (dims + 1)
            rounded[i] += shift * (dims + 1)
        share = [0.0] * (dims + 2)
        for i, r in enumerate(rank):
            delta = (elevated[i] - rounded[i]) / (dims + 1)
            share[dims - r] += delta
            share[dims + 1 - r] -= delta
        share[0] += 1 + share[dims + 1]
        own = []
        for k in range(dims + 1):
            key = tuple(
                x + (k if r <= dims - k else k - dims - 1)
                for x, r in zip(rounded, rank, strict=True)
            )
            lattice[key] = lattice.get(key, 0) + share[k] * value
            own.append((key, share[k]))
        corners.append(own)
    for axis in range(dims + 1):
        step = [-1] * (dims + 1)
        step[axis] += dims + 1
        lattice = {
            key: value
            + 0.5 * lattice.get(tuple(x + s for x, s in zip(key, step, strict=True)), 0)
            + 0.5 * lattice.get(tuple(x - s for x, s in zip(key, step, strict=True)), 0)
            for key, value in lattice.items()
        }
    sums = [sum(share * lattice[key] for key, share in own) for own in corners]
    return torch.stack(sums) / (1 + 2.0**-dims)


@pytest.mark.parametrize("dims", [1, 2, 3, 5, 7])
@pytest.mark.parametrize("scale", [0.3, 3.0, 40.0])
def test_equals_a_lattice_of_dictionaries(dims, scale):
    features, values = _random(60, dims, scale=scale), _random(60, 3, seed=1)
    lattice = PermutohedralLattice(features)
    torch.testing.assert_close(lattice.filter(values), _naive(features, values))


def test_approximates_the_gaussian():
    """Ratio to the exact sums is nearly the same everywhere, so that weighted means agree."""
    grid = torch.cartesian_prod(*2 * (torch.arange(30, dtype=torch.float64),)) / 4
    values = torch.stack((torch.ones(900).double(), (grid.sum(1) > 7).double()), dim=1)
    sums = PermutohedralLattice(grid).filter(values)
    exact = exact_gaussian_filter(grid[None], values[None])[0]
    ratio = sums[:, 0] / exact[:, 0]
    assert 0.7 < ratio.min() < ratio.max() < 1
    mean, expected = sums[:, 1] / sums[:, 0], exact[:, 1] / exact[:, 0]
    assert (mean - expected).abs().max() < 0.1


def test_images_of_a_batch_do_not_mix():
    features, values = _random(4, 50, 5), _random(4, 50, 2, seed=1)
    batch = PermutohedralLattice(features)
    alone = [PermutohedralLattice(f) for f in features]
    expected = torch.stack([one.filter(v) for one, v in zip(alone, values, strict=True)])
    torch.testing.assert_close(batch.filter(values), expected)
    assert batch.num_points == sum(one.num_points for one in alone)


def test_order_and_place_do_not_matter():
    features, values = _random(80, 3, scale=2.0), _random(80, 2, seed=1)
    expected = PermutohedralLattice(features).filter(values)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(3))
    permuted = PermutohedralLattice(features[order]).filter(values[order])
    torch.testing.assert_close(permuted, expected[order])
    # one lattice vector further: the vector by which every elevated coordinate is a multiple of 4
    root = torch.tensor([(j + 1) * (j + 2) for j in range(3)]).double().sqrt()
    elevation = torch.tensor([[1.0, 1, 1], [-1, 1, 1], [0, -2, 1], [0, 0, -3]])
    wanted = torch.tensor([4.0, 4, -8, 0])
    move = torch.linalg.lstsq(elevation.double(), wanted.double()[:, None]).solution[:, 0]
    moved = PermutohedralLattice(features + move * root / (4 * math.sqrt(2 / 3))).filter(values)
    torch.testing.assert_close(moved, expected)


def test_linear_and_differentiable_with_exact_transpose():
    features, values = _random(40, 5), _random(40, 2, seed=1)
    lattice = PermutohedralLattice(features)
    assert torch.autograd.gradcheck(lattice.filter, values.requires_grad_())
    eye = torch.eye(40, dtype=torch.float64)
    torch.testing.assert_close(lattice.filter(eye).T, lattice.filter(eye, transpose=True))
    factors = _random(40, seed=2).abs(), _random(40, seed=3)
    scaled = lattice.scaled(*factors)
    torch.testing.assert_close(
        scaled.filter(values), factors[1][:, None] * lattice.filter(factors[0][:, None] * values)
    )
    assert torch.autograd.gradcheck(scaled.filter, values)


def test_columns_in_parts_change_nothing(monkeypatch):
    features, values = _random(50, 2), _random(50, 7, seed=1)
    lattice = PermutohedralLattice(features)
    expected = lattice.filter(values)
    for most in (1, 120, 260):
        monkeypatch.setattr(internal("permutohedral"), "_CPU_ELEMENTS", most)
        assert torch.equal(lattice.filter(values), expected)


def test_types():
    features, values = _random(30, 5).float(), _random(30, 2, seed=1)
    lattice = PermutohedralLattice(features)
    single = lattice.filter(values.float())
    assert single.dtype == torch.float32
    assert lattice.filter(values).dtype == torch.float64
    half = lattice.filter(values.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, lattice.filter(values.bfloat16().float()))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(PermutohedralLattice(features).filter(values.float()), single)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (0, 4, 3)])
def test_no_points(shape):
    lattice = PermutohedralLattice(torch.zeros(shape))
    assert lattice.num_points == 0
    assert lattice.filter(torch.zeros(*shape[:-1], 2)).shape == (*shape[:-1], 2)


def test_one_point_and_no_values():
    lattice = PermutohedralLattice(torch.zeros(1, 2))
    assert lattice.num_points == 3
    assert lattice.filter(torch.ones(1, 0)).shape == (1, 0)


def test_constant_features_sum_everything():
    filtered = PermutohedralLattice(torch.full((9, 5), 3.7)).filter(torch.ones(9, 1))
    assert torch.allclose(filtered, filtered[0])


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(3), r"\(N, d\)"),
        (torch.zeros(3, 0), "flatten"),
        (torch.zeros(3, 2, dtype=torch.long), "floating point"),
        (torch.tensor([[0.0, math.nan]]), "NaN"),
        (torch.tensor([[0.0, math.inf]]), "NaN"),
        (torch.tensor([list(x) for x in itertools.product((0.0, 1e6), repeat=5)]), "bandwidths"),
    ],
)
def test_bad_features(features, message):
    with pytest.raises(ValueError, match=message):
        PermutohedralLattice(features)


def test_bad_values():
    lattice = PermutohedralLattice(torch.zeros(3, 2))
    for values in (torch.zeros(4, 1), torch.zeros(3), torch.zeros(3, 1, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"\(3, 'K'\)"):
            lattice.filter(values)
    with pytest.raises(ValueError, match="one factor per point"):
        lattice.scaled(torch.zeros(3), torch.zeros(2))


def test_building_asks_the_device_twice_and_copies_nothing_to_it(monkeypatch):
    features = _random(2, 30, 5)
    waits = []
    for name in ("tolist", "nonzero", "item"):
        original = getattr(torch.Tensor, name)

        def counted(*args, name=name, original=original, **kwargs):
            waits.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, counted)

    def refused(*args, **kwargs):
        raise AssertionError("a copy of host data to the device is waited for")

    for name in ("tensor", "as_tensor"):
        monkeypatch.setattr(torch, name, refused)
    PermutohedralLattice(features)
    assert waits == ["tolist", "nonzero"]


@pytest.mark.gpu
def test_building_waits_twice_on_cuda_and_filtering_never():
    features, values = _random(2, 30, 5).float().cuda(), _random(2, 30, 3, seed=1).float().cuda()
    PermutohedralLattice(features).filter(values)  # whatever is waited for once per process
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            lattice = PermutohedralLattice(features)
        assert len([w for w in waits if "synchroniz" in str(w.message)]) == 2
        torch.cuda.set_sync_debug_mode("error")
        lattice.filter(values)
    finally:
        torch.cuda.set_sync_debug_mode("default")
