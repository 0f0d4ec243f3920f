"""Leading eigenvectors of the transition matrix of a random walk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["leading_eigenvectors"]

_EXTRA_VECTORS = 8
"""Vectors iterated besides those asked for: the last ones of a subspace converge slowly."""


@torch.no_grad()
def leading_eigenvectors(
    affinity: Tensor,
    num_vectors: int,
    *,
    method: Literal["exact", "subspace"] = "exact",
    num_steps: int = 100,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Largest eigenvalues of a random walk and the soft partitions that belong to them.

    .. math:: T u_k = \lambda_k u_k, \qquad T = \mathrm{diag}(A 1)^{-1} A

    solved as the symmetric problem :math:`D^{-1/2} A D^{-1/2} v = \lambda v`, u = D\ :sup:`-1/2` v
    (Shi and Malik, PAMI 2000, eq. 7). The first vector is constant, the following ones separate
    regions that the walk seldom leaves. No gradient is recorded.

    Time O(B·N³) exactly, or O(B·``num_steps``·N²·k) by subspace iteration, whose error in
    :math:`\lambda_k` shrinks like :math:`((1 + \lambda_{k + 9}) / (1 + \lambda_k))^{2t}` over t
    steps. Memory O(B·N²).

    Args:
        affinity: Symmetric and non-negative, float, shape ``(B, N, N)``.
        num_vectors: k, 1 to N.
        method: ``"exact"`` for up to about 2000 cells, ``"subspace"`` above.
        num_steps: Steps of the subspace iteration.
        generator: Source of its start vectors; by default a fixed seed, so that results repeat.

    Returns:
        Eigenvalues in descending order, in [-1, 1], shape ``(B, k)``, and vectors of length one,
        shape ``(B, N, k)``, whose entry of largest magnitude is positive. A cell without affinity
        is 0 in every vector with non-zero eigenvalue.

    Raises:
        ValueError: If the shape is wrong, ``num_vectors`` is out of range or ``method`` unknown.

    Example:
        >>> blocks = torch.block_diag(torch.ones(2, 2), torch.ones(3, 3))[None]
        >>> leading_eigenvectors(blocks, 3)[0].round(decimals=3).abs().tolist()
        [[1.0, 1.0, 0.0]]
    """
    if affinity.ndim != 3 or affinity.shape[1] != affinity.shape[2]:
        raise ValueError(
            f"affinity must have shape (B, N, N), got {tuple(affinity.shape)}; one matrix is "
            "affinity[None]"
        )
    size = affinity.shape[1]
    if not 1 <= num_vectors <= size:
        raise ValueError(f"num_vectors must be 1 to the {size} cells, got {num_vectors}")
    if method not in ("exact", "subspace"):
        raise ValueError(f'method must be "exact" or "subspace", got {method!r}')
    with torch.autocast(affinity.device.type, enabled=False):
        matrix = full_precision(affinity)
        degree = matrix.sum(dim=2)
        scale = torch.where(degree > 0, degree.rsqrt(), 0)
        matrix = scale[:, :, None] * matrix * scale[:, None, :]
        if method == "exact":
            values, vectors = torch.linalg.eigh(matrix)
        else:
            values, vectors = _subspace(matrix, num_vectors, num_steps, generator)
        values = values.flip(1)[:, :num_vectors]
        vectors = scale[:, :, None] * vectors.flip(2)[:, :, :num_vectors]
        vectors = torch.nn.functional.normalize(vectors, dim=1)
        largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
        return values, vectors * torch.where(largest < 0, -1, 1)


def _subspace(
    matrix: Tensor, num_vectors: int, num_steps: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Ritz pairs in ascending order after orthogonal iteration with (M + 1) / 2."""
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    width = min(num_vectors + _EXTRA_VECTORS, matrix.shape[1])
    shape = (matrix.shape[0], matrix.shape[1], width)
    start = torch.randn(shape, generator=generator, dtype=matrix.dtype, device=generator.device)
    basis = torch.linalg.qr(start.to(matrix.device))[0]
    for _ in range(num_steps):
        # the shift makes the largest eigenvalues also those of largest magnitude
        basis = torch.linalg.qr((matrix @ basis + basis) / 2)[0]
    values, rotation = torch.linalg.eigh(basis.mT @ matrix @ basis)
    return values, basis @ rotation
