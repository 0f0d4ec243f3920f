"""A few prototypes per class that follow the training, equal on every rank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from scribbleseg.functional.distributed import all_gather_rows, all_reduce_sum
from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

__all__ = ["PrototypeBank"]


class PrototypeBank(nn.Module):
    r"""K exponentially averaged prototypes for each class, in buffers of fixed shape.

    Everything is a persistent buffer: a resumed run continues with the bank it had. Memory O(C·K·D)
    float32.

    Args:
        num_classes: C, background included.
        k: Prototypes per class.
        dim: Channels D.
        rate: Share m of the old prototype that an update keeps, in [0, 1).

    Attributes:
        prototypes: Shape ``(C, K, D)``; zero where not filled.
        filled: Whether a slot holds a prototype, shape ``(C, K)``.
        updates: Times each slot was written, int64, shape ``(C, K)``; one that stays at 1 is stale.

    Raises:
        ValueError: If a size is below 1 or the rate is out of range.

    Example:
        >>> bank = PrototypeBank(2, k=3, dim=4)
        >>> bank.update(torch.ones(1, 2, 4), torch.tensor([[True, False]]))
        >>> bank.count.tolist()
        [1, 0]
    """

    prototypes: Tensor
    filled: Tensor
    updates: Tensor

    def __init__(self, num_classes: int, *, k: int, dim: int, rate: float = 0.99) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("k", k), ("dim", dim)):
            if value < 1:
                raise ValueError(f"{name}={value}, expected at least 1")
        if not 0 <= rate < 1:
            raise ValueError(
                f"rate={rate}, expected a number in [0, 1): it is the share of the old prototype "
                "that is kept, and 1 would never learn"
            )
        self.rate = rate
        self.register_buffer("prototypes", torch.zeros(num_classes, k, dim))
        self.register_buffer("filled", torch.zeros(num_classes, k, dtype=torch.bool))
        self.register_buffer("updates", torch.zeros(num_classes, k, dtype=torch.int64))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PrototypeBank:
        """Move as every module, but stay in float32: averages are lost in 16 bits."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.prototypes = full_precision(self.prototypes)
        return self

    @property
    def count(self) -> Tensor:
        """Number of filled slots per class, int64, shape ``(C,)``."""
        return self.filled.sum(1)

    def is_ready(self, required: Sequence[int] | None = None) -> bool:
        """Whether every slot of the required classes is filled.

        Once true it stays true. The answer is read by the host (a device synchronisation), so stop
        asking then.

        Args:
            required: Classes that occur in the training data; all by default, in which case a class
                that never occurs keeps the bank unready for ever.

        Returns:
            True if ready; also for an empty ``required``.
        """
        rows = self.filled if required is None else self.filled[list(required)]
        return bool(rows.all())

    @torch.no_grad()
    def update(self, prototypes: Tensor, valid: Tensor) -> None:
        r"""Add one prototype per image and class: fill the bank, then move the nearest slot.

        .. math:: G_{c, n_c} \leftarrow p_{ic} \;\text{ while } n_c < K, \text{ then} \quad
            G_{c, j^*} \leftarrow m\,G_{c, j^*} + (1 - m)\,p_{ic}, \quad
            j^* = \arg\max_j \cos(G_{cj}, p_{ic})

        (PFA, ICML 2024, global prototypes), image by image, so that an image sees what the one
        before it changed; :math:`n_c` is the first empty slot, the first of equally near slots is
        moved, and nothing is normalised again. The images of all ranks are applied in rank order,
        so every rank must call this, and all hold the same bank, that of one process on the
        concatenated batch. Loops over the images of the global batch only: time O(images·C·K·D),
        memory O(images·C·D + C·K·D). On several ranks the batch sizes are read by the host (a
        device synchronisation); on one, none is.

        Args:
            prototypes: Unit vectors, shape ``(B, C, D)``; B may differ between ranks and be 0.
            valid: Which of them exist, bool, shape ``(B, C)``. Non-finite ones never count.

        Raises:
            ValueError: If the shapes disagree with each other or with the bank.
        """
        classes, slots, dim = self.prototypes.shape
        if prototypes.shape[1:] != (classes, dim) or valid.shape != prototypes.shape[:2]:
            raise ValueError(
                f"prototypes {tuple(prototypes.shape)} and valid {tuple(valid.shape)} do not fit "
                f"this bank: expected (B, {classes}, {dim}) and (B, {classes})"
            )
        incoming = all_gather_rows(prototypes.to(self.prototypes), with_grad=False).values
        usable = all_gather_rows(valid.bool(), with_grad=False).values
        usable = usable & torch.isfinite(incoming).all(2)
        # rows that do not count enter the arithmetic all the same, and no slot is nearest to NaN
        incoming = torch.where(usable[..., None], incoming, 0)
        bank, filled, every = (
            self.prototypes,
            self.filled,
            torch.arange(classes, device=valid.device),
        )
        numbers = torch.arange(slots, device=valid.device)
        for p, ok in zip(incoming, usable, strict=True):
            cosine = torch.einsum("ckd,cd->ck", F.normalize(bank, dim=2), F.normalize(p, dim=1))
            cosine = cosine.masked_fill(~filled, -torch.inf)
            # argmax may return any of equal maxima on a GPU
            first = torch.where(cosine == cosine.amax(1, keepdim=True), numbers, slots).amin(1)
            # not the number of filled ones: update_means may leave gaps
            empty = torch.where(filled, slots, numbers).amin(1)
            full = empty == slots
            slot = torch.where(full, first, empty)
            old = bank[every, slot]
            moved = torch.where(full[:, None], self.rate * old + (1 - self.rate) * p, p)
            bank[every, slot] = torch.where(ok[:, None], moved, old)
            filled[every, slot] |= ok
            self.updates[every, slot] += ok

    @torch.no_grad()
    def update_means(self, sums: Tensor, counts: Tensor) -> None:
        r"""Move each slot towards the mean feature of what was assigned to it in this step.

        .. math:: G_{ck} \leftarrow m\,G_{ck} + (1 - m)\,\frac{\sum_r s_{rck}}{\sum_r n_{rck}}

        over the ranks r; an empty slot takes the mean itself, and one without members is kept. Sums
        and counts are added over the ranks, so every rank must call this, and all hold the bank of
        one process on the whole batch. Time and memory O(C·K·D); no synchronisation.

        Args:
            sums: Sum of the member features of each slot, shape ``(C, K, D)``.
            counts: Number (or weight) of members, ≥ 0, shape ``(C, K)``.

        Raises:
            ValueError: If a shape differs from the bank's.
        """
        if sums.shape != self.prototypes.shape or counts.shape != self.filled.shape:
            raise ValueError(
                f"sums {tuple(sums.shape)} and counts {tuple(counts.shape)} do not fit this bank: "
                f"expected {tuple(self.prototypes.shape)} and {tuple(self.filled.shape)}"
            )
        sums = all_reduce_sum(full_precision(sums).to(self.prototypes))
        counts = all_reduce_sum(counts.to(self.prototypes))
        means = sums / torch.where(counts > 0, counts, 1)[..., None]
        there = (counts > 0) & torch.isfinite(means).all(2)
        moved = self.rate * self.prototypes + (1 - self.rate) * means
        moved = torch.where(self.filled[..., None], moved, means)
        self.prototypes.copy_(torch.where(there[..., None], moved, self.prototypes))
        self.filled |= there
        self.updates += there

    def extra_repr(self) -> str:
        """Shape and rate, for ``print``."""
        classes, k, dim = self.prototypes.shape
        return f"num_classes={classes}, k={k}, dim={dim}, rate={self.rate}"
