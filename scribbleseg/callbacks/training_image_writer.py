"""Files about every training image, written by a trained method: what all such callbacks share."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from scribbleseg.callbacks.training_image import TrainingImage
from scribbleseg.errors import ConfigError
from scribbleseg.functional.manifest import (
    content_digest,
    read_manifest,
    text_digest,
    write_manifest,
)
from scribbleseg.nn.modes import evaluation_mode

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

    from scribbleseg.inference import InferenceConfig

__all__ = ["TrainingImageWriter"]

logger = logging.getLogger(__name__)


class TrainingImageWriter(Callback):
    """Writes files of every training image at the end of training and of ``scribbleseg predict``.

    With the last weights, or those of the checkpoint. No mask is read. An interrupted run goes on
    where it stopped; files of other weights or options are made anew. Every folder gets a
    ``manifest.json``. A subclass says which folders and options there are, and writes one image.

    Args:
        folder: Where to; ``null`` = the folder of the run.
        inference: Test-time options of the method meanwhile; ``null`` = its own.
    """

    facts: dict[str, Any] = {}  # noqa: RUF012 - further entries of the manifests, never changed
    suffixes: tuple[str, ...] = (".png", ".npz")  # of the files in each folder
    written = "pseudo-labels"  # what they are, in progress and messages
    needs: tuple[str, str] | None = None  # attribute of the method, and what has it
    makes: str = "-"  # beginning of the names of weights and buffers that the writer itself sets

    def __init__(self, folder: str | None, inference: InferenceConfig | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.inference = inference

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a method that has not what is written, before it trains for hours.

        Raises:
            ConfigError: If it lacks the attribute that the writer needs.
        """
        if self.needs is not None and not hasattr(pl_module, self.needs[0]):
            raise ConfigError(
                f"{type(self).__name__} needs {self.needs[1]}; {type(pl_module).__name__} is none: "
                "remove the callback, or use ConfidentLabelWriter, which works with all methods"
            )

    def folders(self, run: Path) -> list[Path]:
        """Folders to write to, that of the pseudo-labels first, for the folder of a run."""
        raise NotImplementedError

    def options(self) -> dict[str, Any]:
        """Options of the callback that decide what is written, as JSON can hold them."""
        raise NotImplementedError

    def is_written(self, folders: list[Path], image_id: str) -> bool:
        """Whether all files of an image are there."""
        return all(
            (folder / f"{image_id}{suffix}").is_file()
            for folder, suffix in zip(folders, self.suffixes, strict=False)
        )

    def write_image(self, sample: TrainingImage, module: Any, folders: list[Path]) -> None:
        """Write the files of one image.

        Args:
            sample: The image.
            module: The method, in evaluation mode.
            folders: From :meth:`folders`.
        """
        raise NotImplementedError

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
            pl_module: The method.

        Returns:
            Folder of the pseudo-labels.

        Raises:
            ConfigError: If there is no data module.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise ConfigError(f"{type(self).__name__} needs a ScribbleDataModule; train with one")
        module: Any = pl_module
        folders = self.folders(Path(trainer.default_root_dir))
        own = module.inference
        if self.inference is not None:
            module.inference = self.inference
        try:
            facts = {"made_by": self._made_by(module, data), **self.facts}
            started = read_manifest(folders[0]) if trainer.is_global_zero else None
            # decided before the manifest is replaced, and alike on all ranks
            resumed = bool(
                trainer.strategy.broadcast(
                    started is not None and started.get("made_by") == facts["made_by"]
                )
            )
            if not resumed:
                # else a run that is stopped here would later take the old files for its own
                _describe(trainer, module, folders, 0, {**facts, "made_by": None}, complete=False)
                self._remove_old(trainer, data, folders)
            _describe(trainer, module, folders, 0, facts, complete=False)
            with evaluation_mode(module):
                written = self._write_all(trainer, module, data, folders, resumed)
            _describe(trainer, module, folders, written, facts, complete=True)
        finally:
            module.inference = own
        # the next callback of any rank may read what rank 0 has just called complete
        trainer.strategy.barrier("written")
        if trainer.is_global_zero:
            total = len(data.records("train"))
            logger.info("%s of %d training images: %s", self.written, total, folders[0])
        return folders[0]

    def _remove_old(self, trainer: Trainer, data: Any, folders: list[Path]) -> None:
        if trainer.is_global_zero:
            for record in data.records("train"):
                for folder, suffix in zip(folders, self.suffixes, strict=False):
                    (folder / f"{record.image_id}{suffix}").unlink(missing_ok=True)
        trainer.strategy.barrier("old files are removed")

    def _write_all(
        self, trainer: Trainer, module: Any, data: Any, folders: list[Path], resumed: bool
    ) -> int:
        """Number of images of this rank whose files are there."""
        loader = data.unaugmented_dataloader()
        silent = None if trainer.is_global_zero else True  # None: no bar in a log file
        written = 0
        with trainer.precision_plugin.forward_context():
            for batch in tqdm(loader, desc=self.written, disable=silent, leave=False):
                repeated = batch["duplicate"].tolist()  # only to even out the ranks
                for position, image_id in enumerate(batch["image_id"]):
                    written += not repeated[position]
                    if not (resumed and self.is_written(folders, image_id)):
                        sample = TrainingImage.of_batch(batch, position, data, module.device)
                        self.write_image(sample, module, folders)
        return written

    def _made_by(self, module: Any, data: Any) -> dict[str, Any]:
        """What decides the content of the files, so that others are not taken for these."""
        state = module.state_dict().items()
        weights = {name: value for name, value in state if not name.startswith(self.makes)}
        made_by = {
            **self.options(),
            "weights": content_digest(weights),
            "inference": module.inference.to_dict(),
            "resize": data.resize,
            "degradation": None if data.degradation is None else asdict(data.degradation),
            "images": text_digest(sorted(record.image_id for record in data.records("train"))),
        }
        # as it is read back: JSON knows no tuples
        plain: dict[str, Any] = json.loads(json.dumps(made_by))
        return plain


def _describe(
    trainer: Trainer,
    module: Any,
    folders: list[Path],
    written: int,
    facts: dict[str, Any],
    *,
    complete: bool,
) -> None:
    # also waits until every rank has written its files
    count = torch.tensor(written, device=module.device)
    files = int(trainer.strategy.reduce(count, reduce_op="sum"))
    if not trainer.is_global_zero:
        return
    for folder in folders:
        write_manifest(
            folder,
            class_names=module.data_info.class_names,
            files=files,
            complete=complete,
            module=f"{type(module).__module__}.{type(module).__qualname__}",
            source=module.data_info.source,
            split="train",
            **facts,
        )
