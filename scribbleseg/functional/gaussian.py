"""Gaussian kernels over the pixels of an image: filters, and energies of soft masks under them."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = [
    "exact_gaussian_filter",
    "pixel_features",
    "scale_kernel_inputs",
    "window_gaussian_filter",
    "window_pairs",
]

_CHUNK_ELEMENTS = 2**24  # kernel values held at a time by the exact filter: 64 MiB in float32


def pixel_features(image: Tensor, *, sigma_xy: float, sigma_rgb: float | None = None) -> Tensor:
    r"""Position and colour of each pixel over their bandwidths, :math:`(x, y, r, g, b) / \sigma`.

    Kernels of dense CRFs are :math:`k(f_i, f_j) = e^{-\|f_i - f_j\|^2 / 2}` of these (Krähenbühl
    and Koltun, NeurIPS 2011, eq. 3). Time and memory O(B·H·W).

    Args:
        image: Grey levels of any number of channels, usually RGB in 0..255, integer or floating
            point, shape ``(B, 3, H, W)``; float64 gives float64 features.
        sigma_xy: Bandwidth of the position in pixels of this image, positive.
        sigma_rgb: Bandwidth of the colour in grey levels, positive; ``None`` leaves colour out.

    Returns:
        Row by row, float32, shape ``(B, H·W, 5)``, or ``(B, H·W, 2)`` without colour.

    Raises:
        ValueError: If the image has no batch axis or a bandwidth is not positive.

    Example:
        >>> pixel_features(torch.zeros(1, 3, 1, 3), sigma_xy=2.0)[0].tolist()
        [[0.0, 0.0], [0.5, 0.0], [1.0, 0.0]]
    """
    if image.ndim != 4:
        raise ValueError(f"image of shape {tuple(image.shape)}: expected (B, 3, H, W)")
    if not sigma_xy > 0 or (sigma_rgb is not None and not sigma_rgb > 0):
        raise ValueError(
            f"sigma_xy={sigma_xy}, sigma_rgb={sigma_rgb}: expected positive bandwidths, in pixels "
            "and grey levels; leave colour out with sigma_rgb=None"
        )
    dtype = torch.float64 if image.dtype == torch.float64 else torch.float32
    height, width = image.shape[-2:]
    y = torch.arange(height, dtype=dtype, device=image.device) / sigma_xy
    x = torch.arange(width, dtype=dtype, device=image.device) / sigma_xy
    grid = torch.stack((x.expand(height, -1), y[:, None].expand(-1, width)), dim=-1)
    position = grid.view(1, -1, 2).expand(len(image), -1, -1)
    if sigma_rgb is None:
        return position
    colour = image.detach().to(dtype).flatten(2).transpose(1, 2) / sigma_rgb
    return torch.cat((position, colour), dim=-1)


def exact_gaussian_filter(features: Tensor, values: Tensor) -> Tensor:
    r"""Gaussian sums over all pairs, :math:`\sum_j e^{-\|f_i - f_j\|^2 / 2} v_j`.

    For tests and tiny images: time O(B·N²·(d + K)), memory O(B·N·(d + K)) plus 64 MiB (one row of
    pairs per image if that is more); B·N² if differentiated, in the values only.

    Args:
        features: Points over their bandwidths, float, shape ``(B, N, d)``; constant.
        values: K values per point, float, shape ``(B, N, K)``.

    Returns:
        Shape ``(B, N, K)``; the point itself counts.

    Raises:
        ValueError: If the points of features and values differ.

    Example:
        >>> exact_gaussian_filter(torch.zeros(1, 3, 2), torch.ones(1, 3, 1)).flatten().tolist()
        [3.0, 3.0, 3.0]
    """
    if features.ndim != 3 or values.ndim != 3 or features.shape[:2] != values.shape[:2]:
        raise ValueError(
            f"features {tuple(features.shape)} and values {tuple(values.shape)}: expected "
            "(B, N, d) and (B, N, K)"
        )
    features = features.detach().to(values.dtype)
    rows = max(_CHUNK_ELEMENTS // max(features.shape[0] * features.shape[1], 1), 1)
    sums = []
    with torch.autocast(values.device.type, enabled=False):
        for part in torch.split(features, rows, dim=1):
            # without the matrix product, whose cancellation would spoil close pairs
            distance = torch.cdist(part, features, compute_mode="donot_use_mm_for_euclid_dist")
            sums.append(distance.square_().mul_(-0.5).exp_() @ values)
    return torch.cat(sums, dim=1) if sums else values.clone()


def window_pairs(
    size: tuple[int, int], radius: int, dilation: int = 1
) -> Iterator[tuple[Any, Any, int]]:
    """One of each two opposite offsets within a square window, without its centre.

    Args:
        size: Height and width of the maps in pixels.
        radius: Half side of the window in steps of ``dilation``.
        dilation: Pixels between neighbours of the window.

    Yields:
        Indices of the pixels whose partner lies inside the map and of their partners, for maps
        ``(…, H, W)``, and the squared distance of the two in pixels.

    Example:
        >>> for here, there, squared in window_pairs((1, 3), 1):
        ...     print(torch.arange(3)[None][here].tolist(), squared)
        [[0, 1]] 1
    """
    height, width = size
    for rows, columns in product(range(radius + 1), range(-radius, radius + 1)):
        down, right = rows * dilation, columns * dilation
        if (down == 0 and right <= 0) or down >= height or abs(right) >= width:
            continue
        here = (..., slice(0, height - down), slice(max(-right, 0), width - max(right, 0)))
        there = (..., slice(down, height), slice(max(right, 0), width - max(-right, 0)))
        yield here, there, down**2 + right**2


def window_gaussian_filter(
    image: Tensor, values: Tensor, *, sigma_xy: float, sigma_rgb: float, radius: int = 5
) -> Tensor:
    r"""Gaussian sums over a square window only, :math:`\sum_{\|i-j\|_\infty \le r} k_{ij} v_j`.

    The kernel of :func:`pixel_features`, cut off at ``radius``: no approximation of the full sum
    unless ``radius`` is at least three times ``sigma_xy``. Time O(B·K·H·W·radius²), memory
    O(B·K·H·W). Not differentiable.

    Args:
        image: RGB in 0..255, shape ``(B, 3, H, W)``.
        values: K values per pixel, float, shape ``(B, H·W, K)``, row by row.
        sigma_xy: Bandwidth of the position in pixels.
        sigma_rgb: Bandwidth of the colour in grey levels.
        radius: Half side of the window in pixels, at least 0.

    Returns:
        Shape ``(B, H·W, K)``; the pixel itself counts.

    Raises:
        ValueError: If the radius is negative or the pixels of image and values differ.

    Example:
        >>> image, values = torch.zeros(1, 3, 1, 3), torch.ones(1, 3, 1)
        >>> sums = window_gaussian_filter(image, values, sigma_xy=1e9, sigma_rgb=1.0, radius=1)
        >>> sums.flatten().tolist()
        [2.0, 3.0, 2.0]
    """
    height, width = image.shape[-2:]
    if radius < 0 or values.shape[:2] != (len(image), height * width):
        raise ValueError(
            f"radius={radius}, values {tuple(values.shape)} for an image {tuple(image.shape)}: "
            "expected a radius of at least 0 and values (B, H·W, K)"
        )
    colour = image.detach().to(values.dtype) / sigma_rgb
    maps = values.detach().transpose(1, 2).reshape(len(image), -1, height, width)
    sums = maps.clone()
    for here, there, distance in window_pairs((height, width), radius):
        squared = (colour[here] - colour[there]).square_().sum(1, keepdim=True)
        kernel = squared.add_(distance / sigma_xy**2).mul_(-0.5).exp_()
        sums[here].addcmul_(kernel, maps[there])
        sums[there].addcmul_(kernel, maps[here])
    return sums.flatten(2).transpose(1, 2)


def scale_kernel_inputs(
    probs: Tensor, image: Tensor, roi: Tensor | None, *, scale_factor: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Bring the inputs of the kernel losses to the resolution at which pairs are measured.

    Time and memory O(B·C·H·W·scale_factor²).

    Args:
        probs: Class probabilities at any resolution, shape ``(B, C, h, w)``; scaled bilinearly.
        image: RGB, uint8 or float, shape ``(B, 3, H, W)``; nearest neighbour.
        roi: Pixels that take part, shape ``(B, H, W)``, or ``None`` for all; nearest neighbour.
        scale_factor: Of the image, in (0, 1].

    Returns:
        Probabilities, image and ROI of ``floor(H·scale_factor)`` by ``floor(W·scale_factor)``
        pixels (at least 1), in float32 or the type of the probabilities if that is wider.

    Raises:
        ValueError: If shapes disagree or the scale is out of range.

    Example:
        >>> image = torch.zeros(1, 3, 8, 6)
        >>> [x.shape[-2:] for x in scale_kernel_inputs(image, image, None, scale_factor=0.5)]
        [torch.Size([4, 3]), torch.Size([4, 3]), torch.Size([4, 3])]
    """
    if probs.ndim != 4 or image.ndim != 4 or len(probs) != len(image) or image.shape[1] != 3:
        raise ValueError(
            f"probs {tuple(probs.shape)} and image {tuple(image.shape)}: expected (B, C, h, w) and "
            "(B, 3, H, W)"
        )
    if roi is not None and roi.shape != (len(image), *image.shape[2:]):
        raise ValueError(
            f"roi {tuple(roi.shape)} for an image {tuple(image.shape)}: expected (B, H, W) of the "
            "image"
        )
    if not 0 < scale_factor <= 1:
        raise ValueError(f"scale_factor={scale_factor}: expected a factor in (0, 1]")
    probs = full_precision(probs)
    height, width = (max(int(side * scale_factor), 1) for side in image.shape[2:])
    size = (height, width)
    if probs.shape[2:] != size:
        probs = F.interpolate(probs, size=size, mode="bilinear", align_corners=False)
    mask = probs.new_ones(len(image), *image.shape[2:]) if roi is None else roi.to(probs.dtype)
    mask = F.interpolate(mask[:, None], size=size, mode="nearest")[:, 0]
    image = F.interpolate(image.detach().to(probs.dtype), size=size, mode="nearest")
    return probs, image, mask.detach()
