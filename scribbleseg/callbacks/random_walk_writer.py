"""Pseudo-labels of the training images: seeds that walk up to learned boundaries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
import torch.nn.functional as F

from scribbleseg.callbacks.affinity_label_writer import SeedSource
from scribbleseg.callbacks.training_image_writer import TrainingImageWriter
from scribbleseg.data.readers import SeedReader
from scribbleseg.errors import ConfigError
from scribbleseg.functional.geometry import downsample_label, label_canvas
from scribbleseg.functional.images import write_label
from scribbleseg.functional.manifest import parent_facts
from scribbleseg.functional.pseudo_labels import clamp_seeds, synthesize_mask
from scribbleseg.functional.random_walk import sparse_random_walk
from scribbleseg.options import check_choice, check_flag, check_number, check_whole

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from scribbleseg.callbacks.training_image import TrainingImage

__all__ = ["RandomWalkWriter"]

_CELL = 4  # pixels per cell of the boundaries


class RandomWalkWriter(TrainingImageWriter):
    """Writes a pseudo-label of every training image: its seeds after a random walk.

    The walk does not cross the boundaries that the method (``IRNModule``) has learned: see
    :func:`~scribbleseg.functional.random_walk.sparse_random_walk`. Scribbles are absorbing in it.
    At the end of training and of ``scribbleseg predict``. No mask is read; the classes of an image
    are those of its training scribble, or those that the source knows. ``pseudo_labels/<id>.png``
    (255 = undecided) and a ``manifest.json``.

    Args:
        folder: Where to; ``null`` = ``pseudo_labels`` in the folder of the run.
        seed_dir: Folder of seeds, of ours or anybody's; not needed for ``scribble``.
        seed_source: ``cam`` = the seeds alone, ``cam+scribble`` = drawn cells are held at their
            class during the walk and drawn pixels keep it, ``scribble`` = that without seeds.
        radius: Neighbourhood of a step in cells of 4 pixels, exclusive.
        beta: Exponent of the affinities; larger stops at weaker boundaries.
        num_steps: Steps of the walk.
        threshold: Score of the background in (0, 1). Without a background class: below it a pixel
            is undecided.
        instances: Also write numbers of objects, ``instances/<id>.png``, where the method has
            learned displacements.
    """

    suffixes = (".png", ".png")
    needs = ("boundaries", "a method that learns boundaries, such as IRNModule")

    def __init__(
        self,
        folder: str | None = None,
        *,
        seed_dir: str | None = None,
        seed_source: SeedSource = "cam+scribble",
        radius: int = 5,
        beta: float = 10.0,
        num_steps: int = 256,
        threshold: float = 0.25,
        instances: bool = False,
    ) -> None:
        check_choice("seed_source", seed_source, get_args(SeedSource))
        check_whole(2, radius=radius)
        check_whole(0, num_steps=num_steps)
        check_number(beta=beta, threshold=threshold)
        check_flag(instances=instances)
        if beta <= 0 or not 0 < threshold < 1:
            raise ConfigError(
                f"beta={beta}, threshold={threshold}: expected a number above 0 and a score "
                "between 0 and 1"
            )
        if (seed_dir is None) != (seed_source == "scribble"):
            raise ConfigError(
                f"seed_dir={seed_dir!r} with seed_source={seed_source!r}: set the folder that an "
                "earlier stage calls seeds/, or seed_source: scribble for none"
            )
        super().__init__(folder)
        self.seed_dir = None if seed_dir is None else Path(seed_dir)
        self.seed_source, self.radius, self.beta = seed_source, radius, beta
        self.num_steps, self.threshold, self.instances = num_steps, threshold, instances
        self._seeds: SeedReader | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a method without boundaries, and seeds that do not fit, before hours of training.

        Raises:
            ConfigError: If the method has no ``boundaries``, or no displacements to tell objects
                apart by.
            ScribbleSegError: See :class:`~scribbleseg.data.readers.SeedReader`.
        """
        super().setup(trainer, pl_module, stage)
        if self.instances and getattr(pl_module, "displacement", None) is None:
            raise ConfigError("instances=True needs IRNModule with displacement: true")
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if data is not None and self.seed_dir is not None:
            SeedReader(data.source, data.records("train"), self.seed_dir)

    def folders(self, run: Path) -> list[Path]:
        """That of the labels, and that of the objects if wanted."""
        labels = self.folder or run / "pseudo_labels"
        return [labels, *([labels.parent / "instances"] if self.instances else [])]

    def options(self) -> dict[str, Any]:
        """Options of the callback, and what its inputs say of themselves."""
        return {
            "seed_source": self.seed_source,
            "radius": self.radius,
            "beta": self.beta,
            "num_steps": self.num_steps,
            "threshold": self.threshold,
            **self.facts,
        }

    def write(self, trainer: Trainer, pl_module: LightningModule) -> Path:
        """See :meth:`TrainingImageWriter.write`."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        trained_on = None if data is None else data.extra_options.pseudo_label_dir
        if data is not None and self.seed_dir is not None:
            self._seeds = SeedReader(data.source, data.records("train"), self.seed_dir)
        self.facts = parent_facts(seeds=self.seed_dir, labels=trained_on)
        return super().write(trainer, pl_module)

    def write_image(self, sample: TrainingImage, module: Any, folders: list[Path]) -> None:
        """Write the label of one image."""
        labels = synthesize_mask(
            self.walk(sample, module.boundaries(sample.image)[0]),
            sample.tags,
            sample.input_size,
            original=sample.size,
            stride=_CELL,
            threshold=self.threshold,
            background=sample.data.source.background,
        )
        labels = sample.where_known(labels)
        if self.seed_source != "cam":
            labels = sample.with_scribble(labels)
        if self.instances:
            numbers = module.instance_labels(sample.image, labels).clamp_max(255)
            path = folders[1] / f"{sample.name}.png"
            write_label(path, numbers.cpu().numpy().astype(np.uint8))
        sample.write_label(folders[0], labels)

    def walk(self, sample: TrainingImage, boundary: Tensor) -> Tensor:
        """Maps of the classes of an image after the walk, by class id, ``(C, h, w)``.

        Args:
            sample: The image.
            boundary: Probability at each cell, shape ``(h, w)``.
        """
        present, cells = sample.tags, (boundary.shape[0], boundary.shape[1])
        classes = present.nonzero()[:, 0]  # a walk costs as much as it has maps
        maps = torch.zeros(len(present), *cells, device=boundary.device)
        if self._seeds is not None:
            seeds = self._seeds.read(sample.record)[None].to(boundary.device)
            if seeds.shape[2:] != cells:
                seeds = F.interpolate(seeds, cells, mode="bilinear", align_corners=False)
            maps[classes] = seeds[0, classes]
        clamp = None
        if self.seed_source != "cam":
            canvas = label_canvas(sample.scribble[None], sample.input_size, cells, stride=_CELL)
            drawn = downsample_label(canvas, cells, mode="majority", num_classes=len(maps))[0]
            maps, held = clamp_seeds(maps, drawn)
            clamp = (held[0], held[1][classes])
        walked = sparse_random_walk(
            maps[classes],
            boundary,
            radius=self.radius,
            beta=self.beta,
            num_steps=self.num_steps,
            clamp=clamp,
        )
        return torch.zeros_like(maps).index_copy(0, classes, walked)
