"""Pseudo-labels of the training images where a trained method is sure of them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from scribbleseg.data.degraded import read_degraded
from scribbleseg.errors import ConfigError
from scribbleseg.functional.images import write_label
from scribbleseg.functional.manifest import read_manifest, write_manifest
from scribbleseg.functional.pseudo_labels import filter_pseudo_labels
from scribbleseg.inference import InferenceConfig, refine_logits
from scribbleseg.options import check_flag, check_number

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from scribbleseg.types import Record

__all__ = ["ConfidentLabelWriter"]

logger = logging.getLogger(__name__)


class ConfidentLabelWriter(Callback):
    """Writes a pseudo-label of every training image: its likeliest class, where it is sure.

    At the end of training, with the last weights, and at the end of ``scribbleseg predict``, with
    those of the checkpoint. Works with every method. No mask is read. An interrupted run goes on
    where it stopped.

    The folder holds ``<id>.png`` with ids at image size, 255 = rejected, and ``manifest.json``; it
    is a ``pseudo_label_dir`` for methods and sources.

    Args:
        folder: Where to; ``null`` = ``pseudo_labels`` in the folder of the run.
        threshold: Least probability in [0, 1] of the class of a pixel; equal is kept, 0 keeps all.
        paste_scribbles: Drawn pixels keep their class, as they are trained on.
        inference: Test-time options of these predictions; ``null`` = those of the method.
    """

    def __init__(
        self,
        folder: str | None = None,
        *,
        threshold: float = 0.9,
        paste_scribbles: bool = True,
        inference: InferenceConfig | None = None,
    ) -> None:
        check_number(threshold=threshold)
        check_flag(paste_scribbles=paste_scribbles)
        if not 0 <= threshold <= 1:
            raise ConfigError(f"threshold={threshold}: expected a probability; 90 % is 0.9")
        self.folder = None if folder is None else Path(folder)
        self.threshold, self.paste_scribbles = threshold, paste_scribbles
        self.inference = inference

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
            pl_module: Any method.

        Returns:
            Folder of the pseudo-labels.

        Raises:
            ConfigError: If there is no data module.
        """
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if data is None:
            raise ConfigError("ConfidentLabelWriter needs a ScribbleDataModule; train with one")
        folder = self.folder or Path(trainer.default_root_dir) / "pseudo_labels"
        module: Any = pl_module
        training, own = module.training, module.inference
        if self.inference is not None:
            module.inference = self.inference
        facts = self._facts(module)
        started = read_manifest(folder) if trainer.is_global_zero else None
        # decided before the manifest is replaced, and alike on all ranks
        resumed = bool(
            trainer.strategy.broadcast(
                started is not None and started.get("made_by") == facts["made_by"]
            )
        )
        self._describe(trainer, module, folder, 0, facts, complete=False)
        loader, records = data.unaugmented_dataloader(), data.records("train")
        shown = tqdm(loader, desc="pseudo-labels", disable=not trainer.is_global_zero, leave=False)
        written = kept = seen = 0
        module.eval()
        try:
            with trainer.precision_plugin.forward_context():
                for batch in shown:
                    found = self._write_batch(batch, module, data, records, folder, resumed)
                    written, kept, seen = written + found[0], kept + found[1], seen + found[2]
        finally:
            module.train(training)
            module.inference = own
        self._describe(trainer, module, folder, written, facts, complete=True)
        if trainer.is_global_zero:
            logger.info("pseudo-labels of %d training images: %s", len(records), folder)
            if seen:
                logger.info("%.1f %% of their pixels are labelled", 100 * kept / seen)
        return folder

    def _facts(self, module: Any) -> dict[str, Any]:
        """What decides the content of the files, so that others are not taken for these."""
        weights = sum(float(p.detach().double().abs().sum()) for p in module.parameters())
        options = {
            "threshold": self.threshold,
            "paste_scribbles": self.paste_scribbles,
            "weights": f"{weights:.12g}",
            # as JSON returns it: lists for tuples
            "inference": _plain(module.inference.to_dict()),
        }
        return {"made_by": options}

    def _describe(
        self,
        trainer: Trainer,
        module: Any,
        folder: Path,
        written: int,
        facts: dict[str, Any],
        *,
        complete: bool,
    ) -> None:
        # also waits until every rank has written its files
        count = torch.tensor(written, device=module.device)
        files = int(trainer.strategy.reduce(count, reduce_op="sum"))
        if trainer.is_global_zero:
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

    def _write_batch(
        self,
        batch: Any,
        module: Any,
        data: Any,
        records: list[Record],
        folder: Path,
        resumed: bool,
    ) -> tuple[int, int, int]:
        """Files that are there, labelled pixels and pixels of those written now."""
        written = kept = seen = 0
        repeated = batch["duplicate"].tolist()  # only to even out the ranks
        for position, image_id in enumerate(batch["image_id"]):
            path = folder / f"{image_id}.png"
            written += not repeated[position]
            if resumed and path.is_file():
                continue
            probs = _probabilities(batch, position, module)
            scribble = None
            if self.paste_scribbles:
                record = records[int(batch["index"][position])]
                scribble = _scribble(data, record).to(probs.device)
            labels = filter_pseudo_labels(probs, confidence=self.threshold, labels=scribble)
            found = labels.cpu().numpy().astype(np.uint8)
            write_label(path, found, data.source.palette)
            kept, seen = kept + int((found != module.ignore_index).sum()), seen + found.size
        return written, kept, seen


def _probabilities(batch: Any, position: int, module: Any) -> Tensor:
    """Of one image at its original size, ``(C, H, W)``; probabilities are resized, not logits."""
    height, width = batch["input_size"][position].tolist()
    rows, columns = batch["orig_size"][position].tolist()
    image = batch["image"][position, None, :, :height, :width].to(module.device)
    logits = module.predict_logits(image)
    if module.inference.crf is not None:
        raw = batch["image_raw"][position, None, :, :rows, :columns]
        logits = refine_logits(logits, raw.to(module.device), module.inference)
    probs: Tensor = logits.float().softmax(dim=1)
    if probs.shape[2:] != (rows, columns):
        probs = F.interpolate(probs, (rows, columns), mode="bilinear", align_corners=False)
    return probs[0]


def _scribble(data: Any, record: Record) -> Tensor:
    """Scribble of a training image as it is trained on."""
    if data.degradation is None:
        found = data.source.read_scribble(record)
    else:
        found = read_degraded(data.source, record, data.degradation)
    return torch.from_numpy(found.astype(np.int64))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(own) for key, own in value.items()}
    return [_plain(own) for own in value] if isinstance(value, (list, tuple)) else value
