"""The recipe skeleton of every method: network, optimisation, evaluation, checkpoint facts."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
import torch

from scribbleseg.errors import CheckpointError, ConfigError
from scribbleseg.functional.schedules import ScheduleName, schedule_factor
from scribbleseg.inference import InferenceConfig, predict_logits
from scribbleseg.methods.evaluation import EvaluatedModule
from scribbleseg.nn.network import Arch, FreezeBatchNorm, build_network
from scribbleseg.options import check_number, check_whole
from scribbleseg.types import DataInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
    from torch import Tensor

    from scribbleseg.nn.network import SegNetwork
    from scribbleseg.types import SegBatch, SegOutput

__all__ = ["ScribbleSegModule"]

logger = logging.getLogger(__name__)


class ScribbleSegModule(EvaluatedModule):
    """Base of all methods; a subclass implements :meth:`training_step`.

    It owns the network, parameter groups and schedules, validation, testing and prediction.
    Training batches hold no dense masks, and validation reads no image-level labels.

    Args:
        num_classes: Number of classes, background included; set by the command line.
        in_channels: Image channels; set by the command line. For others than 3 the pretrained first
            kernel is summed or repeated.
        arch: Decoder architecture.
        encoder: Encoder of segmentation-models-pytorch, or ``tu-<name>`` for any timm model.
        encoder_weights: ``"imagenet"``, ``null`` (random), or a local .safetensors/.pth file.
        output_stride: 8 or 16 for dilated encoders, ``null`` = the architecture's own.
        freeze_batchnorm: BatchNorm layers that keep statistics and affine parameters.
        channels_last: Memory order that makes convolutions faster on most devices.
        optimizer: ``adamw``, ``adam`` (L2 decay) or ``sgd``.
        lr: Learning rate of the encoder.
        head_lr_mult: Factor on ``lr`` for everything but the encoder.
        weight_decay: Weight decay.
        decay_norm_and_bias: Whether biases and normalisation parameters decay too.
        momentum: Momentum of ``sgd``.
        schedule: Learning-rate schedule over all optimiser steps, stepped per step.
        warmup_steps: Steps of linear warm-up (``onecycle``: of the rise; 0 = 30 %).
        warmup_start: Factor on the learning rate at the first warm-up step.
        power: Exponent of ``poly``.
        inference: Test-time options; not part of the hyper-parameters, so that a checkpoint can be
            evaluated with others.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        in_channels: int = 3,
        arch: Arch = "unet",
        encoder: str = "resnet34",
        encoder_weights: str | None = "imagenet",
        output_stride: int | None = None,
        freeze_batchnorm: FreezeBatchNorm = "none",
        channels_last: bool = True,
        optimizer: Literal["adamw", "adam", "sgd"] = "adamw",
        lr: float = 1e-3,
        head_lr_mult: float = 1.0,
        weight_decay: float = 1e-2,
        decay_norm_and_bias: bool = True,
        momentum: float = 0.9,
        schedule: ScheduleName = "poly",
        warmup_steps: int = 0,
        warmup_start: float = 0.0,
        power: float = 0.9,
        inference: InferenceConfig | None = None,
    ) -> None:
        check_whole(2, num_classes=num_classes)  # the background counts
        check_number(lr=lr, head_lr_mult=head_lr_mult, weight_decay=weight_decay, momentum=momentum)
        check_whole(0, warmup_steps=warmup_steps)
        super().__init__(num_classes, inference)
        self.save_hyperparameters(ignore=["inference"])
        check_whole(1, in_channels=in_channels)
        if lr <= 0 or head_lr_mult <= 0 or weight_decay < 0 or not 0 <= momentum < 1:
            raise ConfigError(
                f"lr={lr}, head_lr_mult={head_lr_mult}, weight_decay={weight_decay}, "
                f"momentum={momentum}: rates must be positive, the weight decay not negative, the "
                "momentum in [0, 1)"
            )
        self._own_inference = inference is not None
        self.network = self.make_network(
            arch,
            encoder,
            num_classes=num_classes,
            encoder_weights=encoder_weights,
            in_channels=in_channels,
            output_stride=output_stride,
            freeze_batchnorm=freeze_batchnorm,
            channels_last=channels_last,
        )
        self.loss_terms: dict[str, Tensor] = {}
        self._total_steps: int | None = None
        # set by the datamodule for methods that ask for it in `train_inputs`
        self.unaugmented_images: Callable[[], Iterable[SegBatch]] | None = None

    # ---------------------------------------------------------------- network

    def make_network(self, arch: Arch, encoder: str, **options: Any) -> SegNetwork:
        """Network of the options ``arch``, ``encoder`` and so on, built once by the constructor.

        Override where a method brings a network of its own; other options are in ``hparams``.

        Args:
            arch: Decoder architecture.
            encoder: Encoder name.
            options: See :func:`~scribbleseg.nn.network.build_network`.
        """
        return build_network(arch, encoder, **options)

    @property
    def feature_dim(self) -> int:
        """Channels D of the decoder features."""
        return self.network.feature_dim

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, C, H, W)`` of normalised images ``(B, K, H, W)`` of any size."""
        return cast("Tensor", self.network(image))

    def forward_features(self, image: Tensor) -> SegOutput:
        """Logits and features at decoder resolution; see :meth:`upsample_logits`."""
        return self.network.forward_features(image)

    def upsample_logits(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring the logits of :meth:`forward_features` to image size ``(H, W)``."""
        return self.network.upsample_logits(logits, size)

    def predict_logits(self, image: Tensor) -> Tensor:
        """Test-time logits ``(B, C, H, W)``: scales, flip and windows of ``inference``.

        Override where a method predicts otherwise than by its classifier.
        """
        pairs = self.data_info.flip_pairs
        return predict_logits(self.forward, image, self.inference, flip_pairs=pairs)

    # --------------------------------------------------------------- training

    def training_step(self, batch: SegBatch, batch_idx: int) -> Tensor:
        """Loss of one batch; every method defines its own."""
        raise TypeError(
            f"{type(self).__name__} does not define training_step; use a method such as "
            "RegularizedModule, or subclass and return self.log_losses({...})"
        )

    def log_losses(self, terms: Mapping[str, tuple[float, Tensor]], batch_size: int) -> Tensor:
        """Weighted sum of the loss terms; logs each and the sum.

        Args:
            terms: Name to (weight, scalar loss). Terms are logged unweighted as
                ``train/loss_<name>``, the sum as ``train/loss``.
            batch_size: Images in the batch.

        Returns:
            Scalar to return from :meth:`training_step`.
        """
        total = torch.stack([weight * loss for weight, loss in terms.values()]).sum()
        self.loss_terms = {name: loss.detach() for name, (_, loss) in terms.items()}
        values = {f"train/loss_{name}": loss for name, loss in self.loss_terms.items()}
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=batch_size)
        self.log_dict(values, batch_size=batch_size)
        return total

    @property
    def train_inputs(self) -> frozenset[str]:
        """Optional keys that training batches must hold, such as ``image_raw``."""
        return frozenset()

    def training_progress(self) -> float:
        """Share of the optimiser steps that are done, in [0, 1]; 1 without a trainer."""
        trainer = self._trainer
        if trainer is None:
            return 1.0
        if self._total_steps is None:
            self._total_steps = max(int(trainer.estimated_stepping_batches), 1)
        return min(trainer.global_step / self._total_steps, 1.0)

    def on_train_start(self) -> None:
        """Forget the length of an earlier run."""
        self._total_steps = None

    def log_labelled_fraction(self, batch: SegBatch) -> None:
        """Log the share of labelled among the image pixels, ``train/labelled_fraction``."""
        drawn = (batch["scribble"] != self.ignore_index).float()
        share = drawn.sum() / batch["valid"].sum() if "valid" in batch else drawn.mean()
        self.log("train/labelled_fraction", share, batch_size=len(drawn))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Optimiser groups: encoder and the rest, each with and without weight decay."""
        hparams = self.hparams
        groups: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                in_encoder = name.startswith("network.encoder.")
                decays = bool(hparams["decay_norm_and_bias"]) or parameter.ndim > 1
                groups.setdefault((in_encoder, decays), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": hparams["lr"] * (1.0 if in_encoder else hparams["head_lr_mult"]),
                "weight_decay": hparams["weight_decay"] if decays else 0.0,
                "name": ("encoder" if in_encoder else "head") + ("" if decays else "_no_decay"),
            }
            for (in_encoder, decays), parameters in groups.items()
        ]

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Optimiser and a schedule that is stepped once per optimiser step."""
        hparams, groups = self.hparams, self.parameter_groups()
        optimizer: torch.optim.Optimizer
        if hparams["optimizer"] == "sgd":
            optimizer = torch.optim.SGD(groups, lr=hparams["lr"], momentum=hparams["momentum"])
        elif hparams["optimizer"] == "adam":
            optimizer = torch.optim.Adam(groups, lr=hparams["lr"])
        else:
            optimizer = torch.optim.AdamW(groups, lr=hparams["lr"])
        total = max(int(self.trainer.estimated_stepping_batches), 1)

        def factor(step: int) -> float:
            return schedule_factor(
                step,
                total,
                schedule=hparams["schedule"],
                power=hparams["power"],
                warmup_steps=hparams["warmup_steps"],
                warmup_start=hparams["warmup_start"],
            )

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    # ------------------------------------------------------------ checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what reloading and prediction need: class, version, data facts, test-time options."""
        from scribbleseg import __version__

        # the initialisation is not the architecture: reloading must not download or need the file
        hparams = {key: _plain(v) for key, v in checkpoint.get("hyper_parameters", {}).items()}
        checkpoint["hyper_parameters"] = {**hparams, "encoder_weights": None}
        checkpoint["scribbleseg"] = {
            "class_path": f"{type(self).__module__}.{type(self).__qualname__}",
            "version": __version__,
            "data": self.data_info.to_dict(),
            "inference": self.inference.to_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adopt the data facts of the checkpoint, or refuse those of another class list.

        Raises:
            CheckpointError: If the data in use has other classes than the checkpoint.
        """
        facts = checkpoint.get("scribbleseg")
        if not facts:
            return
        stored = DataInfo.from_dict(facts["data"])
        ours = self.data_info
        if ours.source and stored.source and ours.class_names != stored.class_names:
            differing = [
                f"{index}: checkpoint {a!r}, data {b!r}"
                for index, (a, b) in enumerate(
                    zip(stored.class_names, ours.class_names, strict=False)
                )
                if a != b
            ]
            raise CheckpointError(
                f"D402 the checkpoint was trained on {stored.num_classes} classes of "
                f"{stored.source}, the data has {ours.num_classes} of {ours.source}; differing: "
                f"{'; '.join(differing[:5]) or 'the number only'}. Use the class file of the "
                "training data, or train a new model"
            )
        if ours.source and stored.source and ours.in_channels != stored.in_channels:
            raise CheckpointError(
                f"D402 the checkpoint was trained on images of {stored.in_channels} channels of "
                f"{stored.source}, the data has {ours.in_channels} of {ours.source}: set "
                "`channels` of the source to that number, or train a new model"
            )
        if not ours.source:
            self.data_info = stored
        elif stored.source:
            for name in ("mean", "std", "resize", "intensity"):
                before, now = getattr(stored, name), getattr(ours, name)
                if before != now:
                    logger.warning(
                        "the checkpoint was trained with %s=%s, now %s", name, before, now
                    )
        if not self._own_inference:
            self.inference = InferenceConfig.from_dict(facts["inference"])


def _plain(value: Any) -> Any:
    """NumPy scalars as Python numbers: checkpoints hold nothing that needs unpickling."""
    return value.item() if isinstance(value, np.generic) else value
