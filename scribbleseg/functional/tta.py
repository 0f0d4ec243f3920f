"""Test-time averaging over scales and flips, and sliding windows for large images."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F

from scribbleseg.functional.preprocess import mirrored_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

__all__ = [
    "multi_scale_probabilities",
    "resized_window_probabilities",
    "scale_image",
    "sliding_window_logits",
]


def multi_scale_probabilities(
    forward: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    average: Literal["probs", "logits"] = "probs",
    align_corners: bool = False,
    rounding: Literal["round", "floor"] = "round",
    flip_pairs: Sequence[tuple[int, int]] = (),
) -> Tensor:
    r"""Average predictions over scaled and mirrored copies of an image.

    .. math:: p = \frac{1}{|A|} \sum_{a \in A} a^{-1}(\mathrm{softmax}(f(a(x))))

    with :math:`a` a scale and, with ``flip``, a mirroring. Logits are scaled back to the size of
    the image before the softmax. Only one copy is in memory at a time.

    The released test code of tree energy loss and AGMM is ``average="logits"``,
    ``align_corners=True``, ``rounding="floor"``.

    Args:
        forward: Logits at the size of its input, ``(B, 3, h, w)`` to ``(B, C, h, w)``, finite.
        image: Network input, float, shape ``(B, 3, H, W)``.
        scales: Factors of the side lengths, positive.
        flip: Also average over the mirror image of every scale.
        average: ``"probs"`` averages probabilities; ``"logits"`` *sums* logits.
        align_corners: Convention of the bilinear scaling of image and logits.
        rounding: How ``H * scale`` becomes a whole number.
        flip_pairs: Pairs of classes that a mirror image exchanges, such as left and right hand:
            their logits change places too.

    Returns:
        Shape ``(B, C, H, W)``, float32 (float64 if the logits are): probabilities that sum to 1,
        or with ``average="logits"`` the sum of ``len(scales) * (1 + flip)`` logits.

    Raises:
        ValueError: If there is no scale, one is not positive, or pairs are not of classes.

    Example:
        >>> image = torch.zeros(1, 3, 4, 4)
        >>> multi_scale_probabilities(lambda x: x[:, :2], image, scales=(0.5, 1.0))[0, :, 0, 0]
        tensor([0.5000, 0.5000])
    """
    if not scales or not all(scale > 0 for scale in scales):
        raise ValueError(f"scales={tuple(scales)!r}: expected one or more positive factors")
    size = (int(image.shape[-2]), int(image.shape[-1]))

    def logits_of(x: Tensor) -> Tensor:
        return _bilinear(_at_least_float32(forward(x)), size, align_corners)

    total = image.new_zeros(())
    for scale, mirror in product(scales, (False, True) if flip else (False,)):
        scaled = _bilinear(image, _scaled_size(size, scale, rounding), align_corners)
        logits = _of_mirror_image(logits_of, scaled, flip_pairs) if mirror else logits_of(scaled)
        total = total + (logits.softmax(dim=1) if average == "probs" else logits)
    return total / (len(scales) * (2 if flip else 1)) if average == "probs" else total


def _of_mirror_image(
    forward: Callable[[Tensor], Tensor], x: Tensor, flip_pairs: Sequence[tuple[int, int]]
) -> Tensor:
    """Prediction of the mirror image, turned back."""
    found = forward(x.flip(-1)).flip(-1)
    return found[:, mirrored_ids(flip_pairs, found.shape[1])] if flip_pairs else found


def _scaled_size(size: tuple[int, int], scale: float, rounding: str) -> tuple[int, int]:
    whole = round if rounding == "round" else math.floor
    return max(1, whole(size[0] * scale)), max(1, whole(size[1] * scale))


def _bilinear(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=align_corners)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def scale_image(image: Tensor, scale: float) -> Tensor:
    """Normalised images at another scale, bicubic without antialiasing; sides are rounded.

    Args:
        image: Shape ``(B, K, H, W)``.
        scale: Above 0.

    Returns:
        Shape ``(B, K, round(H·scale), round(W·scale))``; ``image`` itself at scale 1.

    Example:
        >>> scale_image(torch.zeros(1, 3, 5, 4), 0.5).shape
        torch.Size([1, 3, 2, 2])
    """
    if scale == 1:
        return image
    size = [max(1, round(side * scale)) for side in image.shape[-2:]]
    return F.interpolate(image, size, mode="bicubic", align_corners=False)


def resized_window_probabilities(
    forward: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    base_size: int,
    scales: Sequence[float] = (1.0,),
    window: int | tuple[int, int] | None = None,
    overlap: float = 1 / 3,
    batch_size: int = 4,
    flip: bool = False,
    flip_pairs: Sequence[tuple[int, int]] = (),
) -> Tensor:
    r"""Average predictions of windows over copies of an image whose longer side is prescribed.

    .. math:: p = \frac{1}{|S|} \sum_{s \in S} R_s^{-1} \Big( \tfrac{1}{n}
        \sum_{t} \mathrm{softmax}(f(x_{s,t})) \Big)

    For a scale s the longer side becomes ``round(s · base_size)``, the other one keeps the aspect.
    The copy is padded alike on both sides to at least a window with 0, the mean colour of a
    normalised image; n is the number of windows on a pixel. Probabilities, not logits, are averaged
    and scaled back (the published test of URSS, CC4S and CDSP with ``base_size=512``,
    ``window=465`` and the scales 0.5 to 2 in steps of 0.25). One copy is in memory at a time.

    Args:
        forward: See :func:`multi_scale_probabilities`, also for ``image``, ``flip`` and its pairs.
        image: Network input, float, shape ``(B, 3, H, W)``.
        base_size: Longer side at scale 1, pixels.
        scales: Factors on it, positive.
        window: See :func:`sliding_window_logits`; ``None`` = the whole copy at once, no padding.
        overlap: Share of a window that its neighbour covers at least, in [0, 1); the step is
            rounded up.
        batch_size: Windows per call of ``forward``.
        flip: Also average over mirror images.
        flip_pairs: Pairs of classes that they exchange.

    Returns:
        Probabilities that sum to 1, shape ``(B, C, H, W)``, float32 (float64 if the logits are).

    Raises:
        ValueError: If there is no scale, or a number is not positive.

    Example:
        >>> image = torch.zeros(1, 3, 4, 6)
        >>> resized_window_probabilities(
        ...     lambda x: x[:, :2], image, base_size=9, window=5
        ... )[0, :, 0, 0]
        tensor([0.5000, 0.5000])
    """
    if base_size < 1 or not scales or not all(scale > 0 for scale in scales):
        raise ValueError(
            f"base_size={base_size!r}, scales={tuple(scales)!r}: expected a side of at least 1 and "
            "one or more positive factors"
        )
    size = (int(image.shape[-2]), int(image.shape[-1]))

    def probabilities(x: Tensor) -> Tensor:
        return _at_least_float32(forward(x)).softmax(dim=1)

    def windows(x: Tensor) -> Tensor:
        if window is None:
            return probabilities(x)
        return sliding_window_logits(
            probabilities,
            x,
            window=window,
            overlap=overlap,
            weights="uniform",
            batch_size=batch_size,
            rounding="ceil",
        )

    total = image.new_zeros(())
    for scale in scales:
        scaled = _bilinear(image, _longer_side(size, round(scale * base_size)), False)
        padded, (top, left) = _centred(scaled, window)
        found = windows(padded)
        if flip:
            found = (found + _of_mirror_image(windows, padded, flip_pairs)) / 2
        inside = found[..., top : top + scaled.shape[-2], left : left + scaled.shape[-1]]
        total = total + _bilinear(inside, size, False)
    return total / len(scales)


def _longer_side(size: tuple[int, int], longer: int) -> tuple[int, int]:
    """Height and width with this longer side and nearly the same aspect."""
    longer = max(1, longer)
    factor = longer / max(size)
    if size[0] > size[1]:
        return longer, max(1, round(size[1] * factor))
    return max(1, round(size[0] * factor)), longer


def _centred(image: Tensor, window: int | tuple[int, int] | None) -> tuple[Tensor, tuple[int, int]]:
    """Image on a canvas of at least a window, and its first row and column there."""
    height, width = (
        (0, 0) if window is None else (window,) * 2 if isinstance(window, int) else window
    )
    below, right = max(height - image.shape[-2], 0), max(width - image.shape[-1], 0)
    top, left = below // 2, right // 2
    return F.pad(image, (left, right - left, top, below - top)), (top, left)


def sliding_window_logits(
    forward: Callable[[Tensor], Tensor],
    image: Tensor,
    *,
    window: int | tuple[int, int],
    overlap: float = 0.5,
    weights: Literal["gaussian", "uniform"] = "gaussian",
    batch_size: int = 4,
    rounding: Literal["round", "ceil"] = "round",
) -> Tensor:
    r"""Logits of a large image as the weighted mean of the logits of overlapping windows.

    .. math:: z_i = \sum_t w_{t,i} z_{t,i} / \sum_t w_{t,i}

    The mean is kept as a running mean, so windows that agree on a pixel give exactly their common
    value there, and memory holds one map of the image plus ``batch_size`` windows.

    Args:
        forward: Logits at the size of its input, ``(b, 3, h, w)`` to ``(b, C, h, w)``, finite.
        image: Network input, float, shape ``(B, 3, H, W)``.
        window: Side length, or ``(height, width)``, in pixels. An axis that is not longer than the
            window is not cut; an image that fits is one plain ``forward``.
        overlap: Share of a window that its neighbour covers too, in [0, 1). The last window is
            moved inwards, flush with the border.
        weights: ``"gaussian"`` trusts the centre of a window more (standard deviation 1/8 of its
            sides, at least 1e-3 per axis); ``"uniform"`` is the plain mean over windows.
        batch_size: Windows per call of ``forward``.
        rounding: How ``window * (1 - overlap)``, the step, becomes a whole number.

    Returns:
        Shape ``(B, C, H, W)``; float32 (float64 if the logits are) if the image was cut.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> image = torch.rand(1, 3, 50, 70)
        >>> torch.equal(sliding_window_logits(torch.square, image, window=32), image.square())
        True
    """
    height, width = (window, window) if isinstance(window, int) else window
    if min(height, width, batch_size) < 1 or not 0 <= overlap < 1:
        raise ValueError(
            f"window={window!r}, overlap={overlap!r}, batch_size={batch_size!r}: expected sides "
            "and batch size of at least 1 and an overlap in [0, 1)"
        )
    height, width = min(height, image.shape[-2]), min(width, image.shape[-1])
    if (height, width) == image.shape[-2:]:
        return forward(image)
    tiles = [
        (index, slice(top, top + height), slice(left, left + width))
        for top in _window_starts(image.shape[-2], height, overlap, rounding)
        for left in _window_starts(image.shape[-1], width, overlap, rounding)
        for index in range(image.shape[0])
    ]
    mean: Tensor | None = None
    weight = _window_weights(height, width, weights).to(image.device)
    for start in range(0, len(tiles), batch_size):
        batch = tiles[start : start + batch_size]
        crops = torch.stack([image[index, :, rows, cols] for index, rows, cols in batch])
        logits = _at_least_float32(forward(crops))
        if mean is None:
            mean = logits.new_zeros(image.shape[0], logits.shape[1], *image.shape[-2:])
            seen = logits.new_zeros(image.shape[0], *image.shape[-2:])
            weight = weight.to(logits)
        for (index, rows, cols), values in zip(batch, logits, strict=True):
            seen[index, rows, cols] += weight
            part = mean[index, :, rows, cols]
            part += (values - part) * (weight / seen[index, rows, cols])
    if mean is None:  # an empty batch
        raise ValueError(f"image of shape {tuple(image.shape)} holds no pixels")
    return mean


def _window_starts(
    length: int, window: int, overlap: float, rounding: Literal["round", "ceil"] = "round"
) -> list[int]:
    """First pixel of every window along an axis; together they cover it, the last one flush."""
    step = window * (1 - overlap)
    # 465 · (1 - 1/3) is a little more than 310 in floating point
    step = max(1, round(step) if rounding == "round" else math.ceil(step - 1e-6))
    return [*range(0, length - window, step), length - window]


def _window_weights(height: int, width: int, kind: str) -> Tensor:
    """Blending weight of each pixel of a window, shape ``(height, width)``, in (0, 1]."""
    if kind == "uniform":
        return torch.ones(height, width)

    def bell(length: int) -> Tensor:
        offset = torch.arange(length, dtype=torch.float64) - (length - 1) / 2
        return torch.exp(-0.5 * (offset / (length / 8)) ** 2).clamp(min=1e-3)

    return bell(height)[:, None] * bell(width)[None]
