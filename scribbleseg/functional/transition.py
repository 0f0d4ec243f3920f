"""Affinities and transition matrices between all pairs of cells of a small grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "attention_walk",
    "dense_random_walk",
    "embedding_affinity",
    "transition_logits",
    "transition_matrix",
]


def transition_logits(query: Tensor, key: Tensor) -> Tensor:
    r"""Similarity of every cell to every cell, before normalisation.

    .. math:: E_{ij} = \langle q_i, k_j \rangle

    without the usual division by the root of d (Pan et al., ICCV 2021, section 3.2). Computed in
    float32 also under autocast, because the products overflow 16 bits. Time O(B·N²·d) and memory
    O(B·N²) for N = h·w: 48 MB per image at 59×59.

    Args:
        query: Feature of the cell that receives, shape ``(B, d, h, w)``.
        key: Feature of the cell that gives, shape ``(B, d, h, w)``; its grid may differ.

    Returns:
        Logits, shape ``(B, N, N)``, row-major cells; rows are queries.

    Raises:
        ValueError: If batch or channels disagree.

    Example:
        >>> transition_logits(torch.ones(1, 2, 1, 3), torch.ones(1, 2, 1, 3)).shape
        torch.Size([1, 3, 3])
    """
    if query.ndim != 4 or key.ndim != 4 or query.shape[:2] != key.shape[:2]:
        raise ValueError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)} disagree: expected "
            "(B, d, h, w) twice, with equal B and d"
        )
    with torch.autocast(query.device.type, enabled=False):
        rows, columns = full_precision(query).flatten(2), full_precision(key).flatten(2)
        return rows.transpose(1, 2) @ columns


def transition_matrix(logits: Tensor, *, axis: Literal["key", "query"] = "key") -> Tensor:
    r"""Transition probabilities from logits.

    .. math:: P_{ij} = \frac{e^{E_{ij}}}{\sum_j e^{E_{ij}}} \;(\text{key}), \qquad
        Q_{ij} = \frac{e^{E_{ij}}}{\sum_i e^{E_{ij}}} \;(\text{query})

    (Pan et al., ICCV 2021, section 3.2: the walk uses P, the released consistency loss Q.) Time
    and memory O(B·N²).

    Args:
        logits: See :func:`transition_logits`, shape ``(B, N, N)``.
        axis: The cells whose probabilities sum to one: ``"key"`` makes every row a distribution,
            ``"query"`` every column.

    Returns:
        Probabilities, same shape; float32 for 16-bit input.

    Raises:
        ValueError: If ``axis`` is unknown or the shape is wrong.

    Example:
        >>> transition_matrix(torch.zeros(1, 2, 2)).tolist()
        [[[0.5, 0.5], [0.5, 0.5]]]
    """
    if axis not in ("key", "query"):
        raise ValueError(f'axis must be "key" or "query", got {axis!r}')
    if logits.ndim != 3:
        raise ValueError(f"logits must have shape (B, N, N), got {tuple(logits.shape)}")
    return full_precision(logits).softmax(dim=2 if axis == "key" else 1)


def attention_walk(
    query: Tensor, key: Tensor, value: Tensor, *, chunk_size: int | None = 512
) -> Tensor:
    r"""One step of the random walk given by its factors.

    .. math:: y_i = \sum_j P_{ij} v_j, \qquad P = \mathrm{softmax}_j(\langle q_i, k_j \rangle)

    (Pan et al., ICCV 2021, eq. 2). The matrix exists for ``chunk_size`` queries at a time and is
    computed again for the gradient. Time O(B·N²·(d + D)), memory O(B·N·``chunk_size``).

    Args:
        query: See :func:`transition_logits`, shape ``(B, d, h, w)``.
        key: Shape ``(B, d, h, w)``.
        value: What is averaged, shape ``(B, D, h, w)``, on the grid of the keys.
        chunk_size: Queries at a time; ``None`` for all.

    Returns:
        Averages, shape ``(B, D, h, w)`` on the grid of the queries; float32 for 16-bit input.

    Raises:
        ValueError: If shapes disagree or ``chunk_size`` is not positive.

    Example:
        >>> flat = torch.zeros(1, 2, 1, 2)
        >>> attention_walk(flat, flat, torch.tensor([[[[0.0, 1.0]]]])).tolist()
        [[[[0.5, 0.5]]]]
    """
    if query.ndim != 4 or key.ndim != 4 or query.shape[:2] != key.shape[:2]:
        raise ValueError(
            f"query {tuple(query.shape)} and key {tuple(key.shape)} disagree: expected "
            "(B, d, h, w) twice, with equal B and d"
        )
    if value.ndim != 4 or value.shape[0] != key.shape[0] or value.shape[2:] != key.shape[2:]:
        raise ValueError(
            f"value {tuple(value.shape)} and key {tuple(key.shape)} disagree: expected "
            "(B, D, h, w) and (B, d, h, w)"
        )
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, or None for no chunks, got {chunk_size}")
    with torch.autocast(query.device.type, enabled=False):
        rows = full_precision(query).flatten(2).transpose(1, 2)
        keys = full_precision(key).flatten(2)
        values = full_precision(value).flatten(2).transpose(1, 2)
        if chunk_size is None or rows.shape[1] <= chunk_size:
            walked = _step(rows, keys, values)
        else:
            chunks = torch.split(rows, chunk_size, dim=1)
            parts = [checkpoint(_step, part, keys, values, use_reentrant=False) for part in chunks]
            walked = torch.cat(parts, dim=1)
        return walked.transpose(1, 2).reshape(-1, value.shape[1], *query.shape[2:])


def _step(rows: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    return torch.softmax(rows @ keys, dim=2) @ values


def embedding_affinity(embedding: Tensor, *, beta: float = 5.0, power: float = 20.0) -> Tensor:
    r"""Affinity of all pairs of cells from the angle between their embeddings.

    .. math:: A_{ij} = \Big( \tfrac{1}{V} \sum_v e^{\beta (\cos_{ij}^{(v)} - 1)} \Big)^p

    averaged over views of one image, such as the image and its mirror image turned back (Ke et
    al., ICLR 2021, appendix). Time O(V·N²·D) and memory O(N²).

    Args:
        embedding: Features of V aligned views, float, shape ``(V, D, h, w)``; any length.
        beta: Concentration :math:`\beta`.
        power: Exponent p, which sharpens the mean.

    Returns:
        Symmetric affinity in [0, 1], shape ``(N, N)``, 1 on the diagonal wherever the embedding is
        not zero; float32 for 16-bit input.

    Raises:
        ValueError: If the shape is wrong or there is no view.

    Example:
        >>> embedding_affinity(torch.ones(2, 3, 1, 2)).round(decimals=2).tolist()
        [[1.0, 1.0], [1.0, 1.0]]
    """
    if embedding.ndim != 4 or embedding.shape[0] == 0:
        raise ValueError(
            f"embedding must have shape (V, D, h, w) with V > 0, got {tuple(embedding.shape)}; "
            "one view is embedding[None]"
        )
    with torch.autocast(embedding.device.type, enabled=False):
        unit = F.normalize(full_precision(embedding).flatten(2), dim=1)
        mean = unit.new_zeros(unit.shape[2], unit.shape[2])
        for view in unit:  # one matrix at a time
            mean = mean + torch.exp(beta * (view.T @ view - 1))
        return (mean / len(unit)) ** power


@torch.no_grad()
def dense_random_walk(scores: Tensor, affinity: Tensor, *, num_steps: int = 64) -> Tensor:
    r"""Class scores propagated by a walk over all pairs of cells.

    .. math:: S' = S\, T^t, \qquad T_{ij} = \frac{A_{ij}}{\sum_i A_{ij}}

    (Ke et al., ICLR 2021, appendix). Only products with the scores are formed, never powers of T:
    64 of them are ten times cheaper than six squarings. Time O(t·C·N²), memory O(C·N) besides the
    affinity. No gradient is recorded.

    Args:
        scores: Scores per class, float, shape ``(C, h, w)``.
        affinity: Non-negative, shape ``(N, N)`` for N = h·w, such as :func:`embedding_affinity`.
        num_steps: t, at least 0.

    Returns:
        Scores, shape ``(C, h, w)``: for symmetric affinities averages of the input, so its bounds
        still hold. They do not sum to one over the classes unless the input does.

    Raises:
        ValueError: If the shapes disagree or ``num_steps`` is negative.

    Example:
        >>> dense_random_walk(torch.tensor([[[0.0, 1.0]]]), torch.ones(2, 2)).tolist()
        [[[0.5, 0.5]]]
    """
    cells = scores.shape[-2] * scores.shape[-1] if scores.ndim == 3 else -1
    if affinity.shape != (cells, cells):
        raise ValueError(
            f"scores {tuple(scores.shape)} and affinity {tuple(affinity.shape)} disagree: expected "
            "(C, h, w) and (h·w, h·w); resize the scores to the grid of the embedding"
        )
    if num_steps < 0:
        raise ValueError(f"num_steps must be at least 0, got {num_steps}")
    with torch.autocast(scores.device.type, enabled=False):
        matrix = full_precision(affinity)
        walked = full_precision(scores).flatten(1).to(matrix.dtype)
        # a cell without any affinity keeps nothing, instead of becoming NaN
        mass = matrix.sum(dim=0)
        inverse = torch.where(mass > 0, 1 / mass, 0)
        for _ in range(num_steps):
            walked = (walked @ matrix) * inverse
        return walked.reshape(scores.shape)
