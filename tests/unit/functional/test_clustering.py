from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F

from scribbleseg import MissingExtraError
from scribbleseg.functional import lloyd_accumulate, spherical_kmeans


def blobs(n: int = 300, dim: int = 12, k: int = 4, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    centers = F.normalize(torch.randn(k, dim, generator=g), dim=1)
    x = centers[torch.arange(n) % k] + 0.2 * torch.randn(n, dim, generator=g)
    return x * (0.5 + torch.rand(n, 1, generator=g))  # lengths must not matter


def naive(x, centroids, iters, weights=None):
    unit = x / x.norm(dim=1, keepdim=True)
    weights = torch.ones(len(x)) if weights is None else weights
    for _ in range(iters):
        nearest = (unit @ centroids.T).argmax(1)
        centroids = torch.stack(
            [
                F.normalize((unit[nearest == k] * weights[nearest == k, None]).sum(0), dim=0)
                for k in range(len(centroids))
            ]
        )
    return centroids, (unit @ centroids.T).argmax(1)


@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_naive_iteration(weighted) -> None:
    x = blobs()
    weights = torch.rand(len(x), generator=torch.Generator().manual_seed(1)) if weighted else None
    init = x[[0, 1, 2, 3]]
    found, nearest = spherical_kmeans(x, 4, iters=7, init=init, weights=weights)
    expected, expected_nearest = naive(x, F.normalize(init, dim=1), 7, weights)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(nearest, expected_nearest)


def test_integer_weights_are_repetitions_and_their_scale_does_not_matter() -> None:
    x, init = blobs(80), blobs(80)[:4]
    weights = torch.arange(80) % 3 + 1
    many, _ = spherical_kmeans(x.repeat_interleave(weights, 0), 4, init=init)
    for scale in (1.0, 1e-4):
        found, _ = spherical_kmeans(x, 4, init=init, weights=weights * scale)
        torch.testing.assert_close(found, many, rtol=1e-4, atol=1e-5)


def test_no_row_is_left_out_silently() -> None:
    # faiss alone keeps 256 rows per cluster: here one direction would be lost
    x = torch.cat([torch.eye(2)[:1].expand(3000, 2), torch.eye(2)[1:].expand(2, 2)])
    found, nearest = spherical_kmeans(x, 2, init=torch.eye(2))
    assert torch.equal(found, torch.eye(2))
    assert torch.bincount(nearest).tolist() == [3000, 2]
    # and faiss' own mean of the single cluster holds every row
    one, _ = spherical_kmeans(x, 1)
    torch.testing.assert_close(one, F.normalize(x.sum(0, keepdim=True), dim=1))


def test_same_seed_same_result_and_length_does_not_matter() -> None:
    x = blobs(500, 16, 6)
    first, second = spherical_kmeans(x, 6, seed=3), spherical_kmeans(x, 6, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    scaled, nearest = spherical_kmeans(x * 1000, 6, seed=3)
    torch.testing.assert_close(scaled, first[0], rtol=1e-4, atol=1e-5)
    assert torch.equal(nearest, first[1])
    torch.testing.assert_close(first[0].norm(dim=1), torch.ones(6))
    unit = F.normalize(x, dim=1)  # used without a copy, and left alone
    before = unit.clone()
    torch.testing.assert_close(spherical_kmeans(unit, 6, seed=3)[0], first[0])
    assert torch.equal(unit, before)


def test_repeating_does_not_make_it_worse() -> None:
    x = blobs(400, 8, 9, seed=5)
    unit = F.normalize(x, dim=1)

    def objective(redo: int) -> float:
        centroids, nearest = spherical_kmeans(x, 9, redo=redo, seed=1)
        return (unit * centroids[nearest]).sum().item()

    assert objective(5) >= objective(1) - 1e-3


@pytest.mark.parametrize("n", [0, 1, 3, 4])
def test_as_many_rows_as_clusters_or_fewer(n) -> None:
    x = blobs(n) if n else torch.zeros(0, 12)
    found, nearest = spherical_kmeans(x, 4)
    torch.testing.assert_close(found, F.normalize(x, dim=1))
    assert nearest.tolist() == list(range(n))
    unit = F.normalize(x, dim=1)
    assert n == 0 or spherical_kmeans(unit, 4)[0].data_ptr() != unit.data_ptr()


def test_degenerate_data_ends() -> None:
    same = torch.ones(50, 3)
    found, nearest = spherical_kmeans(same, 5)
    torch.testing.assert_close(found, torch.full((5, 3), 3**-0.5), rtol=0, atol=0.01)
    assert nearest.shape == (50,)
    assert len(nearest.unique()) == 1
    found, nearest = spherical_kmeans(torch.zeros(50, 3), 2)
    assert (found == 0).all()
    assert (nearest == 0).all()
    x, few = blobs(50), torch.zeros(50)
    few[:2] = 1e-3  # fewer rows with a weight than clusters
    found, _ = spherical_kmeans(x, 4, weights=few)
    near = (found @ F.normalize(x[:2], dim=1).T > 0.99).int()
    assert near.sum(1).tolist() == [1, 1, 1, 1], "every centroid is one of the two rows"
    assert (near.sum(0) > 0).all()


def test_half_precision_does_not_overflow() -> None:
    x = blobs(100) * 300  # the squared norm exceeds the float16 range
    half = x.half()
    init = x[:4]
    found, _ = spherical_kmeans(half, 4, init=init)
    expected, _ = spherical_kmeans(half.float(), 4, init=init)
    torch.testing.assert_close(found, expected)
    assert spherical_kmeans(x.double(), 4, init=init)[0].dtype == torch.float32


def test_errors_name_the_cure(monkeypatch) -> None:
    x = blobs(20)
    bad = x.clone()
    bad[3, 1] = float("nan")
    with pytest.raises(ValueError, match=r"1 of 20 rows \(first: row 3\).*float32"):
        spherical_kmeans(bad, 2)
    with pytest.raises(ValueError, match="init holds NaN"):
        spherical_kmeans(x, 2, init=bad[2:4])
    with pytest.raises(ValueError, match="flatten"):
        spherical_kmeans(x[None], 2)
    with pytest.raises(ValueError, match="k=0"):
        spherical_kmeans(x, 0)
    with pytest.raises(ValueError, match=r"expected \(2, 12\)"):
        spherical_kmeans(x, 2, init=x[:3])
    for weights in (torch.full((20,), -1.0), torch.zeros(20), torch.full((20,), float("nan"))):
        with pytest.raises(ValueError, match="weights range"):
            spherical_kmeans(x, 2, weights=weights)
    with pytest.raises(ValueError, match="one per row"):
        spherical_kmeans(x, 2, weights=torch.ones(3))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match="faiss"):
        spherical_kmeans(x, 2)


def test_streamed_sums_do_not_depend_on_the_split() -> None:
    x, centroids = blobs(), F.normalize(blobs(4, seed=2), dim=1)
    weights = torch.rand(len(x), generator=torch.Generator().manual_seed(1))
    whole = lloyd_accumulate(x, centroids, weights=weights)
    parts = [
        lloyd_accumulate(x[a:b], centroids, weights=weights[a:b], chunk_size=17)
        for a, b in ((0, 10), (10, 250), (250, 300))
    ]
    for name in whole._fields:
        torch.testing.assert_close(
            sum(getattr(p, name) for p in parts), getattr(whole, name), rtol=1e-5, atol=1e-5
        )
    unit = F.normalize(x, dim=1)
    nearest = (unit @ centroids.T).argmax(1)
    for k in range(4):
        torch.testing.assert_close(
            whole.sums[k], (unit * weights[:, None])[nearest == k].sum(0), rtol=1e-5, atol=1e-5
        )
    assert lloyd_accumulate(x[:0], centroids).counts.sum() == 0
    half = lloyd_accumulate((x * 300).half(), centroids)
    assert half.sums.dtype == torch.float32
    single = lloyd_accumulate((x * 300).half().float(), centroids)
    torch.testing.assert_close(half.sums, single.sums, rtol=1e-3, atol=1e-2)
    assert torch.equal(half.counts, single.counts)
    with pytest.raises(ValueError, match="disagree"):
        lloyd_accumulate(x, centroids[:, :3])


def test_streamed_steps_are_the_ones_of_faiss() -> None:
    x = blobs()
    centroids = F.normalize(x[:4], dim=1)
    for _ in range(5):
        centroids = F.normalize(lloyd_accumulate(x, centroids).sums, dim=1)
    found, _ = spherical_kmeans(x, 4, iters=5, init=x[:4])
    torch.testing.assert_close(found, centroids, rtol=1e-5, atol=1e-6)
