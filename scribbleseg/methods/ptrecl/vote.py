"""Pixels decided by a vote of several foreground and background prototypes per class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F

from scribbleseg.functional.losses import full_precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from scribbleseg.functional.feature_sets import SetPrototypes

__all__ = ["agreement_threshold", "decode_margin", "prototype_margin", "prototype_statistics"]


def prototype_margin(
    features: Tensor,
    foreground: Tensor,
    background: Tensor,
    *,
    num_foreground: Tensor,
    num_background: Tensor,
    class_labels: Tensor | None = None,
    top_m: int | Sequence[int] = (10, 15, 20),
    mode: Literal["per_set", "joint_vote"] = "per_set",
) -> Tensor:
    r"""How much closer each pixel is to a class' foreground than to its background prototypes.

    With the similarities :math:`a_k = u \cdot P^f_{ck}` and :math:`b_k = u \cdot P^b_{ck}` of the
    unit feature u in descending order, ``"per_set"`` is

    .. math:: S_c = \frac1{|M|} \sum_{m \in M} \Big( \operatorname{mean}_{k \le m} a_k
        - \operatorname{mean}_{k \le m} b_k \Big)

    and ``"joint_vote"`` sorts both together and is the mean over M of the foreground's share of the
    m largest, :math:`\sum_{T, f} s^+ / (\sum_T s^+ + 10^{-8})` with :math:`s^+ = \max(s, 0)`
    (after PtReCl, which states the sorting and the vote but not the formula; LPCAM, CVPR 2023, has
    the form of ``"per_set"`` with all prototypes). The map of a class is
    ``prototype_margin(…).relu()``.

    Only the classes of each image are computed: for at most Y of them time O(B·Y·K·N·(D + log K)),
    memory O(B·Y·K·(N + D)) with N pixels; Y is read by the host (a device synchronisation).

    Args:
        features: Shape ``(B, D, h, w)``; 16-bit input is computed in float32.
        foreground: Unit vectors, the first ``num_foreground`` of a class count, ``(C, K, D)``.
        background: Unit vectors of what surrounds the class, shape ``(C, K', D)``.
        num_foreground: Shape ``(C,)``.
        num_background: Shape ``(C,)``.
        class_labels: Classes of each image, multi-hot, shape ``(B, C)``; all by default.
        top_m: M; each at least 1, and cut to the number of prototypes there are.
        mode: Which of the two.

    Returns:
        Shape ``(B, C, h, w)``: in [-2, 2] for ``"per_set"``, [0, 1] for ``"joint_vote"``; 0 for
        absent classes and for those without any prototype.

    Raises:
        ValueError: If shapes disagree, an m is below 1 or the mode is unknown.

    Example:
        >>> f, one = torch.tensor([[[[1.0]], [[0.0]]]]), torch.tensor([1])
        >>> fg, bg = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
        >>> prototype_margin(f, fg, bg, num_foreground=one, num_background=one).item()
        1.0
    """
    if mode not in ("per_set", "joint_vote"):
        raise ValueError(f'mode={mode!r}, expected "per_set" or "joint_vote"')
    ms = (top_m,) if isinstance(top_m, int) else tuple(top_m)
    _check_vote(features, foreground, background, num_foreground, num_background, class_labels, ms)
    batch, _, height, width = features.shape
    classes, k_f = foreground.shape[:2]
    if class_labels is None:
        class_labels = features.new_ones(batch, classes)
    present = class_labels > 0
    most = int(present.sum(1).max()) if batch else 0
    order = torch.argsort(present.to(torch.uint8), dim=1, descending=True, stable=True)[:, :most]
    with torch.autocast(features.device.type, enabled=False):
        u = F.normalize(full_precision(features).flatten(2), dim=1)
        both = torch.cat([foreground, background], 1).to(u)[order]  # (B, Y, K + K', D)
        similarity = torch.bmm(both.flatten(1, 2), u).view(*both.shape[:3], height * width)
        a, b = similarity[:, :, :k_f], similarity[:, :, k_f:]
        n_f, n_b = num_foreground.to(u.device)[order], num_background.to(u.device)[order]
        if mode == "per_set":
            found = _mean_of_largest(a, n_f, ms) - _mean_of_largest(b, n_b, ms)
        else:
            found = _share_of_largest(a, b, n_f, n_b, ms)
    found = found * present.gather(1, order)[..., None]
    index = order[..., None].expand_as(found)
    empty = found.new_zeros(batch, classes, height * width)
    return empty.scatter(1, index, found).view(batch, classes, height, width)


def _check_vote(
    features: Tensor,
    foreground: Tensor,
    background: Tensor,
    num_foreground: Tensor,
    num_background: Tensor,
    class_labels: Tensor | None,
    ms: tuple[int, ...],
) -> None:
    if features.ndim != 4 or foreground.ndim != 3 or background.ndim != 3:
        raise ValueError(
            f"features {tuple(features.shape)}, foreground {tuple(foreground.shape)}, background "
            f"{tuple(background.shape)}: expected (B, D, h, w), (C, K, D) and (C, K', D)"
        )
    classes = len(foreground)
    expected: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
        "foreground": (foreground.shape[::2], (classes, features.shape[1])),
        "background": (background.shape[::2], (classes, features.shape[1])),
        "num_foreground": (num_foreground.shape, (classes,)),
        "num_background": (num_background.shape, (classes,)),
    }
    if class_labels is not None:
        expected["class_labels"] = (class_labels.shape, (len(features), classes))
    for name, (got, want) in expected.items():
        if tuple(got) != want:
            axes = "(C, D)" if name in ("foreground", "background") else "shape"
            raise ValueError(f"{name}: {axes} is {tuple(got)}, expected {want}")
    if not ms or min(ms) < 1:
        raise ValueError(f"top_m={ms}, expected numbers of prototypes >= 1")


def _used(x: Tensor, number: Tensor) -> Tensor:
    """Which of the slots of ``(B, Y, K, N)`` hold a prototype, shape ``(B, Y, K, 1)``."""
    return (torch.arange(x.shape[2], device=x.device) < number[..., None])[..., None]


def _mean_of_largest(x: Tensor, number: Tensor, ms: tuple[int, ...]) -> Tensor:
    used = _used(x, number)
    largest = x.masked_fill(~used, -torch.inf).topk(min(max(ms), x.shape[2]), dim=2).values
    kept = used[:, :, : largest.shape[2]]
    largest = largest.masked_fill(~kept, 0)
    # the mean over M of means over the first m is one weighted sum over the ranks
    stop = torch.stack([number.clamp_max(m) for m in ms], 2)  # (B, Y, |M|)
    rank = torch.arange(largest.shape[2], device=x.device)
    share = (rank < stop[..., None]) / stop.clamp_min(1)[..., None]
    return torch.einsum("bykn,byk->byn", largest, share.mean(2).to(x.dtype))


def _share_of_largest(
    a: Tensor, b: Tensor, n_f: Tensor, n_b: Tensor, ms: tuple[int, ...]
) -> Tensor:
    used = torch.cat([_used(a, n_f), _used(b, n_b)], 2)
    both = torch.cat([a, b], 2).masked_fill(~used, -torch.inf)
    if not both.shape[2]:
        return both.sum(2)
    largest = both.topk(min(max(ms), both.shape[2]), dim=2)
    positive = largest.values.relu()  # empty slots become 0 and count for nothing
    own = positive * (largest.indices < a.shape[2])
    votes, total = own.cumsum(2), positive.cumsum(2) + 1e-8
    ends = [min(m, positive.shape[2]) - 1 for m in ms]
    return torch.stack([votes[:, :, end] / total[:, :, end] for end in ends], 2).mean(2)


@torch.no_grad()
def decode_margin(
    margin: Tensor, class_labels: Tensor, *, threshold: float | Tensor = 0.0
) -> Tensor:
    r"""Hard labels: the best present class where its margin exceeds the threshold, else 0.

    .. math:: \hat y = 1 + \arg\max_{c: y_c = 1} S_c \text{ if its } S_c > \theta_c, \text{ else } 0

    (after PtReCl). Time and memory O(B·C·h·w).

    Args:
        margin: :func:`prototype_margin` of the foreground classes, shape ``(B, C, h, w)``.
        class_labels: Foreground classes of each image, multi-hot, shape ``(B, C)``.
        threshold: θ, one for all or shape ``(C,)``; 0.5 suits ``"joint_vote"``.

    Returns:
        int64, 0 = background, class c of ``margin`` is c + 1, shape ``(B, h, w)``.

    Raises:
        ValueError: If the shapes disagree.

    Example:
        >>> margin = torch.tensor([[[[0.3, -0.1]], [[0.9, 0.9]]]])
        >>> decode_margin(margin, torch.tensor([[1, 0]])).tolist()
        [[[1, 0]]]
    """
    if margin.ndim != 4 or class_labels.shape != margin.shape[:2]:
        raise ValueError(
            f"margin {tuple(margin.shape)} and class_labels {tuple(class_labels.shape)} disagree: "
            "expected (B, C, h, w) and (B, C)"
        )
    present = (class_labels > 0)[..., None, None]
    best = margin.masked_fill(~present, -torch.inf).max(1)
    limit = torch.as_tensor(threshold, dtype=margin.dtype, device=margin.device)
    limit = limit.expand(margin.shape[1])[best.indices]
    return torch.where(best.values > limit, best.indices + 1, 0)


def agreement_threshold(
    margin: Tensor, is_class: Tensor, *, weights: Tensor | None = None, quantiles: int = 97
) -> float:
    r"""Threshold at which margins agree best with labels, which need not be true.

    .. math:: \theta = \arg\max_\theta \mathrm{IoU}(\{S > \theta\}, \{l = c\})

    over quantiles of S (our definition: it takes the place of a search on true masks). Time
    O(n·log n).

    Args:
        margin: S, shape ``(n,)``.
        is_class: Whether the label is the class, bool, shape ``(n,)``.
        weights: Weight per row.
        quantiles: Thresholds tried.

    Returns:
        θ; 0 for ``n = 0``.

    Example:
        >>> margin = torch.tensor([-0.3, 0.1, 0.4, 0.6])
        >>> 0.1 <= agreement_threshold(margin, torch.tensor([0, 0, 1, 1]).bool()) < 0.4
        True
    """
    if not len(margin):
        return 0.0
    weight = torch.ones_like(margin) if weights is None else weights.to(margin)
    order = margin.argsort()
    ordered, share = margin[order].double(), weight[order].double()
    below = share.cumsum(0)
    positive = (share * is_class[order]).cumsum(0)
    levels = torch.linspace(0, 1, quantiles + 2, dtype=torch.float64)[1:-1] * below[-1]
    index = torch.searchsorted(below, levels).clamp_max(len(ordered) - 1)
    # equal margins are above or below a threshold together
    index = torch.searchsorted(ordered, ordered[index], right=True) - 1
    hit = positive[-1] - positive[index]
    union = (below[-1] - below[index]) + positive[index]
    return float(ordered[index[(hit / union.clamp_min(1e-12)).argmax()]])


def prototype_statistics(
    foreground: SetPrototypes, background: SetPrototypes, *, near: float = 0.99
) -> dict[str, float]:
    """Signs of trouble in the prototypes of a class, for reports.

    Args:
        foreground: Of the class.
        background: Of what surrounds it.
        near: Cosine from which two prototypes of a set count as one.

    Returns:
        ``smallest`` and ``largest`` cluster by weight, ``duplicates`` (pairs), and ``overlap``: the
        largest cosine between foreground and background, which label noise brings near 1.
    """
    own = foreground.centroids[: foreground.number]
    around = background.centroids[: background.number]
    sizes = torch.cat([foreground.sizes[: len(own)], background.sizes[: len(around)]])
    pairs = 0
    for unit in (own, around):
        if len(unit):
            pairs += int(((unit @ unit.T).triu(1) > near).sum())
    overlap = float((own @ around.T).max()) if len(own) and len(around) else 0.0
    return {
        "smallest": float(sizes.min()) if len(sizes) else 0.0,
        "largest": float(sizes.max()) if len(sizes) else 0.0,
        "duplicates": float(pairs),
        "overlap": overlap,
    }
