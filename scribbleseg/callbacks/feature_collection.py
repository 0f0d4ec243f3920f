"""From label files to prototypes: choose cells, run the network on their images, cluster."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from scribbleseg.callbacks.training_image import TrainingImage
from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.functional.distributed import get_rank, get_world_size
from scribbleseg.functional.feature_plan import FeatureFile, FeaturePlan, FeaturePlanner
from scribbleseg.functional.feature_sets import SetPrototypes, StreamingLloyd, cluster_set
from scribbleseg.functional.geometry import (
    cell_purity,
    downsample_label,
    foreground_background_cells,
    label_canvas,
)
from scribbleseg.functional.image_files import write_arrays, write_text
from scribbleseg.functional.preprocess import resized_shape

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lightning.pytorch import Trainer
    from torch import Tensor

    from scribbleseg.callbacks.collection_options import CollectionOptions
    from scribbleseg.data.readers import PseudoLabelReader
    from scribbleseg.types import Record

__all__ = ["FeatureCollector"]

logger = logging.getLogger(__name__)


class FeatureCollector:
    """Builds the prototypes of a module from the masks of the training images.

    Everything is kept in a folder while it lasts: the chosen cells, their features, the clusters
    of each set. A run that was interrupted goes on at the image, or set, that it was at; with other
    masks, weights or options it begins anew. Ranks share the folder.

    Args:
        trainer: Its data module must be a :class:`~scribbleseg.data.ScribbleDataModule`.
        module: With ``cell_features``, ``cell_grid``, ``modelled_classes`` and ``prototypes``.
        folder: Where to work.
        masks: Reads the mask of each image.
        agree: Second masks; only cells on which both agree are used.
        options: How to sample and cluster.
        facts: What decides the result besides, as JSON can hold it.
    """

    def __init__(
        self,
        trainer: Trainer,
        module: Any,
        folder: Path,
        masks: PseudoLabelReader,
        agree: PseudoLabelReader | None,
        options: CollectionOptions,
        facts: dict[str, Any],
    ) -> None:
        self.trainer, self.module, self.folder = trainer, module, folder
        self.masks, self.agree, self.options = masks, agree, options
        self.data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.records: list[Record] = self.data.records("train")
        # numbers by the sorted list of ids, whatever the order of the records
        order = np.argsort(np.argsort([record.image_id for record in self.records]))
        self.uids = [int(number) for number in order]
        self.facts = json.loads(json.dumps({**facts, **asdict(options)}))

    def build(self) -> dict[str, Any]:
        """Fill ``module.prototypes``; statistics of each class by name, for reports."""
        path, digest = self.folder / "plan.npz", self.folder / "plan.json"
        known = digest.is_file() and json.loads(digest.read_text()) == self.facts
        if not self.trainer.strategy.broadcast(known and path.is_file()):
            if self.trainer.is_global_zero:
                self._forget()
            plan = self._choose()
            if self.trainer.is_global_zero:
                plan.save(path)
                write_text(digest, json.dumps(self.facts))
        self.trainer.strategy.barrier()
        plan = FeaturePlan.load(path)
        dim = int(self.module.prototypes.foreground.shape[2])
        if self.trainer.is_global_zero:
            FeatureFile(self.folder, plan, dim=dim, images=len(self.records))  # makes the files
        self.trainer.strategy.barrier()
        file = FeatureFile(self.folder, plan, dim=dim, images=len(self.records))
        self._collect(file)
        self.trainer.strategy.barrier()
        report = self._cluster(file)
        self.trainer.strategy.barrier()
        return report

    def finish(self) -> None:
        """Remove what is no longer needed once the prototypes are saved."""
        if self.trainer.is_global_zero and not self.options.keep_features:
            self._forget()

    def _forget(self) -> None:
        if self.folder.is_dir():
            for name in ("plan.json", "plan.npz", "features.bin", "done.bin"):
                (self.folder / name).unlink(missing_ok=True)
            for cluster in self.folder.glob("set_*.npz"):
                cluster.unlink()
            (self.folder / "passes.npz").unlink(missing_ok=True)
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    # ----------------------------------------------------------------- labels

    def cells_of(self, index: int) -> tuple[Tensor, Tensor | None]:
        """Sets of the cells of an image, bool, ``(C, 2, h, w)``, and which of them are drawn.

        Args:
            index: Position of its record.
        """
        record, source = self.records[index], self.data.source
        sample = TrainingImage.of_record(record, self.data)
        rows, columns = sample.size
        size = resized_shape(rows, columns, self.data.resize)
        grid, stride = self.module.cell_grid(size), self.module.cell_stride
        count = source.num_classes

        def on_canvas(labels: Tensor) -> Tensor:
            return label_canvas(labels[None], size, grid, stride=stride)

        blank = np.full((rows, columns), IGNORE_INDEX, np.uint8)
        canvas = on_canvas(torch.from_numpy(self.masks.read(record, blank)))
        cells = downsample_label(canvas, grid)
        if self.options.purity is not None:
            shares = cell_purity(canvas, cells, num_classes=count)
            cells = cells.masked_fill(shares < self.options.purity, IGNORE_INDEX)
        if self.agree is not None:
            other = on_canvas(torch.from_numpy(self.agree.read(record, blank)))
            cells = cells.masked_fill(cells != downsample_label(other, grid), IGNORE_INDEX)
        drawn = None
        if self.options.scribbles:
            strokes = downsample_label(
                on_canvas(sample.scribble), grid, mode="majority", num_classes=count
            )
            drawn = strokes[0] != IGNORE_INDEX
            cells = torch.where(drawn, strokes, cells)
        tags = self.module.modelled_classes(sample.tags[None])
        pair = foreground_background_cells(cells, tags, scope=self.options.background_scope)
        return torch.stack(pair, dim=2)[0], drawn

    def _choose(self) -> FeaturePlan:
        """A pass over the label files; no network runs."""
        options, classes = self.options, self.data.source.num_classes
        planner = FeaturePlanner(
            2 * classes, capacity=options.capacity, per_image=options.per_image, seed=options.seed
        )
        own = range(get_rank(), len(self.records), get_world_size())
        for index in tqdm(own, desc="cells", disable=self._silent(), leave=False):
            sets, drawn = self.cells_of(index)
            planner.add(sets, uid=self.uids[index], drawn=drawn, drawn_weight=options.drawn_weight)
        planner.synchronize()
        return planner.plan()

    def _silent(self) -> bool | None:
        return None if self.trainer.is_global_zero else True

    # --------------------------------------------------------------- features

    def _images(self, title: str) -> Iterator[tuple[int, Tensor]]:
        """Position and pixels of the images of this rank."""
        loader = self.data.unaugmented_dataloader()
        for batch in tqdm(loader, desc=title, disable=self._silent(), leave=False):
            for position, index in enumerate(batch["index"].tolist()):
                if not batch["duplicate"][position]:
                    height, width = batch["input_size"][position].tolist()
                    yield index, batch["image"][position, None, :, :height, :width]

    def _collect(self, file: FeatureFile) -> None:
        for index, image in self._images("features"):
            uid = self.uids[index]
            if not file.is_done(uid):
                with self.trainer.precision_plugin.forward_context():
                    found = self.module.cell_features(image.to(self.module.device))
                file.write(uid, found[0])

    # -------------------------------------------------------------- prototypes

    def _cluster(self, file: FeatureFile) -> dict[str, Any]:
        options, bank = self.options, self.module.prototypes
        classes, k = bank.foreground.shape[:2]
        for index in range(get_rank(), 2 * classes, get_world_size()):
            path = self.folder / f"set_{index}.npz"
            if not path.is_file():
                x, weights = file.get(index)
                shards = options.shards if options.clustering == "sharded" else 1
                found = cluster_set(
                    x,
                    k,
                    weights=weights,
                    iters=options.iters,
                    redo=options.redo,
                    seed=options.seed,
                    shards=shards,
                )
                write_arrays(
                    path,
                    centroids=found.centroids.numpy(),
                    count=np.array(found.number),
                    sizes=found.sizes.numpy(),
                )
        self.trainer.strategy.barrier()
        sets = [self._read_set(index) for index in range(2 * classes)]
        if options.clustering == "streaming":
            sets = self._stream(sets)
        report = {}
        for c in range(classes):
            facts: dict[str, Any] = bank.set_class(c, sets[2 * c], sets[2 * c + 1])
            samples = [self._sample(file, 2 * c + side) for side in (0, 1)]
            facts["threshold"] = bank.fit_threshold(c, *samples, **self.module.vote_options())
            offered = file.plan.offered[2 * c : 2 * c + 2].tolist()
            facts["foreground_cells"], facts["background_cells"] = offered
            report[self.data.source.class_names[c]] = facts
        return report

    def _read_set(self, index: int) -> SetPrototypes:
        with np.load(self.folder / f"set_{index}.npz", allow_pickle=False) as archive:
            return SetPrototypes(
                torch.from_numpy(archive["centroids"]),
                int(archive["count"]),
                torch.from_numpy(archive["sizes"]),
            )

    def _sample(self, file: FeatureFile, index: int) -> tuple[Tensor, Tensor]:
        """Cells of a set, each standing for as many as it was drawn from."""
        x, _ = file.get(index)
        each = float(file.plan.offered[index]) / max(len(x), 1)
        return x, torch.full((len(x),), each)

    def _stream(self, sets: list[SetPrototypes]) -> list[SetPrototypes]:
        """Passes over all cells of all images; the state is kept after each."""
        path = self.folder / "passes.npz"
        lloyd = StreamingLloyd(
            torch.stack([found.centroids for found in sets]),
            torch.tensor([found.number for found in sets]),
        )
        sizes, done = torch.stack([found.sizes for found in sets]), 0
        if path.is_file():
            with np.load(path, allow_pickle=False) as archive:
                lloyd.centroids = torch.from_numpy(archive["centroids"])
                sizes, done = torch.from_numpy(archive["sizes"]), int(archive["done"])
        for number in range(done, self.options.passes):
            for index, image in self._images(f"pass {number + 1}"):
                with self.trainer.precision_plugin.forward_context():
                    found = self.module.cell_features(image.to(self.module.device))[0]
                flat, (masks, drawn) = found.flatten(1).T.cpu(), self.cells_of(index)
                weight = torch.ones(len(flat))
                if drawn is not None:
                    weight = torch.where(drawn.flatten(), self.options.drawn_weight, weight)
                cells = masks.flatten(0, 1).flatten(1)
                for own in cells.any(dim=1).nonzero()[:, 0].tolist():
                    lloyd.add(own, flat[cells[own]], weights=weight[cells[own]])
            sizes = lloyd.step()
            if self.trainer.is_global_zero:
                write_arrays(
                    path,
                    centroids=lloyd.centroids.numpy(),
                    sizes=sizes.numpy(),
                    done=np.array(number + 1),
                )
        return [
            found._replace(centroids=centroids, sizes=size)
            for found, centroids, size in zip(sets, lloyd.centroids, sizes, strict=True)
        ]
