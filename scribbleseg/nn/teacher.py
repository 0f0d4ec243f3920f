"""A network that follows another one as its moving average."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EMATeacher"]


class EMATeacher(nn.Module):
    r"""Exponential moving average of a network's parameters (Tarvainen & Valpola, NIPS 2017).

    .. math:: \theta' \leftarrow a \theta' + (1 - a) \theta, \quad
        a = \min(1 - 1/(t+1), a_{max})

    Buffers, such as BatchNorm statistics, are the teacher's own: it runs in the same mode as the
    module that holds it. Its parameters never require gradients.

    Args:
        network: The student; copied.
        decay: :math:`a_{max}` in [0, 1).
    """

    def __init__(self, network: nn.Module, *, decay: float = 0.99) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay}: expected 0 to below 1")
        self.network = copy.deepcopy(network)
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """What the averaged network says, without gradient."""
        result: Tensor = self.network(*args, **kwargs)
        return result

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> None:
        """Move towards the student.

        Args:
            student: The network that was copied, after an optimiser step.
            step: Optimiser steps done so far, :math:`t`, at least 1.
        """
        rate = 1 - min(1 - 1 / (step + 1), self.decay)
        own: list[Tensor] = list(self.network.parameters())
        other: list[Tensor] = list(student.parameters())
        if len(own) != len(other):
            raise ValueError(f"the student has {len(other)} parameters, the teacher {len(own)}")
        average = get_ema_multi_avg_fn(1 - rate)  # type: ignore[no-untyped-call]
        average(own, other, None)
