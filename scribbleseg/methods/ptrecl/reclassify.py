"""Pseudo-masks of any method, cleaned by prototypes of any features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.functional.feature_plan import FeaturePlanner
from scribbleseg.functional.feature_sets import cluster_set
from scribbleseg.functional.geometry import (
    BackgroundScope,
    downsample_label,
    foreground_background_cells,
)
from scribbleseg.methods.ptrecl.prototypes import PrototypePairs, Vote, label_by_margin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

__all__ = ["reclassify_masks"]


class _Sets(NamedTuple):
    """Features of one image and the sets that its cells belong to."""

    features: Tensor
    sets: Tensor
    drawn: Tensor | None


def reclassify_masks(
    masks: Sequence[Tensor],
    features: Sequence[Tensor] | Callable[[int], Tensor],
    class_labels: Tensor,
    *,
    scribbles: Sequence[Tensor] | None = None,
    num_prototypes: int = 20,
    top_m: int | Sequence[int] = (10, 15, 20),
    vote: Vote = "per_set",
    threshold: float | Literal["auto"] = "auto",
    background: int | None = 0,
    background_scope: BackgroundScope = "present",
    model_background: bool = False,
    capacity: int = 20_000,
    per_image: int | None = 128,
    drawn_weight: float = 5.0,
    iters: int = 25,
    redo: int = 3,
    seed: int = 0,
    ignore_index: int = IGNORE_INDEX,
) -> Iterator[Tensor]:
    """Clean the pseudo-masks of any method by prototypes of any dense features.

    Noise is a minority inside each cluster of features, so a vote of many prototypes overrules it.
    Two passes over the images; memory about ``6·C·capacity·D`` numbers of 16 bits at its peak,
    whatever their number.
    On the command line the callback :class:`~scribbleseg.callbacks.ReclassificationWriter` does
    the same with the features of a trained module.

    Args:
        masks: Ids of each image, ``ignore_index`` = undecided, integer, shape ``(H, W)``.
        features: Dense features of each image, shape ``(D, h, w)``; or a function of its number,
            which is called twice for each.
        class_labels: Classes of each image, multi-hot by class id, shape ``(N, C)``.
        scribbles: Drawn ids of each image, which always belong to the sets and stay as they are.
        num_prototypes: K.
        top_m: M.
        vote: ``per_set`` or ``joint_vote``.
        threshold: θ of all classes, or ``auto`` = where margins agree best with the masks.
        background: Id of the background, or ``None``.
        background_scope: Images whose cells are background of a class.
        model_background: The background has prototypes of its own.
        capacity: Cells per set.
        per_image: Cells that one image may add to a set.
        drawn_weight: Weight of drawn cells in the clustering.
        iters: Steps of k-means.
        redo: Runs of k-means.
        seed: Of the sample and of k-means.
        ignore_index: Id of undecided pixels.

    Yields:
        New ids of each image in turn, int64, shape ``(H, W)``.

    Example:
        >>> features = torch.eye(2)[:, [0, 0, 0, 1, 1, 1]].unsqueeze(1)  # (2, 1, 6)
        >>> noisy, tags = torch.tensor([[1, 1, 0, 0, 0, 0]]), torch.tensor([[1, 1]])
        >>> next(reclassify_masks([noisy], [features], tags, num_prototypes=1, top_m=1)).tolist()
        [[1, 1, 1, 0, 0, 0]]
    """
    found_of = features if callable(features) else features.__getitem__

    def read(index: int) -> Tensor:
        return found_of(index).cpu()  # sets, clusters and votes are on the host

    masks = [mask.cpu() for mask in masks]
    scribbles = None if scribbles is None else [drawn.cpu() for drawn in scribbles]
    modelled = (class_labels > 0).cpu()
    if background is not None:
        modelled[:, background] = model_background
    classes = class_labels.shape[1]
    vote_options: dict[str, Any] = {"top_m": top_m, "vote": vote}

    def sets_of(index: int) -> _Sets:
        found = read(index)
        size = (found.shape[1], found.shape[2])
        cells, drawn = downsample_label(masks[index][None], size, ignore_index=ignore_index), None
        if scribbles is not None:
            strokes = downsample_label(
                scribbles[index][None], size, mode="majority", num_classes=classes
            )
            drawn = strokes[0] != ignore_index
            cells = torch.where(drawn, strokes, cells)
        pair = foreground_background_cells(
            cells, modelled[index][None], scope=background_scope, ignore_index=ignore_index
        )
        return _Sets(found, torch.stack(pair, dim=2)[0], drawn)

    planner = FeaturePlanner(2 * classes, capacity=capacity, per_image=per_image, seed=seed)
    for index in range(len(masks)):
        own = sets_of(index)
        planner.add(
            own.sets,
            uid=index,
            drawn=own.drawn,
            drawn_weight=drawn_weight,
            features=F.normalize(own.features.float(), dim=0),
        )
    bank = PrototypePairs(classes, k=num_prototypes, dim=planner.get(0)[0].shape[1])
    for c in range(classes):
        kept = [planner.get(2 * c), planner.get(2 * c + 1)]
        found = [
            cluster_set(x, num_prototypes, weights=w, iters=iters, redo=redo, seed=seed)
            for x, w in kept
        ]
        bank.set_class(c, *found)
        if threshold == "auto":
            # each stands for as many cells as it was drawn from
            samples = [
                (x, torch.full((len(x),), float(number) / max(len(x), 1)))
                for (x, _), number in zip(kept, planner.offered[2 * c : 2 * c + 2], strict=True)
            ]
            bank.fit_threshold(c, *samples, **vote_options)
    limits = bank.threshold if threshold == "auto" else torch.full((classes,), float(threshold))
    for index, mask in enumerate(masks):
        present = modelled[index][None].float()
        margin = bank.margin(read(index)[None].float(), present, **vote_options)
        size = (mask.shape[0], mask.shape[1])
        full = F.interpolate(margin, size, mode="bilinear", align_corners=False)
        labels = label_by_margin(
            full,
            present * (bank.num_foreground > 0),
            limits,
            background=background,
            model_background=model_background,
            ignore_index=ignore_index,
        )[0]
        if scribbles is not None:
            labels = torch.where(scribbles[index] == ignore_index, labels, scribbles[index])
        yield labels
