from __future__ import annotations

import pytest
import torch

from scribbleseg.functional import BottomKFeatureStore, StoredFeatures, sample_keys, sortable_keys

SETS, CAPACITY, DIM = 4, 10, 3


def stream(images: int = 30, cells: int = 12) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    n = images * cells
    sets = torch.randint(0, SETS - 1, (n,), generator=g)  # the last set stays empty
    sets[torch.rand(n, generator=g) < 0.5] = 0  # uneven: set 0 overflows, others less so
    return {
        "features": torch.randn(n, DIM, generator=g),
        "sets": sets,
        "uid": torch.arange(n) // cells,
        "cell": torch.arange(n) % cells,
        "weights": torch.rand(n, generator=g),
    }


def make(**options) -> BottomKFeatureStore:
    options = {"capacity": CAPACITY, "dim": DIM, "seed": 5, "dtype": torch.float32, **options}
    return BottomKFeatureStore(SETS, **options)


def fill(store: BottomKFeatureStore, rows: dict, *chunks: torch.Tensor, **options) -> None:
    for chunk in chunks:
        store.add(**{k: v[chunk] for k, v in rows.items()}, **options)


def assert_equal(a: BottomKFeatureStore, b: BottomKFeatureStore) -> None:
    for s in range(SETS):
        for x, y in zip(a.get(s), b.get(s), strict=True):
            assert torch.equal(x, y)


def naive(rows: dict, index: int, seed: int = 5) -> StoredFeatures:
    keys = sortable_keys(sample_keys(rows["uid"], rows["cell"], seed=seed))
    mine = (rows["sets"] == index).nonzero()[:, 0]
    mine = mine[keys[mine].argsort()][:CAPACITY]
    return StoredFeatures(*(rows[k][mine] for k in ("features", "weights", "uid", "cell")))


def test_keeps_the_smallest_keys_of_each_set() -> None:
    rows, store = stream(), make()
    fill(store, rows, torch.arange(360))
    for s in range(SETS):
        for found, expected in zip(store.get(s), naive(rows, s), strict=True):
            assert torch.equal(found, expected)
    assert store.count.tolist() == [10, 10, 10, 0]


def test_order_split_and_repetition_do_not_matter() -> None:
    rows, expected = stream(), make()
    fill(expected, rows, torch.arange(360))
    g = torch.Generator().manual_seed(1)
    for size in (1, 7, 100):
        store = make()
        fill(store, rows, *torch.randperm(360, generator=g).split(size))
        assert_equal(store, expected)
    fill(store, rows, torch.arange(50), torch.arange(200, 230))
    assert_equal(store, expected)


def test_merge_of_shards_is_one_pass() -> None:
    rows, expected = stream(), make()
    fill(expected, rows, torch.arange(360))
    first, second, third = make(), make(), make()
    fill(first, rows, torch.arange(0, 100))
    fill(second, rows, torch.arange(90, 250))  # shards may overlap
    fill(third, rows, torch.arange(250, 360))
    before = second.get(0)
    first.merge(second)
    third.merge(first)
    assert_equal(third, expected)
    assert all(torch.equal(a, b) for a, b in zip(before, second.get(0), strict=True))
    third.merge(make())
    assert_equal(third, expected)
    with pytest.raises(ValueError, match="stores differ"):
        first.merge(make(seed=6))


def test_state_continues_in_the_middle(tmp_path) -> None:
    rows, expected = stream(), make()
    fill(expected, rows, torch.arange(360))
    store = make()
    fill(store, rows, torch.arange(200))
    torch.save(store.state_dict(), tmp_path / "store.pt")
    resumed = make(seed=0)
    resumed.load_state_dict(torch.load(tmp_path / "store.pt", weights_only=True))
    fill(resumed, rows, torch.arange(180, 360))
    assert_equal(resumed, expected)
    with pytest.raises(ValueError, match="saved sizes"):
        make(capacity=4).load_state_dict(store.state_dict())


def test_features_in_a_file(tmp_path) -> None:
    rows, expected = stream(), make(dtype=torch.float16)
    path = tmp_path / "features.bin"
    path.write_bytes(b"old" * 5000)
    store = make(dtype=torch.float16, path=path)
    for s in (expected, store):
        fill(s, rows, torch.arange(360))
    assert_equal(store, expected)
    assert path.stat().st_size == SETS * CAPACITY * DIM * 2
    assert store.get(0).features.dtype == torch.float16


def test_memory_does_not_grow() -> None:
    rows, store = stream(), make()
    for start in range(0, 360, 12):
        fill(store, rows, torch.arange(start, start + 12))
        assert store._waiting_rows <= CAPACITY
        assert len(store._waiting_meta) <= CAPACITY


def test_drawn_cells_come_first_and_stay() -> None:
    rows = stream()
    always = torch.zeros(360, dtype=torch.bool)
    always[[300, 301, 5]] = True
    for order in (torch.arange(360), torch.arange(359, -1, -1)):
        store = make()
        for chunk in order.split(33):
            store.add(**{k: v[chunk] for k, v in rows.items()}, always=always[chunk])
        for i in (300, 301, 5):
            kept = store.get(int(rows["sets"][i]))
            assert ((kept.uid == rows["uid"][i]) & (kept.cell == rows["cell"][i])).sum() == 1
    # offered again without the mark it is still the same cell
    fill(store, rows, torch.tensor([300]))
    kept = store.get(int(rows["sets"][300]))
    assert ((kept.uid == rows["uid"][300]) & (kept.cell == rows["cell"][300])).sum() == 1


def preferred_first(rows: dict, index: int, always: torch.Tensor) -> list[tuple[int, int]]:
    keys = sortable_keys(sample_keys(rows["uid"], rows["cell"], seed=5))
    mine = (rows["sets"] == index).nonzero()[:, 0].tolist()
    mine.sort(key=lambda i: (not always[i], int(keys[i])))
    return [(int(rows["uid"][i]), int(rows["cell"][i])) for i in mine[:CAPACITY]]


@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_preferred_cells_are_sampled_uniformly_too(share) -> None:
    rows, g = stream(), torch.Generator().manual_seed(2)
    always = torch.rand(360, generator=g) < share
    stores = [make() for _ in range(4)]
    for store, order in zip(
        stores, (torch.arange(360), torch.randperm(360, generator=g)), strict=False
    ):
        for chunk in order.split(33):
            store.add(**{k: v[chunk] for k, v in rows.items()}, always=always[chunk])
    for store, chunk in zip(stores[2:], torch.arange(360).split(200), strict=True):
        store.add(**{k: v[chunk] for k, v in rows.items()}, always=always[chunk])
    stores[2].merge(stores[3])
    for s in range(SETS):
        kept = stores[0].get(s)
        found = list(zip(kept.uid.tolist(), kept.cell.tolist(), strict=True))
        assert found == preferred_first(rows, s, always)
    assert_equal(stores[1], stores[0])
    assert_equal(stores[2], stores[0])


def test_preferred_cells_of_an_image_are_not_those_of_the_lowest_numbers() -> None:
    uid, cell = torch.arange(200).repeat_interleave(50), torch.arange(50).repeat(200)
    rows = {"features": torch.zeros(10000, DIM), "sets": uid * 0, "uid": uid, "cell": cell}
    for options in ({"per_image": 2}, {}):
        store = make(capacity=400)
        store.add(**rows, always=torch.ones(10000, dtype=torch.bool), **options)
        kept = store.get(0)
        assert abs(kept.cell.float().mean() - 24.5) < 3  # four standard errors of 400 cells
        assert abs(kept.uid.float().mean() - 99.5) < 12
        if options:
            assert torch.bincount(kept.uid).eq(2).all()


def test_limit_per_image() -> None:
    rows, store = stream(), make(capacity=100)
    fill(store, rows, *torch.arange(360).split(36), per_image=2)
    for s in range(SETS - 1):
        kept = store.get(s)
        assert torch.bincount(kept.uid).max() == 2
        keys = sample_keys(rows["uid"], rows["cell"], seed=5)
        mine = (rows["sets"] == s) & (rows["uid"] == 4)
        best = sortable_keys(keys)[mine].sort().values[:2]
        found = sortable_keys(sample_keys(kept.uid, kept.cell, seed=5))[kept.uid == 4]
        assert torch.equal(found, best)


def test_nothing_and_empty_sets() -> None:
    store = make()
    fill(store, stream(), torch.arange(0))
    assert store.count.tolist() == [0] * SETS
    assert store.get(1).features.shape == (0, DIM)
    store.synchronize()  # no process group: nothing to do


def test_errors_name_the_cure() -> None:
    rows, store = stream(), make(dtype=torch.float16)
    bad = {**rows, "features": rows["features"] * 1e6}
    with pytest.raises(ValueError, match="are not finite in"):
        fill(store, bad, torch.arange(10))
    with pytest.raises(ValueError, match="sets ranges from 0 to 9"):
        fill(store, {**rows, "sets": torch.arange(360) % 10}, torch.arange(10))
    with pytest.raises(ValueError, match="uid ranges"):
        fill(store, {**rows, "uid": rows["uid"] - 1}, torch.arange(10))
    with pytest.raises(ValueError, match="features"):
        fill(store, {**rows, "features": rows["features"][:, :2]}, torch.arange(10))
    with pytest.raises(ValueError, match="capacity=0"):
        make(capacity=0)
