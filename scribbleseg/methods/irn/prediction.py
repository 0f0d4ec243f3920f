"""What boundaries are good for once they are learned: prediction, and scores of pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torchmetrics import MeanMetric

from scribbleseg.errors import ConfigError
from scribbleseg.functional.geometry import downsample_label, label_canvas
from scribbleseg.functional.losses import full_precision
from scribbleseg.functional.random_walk import boundary_to_affinity
from scribbleseg.methods.base import ScribbleSegModule
from scribbleseg.methods.irn.centroids import centroid_clusters, instance_labels, refine_centroids
from scribbleseg.methods.irn.heads import boundary_of_flips
from scribbleseg.methods.irn.losses import affinity_targets

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.methods.irn.heads import DisplacementHead
    from scribbleseg.types import SegBatch

__all__ = ["CELL", "BoundaryModule"]

CELL = 4
"""Pixels per cell of boundaries and displacements."""

_SCORED_RADIUS = 5  # of the pairs that validation looks at, which are those of the walk


class BoundaryModule(ScribbleSegModule):
    """Base of methods whose network gives the logit of a boundary at every cell of 4 pixels.

    Args:
        num_classes: Number of classes, background included.
        kwargs: See :class:`~scribbleseg.methods.base.ScribbleSegModule`.
    """

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(num_classes, **kwargs)
        self.displacement: DisplacementHead | None = None
        # means of the affinity of pairs that the masks join, and that they separate
        self.joined, self.separated = MeanMetric(), MeanMetric()

    def boundaries(self, image: Tensor) -> Tensor:
        """Probability that a class boundary runs through a cell of 4 pixels.

        Args:
            image: Normalised, float, shape ``(B, K, H, W)``.

        Returns:
            In (0, 1), float32, shape ``(B, ⌈H/4⌉, ⌈W/4⌉)``.

        Raises:
            ConfigError: If ``inference`` asks for scales, windows or a base size.
        """
        config = self.inference
        if config.scales != (1.0,) or config.window is not None or config.base_size is not None:
            raise ConfigError(
                f"inference: scales={config.scales}, window={config.window}, base_size="
                f"{config.base_size} with IRNModule: boundaries are those of the whole image at "
                "one scale; leave [1.0], null and null, flip is free"
            )
        cells = (-(-image.shape[2] // CELL), -(-image.shape[3] // CELL))
        views = [image, image.flip(-1)] if config.flip else [image]
        logits = [self.forward_features(view).logits[:, 0] for view in views]
        if config.flip:
            return boundary_of_flips(torch.stack(logits), cells)
        return full_precision(logits[0])[:, : cells[0], : cells[1]].sigmoid()

    def displacements(self, image: Tensor) -> Tensor:
        """Displacement of each cell to the centroid of its object, in cells, rows first.

        Args:
            image: Normalised, float, shape ``(B, K, H, W)``.

        Returns:
            Float32, shape ``(B, 2, ⌈H/4⌉, ⌈W/4⌉)``.

        Raises:
            ConfigError: If the module has no such head.
        """
        if self.displacement is None:
            raise ConfigError("displacement=False: this module has not learned any; train with it")
        cells = (-(-image.shape[2] // CELL), -(-image.shape[3] // CELL))
        found = self.displacement(self.network.encode(image))
        return full_precision(found)[..., : cells[0], : cells[1]]

    def instance_labels(self, image: Tensor, labels: Tensor) -> Tensor:
        """Numbers of the objects in a label map, by where their cells are displaced to.

        Args:
            image: Normalised, one image, float, shape ``(1, K, H, W)``.
            labels: Class ids of its pixels, int64, shape ``(H, W)``.

        Returns:
            From 1, 0 = background, undecided or dropped, int64, shape ``(H, W)``.
        """
        field = self.displacements(image)[0]
        cells = downsample_label(labels[None], (field.shape[1], field.shape[2]))[0]
        if self.data_info.background is not None:
            cells = cells.masked_fill(cells == self.data_info.background, self.ignore_index)
        cells = torch.where(cells == self.ignore_index, 0, cells + 1)
        numbers = instance_labels(cells, centroid_clusters(field, refine_centroids(field)))
        size = (labels.shape[0], labels.shape[1])
        return F.interpolate(numbers[None, None].double(), size, mode="nearest-exact")[0, 0].long()

    def predict_logits(self, image: Tensor) -> Tensor:
        """Log probabilities ``(B, C, H, W)``: no boundary for the first class, the rest alike.

        There are no classes without seeds, so these are no segmentation: see
        :meth:`predict_labels`.
        """
        size = (image.shape[-2], image.shape[-1])
        found = self._enlarged(self.boundaries(image), size)
        rest = found[:, None].expand(-1, self.num_classes - 1, -1, -1) / (self.num_classes - 1)
        return torch.cat([1 - found[:, None], rest], dim=1).clamp_min(1e-12).log()

    def _enlarged(self, boundary: Tensor, size: tuple[int, int]) -> Tensor:
        full = (boundary.shape[1] * CELL, boundary.shape[2] * CELL)
        grown = F.interpolate(boundary[:, None], full, mode="bilinear", align_corners=False)[:, 0]
        return grown[:, : size[0], : size[1]]

    def predict_labels(self, batch: SegBatch) -> list[Tensor]:
        """255 on boundaries, 0 elsewhere, at original size, uint8, shape ``(H0, W0)`` each."""
        labels = []
        for image, size, target in zip(
            batch["image"], batch["input_size"].tolist(), batch["orig_size"].tolist(), strict=True
        ):
            view = image[None, :, : size[0], : size[1]]
            found = self._enlarged(self.boundaries(view), (size[0], size[1]))
            if size != target:
                found = F.interpolate(found[:, None], target, mode="bilinear")[:, 0]
            edges = found[0] > self.hparams["boundary_threshold"]
            labels.append((edges * self.ignore_index).to(torch.uint8))
        return labels

    def validation_step(self, batch: SegBatch, batch_idx: int) -> dict[str, Any]:
        """Count the affinity of pairs that the masks, or the scribbles, join and separate."""
        key = "mask" if "mask" in batch else "scribble" if "scribble" in batch else None
        if key is not None:
            truth = cast("Tensor", batch[key])  # type: ignore[literal-required]
            repeated = batch["duplicate"].tolist() if "duplicate" in batch else [False] * len(truth)
            for index, duplicate in enumerate(repeated):
                self._count_pairs(batch, index, truth[index], counts=not duplicate)
        return {"prediction": self.predict_labels(batch)}

    def _count_pairs(self, batch: SegBatch, index: int, truth: Tensor, *, counts: bool) -> None:
        height, width = batch["input_size"][index].tolist()
        rows, columns = batch["orig_size"][index].tolist()
        found = self.boundaries(batch["image"][index : index + 1, :, :height, :width])
        cells = (found.shape[1], found.shape[2])
        canvas = label_canvas(truth[None, :rows, :columns], (height, width), cells, stride=CELL)
        labels = downsample_label(canvas, cells)
        affinity = boundary_to_affinity(found, radius=_SCORED_RADIUS)
        background, foreground, different = affinity_targets(labels, radius=_SCORED_RADIUS)
        for metric, pairs in ((self.joined, background | foreground), (self.separated, different)):
            metric.update(affinity, pairs.to(affinity.dtype) * counts)

    def on_validation_epoch_start(self) -> None:
        """Start counting afresh."""
        super().on_validation_epoch_start()
        self.joined.reset()
        self.separated.reset()

    def _log_scores(self, stage: str) -> None:
        if self.joined.update_called:
            joined, separated = self.joined.compute(), self.separated.compute()
            self.log(f"{stage}/affinity_joined", joined)
            self.log(f"{stage}/affinity_separated", separated)
            self.log(f"{stage}/pair_score", (joined + 1 - separated) / 2, prog_bar=True)
