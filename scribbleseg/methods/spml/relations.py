"""Which segments are like a pixel and which are not: the four relations of SPML as masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from scribbleseg.errors import ConfigError
from scribbleseg.functional.losses import full_precision, weighted_mean
from scribbleseg.methods.spml.losses import segsort_loss
from scribbleseg.options import check_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scribbleseg.methods.spml.segments import Segments

__all__ = [
    "RelationSets",
    "affinity_label_sets",
    "annotation_sets",
    "check_relations",
    "image_similarity_loss",
    "image_spans",
    "overlap_sets",
    "region_sets",
]

_ROWS = 4096  # segments whose similarities are held at a time


class RelationSets(NamedTuple):
    """Segments by what a group of pixels thinks of them; those in neither set do not matter.

    Attributes:
        positive: S⁺ of each group, bool, shape ``(G, M)``.
        negative: S⁻ of each group, bool, shape ``(G, M)``.
    """

    positive: Tensor
    negative: Tensor


def annotation_sets(labels: Tensor, num_classes: int) -> RelationSets:
    """Semantic annotation: labelled segments of the same class, and of another one.

    Groups are classes (SPML, ICLR 2021). Time and memory O(C·M).

    Args:
        labels: Weak label of each segment; outside of 0..C-1 = unlabelled, shape ``(M,)``.
        num_classes: C.

    Returns:
        Sets of each class, shape ``(C, M)``.

    Example:
        >>> annotation_sets(torch.tensor([0, 1, 255]), 2).negative.tolist()
        [[False, True, False], [True, False, False]]
    """
    same = labels == torch.arange(num_classes, device=labels.device)[:, None]
    return RelationSets(same, same.any(0) & ~same)


def overlap_sets(
    groups: Tensor, segments: Tensor, *, empty: Literal["negative", "skip"] = "skip"
) -> RelationSets:
    """Sets of classes that have one in common, and sets that have none.

    Semantic co-occurrence, where groups are images with their tags, background left out, and
    segments have the tags of their images; and feature affinity, with the labels of the nearest
    labelled segments (SPML, ICLR 2021). Time O(G·M·C), memory O(G·M).

    Args:
        groups: Multi-hot classes of each group, shape ``(G, C)``.
        segments: Multi-hot classes of each segment, shape ``(M, C)``.
        empty: What an empty set means: negative for everybody, itself included, as in the released
            code; or nothing, ``"skip"``.

    Returns:
        Shape ``(G, M)``.

    Raises:
        ValueError: If the numbers of classes disagree or ``empty`` is unknown.

    Example:
        >>> overlap_sets(torch.tensor([[1, 0]]), torch.tensor([[1, 1], [0, 1], [0, 0]])).negative
        tensor([[False,  True, False]])
    """
    if groups.ndim != 2 or segments.ndim != 2 or groups.shape[1] != segments.shape[1]:
        raise ValueError(
            f"groups {tuple(groups.shape)} and segments {tuple(segments.shape)} disagree: expected "
            "(G, C) and (M, C)"
        )
    if empty not in ("negative", "skip"):
        raise ValueError(f"empty={empty!r}: expected 'negative' or 'skip'")
    with torch.autocast(groups.device.type, enabled=False):
        common = (groups > 0).float() @ (segments > 0).float().T > 0
    negative = ~common
    if empty == "skip":
        negative &= (groups > 0).any(1)[:, None] & (segments > 0).any(1)
    return RelationSets(common, negative)


def region_sets(regions: Tensor) -> RelationSets:
    """Low-level similarity: segments of the same region of the image, and of others.

    Groups are the segments of one image (SPML, ICLR 2021). Time and memory O(S²).

    Args:
        regions: Low-level region of each segment, shape ``(S,)``.

    Returns:
        Shape ``(S, S)``.

    Example:
        >>> region_sets(torch.tensor([3, 3, 8])).positive.tolist()
        [[True, True, False], [True, True, False], [False, False, True]]
    """
    same = regions[:, None] == regions
    return RelationSets(same, ~same)


@torch.no_grad()
def affinity_label_sets(
    prototypes: Tensor,
    labels: Tensor,
    image: Tensor,
    num_classes: int,
    *,
    k: int = 1,
    threshold: float = 0.95,
) -> Tensor:
    r"""Feature affinity: labels of the most similar labelled segments of the same image.

    .. math:: Y_s = \{y_t : t \in \operatorname{top}_k \tilde\mu_s \cdot \tilde\mu_t,\;
        \tilde\mu_s \cdot \tilde\mu_t \ge \tau\}

    over the labelled segments t (SPML, ICLR 2021); one that is labelled finds itself. No gradient.
    Time O(S·L·D) for L labelled segments, memory O(L) times 4096, and S·C. L is read by the host (a
    device synchronisation).

    Args:
        prototypes: :math:`\tilde\mu`, unit vectors, shape ``(S, D)``.
        labels: Weak label of each segment; outside of 0..C-1 = unlabelled, shape ``(S,)``.
        image: Image of each segment, shape ``(S,)``.
        num_classes: C.
        k: Nearest labelled segments, at least 1.
        threshold: τ.

    Returns:
        Multi-hot, bool, shape ``(S, C)``; empty where no labelled segment is similar enough.

    Raises:
        ValueError: If the shapes disagree or k is below 1.

    Example:
        >>> mu = torch.nn.functional.normalize(torch.tensor([[1.0, 0.1], [1.0, 0.0], [-1.0, 0.0]]))
        >>> affinity_label_sets(mu, torch.tensor([255, 1, 255]), torch.zeros(3), 2).tolist()
        [[False, True], [False, True], [False, False]]
    """
    if prototypes.ndim != 2 or not len(prototypes) == len(labels) == len(image) or k < 1:
        raise ValueError(
            f"prototypes {tuple(prototypes.shape)}, labels {tuple(labels.shape)}, image "
            f"{tuple(image.shape)}, k={k}: expected (S, D), (S,), (S,) and at least 1"
        )
    (known,) = ((labels >= 0) & (labels < num_classes)).nonzero(as_tuple=True)
    assigned = torch.zeros(len(labels), num_classes, dtype=torch.bool, device=labels.device)
    if not len(known):
        return assigned
    with torch.autocast(prototypes.device.type, enabled=False):
        mu = full_precision(prototypes)
        nearest, similar = [], []
        for part, own in zip(torch.split(mu, _ROWS), torch.split(image, _ROWS), strict=True):
            found = (part @ mu[known].T).masked_fill_(own[:, None] != image[known], -torch.inf)
            top = found.topk(min(k, len(known)), dim=1)
            nearest.append(labels[known][top.indices].long())
            similar.append(top.values >= threshold)
    votes = torch.zeros(assigned.shape, device=labels.device)
    votes.scatter_add_(1, torch.cat(nearest), torch.cat(similar).to(votes.dtype))
    return votes > 0


def image_spans(segments: Segments, num_images: int) -> list[tuple[slice, slice]]:
    """Where the pixels and the segments of each image are; both are ordered by image.

    The numbers are read by the host (a device synchronisation).

    Args:
        segments: Of a batch.
        num_images: B.

    Returns:
        Slices of the pixels and of the segments of each image.

    Example:
        >>> from scribbleseg.methods.spml.segments import segment_index
        >>> found = segment_index(torch.tensor([[[0, 1]], [[0, -1]]]), torch.zeros(2, 1, 2).long())
        >>> image_spans(found, 2)
        [(slice(0, 2, None), slice(0, 2, None)), (slice(2, 3, None), slice(2, 3, None))]
    """
    index = torch.arange(num_images, device=segments.image.device)
    of_pixel = segments.image[segments.pixel_segment]
    ends = [torch.searchsorted(x, index, right=True) for x in (of_pixel, segments.image)]
    pixel_ends, segment_ends = torch.stack(ends).tolist()
    return [
        (slice(*pair), slice(*other))
        for pair, other in zip(
            zip([0, *pixel_ends], pixel_ends, strict=False),
            zip([0, *segment_ends], segment_ends, strict=False),
            strict=True,
        )
    ]


def image_similarity_loss(
    pixels: Tensor,
    prototypes: Tensor,
    segments: Segments,
    spans: Sequence[tuple[slice, slice]],
    *,
    usable: Tensor | None = None,
    concentration: float = 16.0,
    mode: Literal["segsort+", "segsort"] = "segsort+",
    chunk_size: int | None = 4096,
    across_ranks: bool = False,
) -> Tensor:
    r"""Pixels against the segments of their own image, alike where the low-level region is.

    .. math:: L_I = \frac1B \sum_b \frac{1}{N_b} \sum_{i \in b} \ell_i

    with ℓ of :func:`~scribbleseg.methods.spml.losses.segsort_loss` over :func:`region_sets` (SPML,
    ICLR 2021): the mean of each image first. Time O(Σ N_b·S_b·D), memory as that function's with
    S_b segments. Loops over the images of the batch.

    Args:
        pixels: Unit vectors, shape ``(N, D)``.
        prototypes: Mean direction of each segment of this batch, shape ``(S, D)``.
        segments: Of the batch.
        spans: From :func:`image_spans`.
        usable: Segments that are compared with, bool, shape ``(S,)``; all by default.
        concentration: κ.
        mode: See :func:`~scribbleseg.methods.spml.losses.segsort_loss`.
        chunk_size: Pixels at a time.
        across_ranks: Mean over the images of all ranks. Every rank must then call.

    Returns:
        Scalar in nats; images without pixels do not count.
    """
    images = [(p, s) for p, s in spans if p.stop > p.start]
    losses = []
    for pixel, segment in images:
        own = segments.pixel_segment[pixel] - segment.start
        sets = region_sets(segments.region[segment])
        if usable is not None:
            sets = RelationSets(*(found & usable[segment] for found in sets))
        losses.append(
            segsort_loss(
                pixels[pixel],
                prototypes[segment],
                own,
                *sets,
                group=own,
                concentration=concentration,
                mode=mode,
                chunk_size=chunk_size,
            )
        )
    nothing = full_precision(pixels).sum() * 0 + full_precision(prototypes).sum() * 0
    total = torch.stack([nothing, *losses]).sum()
    count = total.new_full((), len(images))
    return weighted_mean(total, count, across_ranks=across_ranks)


def check_relations(**relations: tuple[float, float]) -> None:
    """Refuse weights and concentrations out of range, and an embedding without any."""
    for name, (weight, concentration) in relations.items():
        values = {f"{name}_weight": weight, f"{name}_concentration": concentration}
        check_number(**values)
        if weight < 0 or concentration <= 0:
            raise ConfigError(
                f"{name}_weight={weight}, {name}_concentration={concentration}: expected a weight "
                "of at least 0 and a concentration above 0"
            )
    if not any(weight for weight, _ in relations.values()):
        raise ConfigError(
            "the weights of all four relations are 0, so the embedding would not learn; give one a "
            "weight, or use RegularizedModule for the partial cross-entropy alone"
        )
