"""Training images reclassified by prototypes: seeds for another round, and labels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from scribbleseg.callbacks.collection_options import CollectionOptions
from scribbleseg.callbacks.feature_collection import FeatureCollector
from scribbleseg.callbacks.training_image_writer import TrainingImageWriter
from scribbleseg.data.readers import PseudoLabelReader, SeedReader
from scribbleseg.errors import ConfigError
from scribbleseg.functional.image_files import write_arrays, write_text
from scribbleseg.functional.manifest import parent_facts
from scribbleseg.nn.modes import evaluation_mode
from scribbleseg.options import check_flag

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from scribbleseg.callbacks.training_image import TrainingImage
    from scribbleseg.inference import InferenceConfig

__all__ = ["ReclassificationWriter"]


class ReclassificationWriter(TrainingImageWriter):
    """Builds prototypes from masks, and writes what they say of every training image.

    For ``PtReClModule``, at the end of training or of ``scribbleseg predict``. The masks are those
    of any method. Into the folder of the run: ``prototypes.npz`` and, for reports, the statistics
    of the clusters in ``prototypes.json``; ``seeds/<id>.npz`` as ``SeedWriter`` writes them;
    ``pseudo_labels/<id>.png``. The last two have a ``manifest.json``. No dense mask is read.

    Args:
        mask_dir: Folder of label PNGs, such as those of ``RandomWalkWriter``.
        folder: Where to; ``null`` = the folder of the run.
        agree_dir: Second folder; only cells on which both agree make prototypes.
        fallback_dir: Folder of seeds for classes whose margin is positive nowhere in an image;
            ``null`` = such a class then has a map of zeros.
        collection: How cells are sampled and clustered.
        paste_scribbles: Drawn pixels keep their class in the labels.
        inference: Test-time options meanwhile; ``null`` = those of the method.
    """

    needs = ("reclassified_maps", "a method with prototypes, such as PtReClModule")
    makes = "prototypes."

    def __init__(
        self,
        mask_dir: str,
        folder: str | None = None,
        *,
        agree_dir: str | None = None,
        fallback_dir: str | None = None,
        collection: CollectionOptions | None = None,
        paste_scribbles: bool = True,
        inference: InferenceConfig | None = None,
    ) -> None:
        check_flag(paste_scribbles=paste_scribbles)
        super().__init__(folder, inference)
        self.mask_dir, self.agree_dir, self.fallback_dir = mask_dir, agree_dir, fallback_dir
        self.collection = CollectionOptions() if collection is None else collection
        self.paste_scribbles = paste_scribbles
        self._fallback: SeedReader | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a method without prototypes, and masks that do not fit, before hours of work.

        Raises:
            ConfigError: If the method has no ``reclassified_maps``.
            ScribbleSegError: If masks or seeds are missing, or do not fit the data set.
        """
        super().setup(trainer, pl_module, stage)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if data is not None:
            self._open(data)
            if pl_module.hparams.get("model_background") and data.source.background is None:
                raise ConfigError(
                    "model_background: true, and the data set has no background class: every class "
                    "competes there already; set it to false"
                )

    def _open(self, data: Any) -> tuple[PseudoLabelReader, PseudoLabelReader | None]:
        records = data.records("train")
        masks = PseudoLabelReader(data.source, records, self.mask_dir)
        agree = None
        if self.agree_dir is not None:
            agree = PseudoLabelReader(data.source, records, self.agree_dir)
        if self.fallback_dir is not None:
            self._fallback = SeedReader(data.source, records, self.fallback_dir)
        return masks, agree

    def folders(self, run: Path) -> list[Path]:
        """Those of the labels and of the seeds."""
        root = self.folder or run
        return [root / "pseudo_labels", root / "seeds"]

    def options(self) -> dict[str, Any]:
        """Options of the callback, and what its inputs say of themselves."""
        return {
            "collection": self.collection.__dict__,
            "paste_scribbles": self.paste_scribbles,
            "fallback": self.fallback_dir is not None,
            **self.facts,
        }

    def write(self, trainer: Trainer, pl_module: LightningModule) -> Path:
        """Build the prototypes, then see :meth:`TrainingImageWriter.write`."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise ConfigError("ReclassificationWriter needs a ScribbleDataModule; use one")
        module: Any = pl_module
        masks, agree = self._open(data)
        self.facts = {
            **parent_facts(
                masks=self.mask_dir, second_masks=self.agree_dir, fallback=self.fallback_dir
            ),
            "prototypes": {
                key: module.hparams[key]
                for key in ("num_prototypes", "top_m", "vote", "threshold", "model_background")
            },
        }
        self._prepare(trainer, module, masks, agree)
        return super().write(trainer, pl_module)

    @torch.no_grad()
    def _prepare(
        self, trainer: Trainer, module: Any, masks: Any, agree: PseudoLabelReader | None
    ) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        root = self.folder or Path(trainer.default_root_dir)
        path, report = root / "prototypes.npz", root / "prototypes.json"
        made_by = self._made_by(module, data)
        del made_by["inference"]  # prototypes are those of the plain image
        stored = json.loads(report.read_text()) if report.is_file() else {}
        known = path.is_file() and stored.get("made_by") == made_by
        collector = FeatureCollector(
            trainer,
            module,
            root / "features",
            masks,
            agree,
            self.collection,
            _decides_features(made_by, str(module.hparams["feature_level"])),
        )
        if trainer.strategy.broadcast(known):
            module.prototypes.load(path)
        else:
            with evaluation_mode(module):
                classes = collector.build()
            if trainer.is_global_zero:
                module.prototypes.save(path)
                write_text(report, json.dumps({"made_by": made_by, "classes": classes}, indent=1))
        collector.finish()  # also what a run left that was stopped just before this
        trainer.strategy.barrier()

    def write_image(self, sample: TrainingImage, module: Any, folders: list[Path]) -> None:
        """Write seeds and label of one image."""
        present = sample.tags
        found = module.reclassified_maps(sample.image, present[None])
        margin = F.interpolate(found.margin, sample.size, mode="bilinear", align_corners=False)
        labels = sample.where_known(module.labels_of(margin, present[None])[0])
        if self.paste_scribbles:
            labels = sample.with_scribble(labels)
        classes = present.nonzero()[:, 0].cpu()
        seeds = found.seeds[0].float().cpu()[classes]
        if self._fallback is not None and len(classes):
            own = self._fallback.read(sample.record)[classes]
            if own.shape != seeds.shape:
                target = (seeds.shape[1], seeds.shape[2])
                own = F.interpolate(own[None], target, mode="bilinear", align_corners=False)[0]
            nothing = seeds.amax(dim=(1, 2), keepdim=True) <= 0
            seeds = torch.where(nothing, own, seeds)
        write_arrays(
            folders[1] / f"{sample.name}.npz",
            classes=classes.numpy(),
            maps=seeds.numpy().astype(np.float16),
        )
        # the label last: it says that the image is done
        sample.write_label(folders[0], labels)


def _decides_features(made_by: dict[str, Any], feature_level: str) -> dict[str, Any]:
    """What features and clusters follow from: votes may change without computing them again."""
    kept = {k: v for k, v in made_by.items() if k not in ("paste_scribbles", "fallback")}
    votes = kept.pop("prototypes")
    clusters = {key: votes[key] for key in ("num_prototypes", "model_background")}
    return {**kept, "prototypes": clusters, "feature_level": feature_level}
