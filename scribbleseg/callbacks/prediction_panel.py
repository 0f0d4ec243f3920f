"""Pictures of what the model does: image | scribble | prediction | truth, every few epochs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from lightning.pytorch import Callback
from lightning.pytorch.utilities import rank_zero_only

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.functional.images import compose_panel, overlay_labels, write_image
from scribbleseg.options import check_whole

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from numpy.typing import NDArray

__all__ = ["PredictionPanel"]


class _Sample(NamedTuple):
    key: str
    image_id: str
    image: NDArray[np.uint8]
    labels: dict[str, NDArray[np.uint8]]  # title to ids


class PredictionPanel(Callback):
    """Writes one composed PNG per validation, and logs masks and picture to W&B if it is in use.

    The images are those whose hashed id is smallest: the same ones in every epoch and run, so that
    pictures can be compared, and no matter how many there are.

    Args:
        folder: Where the PNGs go.
        count: Images per panel, at most 108 (W&B's limit).
        every_n_epochs: Write at the first and then every so many validations.
    """

    def __init__(self, folder: str, *, count: int = 8, every_n_epochs: int = 1) -> None:
        check_whole(1, every_n_epochs=every_n_epochs, count=count)
        self.folder = Path(folder)
        self.count = min(count, 108)
        self.every_n_epochs = every_n_epochs
        self._validations = 0
        self._samples: list[_Sample] = []

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last epoch's images."""
        self._samples = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the images of this batch that belong to the panel."""
        if not trainer.is_global_zero or not self._due(trainer) or not isinstance(outputs, dict):
            return
        for index, image_id in enumerate(batch["image_id"]):
            key = hashlib.sha256(image_id.encode()).hexdigest()
            if len(self._samples) >= self.count and key >= self._samples[-1].key:
                continue
            prediction = outputs["prediction"][index].cpu().numpy()
            height, width = prediction.shape
            image = batch["image_raw"][index, :, :height, :width].permute(1, 2, 0).cpu().numpy()
            labels = {"prediction": prediction}
            for name, title in (("scribble", "scribble"), ("mask", "truth")):
                if name in batch:
                    own = batch[name][index, :height, :width].cpu().numpy()
                    labels[title] = own.astype(np.uint8)
            self._samples.append(_Sample(key, image_id, image, labels))
            self._samples = sorted(self._samples, key=lambda sample: sample.key)[: self.count]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count validations, the sanity check aside."""
        self._validations += not trainer.sanity_checking

    @rank_zero_only
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write and log the panel."""
        if not self._samples or not self._due(trainer):
            return
        info: Any = pl_module.data_info
        palette = np.asarray(info.palette, dtype=np.uint8)
        titles = [t for t in ("scribble", "prediction", "truth") if t in self._samples[0].labels]
        rows = [
            [
                sample.image,
                *(
                    overlay_labels(
                        sample.image,
                        sample.labels[title],
                        palette,
                        alpha=1.0 if title == "scribble" else 0.6,
                        # a painted background would only darken the picture
                        background=None if title == "scribble" else info.background,
                        thicken=1
                        if title == "scribble" and min(sample.image.shape[:2]) > 200
                        else 0,
                    )
                    for title in titles
                ),
            ]
            for sample in self._samples
        ]
        ids = [sample.image_id for sample in self._samples]
        panel = compose_panel(rows, ["image", *titles], captions=ids)
        write_image(self.folder / f"epoch_{trainer.current_epoch:04d}.png", panel)
        self._log_wandb(trainer, info.class_names, panel)
        self._samples = []

    def _due(self, trainer: Trainer) -> bool:
        return not trainer.sanity_checking and self._validations % self.every_n_epochs == 0

    def _log_wandb(
        self, trainer: Trainer, class_names: tuple[str, ...], panel: NDArray[np.uint8]
    ) -> None:
        run_logger: Any
        for run_logger in trainer.loggers:
            if type(run_logger).__name__ != "WandbLogger":
                continue
            import wandb

            names = {**dict(enumerate(class_names)), IGNORE_INDEX: "unlabelled"}
            images = [
                wandb.Image(
                    sample.image,
                    caption=sample.image_id,
                    masks={
                        title: {"mask_data": ids, "class_labels": names}
                        for title, ids in sample.labels.items()
                        # a mask of another size would be stretched silently
                        if ids.shape == sample.image.shape[:2]
                    },
                )
                for sample in self._samples
            ]
            # masks can vanish when an offline run is synced: the composed picture does not
            run_logger.experiment.log(
                {
                    "val/masks": images,
                    "val/panel": wandb.Image(panel),
                    "trainer/global_step": trainer.global_step,
                }
            )
