"""Spherical k-means over large feature sets, in memory (faiss) or streamed (one pass a step)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch.utils.data import get_worker_info

from scribbleseg.errors import MissingExtraError
from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LloydSums", "lloyd_accumulate", "spherical_kmeans"]

_EPS = 1e-12
_UNIT = 1e-6  # what float32 rounding leaves of a length of 1
_GPU_SCRATCH = 256 << 20  # bytes; faiss would take up to 1.5 GB from a training run


class LloydSums(NamedTuple):
    """What one pass over a part of the data adds to a k-means step; parts are summed.

    Attributes:
        sums: Weighted sum of the unit features of each cluster, shape ``(k, D)``.
        counts: Sum of the weights of each cluster, shape ``(k,)``.
        objective: Weighted sum of the similarity to the nearest centroid, scalar.
    """

    sums: Tensor
    counts: Tensor
    objective: Tensor


@torch.no_grad()
def lloyd_accumulate(
    x: Tensor, centroids: Tensor, *, weights: Tensor | None = None, chunk_size: int = 65536
) -> LloydSums:
    r"""Sums of one spherical k-means step over a part of the data.

    .. math:: a_i = \arg\max_k u_i \cdot C_k, \quad
        s_k = \sum_{a_i = k} w_i u_i, \quad n_k = \sum_{a_i = k} w_i, \quad u_i = x_i / \|x_i\|

    (Dhillon and Modha, Machine Learning 2001, spherical k-means). Add the results of all parts and
    ranks, then the next centroids are ``F.normalize(sums, dim=1)``; a cluster with count 0 keeps
    its centroid. So a step over any split of the data is the step over all of it, and nothing needs
    to be stored. Time O(n·k·D), memory O(chunk·(k + D) + k·D); no synchronisation.

    Args:
        x: Features, need not be normalised, shape ``(n, D)``; 16-bit input is computed in float32.
        centroids: Unit vectors, shape ``(k, D)``.
        weights: Weight per row, ≥ 0, shape ``(n,)``; all one by default.
        chunk_size: Rows handled at a time.

    Returns:
        Sums, counts and objective; zeros for ``n = 0``.

    Raises:
        ValueError: If the shapes disagree.

    Example:
        >>> x = torch.tensor([[2.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
        >>> lloyd_accumulate(x, torch.eye(2)).counts.tolist()
        [2.0, 1.0]
    """
    if x.ndim != 2 or centroids.ndim != 2 or x.shape[1] != centroids.shape[1]:
        raise ValueError(
            f"x {tuple(x.shape)} and centroids {tuple(centroids.shape)} disagree: expected (n, D) "
            "and (k, D); flatten feature maps to one row per pixel first"
        )
    centroids = full_precision(centroids)
    sums, counts = torch.zeros_like(centroids), centroids.new_zeros(len(centroids))
    objective = centroids.new_zeros(())
    with torch.autocast(x.device.type, enabled=False):
        for start in range(0, len(x), chunk_size):
            part = slice(start, start + chunk_size)
            unit = F.normalize(full_precision(x[part]).to(centroids.dtype), dim=1)
            best, nearest = (unit @ centroids.T).max(1)
            # a one-hot product, not index_add_, which is not deterministic on CUDA
            share = F.one_hot(nearest, len(centroids)).to(unit.dtype)
            if weights is not None:
                w = weights[part].to(unit)
                share, best = share * w[:, None], best * w
            sums += share.T @ unit
            counts += share.sum(0)
            objective += best.sum()
    return LloydSums(sums, counts, objective)


@torch.no_grad()
def spherical_kmeans(
    x: Tensor,
    k: int,
    *,
    iters: int = 25,
    seed: int = 0,
    weights: Tensor | None = None,
    init: Tensor | None = None,
    redo: int = 1,
) -> tuple[Tensor, Tensor]:
    r"""K-means of directions: maximises the summed cosine similarity to the nearest centroid.

    .. math:: a_i = \arg\max_k u_i \cdot C_k, \quad
        C_k = \frac{\sum_{a_i = k} w_i u_i}{\|\sum_{a_i = k} w_i u_i\|}, \quad u_i = x_i / \|x_i\|

    (Dhillon and Modha, Machine Learning 2001, spherical k-means), run by faiss on the processor, or
    with its search on a GPU if faiss sees one. All rows are used, never a sample of them. Time
    O(iters·redo·n·k·D); memory one normalised float32 copy, O(n·D), or none if the rows are float32
    of unit length on the host. No gradient; the input is copied to the host.

    The result depends on ``seed`` alone, up to rounding that varies with the number of threads.
    faiss deadlocks with several threads in a forked process; in DataLoader workers it gets one.

    Args:
        x: Features, need not be normalised, shape ``(n, D)``.
        k: Number of clusters, ≥ 1.
        iters: Assign-and-update steps, ≥ 1; fewer are run once the objective stops changing.
        seed: Chooses the initial rows, where ``init`` is not given, and repairs empty clusters.
        weights: Weight per row, ≥ 0 and not all zero, shape ``(n,)``; all one by default.
        init: Initial centroids, need not be normalised, shape ``(k, D)``.
        redo: Number of runs from different initial rows; the best objective wins.

    Returns:
        Centroids, float32 of unit length, shape ``(min(k, n), D)``, and the index of the nearest
        one for each row, int64, shape ``(n,)``; both on the device of ``x``. With ``n <= k`` every
        row is its own centroid. A cluster of zero vectors has a zero centroid. Both are empty for
        ``n = 0``.

    Raises:
        MissingExtraError: If faiss is not installed.
        ValueError: If a shape or option is out of range, or a value is not finite.

    Example:
        >>> x = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0], [0.1, 3.0]])
        >>> centroids, nearest = spherical_kmeans(x, 2, init=x[[0, 2]])
        >>> nearest.tolist()
        [0, 0, 1, 1]
    """
    _check_options(x, k, iters=iters, redo=redo, weights=weights, init=init)
    unit = _unit_rows(x)
    if len(x) <= k:
        return unit.to(x.device, copy=True), torch.arange(len(x), device=x.device)
    faiss = _import_faiss()
    params = faiss.ClusteringParameters()
    params.niter, params.nredo, params.seed, params.spherical = iters, redo, seed, True
    # faiss keeps only 256 rows per cluster, and warns below 39, unless told otherwise
    params.min_points_per_centroid, params.max_points_per_centroid = 1, len(x)
    params.check_input_data_for_NaNs = False  # _unit_rows did, with a message that helps
    clustering = faiss.Clustering(unit.shape[1], k, params)
    if init is not None:
        faiss.copy_array_to_vector(_unit_rows(init, "init").numpy().ravel(), clustering.centroids)
    index = _flat_index(faiss, x)
    rows = unit.numpy()
    if weights is not None:
        # faiss draws the cluster to split with probability (weight - 1)/(n - k): with every weight
        # sum below 1 it would search for ever; the centroids do not depend on the scale
        scaled = weights.detach().to("cpu", torch.float64)
        weights = (scaled / scaled.mean()).float().contiguous()
    clustering.train(rows, index, None if weights is None else weights.numpy())
    found = faiss.vector_float_to_array(clustering.centroids).reshape(k, -1)
    centroids = F.normalize(torch.from_numpy(found), dim=1)
    index.reset()
    index.add(centroids.numpy())
    nearest = torch.from_numpy(index.search(rows, 1)[1].ravel())
    return centroids.to(x.device), nearest.to(x.device)


def _check_options(
    x: Tensor, k: int, *, iters: int, redo: int, weights: Tensor | None, init: Tensor | None
) -> None:
    if x.ndim != 2:
        raise ValueError(
            f"x has shape {tuple(x.shape)}, expected (n, D); flatten feature maps to one row per "
            "pixel first"
        )
    if min(k, iters, redo) < 1:
        raise ValueError(f"k={k}, iters={iters}, redo={redo}: expected at least 1")
    if init is not None and init.shape != (k, x.shape[1]):
        raise ValueError(
            f"init has shape {tuple(init.shape)}, expected ({k}, {x.shape[1]}): one row per "
            "cluster with as many channels as x"
        )
    if weights is None or not len(x):
        return
    if weights.shape != x.shape[:1]:
        raise ValueError(
            f"weights has shape {tuple(weights.shape)}, expected ({len(x)},): one per row of x"
        )
    low, high = torch.aminmax(weights.float())
    # written so that NaN, which compares as false, fails
    if not (low >= 0 and 0 < high < float("inf")):
        raise ValueError(
            f"weights range from {low.item():g} to {high.item():g}, expected finite numbers >= 0 "
            "that are not all zero; drop rows you do not want"
        )


def _unit_rows(x: Tensor, name: str = "x") -> Tensor:
    """Normalised float32 rows on the host; ``x`` itself, not a copy, if it is that already."""
    source = x.detach().to("cpu")
    rows = full_precision(source)
    length = torch.linalg.vector_norm(rows, dim=1)
    # the length of a row with a NaN or an infinity is not finite: no second pass over the data
    bad = ~torch.isfinite(length)
    if bool(bad.any()):
        raise ValueError(
            f"{name} holds NaN or infinite values in {int(bad.sum())} of {len(x)} rows (first: row "
            f"{int(bad.nonzero()[0, 0])}); features from a 16-bit forward pass may have "
            "overflowed: extract them in float32 or drop these rows"
        )
    if source.dtype == torch.float32 and bool(((length - 1).abs() <= _UNIT).all()):
        return source.contiguous()
    own = None if rows is source else rows
    return torch.div(rows, length.clamp_min(_EPS)[:, None], out=own).float().contiguous()


def _import_faiss() -> Any:
    try:
        # not at module level: importing the library must not need faiss; and never
        # faiss.contrib.torch_utils, which replaces faiss' functions for the whole process
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss", "all", "Spherical k-means") from error
    if get_worker_info() is not None:
        faiss.omp_set_num_threads(1)
    return faiss


def _flat_index(faiss: Any, x: Tensor) -> Any:
    """Exact inner-product index, on the GPU of this process if faiss was built for one."""
    dim = x.shape[1]
    if not hasattr(faiss, "get_num_gpus") or faiss.get_num_gpus() == 0:
        return faiss.IndexFlatIP(dim)
    config = faiss.GpuIndexFlatConfig()
    if x.is_cuda:
        config.device = x.get_device()
    elif torch.cuda.is_available():
        config.device = torch.cuda.current_device()  # each rank its own
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(_GPU_SCRATCH)
    return faiss.GpuIndexFlatIP(resources, dim, config)
