from __future__ import annotations

import numpy as np
import pytest
import torch

from scribbleseg.functional import (
    bottom_k_per_set,
    priority_keys,
    sample_keys,
    sortable_keys,
)

MASK = (1 << 64) - 1


def naive_key(uid: int, cell: int, seed: int) -> int:
    z = ((uid << 32 | cell) + (seed + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@pytest.mark.parametrize("seed", [0, 42, 2**40])
def test_keys_equal_the_formula_on_unbounded_integers(seed) -> None:
    uid = torch.tensor([0, 1, 7, 10581, 2**31, 2**32 - 1])
    cell = torch.tensor([0, 3, 2**31, 5, 2**32 - 1, 2**32 - 1])
    keys = sample_keys(uid, cell, seed=seed)
    expected = [naive_key(u, c, seed) for u, c in zip(uid.tolist(), cell.tolist(), strict=True)]
    assert keys.numpy().view(np.uint64).tolist() == expected
    assert torch.equal(sortable_keys(keys).argsort(), torch.from_numpy(np.argsort(expected)))
    assert sample_keys(uid[:0], cell[:0]).shape == (0,)


def test_keys_look_uniform_and_independent_of_the_seed() -> None:
    cell = torch.arange(4096)
    first, second = (
        sample_keys(torch.tensor(3), cell, seed=s).numpy().view(np.uint64) / 2**64 for s in (0, 1)
    )
    assert abs(first.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    assert len(np.unique(first)) == 4096


def test_sample_of_a_union_is_the_sample_of_the_samples() -> None:
    keys = sample_keys(torch.arange(100) // 10, torch.arange(100) % 10)

    def smallest(rows: torch.Tensor, k: int = 12) -> torch.Tensor:
        return rows[bottom_k_per_set(rows * 0, sortable_keys(keys[rows]), rows, k)]

    rows = torch.arange(100)
    expected = smallest(rows)
    both = torch.cat([smallest(rows[:37]), smallest(rows[37:])])
    assert torch.equal(smallest(both), expected)
    assert expected.tolist() == np.argsort(keys.numpy().view(np.uint64))[:12].tolist()
    assert sorted(smallest(rows, 1000).tolist()) == list(range(100))
    assert smallest(rows[:0]).shape == (0,)
    with pytest.raises(ValueError, match="k=-1"):
        smallest(rows, -1)


def test_per_set_equals_a_loop() -> None:
    g = torch.Generator().manual_seed(0)
    sets, keys, ids = (torch.randint(0, n, (200,), generator=g) for n in (5, 40, 60))
    found = bottom_k_per_set(sets, keys, ids, 7)
    expected = []
    for s in range(5):
        best: dict[int, tuple[int, int, int]] = {}
        for i in (sets == s).nonzero()[:, 0].tolist():
            row = (int(keys[i]), int(ids[i]), i)
            best[row[1]] = min(best.get(row[1], row), row)
        expected += [i for *_, i in sorted(best.values())[:7]]
    assert found.tolist() == expected
    assert bottom_k_per_set(sets[:0], keys[:0], ids[:0], 3).shape == (0,)
    assert bottom_k_per_set(sets, keys, ids, 0).shape == (0,)
    with pytest.raises(ValueError, match="k=-2"):
        bottom_k_per_set(sets, keys, ids, -2)


def test_what_comes_first_does_so_and_order_stays_that_of_the_keys() -> None:
    keys = sample_keys(torch.tensor(1), torch.arange(500))
    unsigned = keys.numpy().view(np.uint64)
    first = torch.arange(500) % 7 == 0
    expected = sorted(range(500), key=lambda i: (not first[i], unsigned[i]))
    assert priority_keys(keys, first).argsort().tolist() == expected
    plain = priority_keys(keys)
    assert plain.argsort().tolist() == np.argsort(unsigned).tolist()
    assert torch.equal(priority_keys(keys, torch.zeros_like(first)), plain)
    assert priority_keys(keys[:0], first[:0]).shape == (0,)
