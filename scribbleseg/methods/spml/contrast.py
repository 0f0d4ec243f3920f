"""The training signal of SPML's embedding: pixels against segments, by four relations."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F

from scribbleseg.functional.losses import full_precision
from scribbleseg.functional.regions import region_sizes
from scribbleseg.methods.spml.clusters import join_local_features
from scribbleseg.methods.spml.losses import segsort_loss
from scribbleseg.methods.spml.prediction import SegmentingModule, check_grid
from scribbleseg.methods.spml.relations import (
    affinity_label_sets,
    annotation_sets,
    check_relations,
    image_similarity_loss,
    image_spans,
    overlap_sets,
)
from scribbleseg.methods.spml.retrieval import retrieval_accuracy
from scribbleseg.methods.spml.segments import (
    SegmentedBatch,
    gather_segments,
    rows_of_pixels,
    segment_index,
    segment_prototypes,
    weak_labels_on_grid,
)
from scribbleseg.nn.segment_queue import SegmentQueue
from scribbleseg.options import check_choice, check_flag, check_number, check_whole

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.methods.spml.segments import WeakBatch

__all__ = ["ContrastiveModule"]

logger = logging.getLogger(__name__)

_FEWEST_UNLIKE = 0.02  # share of the pairs; below it co-occurrence says next to nothing


class ContrastiveModule(SegmentingModule):
    """Pixels are drawn to segments that are like them, and away from others.

    Args:
        num_classes: Number of classes, background included.
        label_downsample: Label of a cell: that of its top left pixel (``nearest``, as published),
            or ``any`` label in it.
        clusters: Rows and columns of the initial clusters.
        annotation_weight: Weight of the semantic annotation C.
        annotation_concentration: Its κ, above 0.
        cooccurrence_weight: Weight of the semantic co-occurrence O: classes of the images.
        cooccurrence_concentration: Its κ.
        similarity_weight: Weight of the low-level similarity I.
        similarity_concentration: Its κ.
        affinity_weight: Weight of the feature affinity A, published for DensePose only.
        affinity_concentration: Its κ.
        similarity_features: Features that I compares: ``local``, with the position, or the plain
            ``embedding``.
        tagless: Images without any foreground tag: ``skip`` them in O, or treat them as the
            ``reference`` does, as unlike all images, themselves included.
        affinity_k: Nearest labelled segments whose labels A assigns.
        affinity_threshold: Least cosine for that.
        affinity_scale: Factor on the embedding beside the local features for that.
        unknown: Segments without such labels: of ``all`` classes, as published, or ``skip`` them.
        min_segment_pixels: Smaller segments are nobody's positive or negative; 0 = all are.
        memory_batches: Earlier batches whose segments are compared with, at least 0.
        memory_capacity: Most segments that are kept of each.
        positives: What a pixel is drawn to: the ``others`` that are alike, as published, or its
            ``own`` segment alone, as in SegSort.
        remote_grad: Whether a loss changes the prototypes of other ranks, as published.
        chunk_size: Pixels whose similarities are in memory at a time; ``null`` = all.
        accuracy_every: Steps between scores ``train/retrieval_acc`` of the segments; 0 = never.
        kwargs: See :class:`~scribbleseg.methods.spml.prediction.SegmentingModule`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        label_downsample: Literal["nearest", "any"] = "nearest",
        clusters: tuple[int, int] = (6, 6),
        annotation_weight: float = 1.0,
        annotation_concentration: float = 6.0,
        cooccurrence_weight: float = 0.5,
        cooccurrence_concentration: float = 12.0,
        similarity_weight: float = 0.1,
        similarity_concentration: float = 16.0,
        affinity_weight: float = 0.0,
        affinity_concentration: float = 12.0,
        similarity_features: Literal["local", "embedding"] = "local",
        tagless: Literal["skip", "reference"] = "skip",
        affinity_k: int = 1,
        affinity_threshold: float = 0.95,
        affinity_scale: float = 0.1,
        unknown: Literal["all", "skip"] = "all",
        min_segment_pixels: int = 0,
        memory_batches: int = 2,
        memory_capacity: int = 16384,
        positives: Literal["others", "own"] = "others",
        remote_grad: bool = True,
        chunk_size: int | None = 4096,
        accuracy_every: int = 0,
        **kwargs: Any,
    ) -> None:
        check_choice("label_downsample", label_downsample, ("nearest", "any"))
        check_choice("similarity_features", similarity_features, ("local", "embedding"))
        check_choice("tagless", tagless, ("skip", "reference"))
        check_choice("unknown", unknown, ("all", "skip"))
        check_choice("positives", positives, ("others", "own"))
        check_flag(remote_grad=remote_grad)
        check_grid("clusters", clusters)
        check_whole(1, affinity_k=affinity_k, memory_capacity=memory_capacity)
        check_whole(0, min_segment_pixels=min_segment_pixels, memory_batches=memory_batches)
        check_whole(0, accuracy_every=accuracy_every)
        if chunk_size is not None:
            check_whole(1, chunk_size=chunk_size)
        check_number(affinity_threshold=affinity_threshold, affinity_scale=affinity_scale)
        check_relations(
            annotation=(annotation_weight, annotation_concentration),
            cooccurrence=(cooccurrence_weight, cooccurrence_concentration),
            similarity=(similarity_weight, similarity_concentration),
            affinity=(affinity_weight, affinity_concentration),
        )
        super().__init__(num_classes, **kwargs)
        self.save_hyperparameters(ignore=["inference"])
        self.queue: SegmentQueue | None = None
        if self.hparams["stage"] == "embedding":
            dim = int(self.hparams["embedding_dim"])
            self.queue = SegmentQueue(memory_batches, memory_capacity, dim, num_classes)
        # share of the pairs that co-occurrence takes as unlike: sum over the steps, and the steps
        self.register_buffer("unlike", torch.zeros(2), persistent=False)
        self.unlike: Tensor
        self._warned = False

    # --------------------------------------------------------------- segments

    def segment_batch(self, batch: WeakBatch, embedding: Tensor) -> SegmentedBatch:
        """Segments of a batch by k-means, weak labels and over-segmentation.

        Reads the number of segments on the host (a device synchronisation), as their number
        depends on the data.

        Args:
            batch: What is known of its pixels and images.
            embedding: Shape ``(B, D, h, w)``.
        """
        hparams, size = self.hparams, (int(embedding.shape[2]), int(embedding.shape[3]))
        labels = weak_labels_on_grid(
            self.network.on_canvas(batch.labels, fill=self.ignore_index),
            size,
            self.num_classes,
            mode=hparams["label_downsample"],
            ignore_index=self.ignore_index,
        )
        regions = self.on_grid(batch.regions, size, fill=-1).long() + 1  # 0 = of no region
        valid = self.on_grid(batch.valid, size, fill=0)
        local = self.local_features(batch.image, size)
        located = join_local_features(embedding, local)
        clusters = self.clusters(located, valid, hparams["clusters"])
        segments = segment_index(clusters, labels, regions)
        own, count = segments.pixel_segment, len(segments.label)
        unit = F.normalize(full_precision(embedding), dim=1)
        z = rows_of_pixels(unit, segments)
        tags = batch.tags > 0
        background = self.data_info.background
        if background is not None:
            tags = tags & (torch.arange(self.num_classes, device=tags.device) != background)
        assigned = torch.zeros(count, self.num_classes, dtype=torch.bool, device=z.device)
        if hparams["affinity_weight"]:
            with torch.no_grad():
                scaled = join_local_features(embedding, local, scale=hparams["affinity_scale"])
                assigned = affinity_label_sets(
                    segment_prototypes(rows_of_pixels(scaled, segments), own, count),
                    segments.label,
                    segments.image,
                    self.num_classes,
                    k=hparams["affinity_k"],
                    threshold=hparams["affinity_threshold"],
                )
            if hparams["unknown"] == "all":
                assigned = assigned | ~assigned.any(1, keepdim=True)
        sizes = region_sizes(own[None], max(count, 1))[0, :count]
        usable = sizes >= hparams["min_segment_pixels"]
        rows, offset, images = gather_segments(
            segment_prototypes(z, own, count),
            segments,
            tags,
            assigned,
            usable=usable,
            with_grad=hparams["remote_grad"],
        )
        return SegmentedBatch(segments, z, located, rows, offset, tags, images, assigned, usable)

    # -------------------------------------------------------------- relations

    def relation_terms(
        self, batch: WeakBatch, embedding: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """Loss terms of the relations whose weight is not 0: name to (weight, scalar).

        Afterwards the segments are in the queue, for the next steps.

        Args:
            batch: What is known of its pixels and images.
            embedding: Shape ``(B, D, h, w)``.
        """
        found, losses = self.segment_batch(batch, embedding), {}
        queue = self.queue
        if queue is None:
            raise RuntimeError("the stage 'classifier' has no relations")
        weights = {
            name: float(self.hparams[f"{name}_weight"])
            for name in ("annotation", "cooccurrence", "similarity", "affinity")
        }
        together = found._replace(rows=found.rows.joined(queue.rows()))
        if weights["annotation"]:
            losses["annotation"] = self._annotation(together)
        if weights["cooccurrence"]:
            losses["cooccurrence"] = self._cooccurrence(together)
        if weights["similarity"]:
            losses["similarity"] = self._similarity(found, len(embedding))
        if weights["affinity"]:
            losses["affinity"] = self._affinity(together)
        if not (weights["annotation"] or weights["cooccurrence"] or weights["affinity"]):
            # the gradient passes between the ranks, so every loss must have a part in it
            losses["similarity"] = losses["similarity"] + found.rows.prototypes.sum() * 0
        self._log_segments(found, together, len(embedding))
        queue.append(found.rows, found.num_images)
        return {name: (weights[name], loss) for name, loss in losses.items()}

    @property
    def _mode(self) -> Literal["segsort+", "segsort"]:
        return "segsort" if self.hparams["positives"] == "own" else "segsort+"

    def _contrast(self, name: str, found: SegmentedBatch, sets: Any, **options: Any) -> Tensor:
        return segsort_loss(
            found.z,
            found.rows.prototypes,
            found.own,
            *sets,
            concentration=self.hparams[f"{name}_concentration"],
            mode=self._mode,
            chunk_size=self.hparams["chunk_size"],
            across_ranks=True,
            **options,
        )

    def _annotation(self, found: SegmentedBatch) -> Tensor:
        label = found.segments.label[found.segments.pixel_segment]
        (drawn,) = (label < self.num_classes).nonzero(as_tuple=True)
        sets = annotation_sets(found.rows.labels, self.num_classes)
        return self._contrast("annotation", found.only(drawn), sets, group=label[drawn])

    def _cooccurrence(self, found: SegmentedBatch) -> Tensor:
        image = found.segments.image[found.segments.pixel_segment]
        skip = self.hparams["tagless"] == "skip"
        sets = overlap_sets(found.tags, found.rows.tags, empty="skip" if skip else "negative")
        weight = found.tags.any(1)[image] if skip else None
        share = sets.negative.float().mean().nan_to_num()
        self.unlike += torch.stack([share, torch.ones_like(share)])
        self.log("train/cooccurrence_unlike", share)
        return self._contrast("cooccurrence", found, sets, group=image, weight=weight)

    def _similarity(self, found: SegmentedBatch, images: int) -> Tensor:
        segments, features = found.segments, found.z
        if self.hparams["similarity_features"] == "local":
            features = rows_of_pixels(found.located, segments)
        return image_similarity_loss(
            features,
            segment_prototypes(features, segments.pixel_segment, len(segments.label)),
            segments,
            image_spans(segments, images),
            usable=found.usable,
            concentration=self.hparams["similarity_concentration"],
            mode=self._mode,
            chunk_size=self.hparams["chunk_size"],
            across_ranks=True,
        )

    def _affinity(self, found: SegmentedBatch) -> Tensor:
        own, mine = found.segments.pixel_segment, found.assigned
        sets = overlap_sets(mine, found.rows.assigned)
        weight = mine.any(1)[own] if self.hparams["unknown"] == "skip" else None
        return self._contrast("affinity", found, sets, group=own, weight=weight)

    def _log_segments(self, found: SegmentedBatch, together: SegmentedBatch, images: int) -> None:
        self.log("train/segments", float(len(found.segments.label)) / images, batch_size=images)
        self.log("train/memory", float(len(together.rows.labels) - len(found.rows.labels)))
        every = self.hparams["accuracy_every"]
        if every and self.global_step % every == 0:
            rows = together.rows
            accuracy = retrieval_accuracy(
                found.rows.prototypes.detach(),
                found.rows.labels,
                rows.prototypes.detach(),
                rows.labels,
                num_classes=self.num_classes,
            )
            self.log("train/retrieval_acc", accuracy)

    def on_train_epoch_end(self) -> None:
        """Say once if co-occurrence has next to nothing to tell apart."""
        total, steps = self.unlike.tolist()
        self.unlike.zero_()
        if self._warned or self.global_rank != 0 or not steps or total / steps >= _FEWEST_UNLIKE:
            return
        self._warned = True
        logger.warning(
            "%.1f %% of the pairs of image and segment have no class in common: almost every class "
            "is in every image, so co-occurrence tells nothing apart; set cooccurrence_weight: 0, "
            "and perhaps affinity_weight: 0.5 instead",
            100 * total / steps,
        )
