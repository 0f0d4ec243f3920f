"""Over-segmentation of images by spherical k-means of their pixel embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "color_features",
    "grid_clusters",
    "image_kmeans",
    "join_local_features",
    "location_features",
]

_EPS = 1e-12
_SIMILARITIES = 1 << 24  # entries of the similarity matrix held at a time, 64 MB


def grid_clusters(
    size: tuple[int, int], num_clusters: tuple[int, int], *, device: torch.device | None = None
) -> Tensor:
    r"""Initial clusters: a regular grid of blocks.

    .. math:: r_y = \operatorname{round}\Big(\frac{y (K_y - 1)}{h - 1}\Big), \quad
        a_{yx} = r_y + K_y\, r_x

    with halves rounded to even, and ids made consecutive where a grid finer than the image skips
    some (SPML, ICLR 2021). Blocks at the border are half as wide. Time and memory O(h·w).

    Args:
        size: Feature size ``(h, w)``.
        num_clusters: Rows and columns of the grid ``(K_y, K_x)``.
        device: Where to put it.

    Returns:
        int64, 0 to ``min(K_y, h)·min(K_x, w) - 1``, shape ``(h, w)``.

    Raises:
        ValueError: If a number is below 1.

    Example:
        >>> grid_clusters((2, 4), (2, 2)).tolist()
        [[0, 0, 2, 2], [1, 1, 3, 3]]
    """
    if min(*size, *num_clusters) < 1:
        raise ValueError(f"size {size} and num_clusters {num_clusters}: expected numbers >= 1")
    # on the host: the result depends on sizes only, and unique() of a GPU tensor would wait for it
    rows, columns = (
        torch.unique(_rounded_ramp(n, k), return_inverse=True)[1]
        for n, k in zip(size, num_clusters, strict=True)
    )
    grid: Tensor = rows[:, None] + (int(rows.max()) + 1) * columns
    return grid.to(device)


def _rounded_ramp(length: int, stop: int) -> Tensor:
    """``stop`` numbers from 0 spread over ``length`` places; in integers, as floats miss halves."""
    divisor = max(2 * (length - 1), 1)
    # the nearest number is the floor of x + ½
    doubled = 2 * (stop - 1) * torch.arange(length) + (length - 1)
    nearest, odd = doubled // divisor, doubled // divisor % 2
    return nearest - odd * (doubled % divisor == 0)


def location_features(
    size: tuple[int, int], *, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> Tensor:
    r"""Position of each pixel, :math:`(y/(h-1) - ½,\; x/(w-1) - ½)` (SPML, ICLR 2021). O(h·w).

    Args:
        size: Feature size ``(h, w)``.
        device: Where to put it.
        dtype: Floating-point type, the default one if ``None``.

    Returns:
        In [-½, ½], y before x, shape ``(2, h, w)``; -½ along a side of one pixel.

    Example:
        >>> location_features((3, 1))[:, :, 0].tolist()
        [[-0.5, 0.0, 0.5], [-0.5, -0.5, -0.5]]
    """
    y, x = (torch.linspace(-0.5, 0.5, n, device=device, dtype=dtype) for n in size)
    return torch.stack(torch.meshgrid(y, x, indexing="ij"))


@torch.no_grad()
def color_features(image: Tensor, size: tuple[int, int], *, kernel_size: int = 5) -> Tensor:
    r"""Ring-blurred colour at feature resolution, per image and channel centred and scaled.

    .. math:: g = \operatorname{resize}(I * \kappa),\; \kappa_{dy, dx} \propto
        \sqrt{dy^2 + dx^2}, \quad c = \frac{g - \bar g}{\max |g - \bar g|}

    The kernel, zero at its centre, is the one the SPML code (ICLR 2021) uses. No padding; bilinear
    resize with half-pixel centres. Time O(B·H·W·kernel²), memory O(B·H·W).

    Args:
        image: Normalised RGB, shape ``(B, 3, H, W)``, at least as large as the kernel.
        size: Feature size ``(h, w)``.
        kernel_size: Odd side of the kernel in pixels.

    Returns:
        In [-1, 1], shape ``(B, 3, h, w)``; 0 for a channel without contrast.

    Raises:
        ValueError: If the image is no batch of maps or smaller than the kernel, or the kernel even.

    Example:
        >>> color_features(torch.rand(1, 3, 16, 16), (4, 4)).abs().amax().item()
        1.0
    """
    if image.ndim != 4 or min(image.shape[2:]) < kernel_size or kernel_size % 2 == 0:
        raise ValueError(
            f"image has shape {tuple(image.shape)} and kernel_size={kernel_size}: expected "
            "(B, 3, H, W) with H and W at least the kernel's, and an odd kernel"
        )
    with torch.autocast(image.device.type, enabled=False):
        x = full_precision(image)
        offset = torch.arange(kernel_size, device=x.device, dtype=x.dtype) - kernel_size // 2
        ring = torch.hypot(offset[:, None], offset)
        ring = (ring / ring.sum()).expand(x.shape[1], 1, -1, -1)
        g = F.conv2d(x, ring, groups=x.shape[1])
        g = F.interpolate(g, size, mode="bilinear", align_corners=False)
        g = g - g.mean((2, 3), keepdim=True)
        peak = g.abs().amax((2, 3), keepdim=True)
        # what rounding leaves of a constant channel is no contrast
        flat = peak <= 1e-6 * x.abs().amax((2, 3), keepdim=True)
        return torch.where(flat, 0, g / peak.masked_fill(flat, 1))


def join_local_features(embedding: Tensor, local: Tensor, *, scale: float = 1.0) -> Tensor:
    r"""Unit embedding and local features (position, colour) as one unit vector per pixel.

    .. math:: \tilde z = \frac{[\lambda z;\, \ell]}{\|[\lambda z;\, \ell]\|}, \quad
        z = \frac{f}{\|f\|}

    (SPML, ICLR 2021). Differentiable. Time and memory O(B·(D + L)·h·w).

    Args:
        embedding: f, need not be normalised, shape ``(B, D, h, w)``; 16 bits become float32.
        local: Shape ``(L, h, w)`` or ``(B, L, h, w)``.
        scale: λ.

    Returns:
        Shape ``(B, D + L, h, w)``.

    Raises:
        ValueError: If the sizes disagree.

    Example:
        >>> join_local_features(torch.ones(1, 1, 1, 1), -torch.ones(1, 1, 1)).flatten().tolist()
        [0.7071067690849304, -0.7071067690849304]
    """
    if embedding.ndim != 4 or local.ndim not in (3, 4) or local.shape[-2:] != embedding.shape[-2:]:
        raise ValueError(
            f"embedding {tuple(embedding.shape)} and local {tuple(local.shape)} disagree: expected "
            "(B, D, h, w) and (L, h, w) or (B, L, h, w)"
        )
    with torch.autocast(embedding.device.type, enabled=False):
        f = full_precision(embedding)
        length = torch.linalg.vector_norm(f, dim=1, keepdim=True)
        divisor = length.clamp_min(_EPS)
        local = local.to(f).expand(len(f), *local.shape[-3:])
        # both normalisations in one pass over f: the length of z is known
        squared = (scale * length / divisor) ** 2 + (local**2).sum(1, keepdim=True)
        total = squared.clamp_min(_EPS**2).sqrt()
        return torch.cat([f * (scale / (divisor * total)), local / total], 1)


@torch.no_grad()
def image_kmeans(
    features: Tensor,
    init: Tensor,
    *,
    num_clusters: int | None = None,
    iterations: int = 10,
    valid: Tensor | None = None,
) -> Tensor:
    r"""Spherical k-means of the pixels of each image, all images at once.

    .. math:: p_k = \frac{\sum_{a_i = k} z_i}{\|\sum_{a_i = k} z_i\|}, \quad
        a_i = \arg\max_k z_i \cdot p_k

    repeated, ending with the assignment (SPML, ICLR 2021; SegSort, ICCV 2019). An empty cluster
    stays empty. No gradient. Time O(iterations·B·N·K·D); memory O(B·N·D) plus blocks of pixels
    whose similarities take at most 64 MB. No synchronisation if ``num_clusters`` is given.

    Args:
        features: Unit vectors, for instance of :func:`join_local_features`, ``(B, C, h, w)``.
        init: Initial clusters from 0, such as :func:`grid_clusters`, ``(h, w)`` or ``(B, h, w)``.
        num_clusters: K, above every id of ``init``; by default the largest + 1, read by the host.
        iterations: Number of updates, ≥ 0.
        valid: Pixels that take part, bool, shape ``(B, h, w)``; all by default.

    Returns:
        Cluster of each pixel, int64, shape ``(B, h, w)``; -1 where not valid.

    Raises:
        ValueError: If the shapes disagree or a number is out of range.

    Example:
        >>> image_kmeans(torch.tensor([[[[1.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]]]),
        ...     torch.tensor([[0, 1, 1]])).tolist()
        [[[0, 0, 1]]]
    """
    batch, _, height, width = features.shape if features.ndim == 4 else (0, 0, -1, -1)
    shape = (batch, height, width)
    if init.shape not in (shape, shape[1:]) or (valid is not None and valid.shape != shape):
        raise ValueError(
            f"features {tuple(features.shape)} and init {tuple(init.shape)}"
            f"{'' if valid is None else f' and valid {tuple(valid.shape)}'} disagree: expected "
            "(B, C, h, w), (h, w) or (B, h, w), and (B, h, w)"
        )
    if iterations < 0 or (num_clusters is not None and num_clusters < 1):
        raise ValueError(
            f"iterations={iterations}, num_clusters={num_clusters}: expected >= 0 and >= 1"
        )
    k = int(init.max()) + 1 if num_clusters is None else num_clusters
    labels = init.to(features.device).long().expand(shape).flatten(1)
    if valid is not None:
        labels = labels.masked_fill(~valid.to(features.device).flatten(1), k)  # k: takes no part
    with torch.autocast(features.device.type, enabled=False):
        z = full_precision(features).flatten(2).transpose(1, 2).contiguous()
        z = z.masked_fill((labels == k)[..., None], 0)  # 0 times a NaN of the padding is a NaN
        rows = max(1, _SIMILARITIES // max(1, batch * k))
        parts = torch.split(z, rows, dim=1)
        for _ in range(iterations):
            sums = z.new_zeros(batch, k, z.shape[2])
            members = z.new_zeros(batch, k)
            for part, own in zip(parts, torch.split(labels, rows, dim=1), strict=True):
                counted = (own < k)[:, None].to(z.dtype)
                one_hot = z.new_zeros(batch, k, own.shape[1])
                one_hot.scatter_(1, own.clamp_max(k - 1)[:, None], counted)
                # a product, because index_add_ is not deterministic on CUDA
                sums = torch.baddbmm(sums, one_hot, part)
                members = members + one_hot.sum(2)
            centers = F.normalize(sums, dim=2).transpose(1, 2)
            empty = torch.where(members > 0, 0.0, -torch.inf)[:, None]
            nearest = [(torch.bmm(part, centers) + empty).max(2).indices for part in parts]
            labels = torch.where(labels == k, k, torch.cat(nearest, 1))
    return labels.masked_fill(labels == k, -1).view(shape)
