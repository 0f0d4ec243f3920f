"""Losses of CC4S: agreement of two views' transition matrices, and where certainty is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F

from scribbleseg.functional.losses import full_precision, weighted_mean

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ConsistencyTerms",
    "certainty_weight",
    "eigenspace_consistency",
    "eigenspace_consistency_from_logits",
    "feature_consistency_loss",
    "graph_smoothness",
]

Axis = Literal["key", "query"]


class ConsistencyTerms(NamedTuple):
    """How far two transition matrices are apart.

    Attributes:
        kl: Divergence per entry of the matrix, a scalar in nats.
        trace_gap: Difference of the sums of eigenvalues, a scalar.
        trace: Mean sum of eigenvalues of the prediction, a scalar without gradient.
    """

    kl: Tensor
    trace_gap: Tensor
    trace: Tensor

    def loss(self, trace_weight: float = 0.01) -> Tensor:
        """Both as one number: ``kl + trace_weight · trace_gap``."""
        return self.kl + trace_weight * self.trace_gap


def eigenspace_consistency(
    query: Tensor,
    key: Tensor,
    query_view: Tensor,
    key_view: Tensor,
    *,
    axis: Axis = "query",
    chunk_size: int | None = 512,
    across_ranks: bool = False,
) -> ConsistencyTerms:
    r"""Agreement of the random walks of an image and of a view of it, from their factors.

    .. math:: L_{kl} = \frac{1}{B N^2} \sum_{bij} \bar Q_{ij} (\log \bar Q_{ij} - \log Q_{ij}),
        \qquad L_{tr} = \frac1B \sum_b | \operatorname{tr} Q_b - \operatorname{tr} \bar Q_b |

    with Q the softmax of :math:`E_{ij} = \langle q_i, k_j \rangle` over ``axis`` and
    :math:`\bar Q` that of the view, a constant (URSS, ICCV 2021, self-supervision on the neural
    eigenspace; as released the divergence is a mean over all entries). Equal matrices have equal
    eigenvectors, and the trace is the sum of the eigenvalues: none is ever computed.

    A flip or shift of the image permutes or crops rows and columns of E, hence the cells of q and
    k: align those before, see :mod:`scribbleseg.methods.cc4s.views`. Value and gradient are found
    together, ``chunk_size`` columns at a time, and no matrix is kept for the backward pass: time
    O(B·N²·d), memory O(B·N·``chunk_size``). Not twice differentiable.

    Args:
        query: q of the image, float, shape ``(B, d, h, w)``.
        key: k of the image, same shape.
        query_view: q of the view on the cells of the image, same shape.
        key_view: k of the view.
        axis: Cells over which a distribution sums to one: ``"query"`` as released, ``"key"`` is the
            transition matrix that the walk uses.
        chunk_size: Columns of the matrix at a time; ``None`` = all.
        across_ranks: In a distributed run, weigh images of all ranks alike. Every rank must call.

    Returns:
        See :class:`ConsistencyTerms`; float32 for 16-bit input.

    Raises:
        ValueError: If shapes differ, or an option is out of range.

    Example:
        >>> q, k = torch.rand(1, 2, 3, 3), torch.rand(1, 2, 3, 3)
        >>> eigenspace_consistency(q, k, q, k).loss().item()
        0.0
    """
    shapes = {tuple(t.shape) for t in (query, key, query_view, key_view)}
    if len(shapes) != 1 or query.ndim != 4:
        raise ValueError(
            "query, key, query_view and key_view: expected one shape (B, d, h, w), got "
            f"{', '.join(map(str, sorted(shapes)))}; align the view with the cells of the image"
        )
    _check_axis(axis)
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, or None for no chunks, got {chunk_size}")
    # the softmax over keys is the one over queries with the roles of both exchanged
    pairs = ((query, key), (query_view, key_view))
    first, second = pairs if axis == "query" else ((key, query), (key_view, query_view))
    cells = query.shape[2] * query.shape[3]
    flat = [full_precision(t).flatten(2) for t in (*first, *(t.detach() for t in second))]
    kl, trace, target_trace = _ColumnConsistency.apply(*flat, chunk_size or max(cells, 1))
    return _batch_terms(kl, trace, target_trace, cells, across_ranks)


def eigenspace_consistency_from_logits(
    logits: Tensor, target_logits: Tensor, *, axis: Axis = "query"
) -> ConsistencyTerms:
    """The same as :func:`eigenspace_consistency` from whole matrices, for small grids.

    Time and memory O(B·N²), several matrices being kept for the gradient.

    Args:
        logits: E of the image, float, shape ``(B, N, N)``; see
            :func:`~scribbleseg.methods.cc4s.similarity.transition_logits`.
        target_logits: E of the view on the cells of the image, same shape; a constant.
        axis: See :func:`eigenspace_consistency`.

    Returns:
        See :class:`ConsistencyTerms`.

    Raises:
        ValueError: If the shapes differ or ``axis`` is unknown.

    Example:
        >>> logits = torch.rand(2, 4, 4)
        >>> eigenspace_consistency_from_logits(logits, logits).loss().item()
        0.0
    """
    if logits.shape != target_logits.shape or logits.ndim != 3:
        raise ValueError(
            f"logits {tuple(logits.shape)} and target_logits {tuple(target_logits.shape)}: "
            "expected (B, N, N) twice; align the view with the cells of the image"
        )
    _check_axis(axis)
    dim = 1 if axis == "query" else 2
    log_q = full_precision(logits).log_softmax(dim)
    log_target = full_precision(target_logits.detach()).log_softmax(dim)
    kl = (log_target.exp() * (log_target - log_q)).sum((1, 2))
    trace, target = (m.diagonal(dim1=1, dim2=2).exp().sum(1) for m in (log_q, log_target))
    return _batch_terms(kl, trace, target, logits.shape[1], across_ranks=False)


def _check_axis(axis: str) -> None:
    if axis not in ("key", "query"):
        raise ValueError(f'axis must be "key" or "query", got {axis!r}')


def _batch_terms(
    kl: Tensor, trace: Tensor, target: Tensor, cells: int, across_ranks: bool
) -> ConsistencyTerms:
    """Means over the images of sums per image, shape ``(B,)`` each."""
    images = kl.new_full((), len(kl))
    found = [
        weighted_mean(values.sum(), images, across_ranks=across_ranks)
        for values in (kl / max(cells, 1) ** 2, (trace - target).abs(), trace.detach())
    ]
    return ConsistencyTerms(*found)


class _ColumnConsistency(torch.autograd.Function):
    """Per image: summed divergence of the columns, trace, and trace of the target.

    Inputs are flat factors ``(B, d, N)``. Gradients of the divergence and of the trace are made
    with the value, since both follow from the softmax in closed form and are as small as the
    factors; how they are weighed is known in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        query_view: Tensor,
        key_view: Tensor,
        chunk_size: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, _, cells = query.shape
        kl, trace, target_trace = (query.new_zeros(batch) for _ in range(3))
        wanted = any(ctx.needs_input_grad[:2])
        by_kl, by_trace = ([torch.zeros_like(query) for _ in range(2)] for _ in range(2))
        with torch.autocast(query.device.type, enabled=False):
            for start in range(0, cells, chunk_size):
                own = slice(start, min(start + chunk_size, cells))
                keys = key[..., own]
                # rows are columns of the matrix: contiguous in memory
                log_q = (keys.mT @ query).log_softmax(2)
                log_target = (key_view[..., own].mT @ query_view).log_softmax(2)
                diagonal = log_q.diagonal(start, 1, 2).exp()
                target_trace += log_target.diagonal(start, 1, 2).exp().sum(1)
                trace += diagonal.sum(1)
                target = log_target.exp()
                kl += target.mul(log_target.sub_(log_q)).sum((1, 2))
                if not wanted:
                    continue
                probs = log_q.exp_()
                # mean query under each column's distribution
                mean = query @ probs.mT
                by_kl[1][..., own] = mean - query @ target.mT
                by_trace[1][..., own] = diagonal[:, None] * (query[..., own] - mean)
                scaled = diagonal[:, None] * keys
                by_trace[0] -= scaled @ probs
                by_trace[0][..., own] += scaled
                by_kl[0] += keys @ probs.sub_(target)
        if wanted:
            ctx.save_for_backward(*by_kl, *by_trace)
        ctx.mark_non_differentiable(target_trace)
        return kl, trace, target_trace

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        kl_query, kl_key, trace_query, trace_key = ctx.saved_tensors
        by_kl, by_trace = grads[0][:, None, None], grads[1][:, None, None]
        query = by_kl * kl_query + by_trace * trace_query
        key = by_kl * kl_key + by_trace * trace_key
        return query, key, None, None, None


def feature_consistency_loss(
    features: Tensor, target: Tensor, *, across_ranks: bool = False
) -> Tensor:
    r"""Mean squared difference of the features of an image and of a view of it.

    .. math:: L = \frac{1}{B D h w} \sum (f - \bar f)^2

    (URSS, ICCV 2021, ablation of the space in which views must agree.) Time and memory O(B·D·h·w).

    Args:
        features: Of the image, float, shape ``(B, D, h, w)``.
        target: Of the view on the cells of the image, same shape; a constant.
        across_ranks: See :func:`eigenspace_consistency`.

    Returns:
        Scalar in squared units of the features.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> feature_consistency_loss(torch.ones(1, 2, 1, 1), torch.zeros(1, 2, 1, 1)).item()
        1.0
    """
    if features.shape != target.shape:
        raise ValueError(
            f"features {tuple(features.shape)} and target {tuple(target.shape)} differ; align the "
            "view with the cells of the image"
        )
    square = (full_precision(features) - full_precision(target.detach())).square()
    count = square.new_full((), square.numel())
    return weighted_mean(square.sum(), count, across_ranks=across_ranks)


def certainty_weight(regions: Tensor, valid: Tensor | None = None) -> Tensor:
    """1 where a prediction ought to be certain: inside superpixels, not on their boundaries.

    A pixel is on a boundary if its 3×3 neighbourhood holds two different ids, as in
    :func:`~scribbleseg.functional.superpixels.region_boundaries` (the definition of CC4S, TPAMI
    2024, is not public). Time and memory O(B·H·W), no device synchronisation.

    Args:
        regions: Ids, integer, shape ``(B, H, W)``; negative = no region, which counts as an id.
        valid: False on padding, whose weight is 0, shape ``(B, H, W)``; all pixels by default.

    Returns:
        Weights 0 or 1, float32, shape ``(B, H, W)``: a mask for
        :func:`~scribbleseg.functional.losses.entropy_loss`.

    Raises:
        ValueError: If the shape is wrong.

    Example:
        >>> certainty_weight(torch.tensor([[[0, 0, 1, 1, 1]]])).tolist()
        [[[1.0, 0.0, 0.0, 1.0, 1.0]]]
    """
    if regions.ndim != 3 or (valid is not None and valid.shape != regions.shape):
        raise ValueError(
            f"expected regions (B, H, W) and valid of that shape, got {tuple(regions.shape)} and "
            f"{None if valid is None else tuple(valid.shape)}"
        )
    # float32 holds ids below 2^24 exactly; the frame repeats the pixels at the border
    ids = F.pad(regions[:, None].float(), (1, 1, 1, 1), mode="replicate")
    largest, smallest = F.max_pool2d(ids, 3, 1), -F.max_pool2d(-ids, 3, 1)
    weight = (largest == smallest)[:, 0].float()
    return weight if valid is None else weight * (valid > 0)


def graph_smoothness(
    values: Tensor,
    edges: Tensor,
    weights: Tensor,
    image: Tensor,
    *,
    present: Tensor | None = None,
) -> Tensor:
    r"""How much values differ along the edges of a graph, per unit of edge weight.

    .. math:: E = \frac{1}{B} \sum_b \frac{2}{\lVert W_b \rVert_F} \operatorname{tr}(Y_b L_b
        Y_b^\top) = \frac{1}{B} \sum_b \frac{1}{\lVert W_b \rVert_F} \sum_{s,t} w_{st} \lVert y_s -
        y_t \rVert^2

    with L the graph Laplacian, over the edges whose two regions are there (CC4S, TPAMI 2024,
    colour constraint). Neither W nor L is made. Differentiable in the values; time and memory
    O(B·S·D + E·D): 1 ms for 2400 edges and 21 channels on one core. No device synchronisation.

    Args:
        values: Value per region, such as mean class probabilities, float, shape ``(B, D, S)``.
        edges: Pairs of ids within an image, each pair once, int64, shape ``(E, 2)``; those of all
            images behind each other.
        weights: At least 0, shape ``(E,)``.
        image: Position in the batch of the image of each edge, int64, shape ``(E,)``.
        present: Regions that are there, True or a size above 0, shape ``(B, S)``; all by default.
            A crop loses regions, and their edges must not count.

    Returns:
        Scalar in squared units of the values; images without edges add 0, an exact differentiable 0
        if there are none.

    Raises:
        ValueError: If the shapes disagree.

    Example:
        >>> values = torch.tensor([[[1.0, 0.0, 0.0]]])
        >>> edges, weights = torch.tensor([[0, 1], [1, 2]]), torch.tensor([1.0, 1.0])
        >>> graph_smoothness(values, edges, weights, torch.tensor([0, 0])).item()  # 2 · 1 / sqrt(4)
        1.0
    """
    if values.ndim != 3 or edges.ndim != 2 or edges.shape != (len(weights), 2):
        raise ValueError(
            f"expected values (B, D, S), edges (E, 2) and weights (E,), got {tuple(values.shape)}, "
            f"{tuple(edges.shape)} and {tuple(weights.shape)}"
        )
    batch, _, num_regions = values.shape
    values = full_precision(values)
    rows = values.transpose(1, 2).reshape(batch * num_regions, -1)
    first, second = (edges + num_regions * image[:, None]).unbind(1)
    weights = weights.to(values.dtype)
    if present is not None:
        there = (present > 0).flatten()
        weights = weights * (there[first] & there[second])
    energy = weights * (rows[first] - rows[second]).square().sum(1)
    per_image = energy.new_zeros(batch).index_add(0, image, energy)
    squares = energy.new_zeros(batch).index_add(0, image, 2 * weights.square())
    norm = torch.where(squares > 0, squares, 1).sqrt()
    return (2 * per_image / norm).sum() / max(batch, 1)
