"""Predictions of SPML: by its classifier, or by the nearest segments of the training images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F

from scribbleseg.errors import ConfigError
from scribbleseg.functional.cam import normalize_class_scores
from scribbleseg.functional.geometry import resize_labels
from scribbleseg.functional.losses import full_precision
from scribbleseg.methods.spml.clusters import (
    color_features,
    grid_clusters,
    image_kmeans,
    join_local_features,
    location_features,
)
from scribbleseg.methods.spml.embedding import EmbeddingModule
from scribbleseg.methods.spml.retrieval import (
    SegmentMemory,
    dense_random_walk,
    embedding_affinity,
    nearest_segments,
)
from scribbleseg.methods.spml.segments import (
    rows_of_pixels,
    segment_index,
    segment_prototypes,
    weak_labels_on_grid,
)
from scribbleseg.options import check_choice, check_whole

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ImageSegments", "SegmentingModule", "check_grid"]

_LEAST_VOTE = 1e-5  # share of the votes; what a dense CRF would raise smaller ones to as well


class ImageSegments(NamedTuple):
    """Segments of images as retrieval makes them: in-image clusters, split by nothing.

    Attributes:
        prototypes: Mean direction of each segment, shape ``(S, D)``.
        ids: Segment of each cell, -1 = padding, int64, shape ``(B, h, w)``.
    """

    prototypes: Tensor
    ids: Tensor


class SegmentingModule(EmbeddingModule):
    """Splits images into segments of alike embeddings, and predicts with or without them.

    Args:
        num_classes: Number of classes, background included.
        head_resolution: Where predictions apply the classifier: to the embedding as it is, as in
            training, or enlarged to the ``input``, as the released code does.
        local_features: What k-means sees beside the embedding: ``position``, or
            ``position_color``, the position and blurred colours.
        kmeans_iterations: Updates of the in-image k-means, at least 0.
        retrieval: Prototype file of the training images; predictions are then votes of the nearest
            segments instead of the classifier's. Not part of the hyper-parameters.
        retrieval_clusters: Rows and columns of the initial clusters for it.
        top_k: Nearest segments that vote.
        kwargs: See :class:`~scribbleseg.methods.spml.embedding.EmbeddingModule`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        head_resolution: Literal["embedding", "input"] = "embedding",
        local_features: Literal["position", "position_color"] = "position",
        kmeans_iterations: int = 10,
        retrieval: str | None = None,
        retrieval_clusters: tuple[int, int] = (12, 12),
        top_k: int = 20,
        **kwargs: Any,
    ) -> None:
        check_whole(1, top_k=top_k)
        check_whole(0, kmeans_iterations=kmeans_iterations)
        check_choice("head_resolution", head_resolution, ("embedding", "input"))
        check_choice("local_features", local_features, ("position", "position_color"))
        check_grid("retrieval_clusters", retrieval_clusters)
        super().__init__(num_classes, **kwargs)
        self.save_hyperparameters(ignore=["inference"])
        self.retriever: SegmentMemory | None = None
        if retrieval is not None:
            self.use_retrieval(retrieval)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of the classifier, or logarithms of votes, ``(B, C, H, W)``."""
        size, embedding = (int(image.shape[-2]), int(image.shape[-1])), self.embed(image)
        if self.retriever is not None:
            found = self.segments_of(image, embedding)
            shares = self.retriever.votes(
                found.prototypes, self.num_classes, top_k=self.hparams["top_k"]
            )
            return self.segment_map(found.ids, shares, size).clamp_min(_LEAST_VOTE).log()
        if self.hparams["head_resolution"] == "input":
            canvas = self.network.padded_size(*size)
            embedding = F.interpolate(embedding, canvas, mode="bilinear", align_corners=False)
        return self.upsample_logits(self.network.classifier(embedding), size)

    def use_retrieval(self, path: str | None) -> None:
        """Predict by the nearest segments of a prototype file, or (``None``) by the classifier.

        Args:
            path: File that :class:`~scribbleseg.callbacks.PrototypeWriter` made with this model.

        Raises:
            CheckpointError: If the file is missing or does not fit.
        """
        if path is None:
            self.retriever = None
            return
        dim = int(self.hparams["embedding_dim"])
        memory = SegmentMemory.read(Path(path), dim=dim, num_classes=self.num_classes)
        self.retriever = memory.to(self.device)

    def local_features(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """Features of the place, ``(L, h, w)`` or ``(B, L, h, w)``, see ``local_features``."""
        place = location_features(size, device=image.device)
        if self.hparams["local_features"] == "position":
            return place
        rows, columns = self.network.padded_size(int(image.shape[2]), int(image.shape[3]))
        canvas = F.pad(image, (0, columns - image.shape[3], 0, rows - image.shape[2]))
        return torch.cat([place.expand(len(image), -1, -1, -1), color_features(canvas, size)], 1)

    def clusters(self, located: Tensor, valid: Tensor, grid: tuple[int, int]) -> Tensor:
        """In-image k-means from a regular grid, int64, ``(B, h, w)``, -1 = not valid."""
        size = (int(located.shape[2]), int(located.shape[3]))
        return image_kmeans(
            located.detach(),
            grid_clusters(size, grid, device=located.device),
            num_clusters=min(grid[0], size[0]) * min(grid[1], size[1]),
            iterations=self.hparams["kmeans_iterations"],
            valid=valid,
        )

    @torch.no_grad()
    def segments_of(self, image: Tensor, embedding: Tensor | None = None) -> ImageSegments:
        """Segments of images for retrieval: clusters of ``retrieval_clusters``, no labels.

        Args:
            image: Normalised, shape ``(B, K, H, W)``.
            embedding: Its embedding, if it is known.
        """
        embedding = self.embed(image) if embedding is None else embedding
        size = (int(embedding.shape[2]), int(embedding.shape[3]))
        located = join_local_features(embedding, self.local_features(image, size))
        inside = torch.ones_like(image[:, 0], dtype=torch.bool)
        valid = self.on_grid(inside, size, fill=0)
        ids = self.clusters(located, valid, self.hparams["retrieval_clusters"])
        segments = segment_index(ids, torch.zeros_like(ids))
        z = F.normalize(full_precision(embedding), dim=1)
        rows = rows_of_pixels(z, segments)
        prototypes = segment_prototypes(rows, segments.pixel_segment, len(segments.label))
        placed = torch.full_like(ids.flatten(), -1)
        placed[segments.pixel_index] = segments.pixel_segment
        return ImageSegments(prototypes, placed.view_as(ids))

    @torch.no_grad()
    def nearest_label_scores(self, image: Tensor, labels: Tensor) -> Tensor:
        """How much of each segment is nearest to labelled segments of each class (for points).

        Every cell takes the label of the most similar labelled segment of the image, whatever its
        distance; segments average over their cells (SPML on DensePose). Segments are those of
        ``retrieval_clusters``, split by the labels.

        Args:
            image: Normalised, shape ``(1, K, H, W)``.
            labels: Ids, 255 = not labelled, int64, shape ``(1, H, W)``.

        Returns:
            In [0, 1], shape ``(C, H, W)``; all 0 if nothing is labelled.
        """
        embedding, classes = self.embed(image), self.num_classes
        size = (int(embedding.shape[2]), int(embedding.shape[3]))
        located = join_local_features(embedding, self.local_features(image, size))
        valid = self.on_grid(torch.ones_like(labels, dtype=torch.bool), size, fill=0)
        canvas = self.network.on_canvas(labels, fill=self.ignore_index)
        drawn = weak_labels_on_grid(canvas, size, classes, mode="any")
        ids = self.clusters(located, valid, self.hparams["retrieval_clusters"])
        segments = segment_index(ids, drawn)
        own, count = segments.pixel_segment, len(segments.label)
        z = F.normalize(full_precision(embedding), dim=1)
        z = rows_of_pixels(z, segments)
        (known,) = (segments.label < classes).nonzero(as_tuple=True)
        if not len(known):
            return z.new_zeros(classes, *image.shape[2:])
        labelled = segment_prototypes(z, own, count)[known]
        nearest = nearest_segments(z, labelled, top_k=1).row[:, 0]
        one_hot = F.one_hot(segments.label[known][nearest], classes).to(z.dtype)
        shares = z.new_zeros(count, classes).index_add_(0, own, one_hot)
        shares = shares / shares.sum(1, keepdim=True)
        placed = torch.full_like(ids.flatten(), -1)
        placed[segments.pixel_index] = own
        target = (int(image.shape[2]), int(image.shape[3]))
        return self.segment_map(placed.view_as(ids), shares, target)[0]

    @torch.no_grad()
    def propagated_scores(
        self,
        image: Tensor,
        present: Tensor,
        *,
        scores: Tensor | None = None,
        normalize: bool = True,
        steps: int = 64,
        stride: int = 8,
    ) -> Tensor:
        """Scores of the classes of an image after a walk between cells of alike embeddings.

        Scores are those of the classifier under ``inference``, or given. The affinity is the mean
        over the image and its mirror image. Time O(steps·C·n²), memory O(n²) for n cells.

        Args:
            image: Normalised, shape ``(1, K, H, W)``.
            present: Classes of the image, multi-hot, shape ``(C,)``.
            scores: Scores to spread instead, of any size, shape ``(C, h', w')``.
            normalize: Divide those of each class by the largest.
            steps: Steps of the walk.
            stride: Pixels per cell.

        Returns:
            Shape ``(C, H // stride, W // stride)``, 0 for classes that are not in the image.
        """
        size = (int(image.shape[2]), int(image.shape[3]))
        cells = (max(size[0] // stride, 1), max(size[1] // stride, 1))
        if scores is None:
            scores = self.predict_logits(image).float().softmax(1)[0]
        coarse = F.interpolate(scores[None], cells, mode="bilinear", align_corners=False)[0]
        views = self.embed(torch.cat([image, image.flip(-1)]))
        canvas = self.network.padded_size(*size)
        full = F.interpolate(views, canvas, mode="bilinear", align_corners=False)
        full = full[..., : size[0], : size[1]]
        both = torch.stack([full[0], full[1].flip(-1)])
        both = F.interpolate(both, cells, mode="bilinear", align_corners=False)
        start = coarse * (present > 0)[:, None, None]
        if normalize:
            start = normalize_class_scores(coarse, present)
        return dense_random_walk(start, embedding_affinity(both), num_steps=steps)

    def segment_map(self, ids: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
        """Values of segments ``(S, C)`` as a map ``(B, C, H, W)``, without blurring; 0 outside."""
        spread = values[ids.clamp_min(0)] * (ids >= 0)[..., None]
        canvas = self.network.padded_size(*size)
        full = F.interpolate(spread.permute(0, 3, 1, 2), canvas, mode="nearest")
        return full[..., : size[0], : size[1]]

    def on_grid(self, labels: Tensor, size: tuple[int, int], *, fill: int) -> Tensor:
        """Label maps ``(B, H, W)`` at the cells of the embedding: top left pixel of each."""
        return resize_labels(self.network.on_canvas(labels, fill=fill), size)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """See the base class; the prototype file is an option of each prediction."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["hyper_parameters"].pop("retrieval", None)

    def _log_scores(self, stage: str) -> None:
        oracle = self.retriever is not None and self.retriever.oracle
        super()._log_scores(f"oracle/{stage}" if oracle else stage)


def check_grid(name: str, grid: tuple[int, int]) -> None:
    """Refuse what is not a number of rows and one of columns.

    Raises:
        ConfigError: Naming the option.
    """
    if not isinstance(grid, (tuple, list)) or len(grid) != 2:
        raise ConfigError(f"{name}={grid!r}: expected rows and columns, such as [6, 6]")
    check_whole(1, **{f"{name}[{number}]": side for number, side in enumerate(grid)})
