"""Local prototypes: mean features of the most confident pixels of each class."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F

from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = [
    "ClassPrototypes",
    "ConfidenceWeights",
    "confidence_weights",
    "confident_prototypes",
    "predicted_class_labels",
]


class ClassPrototypes(NamedTuple):
    """One vector per image and class.

    Attributes:
        prototypes: Shape ``(B, C, D)``; zero where there is none.
        valid: Whether there is one, bool, shape ``(B, C)``.
    """

    prototypes: Tensor
    valid: Tensor


def _check_maps(features: Tensor, maps: Tensor, name: str) -> None:
    if (
        features.ndim != 4
        or maps.ndim != 4
        or features.shape[0] != maps.shape[0]
        or features.shape[2:] != maps.shape[2:]
    ):
        raise ValueError(
            f"features {tuple(features.shape)} and {name} {tuple(maps.shape)} disagree: expected "
            f"(B, D, h, w) and (B, C, h, w); resize {name} to the feature size first"
        )


class ConfidenceWeights(NamedTuple):
    """How much each pixel counts for the prototype of each class.

    Attributes:
        weights: Scores of the chosen pixels, about 0 to 1, 0 elsewhere, shape ``(B, C, h, w)``.
        alive: Whether the class has a positive logit anywhere, bool, shape ``(B, C)``.
    """

    weights: Tensor
    alive: Tensor


@torch.no_grad()
def confidence_weights(
    logits: Tensor, *, ratio: float = 1 / 12, eps: float = 1e-5
) -> ConfidenceWeights:
    r"""Scores s of the most confident pixels of every class; see :func:`confident_prototypes`.

    Time O(B·C·N·log N), memory O(B·C·N); no synchronisation.

    Args:
        logits: Unnormalised scores, shape ``(B, C, h, w)``.
        ratio: Share of the pixels that is chosen, in (0, 1]; at least one.
        eps: ε.

    Returns:
        Weights and which classes have any; the weights of the others are arbitrary.

    Raises:
        ValueError: If the ratio is out of range.

    Example:
        >>> confidence_weights(torch.tensor([[[[4.0, 1.0]]]]), ratio=0.5).weights.tolist()
        [[[[0.9999933242797852, 0.0]]]]
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio={ratio}, expected a share of the pixels in (0, 1]")
    a = full_precision(logits).flatten(2).relu()
    low, high = torch.aminmax(a, dim=2, keepdim=True)
    a = a.masked_fill(a < low + eps, 0)
    scores = (a - low - eps) / (high - low + eps)
    # 1e-9: N/12 as a product may fall just below the integer it is
    count = max(1, math.floor(scores.shape[2] * ratio + 1e-9))
    best = scores.topk(count, dim=2, sorted=False)
    # zeros elsewhere instead of gathering k features per class: one product, no (B, C, k, D)
    weights = torch.zeros_like(scores).scatter_(2, best.indices, best.values)
    return ConfidenceWeights(weights.view(logits.shape), high[..., 0] > 0)


@torch.no_grad()
def confident_prototypes(
    features: Tensor,
    logits: Tensor,
    class_labels: Tensor,
    *,
    ratio: float = 1 / 12,
    eps: float = 1e-5,
) -> ClassPrototypes:
    r"""Direction of the mean feature of each present class' most confident pixels.

    .. math:: a_u = \max(\ell_{cu}, 0), \quad a_u \leftarrow 0 \text{ where }
        a_u < \min a + \epsilon, \quad
        s_u = \frac{a_u - \min a - \epsilon}{\max a - \min a + \epsilon}, \quad
        p_c \propto \sum_{u \in T} s_u f_u \Big/ \sum_{u \in T} s_u

    with T the :math:`\max(1, \lfloor N \rho \rfloor)` pixels of the largest s (PFA, ICML 2024,
    local prototypes). Classes do not compete for pixels. Constant: no gradient. Time
    O(B·C·N·(D + log N)), memory O(B·C·N); no synchronisation.

    Args:
        features: Shape ``(B, D, h, w)``; 16-bit input is computed in float32.
        logits: Unnormalised scores at the same resolution, shape ``(B, C, h, w)``.
        class_labels: Which classes are in each image, multi-hot, shape ``(B, C)``.
        ratio: Share ρ of the pixels that is averaged, in (0, 1].
        eps: ε.

    Returns:
        Unit vectors. Not valid, and zero: absent classes, classes without a positive logit, whose
        ranking would be arbitrary, and classes whose sum is not finite. A feature that is not
        finite spoils every class of its image, a logit that is not finite only its own.

    Raises:
        ValueError: If the shapes disagree or the ratio is out of range.

    Example:
        >>> f = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
        >>> l = torch.tensor([[[[4.0, 1.0]], [[1.0, 4.0]]]])
        >>> confident_prototypes(f, l, torch.ones(1, 2), ratio=0.5).prototypes.tolist()
        [[[1.0, 0.0], [0.0, 1.0]]]
    """
    _check_maps(features, logits, "logits")
    if class_labels.shape != logits.shape[:2]:
        raise ValueError(
            f"class_labels has shape {tuple(class_labels.shape)}, expected (B, C) = "
            f"{tuple(logits.shape[:2])}"
        )
    with torch.autocast(features.device.type, enabled=False):
        f = full_precision(features).flatten(2)
        confidence = confidence_weights(logits.to(f.dtype), ratio=ratio, eps=eps)
        weights = confidence.weights.flatten(2)
        total = weights.sum(2, keepdim=True)
        # the length is normalised away, so only the sign of the divisor matters
        sums = torch.bmm(weights, f.transpose(1, 2)) * torch.where(total < 0, -1.0, 1.0)
        finite = torch.isfinite(torch.linalg.vector_norm(sums, dim=2))
    valid = (class_labels > 0) & confidence.alive & finite
    # where, because NaN times False is NaN
    prototypes = torch.where(valid[..., None], F.normalize(sums, dim=2), 0)
    return ClassPrototypes(prototypes, valid)


@torch.no_grad()
def predicted_class_labels(
    logits: Tensor,
    size: tuple[int, int],
    *,
    min_pixels: int = 100,
    always: Sequence[int] = (0,),
    align_corners: bool = True,
) -> Tensor:
    r"""Classes that a prediction shows on more than a few pixels, for images without labels.

    .. math:: \hat S = \{c : |\{u : \arg\max_k \ell^\uparrow_{uk} = c\}| > \nu\} \cup S_0

    (after PFA, ICML 2024). Time and memory O(B·C·H·W); no synchronisation.

    Args:
        logits: Shape ``(B, C, h, w)``.
        size: Original image size ``(H, W)`` to which the logits are upsampled bilinearly.
        min_pixels: ν.
        always: Classes :math:`S_0` that are set in any case, such as the background.
        align_corners: How the logits are upsampled; as the network's output is.

    Returns:
        Multi-hot float32, shape ``(B, C)``.

    Raises:
        ValueError: If the logits are not a batch of maps.

    Example:
        >>> logits = torch.zeros(1, 3, 2, 2)
        >>> logits[:, 2] = 1
        >>> predicted_class_labels(logits, (20, 20)).tolist()
        [[1.0, 0.0, 1.0]]
    """
    if logits.ndim != 4:
        raise ValueError(f"logits have shape {tuple(logits.shape)}, expected (B, C, h, w)")
    full = F.interpolate(full_precision(logits), size, mode="bilinear", align_corners=align_corners)
    winner = full.argmax(1).flatten(1)
    counts = torch.zeros(logits.shape[:2], dtype=torch.int64, device=logits.device)
    counts.scatter_add_(1, winner, torch.ones_like(winner))
    found = (counts > min_pixels).float()
    found[:, list(always)] = 1.0
    return found
