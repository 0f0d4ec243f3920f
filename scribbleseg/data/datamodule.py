"""The one data module: any source in, :class:`~scribbleseg.types.SegBatch` out."""

from __future__ import annotations

import logging
import math
import os
from typing import TYPE_CHECKING, Any, cast

from lightning.pytorch import LightningDataModule

from scribbleseg.data.dataset import EvalDataset, TrainDataset, draw_samples
from scribbleseg.data.degraded import DegradedScribbles, check_degradation
from scribbleseg.data.history import earlier_images, leaked_images, name_digest, pack_digests
from scribbleseg.data.loader import (
    EpochSampler,
    channel_moments,
    check_step_size,
    default_workers,
    make_loader,
    side_pair,
    training_position,
)
from scribbleseg.data.source import ScribbleSource  # noqa: TC001  (the CLI resolves it)
from scribbleseg.data.training_extras import ExtraOptions, TrainingExtras
from scribbleseg.data.transforms import Augmentation, TrainTransform
from scribbleseg.functional.images import write_image
from scribbleseg.functional.superpixels import SuperpixelOptions  # noqa: TC001  (the CLI resolves it)
from scribbleseg.options import check_whole
from scribbleseg.types import DataInfo

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch.utils.data import DataLoader

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
        superpixels: Over-segmentation for methods that use one: ``slic``, ``felzenszwalb`` or
            ``grid``, made at network size before the first training and kept beside the data, see
            :func:`~scribbleseg.data.superpixel_folder`; or a folder that ``python -m
            scribbleseg.data superpixels`` made.
        superpixel_options: Options of the method; none for a folder.
        pseudo_label_dir: Folder of pseudo-labels for methods that train on them beside the
            scribbles: PNG ids of image size, 255 = undecided, one per training image. A
            ``manifest.json`` there must name the same classes.
        paste_scribbles: Write the scribbles over the pseudo-labels before anything else.
        distance_lambdas: Sharpness λ of the distance maps to the scribbles and to the boundaries of
            the pseudo-labels, above 0; they saturate 255/√λ pixels away, at original size.
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
        superpixels: str | None = None,
        superpixel_options: SuperpixelOptions | None = None,
        pseudo_label_dir: str | None = None,
        paste_scribbles: bool = False,
        distance_lambdas: tuple[float, float] = (math.e, math.e**6),
    ) -> None:
        super().__init__()
        crop_size, self.resize = side_pair("crop_size", crop_size), side_pair("resize", resize)
        self.crop_size = (crop_size, crop_size) if isinstance(crop_size, int) else crop_size
        if val_batch_size is None:
            val_batch_size = batch_size if isinstance(self.resize, tuple) else 1
        if num_workers is None:
            num_workers = default_workers()
        check_whole(1, batch_size=batch_size, val_batch_size=val_batch_size)
        check_whole(0, num_workers=num_workers)
        self.batch_size, self.val_batch_size = batch_size, val_batch_size
        self.source, self.num_workers = source, num_workers
        self.augmentation = augmentation or Augmentation()
        self.mean, self.std = channel_moments(source.in_channels, mean, std)
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.image_raw, self.drop_last, self.check = image_raw, drop_last, check
        self.degradation = check_degradation(
            source, shrink=scribble_shrink, drop=scribble_drop, seed=degrade_seed
        )
        self.extra_options = ExtraOptions(
            superpixels, superpixel_options, pseudo_label_dir, paste_scribbles, distance_lambdas
        )
        self._records: dict[str, list[Record]] = {}
        self._sampler: EpochSampler | None = None
        self._resume: dict[str, int] | None = None
        self._source_index = False
        self._degraded: DegradedScribbles | None = None
        self._extras: TrainingExtras | None = None
        self._seen: set[bytes] = set()  # images that the weights have been trained on, or will be
        self._resumed_from: object = None

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
            train_images=pack_digests(self._seen),
        )

    def records(self, split: Split) -> list[Record]:
        """Samples of a split, listed once."""
        if split not in self._records:
            self._records[split] = self.source.records(split)
        return self._records[split]

    # ------------------------------------------------------------------ hooks

    def setup(self, stage: str) -> None:
        """List the samples that the stage needs, check some files, tell the module the classes.

        Training batches get the optional keys that the module asks for in ``train_inputs``; without
        a module, those that the options allow.

        Raises:
            ConfigError: If the module asks for a key whose option is not set.
            DataCheckError: If the check finds errors.
            LabelFormatError: If pseudo-labels or superpixels do not fit the data set.
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
            from scribbleseg.data.check.check import check_source
            from scribbleseg.data.check.findings import shortened

            report = check_source(self.source, splits=splits, sample=64)
            report.raise_if_errors()
            for line in shortened(report.findings).splitlines():
                logger.warning("%s", line.strip())
        for split in splits:
            self.records(split)
        module = getattr(self.trainer, "lightning_module", None)
        trained = self.records("train") if "train" in splits else []
        self._seen = {name_digest(record.image_id) for record in trained}
        self._resumed_from = None
        self._look_back(earlier_images(module), splits)
        wanted: frozenset[str] = getattr(module, "train_inputs", frozenset())
        self.image_raw |= "image_raw" in wanted
        self._source_index = "source_index" in wanted
        if module is not None and "unaugmented_images" in wanted:
            module.unaugmented_images = self.unaugmented_dataloader
        if "train" in splits:
            self._extras = self.extra_options.set_up(
                self.source,
                self.records("train"),
                module,
                resize=self.resize,
                workers=self.num_workers,
                check=self.check,
            )

    def _look_back(self, earlier: Mapping[str, Collection[bytes]], splits: Sequence[Split]) -> None:
        """Note what the weights have seen before; warn if images to be scored are among it."""
        scored = [r.image_id for s in splits if s in ("val", "test") for r in self.records(s)]
        for finding in leaked_images(earlier, scored):
            logger.warning("%s", finding)
        self._seen.update(*earlier.values())
        module = getattr(self.trainer, "lightning_module", None)
        if module is not None and hasattr(module, "data_info"):
            module.data_info = self.data_info

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
            extras=self._extras,
        )
        self._sampler = EpochSampler(dataset, seed=self.seed)
        if self._resume is not None:
            check_step_size(self._resume, self.batch_size * self._sampler.num_replicas)
            self._sampler.set_resume(self._resume["epoch"], self._resume["samples_done"])
        drop_last = self.drop_last and len(self._sampler) >= self.batch_size
        return make_loader(self._sampler, self.batch_size, self.num_workers, drop_last=drop_last)

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
        # only now: the trainer does not say in setup what it resumes from
        checkpoint = getattr(self.trainer, "ckpt_path", None)
        if checkpoint is not None and checkpoint != self._resumed_from:
            self._resumed_from = checkpoint
            self._look_back(earlier_images(None, checkpoint), (split,))
        dataset = EvalDataset(self.source, self.records(split), self.data_info, labels=labels)
        sampler = EpochSampler(dataset, seed=self.seed, shuffle=False)
        return make_loader(sampler, self.val_batch_size, self.num_workers)

    # ----------------------------------------------------------------- resume

    def state_dict(self) -> dict[str, Any]:
        """Position in the epoch, so that a resumed run continues with the next unseen sample."""
        if self._degraded is not None and self._degraded.complete:
            self._log_degraded()
        if self.trainer is None or self._sampler is None:
            return {}
        step_size = self.batch_size * self._sampler.num_replicas
        return {**training_position(self.trainer, step_size), "seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the checkpoint's order; Lightning calls this before the first loader is made."""
        if state_dict:
            keys = ("epoch", "samples_done", "step_size")
            self._resume = {key: int(state_dict[key]) for key in keys}
            self.seed = int(state_dict["seed"])

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
        """Write a picture of augmented training images, their scribbles and optional maps.

        Args:
            path: Image file to write.
            count: Number of images.
        """
        loader = self.train_dataloader()
        dataset = cast("TrainDataset", loader.dataset)
        dataset.image_raw = True
        items = [dataset[key] for key in list(loader.sampler)[:count]]
        write_image(os.fspath(path), draw_samples(items, self.source.palette))
