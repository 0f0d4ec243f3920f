"""Mean-field inference of fully connected CRFs, as post-processing of probabilities or labels."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

import torch

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.errors import ConfigError
from scribbleseg.functional.gaussian import pixel_features
from scribbleseg.functional.losses import full_precision
from scribbleseg.functional.permutohedral import PermutohedralLattice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

__all__ = [
    "CRF_PRESETS",
    "CRFParams",
    "dense_crf",
    "mean_field",
    "unary_from_labels",
    "unary_from_probs",
]


@dataclass(frozen=True)
class CRFParams:
    """Bandwidths and weights of a dense CRF with a smoothness and an appearance kernel.

    Attributes:
        smooth_xy: Bandwidth of the position in the smoothness kernel, in pixels, positive.
        smooth_weight: Weight of the smoothness kernel, not negative; 0 leaves it out.
        sigma_xy: Bandwidth of the position in the appearance kernel, in pixels, positive.
        sigma_rgb: Bandwidth of the colour in the appearance kernel, in grey levels, positive.
        weight: Weight of the appearance kernel, not negative; 0 leaves it out.
        iterations: Mean-field steps, at least 0.
        label_confidence: Probability of the given label where labels are refined, in (0, 1).
    """

    smooth_xy: float = 3.0
    smooth_weight: float = 3.0
    sigma_xy: float = 80.0
    sigma_rgb: float = 13.0
    weight: float = 10.0
    iterations: int = 10
    label_confidence: float = 0.7

    def __post_init__(self) -> None:
        """Check the ranges."""
        bandwidths = (self.smooth_xy, self.sigma_xy, self.sigma_rgb)
        if not all(sigma > 0 for sigma in bandwidths):
            raise ConfigError(
                f"smooth_xy, sigma_xy, sigma_rgb = {bandwidths}: expected positive bandwidths; "
                "leave a kernel out with weight 0"
            )
        if not (self.smooth_weight >= 0 and self.weight >= 0 and self.iterations >= 0):
            raise ConfigError(
                f"smooth_weight={self.smooth_weight}, weight={self.weight}, "
                f"iterations={self.iterations}: expected numbers of at least 0"
            )
        if not 0 < self.label_confidence < 1:
            raise ConfigError(
                f"label_confidence={self.label_confidence}: expected a probability in (0, 1)"
            )


CRF_PRESETS: Mapping[str, CRFParams] = MappingProxyType(
    {
        "irn": CRFParams(3, 3, 50, 5, 10),  # refinement of labels: IRN, LPCAM
        "cc4s": CRFParams(3, 3, 80, 13, 10),  # evaluation: URSS, CC4S, CDSP
        "spml": CRFParams(1, 3, 67, 3, 4),  # evaluation: DeepLab, SPML
        "tel": CRFParams(1, 3, 10, 3, 4),  # optional evaluation of the tree energy loss
    }
)


def unary_from_probs(probs: Tensor) -> Tensor:
    r"""Unary energy of probabilities, :math:`-\log \operatorname{clip}(p, 10^{-5}, 1)`.

    Time and memory O(size).

    Args:
        probs: Probabilities of any shape, float.

    Returns:
        Energies in nats, same shape, at least float32.

    Example:
        >>> unary_from_probs(torch.tensor([1.0])).abs().item()
        0.0
    """
    return -full_precision(probs).clamp(1e-5, 1).log()


def unary_from_labels(
    labels: Tensor, num_classes: int, *, confidence: float = 0.7, ignore_index: int = IGNORE_INDEX
) -> Tensor:
    r"""Unary energy of labels that are right with a given probability.

    :math:`-\log \tau` for the label and :math:`-\log \frac{1 - \tau}{n - 1}` for the others;
    :math:`\log n` for all where the label is not known. Time and memory O(B·n·H·W); waits for the
    device once.

    Args:
        labels: Ids, int64, shape ``(B, H, W)``; ``ignore_index`` = not known.
        num_classes: n. To refine labels of one image, number its classes 0..n-1 first: absent
            classes would take their share of the probability.
        confidence: :math:`\tau`, in (0, 1).
        ignore_index: Value that belongs to no class.

    Returns:
        Energies in nats, float32, shape ``(B, n, H, W)``.

    Raises:
        ValueError: If a label is no class, or ``confidence`` is no probability.

    Example:
        >>> unary_from_labels(torch.tensor([[[1]]]), 2, confidence=0.5).exp().flatten().tolist()
        [2.0, 2.0]
    """
    known = labels != ignore_index
    filled = labels.masked_fill(~known, 0).long()
    low, high = torch.stack(torch.aminmax(filled)).tolist() if labels.numel() else (0, 0)
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels hold {low}..{high}: expected 0..{num_classes - 1} or {ignore_index} (not "
            "known); raise num_classes or number the classes anew"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: expected a probability in (0, 1)")
    shape = (len(labels), num_classes, *labels.shape[1:])
    others = (1 - confidence) / max(num_classes - 1, 1)
    probs = torch.full(shape, others, device=labels.device)
    probs.scatter_(1, filled[:, None], confidence)
    return -torch.where(known[:, None], probs, 1 / num_classes).log()


@torch.no_grad()
def mean_field(unary: Tensor, image: Tensor, *, params: CRFParams) -> Tensor:
    r"""Mean-field marginals of one fully connected CRF with Potts compatibility.

    .. math:: Q \leftarrow \operatorname{softmax}_c \Bigl(-U + \sum_m w_m \,
        n_m \odot K_m (n_m \odot Q)\Bigr), \quad n_m = (K_m 1 + 10^{-20})^{-1/2}, \quad
        Q_0 = \operatorname{softmax}(-U)

    (Krähenbühl and Koltun, NeurIPS 2011, algorithm 1, with symmetrically normalised kernels as in
    the authors' later code; the pixel itself counts). With N = H·W and T iterations the lattice
    takes time O(T·N·C) and memory O(N·C); its sums differ from exact ones, and published numbers
    were produced with it.

    Args:
        unary: Energies in nats, float, shape ``(C, H, W)``.
        image: RGB in 0..255, uint8 or float, shape ``(3, H, W)``.
        params: Bandwidths, weights and iterations.

    Returns:
        Probabilities, shape ``(C, H, W)``, float32 (float64 for float64 energies).

    Raises:
        ValueError: If the sizes disagree.

    Example:
        >>> unary = torch.tensor([0.0, 1.0])[:, None, None].expand(2, 4, 5)
        >>> image = torch.zeros(3, 4, 5, dtype=torch.uint8)
        >>> mean_field(unary, image, params=CRFParams()).argmax(0).unique().tolist()
        [0]
    """
    if unary.ndim != 3 or image.shape != (3, *unary.shape[1:]):
        raise ValueError(
            f"unary {tuple(unary.shape)} and image {tuple(image.shape)}: expected (C, H, W) and "
            "(3, H, W); bring the scores to the size of the image first"
        )
    classes, height, width = unary.shape
    if not unary.numel():
        return full_precision(unary).clone()
    with torch.autocast(unary.device.type, enabled=False):
        energy = full_precision(unary).reshape(classes, -1).t().contiguous()
        kernels = _kernels(image[None], params, energy.dtype)
        marginals = (-energy).softmax(dim=1)
        for _ in range(params.iterations):
            total = -energy
            for kernel in kernels:
                total += kernel(marginals)
            marginals = torch.softmax(total, dim=1)
    return marginals.t().reshape(classes, height, width)


def _kernels(
    image: Tensor, params: CRFParams, dtype: torch.dtype
) -> list[Callable[[Tensor], Tensor]]:
    """The weighted, symmetrically normalised kernels as functions of ``(N, C)``."""
    kernels: list[Callable[[Tensor], Tensor]] = []
    for weight, sigma_xy, sigma_rgb in (
        (params.smooth_weight, params.smooth_xy, None),
        (params.weight, params.sigma_xy, params.sigma_rgb),
    ):
        if weight:
            features = pixel_features(image.to(dtype), sigma_xy=sigma_xy, sigma_rgb=sigma_rgb)[0]
            lattice = PermutohedralLattice(features)
            norm = (lattice.filter(features.new_ones(len(features), 1)) + 1e-20).rsqrt()[:, 0]
            kernels.append(lattice.scaled(norm, weight * norm).filter)
    return kernels


def dense_crf(
    scores: Tensor,
    image: Tensor,
    *,
    params: CRFParams | str = "cc4s",
    num_classes: int | None = None,
    prune: float | None = 1e-3,
) -> Tensor:
    """Refine probabilities or labels by the colours of the image; see :func:`mean_field`.

    One image after the other. Classes that are improbable everywhere are left out, which changes
    no label in practice and saves most of the time. Per image time O(T·N·C') and memory O(N·C'),
    C' = classes left, T = iterations; about 1 s for 500 by 375 pixels and 21 classes on one core.
    For inference: no gradient, and the scores are checked for NaN and the classes to keep counted
    on the host, so the device is waited for.

    Args:
        scores: Probabilities, float, shape ``(B, C, H, W)``; or labels, integer, shape
            ``(B, H, W)``, 255 = not known (see :func:`unary_from_labels`).
        image: Original RGB pixels in 0..255, uint8 or float, shape ``(B, 3, H, W)``.
        params: Bandwidths and weights, or the name of a preset: ``irn``, ``cc4s``, ``spml``,
            ``tel``.
        num_classes: C, needed for labels only.
        prune: Leave out classes whose probability exceeds this nowhere; ``None`` keeps all.

    Returns:
        Probabilities, shape ``(B, C, H, W)``, float32 (float64 for float64 scores); 0 for classes
        left out.

    Raises:
        ValueError: If shapes disagree, the preset is unknown, a label is no class or a score is
            NaN.

    Example:
        >>> labels = torch.zeros(1, 6, 7, dtype=torch.long)
        >>> image = torch.zeros(1, 3, 6, 7, dtype=torch.uint8)
        >>> dense_crf(labels, image, params="irn", num_classes=2).shape
        torch.Size([1, 2, 6, 7])
    """
    if isinstance(params, str):
        if params not in CRF_PRESETS:
            raise ValueError(
                f"params={params!r}: expected one of the presets {', '.join(CRF_PRESETS)}, or "
                "CRFParams of your own"
            )
        params = CRF_PRESETS[params]
    if scores.is_floating_point():
        unary = unary_from_probs(scores)
    elif num_classes is not None:
        unary = unary_from_labels(scores, num_classes, confidence=params.label_confidence)
    else:
        raise ValueError(
            f"labels of {scores.dtype} without num_classes: pass the number of classes"
        )
    if unary.ndim != 4 or image.shape != (len(unary), 3, *unary.shape[2:]):
        raise ValueError(
            f"scores {tuple(scores.shape)} and image {tuple(image.shape)}: expected (B, C, H, W) "
            "or labels (B, H, W), and (B, 3, H, W)"
        )
    if bool(torch.isnan(unary).any()):
        # no class would exceed the limit of pruning, and the result be all zero
        raise ValueError(
            "scores hold NaN: expected probabilities in 0..1; look for the network's first output "
            "that is not finite (a diverged training, or overflow in 16 bits)"
        )
    refined = torch.zeros_like(unary)
    for energy, pixels, result in zip(unary, image, refined, strict=True):
        kept = torch.arange(len(energy), device=energy.device)
        if prune is not None and energy.numel():
            best = (-energy.flatten(1).amin(1)).exp()
            kept = (best >= best.amax().clamp_max(prune)).nonzero()[:, 0]
        result[kept] = mean_field(energy[kept], pixels, params=params)
    return refined
