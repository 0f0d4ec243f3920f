"""Prediction by the nearest segments of the training images, from a file of prototypes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from scribbleseg.errors import CheckpointError
from scribbleseg.functional.losses import full_precision
from scribbleseg.functional.manifest import content_digest

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = [
    "NearestSegments",
    "SegmentMemory",
    "class_votes",
    "dense_random_walk",
    "embedding_affinity",
    "nearest_segments",
    "retrieval_accuracy",
]

_SIMILARITIES = 1 << 24  # entries held at a time, 64 MB


class NearestSegments(NamedTuple):
    """What was found for each query, the most similar first.

    Attributes:
        similarity: Cosine, shape ``(Q, k)``.
        row: Of the memory, int64, shape ``(Q, k)``.
    """

    similarity: Tensor
    row: Tensor


@torch.no_grad()
def nearest_segments(queries: Tensor, prototypes: Tensor, *, top_k: int = 20) -> NearestSegments:
    """Most similar prototypes of each query, exactly.

    Time O(Q·M·D), memory 64 MB besides the result: blocks of queries, and no sorting of all M.

    Args:
        queries: Unit vectors, shape ``(Q, D)``.
        prototypes: Unit vectors, shape ``(M, D)``.
        top_k: k, cut to M.

    Returns:
        Similarities and rows; k = 0 for an empty memory.

    Raises:
        ValueError: If the shapes disagree or ``top_k`` is below 1.

    Example:
        >>> found = nearest_segments(torch.eye(2), torch.tensor([[1.0, 0.0], [0.0, 1.0]]), top_k=1)
        >>> found.row.tolist()
        [[0], [1]]
    """
    if queries.ndim != 2 or queries.shape[1:] != prototypes.shape[1:] or top_k < 1:
        raise ValueError(
            f"queries {tuple(queries.shape)}, prototypes {tuple(prototypes.shape)}, top_k={top_k}: "
            "expected (Q, D), (M, D) and at least 1"
        )
    k = min(top_k, len(prototypes))
    with torch.autocast(queries.device.type, enabled=False):
        x, memory = full_precision(queries), full_precision(prototypes)
        rows = max(1, _SIMILARITIES // max(len(memory), 1))
        found = [(part @ memory.T).topk(k, dim=1) for part in torch.split(x, rows)]
    return NearestSegments(
        torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
    )


def class_votes(labels: Tensor, num_classes: int) -> Tensor:
    """Share of each class among the labels that were found; argmax is the majority vote.

    Of equally frequent classes argmax is the smallest. Time and memory O(Q·(k + C)).

    Args:
        labels: Classes, 0 to C-1, shape ``(Q, k)``; others do not vote.
        num_classes: C.

    Returns:
        In [0, 1], float32, shape ``(Q, C)``; all 0 where nothing votes.

    Example:
        >>> class_votes(torch.tensor([[0, 1, 1, 255]]), 2).argmax(1).tolist()
        [1]
    """
    votes = (labels >= 0) & (labels < num_classes)
    slots = torch.where(votes, labels, num_classes)
    counts = torch.zeros(len(labels), num_classes + 1, device=labels.device)
    counts.scatter_add_(1, slots, torch.ones(slots.shape, device=labels.device))
    counts = counts[:, :num_classes]
    return counts / counts.sum(1, keepdim=True).clamp_min(1)


@torch.no_grad()
def retrieval_accuracy(
    prototypes: Tensor,
    labels: Tensor,
    memory: Tensor,
    memory_labels: Tensor,
    *,
    num_classes: int | None = None,
    top_k: int = 5,
    exclude_self: bool = True,
) -> Tensor:
    """Share of the nearest segments that have the label of the segment that asks.

    The released code lets each segment find itself first and counts unlabelled as a class
    (``exclude_self=False`` and ``num_classes=None``), which flatters. Time O(S·M·D).

    Args:
        prototypes: Unit vectors that ask, shape ``(S, D)``.
        labels: Their labels, shape ``(S,)``.
        memory: Unit vectors that are found, the first S of them the same, shape ``(M, D)``.
        memory_labels: Their labels, shape ``(M,)``.
        num_classes: C: labels from there on neither ask nor are found. ``None`` = all do.
        top_k: Nearest segments, cut to what there is.
        exclude_self: Leave out the segment that asks.

    Returns:
        Scalar in [0, 1]; 0 if there is nothing to ask or to find.

    Example:
        >>> x, y = torch.eye(2), torch.tensor([0, 1])
        >>> retrieval_accuracy(x, y, x, y, top_k=1, exclude_self=False).item()
        1.0
    """
    similarity = full_precision(prototypes) @ full_precision(memory).T
    asks = torch.ones_like(labels, dtype=torch.bool)
    if num_classes is not None:
        asks = (labels >= 0) & (labels < num_classes)
        known = (memory_labels >= 0) & (memory_labels < num_classes)
        similarity = similarity.masked_fill(~known, -torch.inf)
    if exclude_self:
        similarity.diagonal().fill_(-torch.inf)
    best = similarity.topk(min(top_k, len(memory)), dim=1)
    counted = best.values.isfinite() & asks[:, None]
    right = counted & (memory_labels[best.indices] == labels[:, None])
    return right.sum() / counted.sum().clamp_min(1)


class SegmentMemory(nn.Module):
    """Prototypes of the segments of the training images with their labels.

    Nothing of it is in ``state_dict``: the file is given wherever predictions are made.

    Args:
        prototypes: Unit vectors, float, shape ``(M, D)``.
        labels: Classes, integer, shape ``(M,)``.
        image: Which of ``image_ids`` each comes from, integer, shape ``(M,)``.
        segment: Which segment of that image it is, integer, shape ``(M,)``.
        image_ids: Names of the training images.
        oracle: Whether dense masks of the training images labelled it.

    Attributes:
        without: Training image whose own segments must not vote, if there is one.
    """

    prototypes: Tensor
    labels: Tensor
    image: Tensor
    segment: Tensor

    def __init__(
        self,
        prototypes: Tensor,
        labels: Tensor,
        image: Tensor,
        segment: Tensor,
        image_ids: list[str],
        *,
        oracle: bool = False,
    ) -> None:
        super().__init__()
        self.register_buffer("prototypes", prototypes.float(), persistent=False)
        self.register_buffer("labels", labels.long(), persistent=False)
        self.register_buffer("image", image.long(), persistent=False)
        self.register_buffer("segment", segment.long(), persistent=False)
        self.image_ids, self.oracle = image_ids, oracle
        self.without: str | None = None

    @classmethod
    def read(cls, path: Path, *, dim: int, num_classes: int) -> SegmentMemory:
        """Read the file that :class:`~scribbleseg.callbacks.PrototypeWriter` made.

        Args:
            path: ``prototypes.npz``.
            dim: D of the module.
            num_classes: C.

        Raises:
            CheckpointError: If the file is missing, damaged, or of another model or data set.
        """
        try:
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            made = [torch.from_numpy(arrays[name].astype(np.float32)) for name in ("prototypes",)]
            made += [
                torch.from_numpy(arrays[name].astype(np.int64))
                for name in ("labels", "image", "segment")
            ]
            names = [str(name) for name in arrays["image_ids"]]
            oracle = bool(arrays["oracle"])
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise CheckpointError(
                f"retrieval={str(path)!r} cannot be read ({error}): expected the "
                "prototypes.npz that the callback PrototypeWriter leaves in the folder of a run"
            ) from error
        found = made[0].shape
        if len(found) != 2 or found[1] != dim or not found[0]:
            raise CheckpointError(
                f"retrieval={str(path)!r} holds prototypes of shape {tuple(found)}, expected "
                f"(M, {dim}) with M above 0: use the file that this model made"
            )
        if int(made[1].max()) >= num_classes:
            raise CheckpointError(
                f"retrieval={str(path)!r} holds class {int(made[1].max())}, the model has "
                f"{num_classes} classes: use the file that this model made"
            )
        return cls(made[0], made[1], made[2], made[3], names, oracle=oracle)

    def digest(self) -> str:
        """SHA-256 that tells memories apart, by their prototypes and labels."""
        return content_digest([self.prototypes, self.labels])

    def votes(self, queries: Tensor, num_classes: int, *, top_k: int = 20) -> Tensor:
        """Shares of the classes among the nearest segments, shape ``(Q, C)``.

        Args:
            queries: Need not be unit vectors, shape ``(Q, D)``.
            num_classes: C.
            top_k: Nearest segments.
        """
        prototypes, labels = self.prototypes, self.labels
        if self.without in self.image_ids:
            kept = self.image != self.image_ids.index(self.without)
            prototypes, labels = prototypes[kept], labels[kept]
        found = nearest_segments(F.normalize(queries, dim=1), prototypes, top_k=top_k)
        return class_votes(labels[found.row], num_classes)


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
