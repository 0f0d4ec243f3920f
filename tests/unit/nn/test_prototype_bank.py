from __future__ import annotations

import io

import pytest
import torch
import torch.nn.functional as F

from scribbleseg.nn import PrototypeBank

C, K, D = 4, 3, 6


def batches(steps: int = 5, images: int = 4):
    g = torch.Generator().manual_seed(0)
    for _ in range(steps):
        p = F.normalize(torch.randn(images, C, D, generator=g), dim=2)
        yield p, torch.rand(images, C, generator=g) < torch.tensor([1.0, 0.6, 0.2, 0.0])


def naive(rate: float, steps: int = 5):
    bank = torch.zeros(C, K, D)
    count = [0] * C
    for prototypes, valid in batches(steps):
        for p, ok in zip(prototypes, valid, strict=True):
            for c in ok.nonzero()[:, 0].tolist():
                if count[c] < K:
                    bank[c, count[c]] = p[c]
                    count[c] += 1
                else:
                    j = int(F.cosine_similarity(bank[c], p[c][None]).argmax())
                    bank[c, j] = rate * bank[c, j] + (1 - rate) * p[c]
    return bank, count


@pytest.mark.parametrize("rate", [0.99, 0.5, 0.0])
def test_equals_the_loop_over_images_and_classes(rate) -> None:
    bank = PrototypeBank(C, k=K, dim=D, rate=rate)
    written = torch.zeros(C, dtype=torch.int64)
    for p, valid in batches():
        bank.update(p, valid)
        written += valid.sum(0)
    expected, count = naive(rate)
    torch.testing.assert_close(bank.prototypes, expected)
    assert bank.count.tolist() == count
    assert torch.equal(bank.updates.sum(1), written)
    assert torch.equal(bank.filled, torch.arange(K) < bank.count[:, None])


def test_one_batch_is_its_images_one_by_one() -> None:
    whole, single = PrototypeBank(C, k=K, dim=D), PrototypeBank(C, k=K, dim=D)
    for p, valid in batches():
        whole.update(p, valid)
        for i in range(len(p)):
            single.update(p[i : i + 1], valid[i : i + 1])
    assert torch.equal(whole.prototypes, single.prototypes)
    assert torch.equal(whole.updates, single.updates)


def test_classes_are_independent() -> None:
    order = torch.tensor([2, 0, 3, 1])
    first, second = PrototypeBank(C, k=K, dim=D), PrototypeBank(C, k=K, dim=D)
    for p, valid in batches():
        first.update(p, valid)
        second.update(p[:, order], valid[:, order])
    torch.testing.assert_close(second.prototypes, first.prototypes[order])


def test_first_of_equally_near_slots_is_taken() -> None:
    bank = PrototypeBank(1, k=3, dim=2, rate=0.5)
    same = torch.tensor([[[1.0, 0.0]]]).expand(3, 1, 2)
    bank.update(same, torch.ones(3, 1, dtype=torch.bool))
    bank.update(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[True]]))
    assert bank.prototypes[0].tolist() == [[0.5, 0.5], [1.0, 0.0], [1.0, 0.0]]
    assert bank.updates.tolist() == [[2, 1, 1]]


def test_nothing_and_nothing_finite() -> None:
    bank = PrototypeBank(C, k=K, dim=D)
    bank.update(torch.zeros(0, C, D), torch.zeros(0, C, dtype=torch.bool))
    bank.update(torch.full((1, C, D), torch.nan), torch.ones(1, C, dtype=torch.bool))
    assert bank.count.sum() == 0
    assert torch.equal(bank.prototypes, torch.zeros(C, K, D))


def test_readiness_can_leave_out_classes_that_never_occur() -> None:
    bank = PrototypeBank(C, k=1, dim=D)
    assert not bank.is_ready()
    bank.update(torch.ones(1, C, D), torch.tensor([[True, True, True, False]]))
    assert not bank.is_ready()
    assert bank.is_ready([0, 1, 2])
    assert bank.is_ready([])


def test_round_trip_continues_exactly() -> None:
    whole, first = PrototypeBank(C, k=K, dim=D), PrototypeBank(C, k=K, dim=D)
    steps = list(batches())
    for p, valid in steps:
        whole.update(p, valid)
    for p, valid in steps[:2]:
        first.update(p, valid)
    stream = io.BytesIO()
    torch.save(first.state_dict(), stream)
    stream.seek(0)
    resumed = PrototypeBank(C, k=K, dim=D)
    resumed.load_state_dict(torch.load(stream, weights_only=True))
    for p, valid in steps[2:]:
        resumed.update(p, valid)
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert set(whole.state_dict()) == {"prototypes", "filled", "updates"}


def test_half_precision_input_and_autocast() -> None:
    (p, valid), *_ = batches()
    bank, expected = PrototypeBank(C, k=K, dim=D), PrototypeBank(C, k=K, dim=D)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(3):
            bank.update(p.bfloat16(), valid)
    for _ in range(3):
        expected.update(p.bfloat16().float(), valid)
    assert bank.prototypes.dtype == torch.float32
    assert torch.equal(bank.prototypes, expected.prototypes)


def test_means_fill_and_then_move() -> None:
    bank = PrototypeBank(2, k=2, dim=1, rate=0.75)
    sums = torch.tensor([[[8.0], [0.0]], [[3.0], [0.0]]])
    bank.update_means(sums, torch.tensor([[2, 0], [3, 0]]))
    assert bank.prototypes[..., 0].tolist() == [[4, 0], [1, 0]]
    assert bank.filled.tolist() == [[True, False], [True, False]]
    bank.update_means(sums, torch.tensor([[1, 0], [0, 0]]))
    assert bank.prototypes[..., 0].tolist() == [[5, 0], [1, 0]]
    bank.update_means(sums * torch.nan, torch.tensor([[1, 0], [1, 0]]))
    assert bank.prototypes[..., 0].tolist() == [[5, 0], [1, 0]]


def test_errors_name_the_cure() -> None:
    with pytest.raises(ValueError, match=r"rate=1.*never learn"):
        PrototypeBank(C, k=K, dim=D, rate=1)
    with pytest.raises(ValueError, match="k=0"):
        PrototypeBank(C, k=0, dim=D)
    bank = PrototypeBank(C, k=K, dim=D)
    with pytest.raises(ValueError, match="do not fit this bank"):
        bank.update(torch.zeros(1, C, D + 1), torch.ones(1, C))
    with pytest.raises(ValueError, match="do not fit this bank"):
        bank.update_means(torch.zeros(C, K, D), torch.ones(C, D))
    assert "k=3" in repr(bank)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_full_bank_survives_what_is_not_finite(value) -> None:
    bank = PrototypeBank(C, k=K, dim=D)
    for p, _ in batches():
        bank.update(p, torch.ones(len(p), C, dtype=torch.bool))
    before = {name: tensor.clone() for name, tensor in bank.state_dict().items()}
    (p, _), *_ = batches()
    p[0, 1, 2] = value
    only = torch.zeros(len(p), C, dtype=torch.bool)
    only[0, 1] = True
    bank.update(p, only)
    for name, tensor in bank.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    only[0, 0] = True
    bank.update(p, only)
    assert (bank.updates - before["updates"]).sum(1).tolist() == [1, 0, 0, 0]


def test_gaps_that_means_leave_are_filled_first() -> None:
    bank = PrototypeBank(2, k=3, dim=2)
    bank.update_means(torch.ones(2, 3, 2), torch.tensor([[0, 1, 0], [0, 0, 1]]))
    for number in (2.0, 3.0):
        p = torch.full((1, 2, 2), number)
        bank.update(p, torch.ones(1, 2, dtype=torch.bool))
    assert bank.is_ready()
    assert bank.prototypes[..., 0].tolist() == [[2, 1, 3], [2, 3, 1]]
    assert bank.updates.tolist() == [[1, 1, 1], [1, 1, 1]]
