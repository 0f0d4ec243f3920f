from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from scribbleseg.functional import (
    all_gather_rows,
    all_reduce_sum,
    communication_device,
    get_rank,
    get_world_size,
    is_distributed,
)


@pytest.fixture
def group_of_one():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_identity_without_a_process_group() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert (is_distributed(), get_world_size(), get_rank()) == (False, 1, 0)
    assert communication_device() == torch.device("cpu")
    assert all_reduce_sum(x) is x
    gathered = all_gather_rows(x)
    assert gathered.values is x
    assert (gathered.sizes, gathered.offset) == ((3,), 0)
    assert not all_gather_rows(x, with_grad=False).values.requires_grad
    with pytest.raises(ValueError, match=r"x\[None\]"):
        all_gather_rows(torch.tensor(1.0))


@pytest.mark.usefixtures("group_of_one")
def test_gradients_of_the_own_functions() -> None:
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: all_reduce_sum(t).square(), x)
    assert torch.autograd.gradcheck(lambda t: all_gather_rows(t).values.square(), x)
    assert torch.equal(all_reduce_sum(x), x)
    assert torch.equal(all_reduce_sum(x.t()), x.t()), "not contiguous"
    gathered = all_gather_rows(x[:0])
    assert gathered.values.shape == (0, 2)
    assert gathered.sizes == (0,)
    flags = torch.tensor([True, False])
    assert torch.equal(all_gather_rows(flags, with_grad=False).values, flags)
    assert not all_gather_rows(x, with_grad=False).values.requires_grad
