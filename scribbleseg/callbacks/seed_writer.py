"""Seeds and pseudo-labels of the training images, from the maps of a tag classifier."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.degraded import read_degraded
from scribbleseg.errors import ConfigError
from scribbleseg.functional.cam_refinement import CAMRefinement, refine_cam
from scribbleseg.functional.crf import CRF_PRESETS
from scribbleseg.functional.image_files import write_arrays
from scribbleseg.functional.images import write_label
from scribbleseg.functional.manifest import read_manifest, write_manifest
from scribbleseg.options import check_choice, check_flag, check_number

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from scribbleseg.types import Record

__all__ = ["SeedWriter"]

logger = logging.getLogger(__name__)


class SeedWriter(Callback):
    """Writes the activation maps of every training image, and a pseudo-label made of them.

    At the end of training, and at the end of ``scribbleseg predict``. The classes of an image are
    those of its training scribble (as it is trained on, if scribbles are shortened or dropped), or
    those that the source knows. No mask is read. An interrupted run goes on where it stopped.

    Two folders, each with a ``manifest.json``: ``seeds/<id>.npz`` with ``classes``, int64, shape
    ``(n,)``, and ``maps``, float16 in [0, 1], shape ``(n, h, w)`` at a quarter of the network's
    input; ``pseudo_labels/<id>.png`` with ids at image size, for ``pseudo_label_dir``.

    Args:
        folder: Where both go; ``null`` = the folder of the run.
        threshold: Score of the background in (0, 1). Without a background class: below it a pixel
            is undecided.
        refine: ``none``, ``crf``, ``random_walk`` or ``random_walker``; see
            :func:`~scribbleseg.functional.cam_refinement.refine_cam`.
        crf: Preset of the dense CRF.
        confident: Scores above and below which a pixel is a seed of the random walker.
        paste_scribbles: Drawn pixels keep their class.
        seeds: Whether to write the maps too.
    """

    def __init__(
        self,
        folder: str | None = None,
        *,
        threshold: float = 0.25,
        refine: CAMRefinement = "none",
        crf: str = "irn",
        confident: tuple[float, float] = (0.6, 0.1),
        paste_scribbles: bool = True,
        seeds: bool = True,
    ) -> None:
        check_number(threshold=threshold)
        check_flag(paste_scribbles=paste_scribbles, seeds=seeds)
        check_choice("refine", refine, get_args(CAMRefinement))
        check_choice("crf", crf, tuple(CRF_PRESETS))
        if not 0 < threshold < 1:
            raise ConfigError(f"threshold={threshold}: expected a score between 0 and 1")
        if len(confident) != 2 or not 0 <= confident[1] < confident[0] < 1:
            raise ConfigError(
                f"confident={list(confident)}: expected two scores below 1, the larger one first"
            )
        self.folder = None if folder is None else Path(folder)
        self.threshold, self.refine, self.crf = threshold, refine, crf
        self.confident, self.paste_scribbles, self.seeds = confident, paste_scribbles, seeds

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a method that has no maps, before it trains for hours.

        Raises:
            ConfigError: If the method has no ``class_maps``.
        """
        if not hasattr(pl_module, "class_maps"):
            raise ConfigError(
                f"SeedWriter needs a method with activation maps, such as CAMModule; "
                f"{type(pl_module).__name__} has none: remove the callback"
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write all files."""
        self.write(trainer, pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write all files."""
        self.write(trainer, pl_module)

    @torch.no_grad()
    def write(self, trainer: Trainer, pl_module: LightningModule) -> Path:
        """Write the files of this rank's share of the training images.

        Args:
            trainer: Its data module must be a :class:`~scribbleseg.data.ScribbleDataModule`.
            pl_module: Method with ``class_maps``.

        Returns:
            Folder of the pseudo-labels.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise ConfigError("SeedWriter needs a ScribbleDataModule; train with one")
        root = Path(trainer.default_root_dir) if self.folder is None else self.folder
        folder, training = root / "pseudo_labels", pl_module.training
        facts = self._facts(pl_module, data)
        started = read_manifest(folder) if trainer.is_global_zero else None
        # decided before the manifest is replaced, and alike on all ranks
        resumed = bool(
            trainer.strategy.broadcast(
                started is not None and started.get("made_by") == facts["made_by"]
            )
        )
        self._describe(trainer, pl_module, root, 0, facts, complete=False)
        loader, records = data.unaugmented_dataloader(), data.records("train")
        silent = None if trainer.is_global_zero else True  # None: no bar in a log file
        shown = tqdm(loader, desc="pseudo-labels", disable=silent, leave=False)
        written = 0
        pl_module.eval()
        try:
            with trainer.precision_plugin.forward_context():
                for batch in shown:
                    written += self._write_batch(batch, pl_module, data, records, root, resumed)
        finally:
            pl_module.train(training)
        self._describe(trainer, pl_module, root, written, facts, complete=True)
        if trainer.is_global_zero:
            logger.info("pseudo-labels of %d training images: %s", len(records), folder)
        return folder

    def _facts(self, pl_module: LightningModule, data: Any) -> dict[str, Any]:
        """What decides the content of the files, so that others are not taken for these."""
        weights = sum(float(p.detach().double().abs().sum()) for p in pl_module.parameters())
        inference: Any = getattr(pl_module, "inference", None)
        options = {
            "threshold": self.threshold,
            "refine": self.refine,
            "crf": self.crf,
            "confident": list(self.confident),
            "paste_scribbles": self.paste_scribbles,
            "weights": f"{weights:.12g}",
            "scales": list(inference.scales),
            "flip": inference.flip,
            "resize": data.resize,
            "degradation": None if data.degradation is None else asdict(data.degradation),
        }
        # as they are read back: JSON knows no tuples
        options = json.loads(json.dumps(options))
        return {"made_by": options, "tags": "classes of the training scribbles"}

    def _describe(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        root: Path,
        written: int,
        facts: dict[str, Any],
        *,
        complete: bool,
    ) -> None:
        # also waits until every rank has written its files
        count = torch.tensor(written, device=pl_module.device)
        files = int(trainer.strategy.reduce(count, reduce_op="sum"))
        if not trainer.is_global_zero:
            return
        info: Any = pl_module.data_info
        for name in ("pseudo_labels", "seeds") if self.seeds else ("pseudo_labels",):
            write_manifest(
                root / name,
                class_names=info.class_names,
                files=files,
                complete=complete,
                module=f"{type(pl_module).__module__}.{type(pl_module).__qualname__}",
                source=info.source,
                split="train",
                **facts,
            )

    def _write_batch(
        self,
        batch: Any,
        module: Any,
        data: Any,
        records: list[Record],
        root: Path,
        resumed: bool,
    ) -> int:
        written = 0
        repeated = batch["duplicate"].tolist()  # only to even out the ranks
        for position, image_id in enumerate(batch["image_id"]):
            label_file = root / "pseudo_labels" / f"{image_id}.png"
            seed_file = root / "seeds" / f"{image_id}.npz"
            written += not repeated[position]
            there = label_file.is_file() and (seed_file.is_file() or not self.seeds)
            if resumed and there:
                continue
            record = records[int(batch["index"][position])]
            scribble, present = _scribble_and_tags(data, record)
            height, width = batch["input_size"][position].tolist()
            image = batch["image"][position, None, :, :height, :width]
            found = module.class_maps(image.to(module.device))
            rows, columns = batch["orig_size"][position].tolist()
            raw = batch["image_raw"][position, :, :rows, :columns]
            full = F.interpolate(
                found.maps.float(), (rows, columns), mode="bilinear", align_corners=False
            )[0]
            labels = refine_cam(
                full,
                present.to(full.device),
                raw.to(full.device),
                scribble=scribble.to(full.device) if self.paste_scribbles else None,
                method=self.refine,
                threshold=self.threshold,
                confident=self.confident,
                crf=self.crf,
                background=data.source.background,
            )
            if self.seeds:
                classes = present.nonzero()[:, 0]
                kept = found.seeds[0].float().cpu()[classes].numpy().astype(np.float16)
                write_arrays(seed_file, classes=classes.numpy(), maps=kept)
            # the label last: it says that the image is done
            write_label(label_file, labels.cpu().numpy().astype(np.uint8), data.source.palette)
        return written


def _scribble_and_tags(data: Any, record: Record) -> tuple[Tensor, Tensor]:
    """Scribble of a training image as it is trained on, and its classes without background."""
    source, known = data.source, None
    if data.degradation is None:
        scribble, known = source.read_scribble(record), source.class_labels(record)
    else:
        scribble = read_degraded(source, record, data.degradation)
    if known is None:
        known = [int(label) for label in np.unique(scribble) if label != IGNORE_INDEX]
    present = torch.zeros(source.num_classes)
    present[[label for label in known if label != source.background]] = 1
    return torch.from_numpy(scribble.astype(np.int64)), present
