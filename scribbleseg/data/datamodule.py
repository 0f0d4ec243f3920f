"""The one data module: any source in, :class:`~scribbleseg.types.SegBatch` out."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, cast

import cv2
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from scribbleseg.constants import IMAGENET_MEAN, IMAGENET_STD
from scribbleseg.data.dataset import EvalDataset, TrainDataset, collate
from scribbleseg.data.degraded import DegradedScribbles, check_degradation
from scribbleseg.data.sampler import EpochSampler
from scribbleseg.data.source import ScribbleSource  # noqa: TC001  (the CLI resolves it)
from scribbleseg.data.transforms import Augmentation, TrainTransform
from scribbleseg.errors import CheckpointError, ConfigError
from scribbleseg.types import DataInfo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.utils.data import Dataset

    from scribbleseg.types import Record, Split

__all__ = ["ScribbleDataModule"]

logger = logging.getLogger(__name__)


class ScribbleDataModule(LightningDataModule):
    """Loaders for scribble-supervised segmentation over any :class:`ScribbleSource`.

    Order and augmentation depend only on (seed, epoch, index): not on the number of workers or
    ranks, and a run resumed at any step continues with the sample that would have come next.

    Args:
        source: The data set.
        batch_size: Images per training step and process.
        val_batch_size: Images per evaluation step; by default ``batch_size`` if ``resize`` fixes
            the input size, else 1.
        num_workers: Loader processes; by default as many as there are cores, at most 4.
        crop_size: Side or ``(H, W)`` of the random training crop; ``null`` = whole images.
        resize: Network input size for training *and* evaluation, ``(H, W)`` or the longer side;
            ``null`` = original size. Scores and predictions are always at original size.
        augmentation: Random changes of training images.
        mean: Subtracted from image/255, one number per channel; must fit the encoder weights. By
            default that of ImageNet for three channels, and for others the average of those, 0.449:
            their pretrained first kernels are sums or repetitions of the colour kernels.
        std: Divided by, one number per channel; likewise, 0.226.
        seed: Seed of order and augmentation; by default the one of ``seed_everything``, else 0.
        image_raw: Add ``image_raw`` (same geometry, no colour change) to training batches; added
            anyway if the method asks for it.
        drop_last: Drop a last incomplete training batch (never if it is the only one).
        check: Check a sample of the files before training and stop at errors.
        scribble_shrink: Share in [0, 1] of each training stroke that is taken away; 1 leaves a dot.
            What remains, and the image tags, are the same in every epoch; validation is untouched.
            How many images have no label left is logged once all have been read.
        scribble_drop: Probability in [0, 1] that a training stroke is left out.
        degrade_seed: Seed of both, apart from ``seed``: smaller ratios contain larger ones.
    """

    def __init__(
        self,
        source: ScribbleSource,
        *,
        batch_size: int = 8,
        val_batch_size: int | None = None,
        num_workers: int | None = None,
        crop_size: int | tuple[int, int] | None = None,
        resize: int | tuple[int, int] | None = None,
        augmentation: Augmentation | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        seed: int | None = None,
        image_raw: bool = False,
        drop_last: bool = True,
        check: bool = True,
        scribble_shrink: float = 0.0,
        scribble_drop: float = 0.0,
        degrade_seed: int = 0,
    ) -> None:
        super().__init__()
        _check_options(
            batch_size=(batch_size, 1),
            val_batch_size=(val_batch_size, 1),
            num_workers=(num_workers, 0),
            crop_size=(crop_size, 1),
            resize=(resize, 1),
        )
        own_mean, own_std = _moments(source.in_channels, mean, std)
        self.source = source
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size or (batch_size if isinstance(resize, tuple) else 1)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.num_workers = min(4, cores or 1) if num_workers is None else num_workers
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
        self.resize = resize
        self.augmentation = augmentation if augmentation is not None else Augmentation()
        # plain numbers: NumPy scalars would make the checkpoint unreadable
        self.mean, self.std = tuple(map(float, own_mean)), tuple(map(float, own_std))
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.image_raw, self.drop_last, self.check = image_raw, drop_last, check
        self._records: dict[str, list[Record]] = {}
        self._sampler: EpochSampler | None = None
        self._resume: dict[str, int] | None = None
        self._source_index = False
        self.degradation = check_degradation(
            source, shrink=scribble_shrink, drop=scribble_drop, seed=degrade_seed
        )
        self._degraded: DegradedScribbles | None = None

    # ------------------------------------------------------------------ facts

    @property
    def num_classes(self) -> int:
        """Number of classes, background included; known before ``setup``."""
        return self.source.num_classes

    @property
    def in_channels(self) -> int:
        """Image channels K; known before ``setup``."""
        return self.source.in_channels

    @property
    def data_info(self) -> DataInfo:
        """What a checkpoint must remember about this data."""
        palette = tuple((int(r), int(g), int(b)) for r, g, b in self.source.palette)
        return DataInfo(
            class_names=tuple(self.source.class_names),
            palette=palette,
            background=self.source.background,
            mean=self.mean,
            std=self.std,
            resize=self.resize,
            source=type(self.source).__name__,
            flip_pairs=self.source.flip_pairs,
            in_channels=self.source.in_channels,
            intensity=self.source.intensity.to_tuple(),
            rgb_channels=self.source.rgb_channels,
        )

    def records(self, split: Split) -> list[Record]:
        """Samples of a split, listed once."""
        if split not in self._records:
            self._records[split] = self.source.records(split)
        return self._records[split]

    # ------------------------------------------------------------------ hooks

    def setup(self, stage: str) -> None:
        """List the samples that the stage needs, check some files, tell the module the classes.

        Raises:
            DataCheckError: If the check finds errors.
            ScribbleNotFoundError: If folders, lists or files are missing.
        """
        needed: dict[str, tuple[Split, ...]] = {
            "fit": ("train", "val"),
            "validate": ("val",),
            "test": ("test",),
            "predict": ("predict",),
        }
        splits = needed[getattr(stage, "value", stage)]
        if self.check and splits != ("predict",):
            from scribbleseg.data.check import check_source

            report = check_source(self.source, splits=splits, sample=64)
            report.raise_if_errors()
            for finding in report.findings:
                logger.warning("%s", finding)
        for split in splits:
            self.records(split)
        module = getattr(self.trainer, "lightning_module", None)
        if module is not None and hasattr(module, "data_info"):
            module.data_info = self.data_info
        wanted: frozenset[str] = getattr(module, "train_inputs", frozenset())
        self.image_raw |= "image_raw" in wanted
        self._source_index = "source_index" in wanted
        if module is not None and "unaugmented_images" in wanted:
            module.unaugmented_images = self.unaugmented_dataloader

    def train_dataloader(self) -> DataLoader[Any]:
        """Augmented samples in the order of (seed, epoch)."""
        records = self.records("train")
        if self.degradation is not None and self._degraded is None:
            self._degraded = DegradedScribbles(self.source, self.degradation, len(records))
        transform = TrainTransform(
            self.augmentation, resize=self.resize, crop_size=self.crop_size, mean=self.mean
        )
        dataset = TrainDataset(
            self.source,
            records,
            transform,
            self.data_info,
            seed=self.seed,
            image_raw=self.image_raw,
            source_index=self._source_index,
            degraded=self._degraded,
        )
        self._sampler = EpochSampler(dataset, seed=self.seed)
        if self._resume is not None:
            self._check_step_size(self.batch_size * self._sampler.num_replicas)
            self._sampler.set_resume(self._resume["epoch"], self._resume["samples_done"])
        drop_last = self.drop_last and len(self._sampler) >= self.batch_size
        return self._loader(dataset, self._sampler, self.batch_size, drop_last=drop_last)

    def unaugmented_dataloader(self) -> DataLoader[Any]:
        """Training images as they are, without labels, at network input size; each once."""
        return self._eval_loader("train", labels=False)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation images at original size."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Test images at original size."""
        return self._eval_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Images only."""
        return self._eval_loader("predict", labels=False)

    def _eval_loader(self, split: Split, *, labels: bool = True) -> DataLoader[Any]:
        dataset = EvalDataset(self.source, self.records(split), self.data_info, labels=labels)
        sampler = EpochSampler(dataset, seed=self.seed, shuffle=False)
        return self._loader(dataset, sampler, self.val_batch_size, drop_last=False)

    def _loader(
        self, dataset: Dataset[Any], sampler: EpochSampler, batch_size: int, *, drop_last: bool
    ) -> DataLoader[Any]:
        return DataLoader(
            dataset=dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate,
            drop_last=drop_last,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_one_thread,
            # iterators draw a base seed: from here, not from the training RNG
            generator=torch.Generator().manual_seed(self.seed),
        )

    # ----------------------------------------------------------------- resume

    def state_dict(self) -> dict[str, Any]:
        """Position in the epoch, so that a resumed run continues with the next unseen sample."""
        if self._degraded is not None and self._degraded.complete:
            self._log_degraded()
        if self.trainer is None or self._sampler is None:
            return {}
        loop: Any = self.trainer.fit_loop
        epochs, batches = loop.epoch_progress.current, loop.epoch_loop.batch_progress
        inside = epochs.ready > epochs.processed  # else the epoch is over: its end, or after fit
        middle = inside and not batches.is_last_batch
        step_size = self.batch_size * self._sampler.num_replicas
        return {
            "epoch": epochs.processed + (1 if inside and batches.is_last_batch else 0),
            "samples_done": batches.current.ready * step_size if middle else 0,
            "step_size": step_size,
            "seed": self.seed,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the checkpoint's order; Lightning calls this before the first loader is made."""
        if state_dict:
            keys = ("epoch", "samples_done", "step_size")
            self._resume = {key: int(state_dict[key]) for key in keys}
            self.seed = int(state_dict["seed"])

    def _check_step_size(self, step_size: int) -> None:
        if self._resume and self._resume["samples_done"] and self._resume["step_size"] != step_size:
            raise CheckpointError(
                f"the checkpoint was written in the middle of an epoch with "
                f"{self._resume['step_size']} images per step over all processes, now {step_size}: "
                "the rest of that epoch cannot be continued. Resume with the same batch_size and "
                "devices, or from a checkpoint at the end of an epoch"
            )

    def teardown(self, stage: str) -> None:
        """A later fit with this object starts at its first sample."""
        self._resume = None
        self._log_degraded()

    def _log_degraded(self) -> None:
        if self._degraded is not None and not self._degraded.logged:
            self._degraded.logged = True
            logger.info("%s", self._degraded.format())

    # ------------------------------------------------------------------- look

    def show_batch(self, path: str | os.PathLike[str], count: int = 8) -> None:
        """Write a picture of augmented training images and their scribbles.

        Args:
            path: Image file to write.
            count: Number of images.
        """
        from scribbleseg.functional.images import compose_panel, overlay_labels, write_image

        loader = self.train_dataloader()
        dataset, keys = cast("TrainDataset", loader.dataset), list(loader.sampler)[:count]
        dataset.image_raw = True
        rows: list[Sequence[Any]] = []
        names = []
        for key in keys:
            item = dataset[key]
            raw = item["image_raw"].permute(1, 2, 0).numpy()
            drawn = overlay_labels(raw, item["scribble"].numpy(), self.source.palette, alpha=1.0)
            rows.append([raw, drawn])
            names.append(item["image_id"])
        write_image(os.fspath(path), compose_panel(rows, ["image", "scribble"], captions=names))


def _check_options(**options: tuple[int | tuple[int, int] | None, int]) -> None:
    for name, (value, smallest) in options.items():
        parts = value if isinstance(value, tuple) else (value,)
        if any(part is not None and part < smallest for part in parts):
            raise ConfigError(f"{name}={value}: expected at least {smallest}")


def _moments(
    channels: int, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]]:
    """Given or default mean and standard deviation, one number per channel."""
    if channels == 3:
        mean, std = mean or IMAGENET_MEAN, std or IMAGENET_STD
    else:
        grey_mean, grey_std = (round(sum(v) / 3, 3) for v in (IMAGENET_MEAN, IMAGENET_STD))
        mean, std = mean or (grey_mean,) * channels, std or (grey_std,) * channels
    if len(mean) != channels or len(std) != channels:
        raise ConfigError(
            f"mean={list(mean)}, std={list(std)}: the images have {channels} channels, expected "
            f"{channels} numbers each"
        )
    if min(std) <= 0:
        raise ConfigError(f"std={tuple(std)}: expected positive numbers")
    return mean, std


def _one_thread(worker: int) -> None:
    """Loader processes share the cores: OpenCV threads inside each only get in the way."""
    cv2.setNumThreads(0)
