from __future__ import annotations

import pytest
from torch.utils.data import DataLoader

from scribbleseg.data import EpochSampler, SampleKey


def keys(sampler: EpochSampler) -> list[int]:
    return [key.item for key in sampler]


def test_order_depends_on_seed_and_epoch_only() -> None:
    first, again = EpochSampler(range(50), seed=3), EpochSampler(range(50), seed=3)
    assert keys(first) == keys(again)
    assert sorted(keys(first)) == list(range(50))
    again.set_epoch(1)
    assert keys(first) != keys(again)
    assert keys(first) != keys(EpochSampler(range(50), seed=4))
    assert keys(EpochSampler(range(5), shuffle=False)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("length", [1, 7, 8, 9])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_every_sample_once(length: int, ranks: int) -> None:
    samplers = [
        EpochSampler(range(length), seed=1, num_replicas=ranks, rank=rank) for rank in range(ranks)
    ]
    lists = [list(sampler) for sampler in samplers]
    assert len({len(part) for part in lists}) == 1, "ranks must do equally many steps"
    assert all(len(part) == len(sampler) for part, sampler in zip(lists, samplers, strict=True))
    own = [key.item for part in lists for key in part if not key.duplicate]
    assert sorted(own) == list(range(length))


@pytest.mark.parametrize("ranks", [1, 2])
def test_resume_skips_in_its_epoch_only_however_often_it_is_iterated(ranks: int) -> None:
    full, resumed = (
        EpochSampler(range(20), seed=5, num_replicas=ranks, rank=ranks - 1) for _ in range(2)
    )
    full.set_epoch(2)
    resumed.set_resume(2, 8)  # samples of all ranks
    for _ in range(2):
        assert {key.epoch for key in resumed} == {2}, "the epoch travels with the index"
        assert keys(resumed) == keys(full)[8 // ranks :]
    assert len(resumed) == 20 // ranks
    resumed.set_epoch(3)
    full.set_epoch(3)
    assert keys(resumed) == keys(full)


def test_lightning_keeps_it() -> None:
    # Lightning replaces samplers under DDP unless they are torch DistributedSamplers
    from torch.utils.data import DistributedSampler

    assert isinstance(EpochSampler(range(3)), DistributedSampler)
    loader = DataLoader([10, 11, 12], sampler=EpochSampler(range(3)), collate_fn=list, batch_size=2)
    with pytest.raises(TypeError):
        next(iter(loader))  # keys are no list positions: data sets must understand SampleKey
    assert SampleKey(3) == (3, 0, False)
