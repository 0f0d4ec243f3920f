"""IRN: a frozen encoder, two small heads, and losses over pairs of nearby pixels."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import nn

from scribbleseg.errors import ConfigError
from scribbleseg.functional.distributed import mean_over_ranks
from scribbleseg.functional.geometry import downsample_label
from scribbleseg.functional.losses import full_precision
from scribbleseg.functional.random_walk import boundary_to_affinity
from scribbleseg.methods.irn.heads import BoundaryHead, DisplacementHead, pooling_of
from scribbleseg.methods.irn.losses import (
    affinity_loss,
    affinity_targets,
    displacement_loss,
    pair_displacement,
)
from scribbleseg.methods.irn.prediction import CELL, BoundaryModule
from scribbleseg.nn.modes import evaluation_mode
from scribbleseg.nn.network import SegNetwork, build_network
from scribbleseg.options import check_choice, check_flag, check_number, check_whole

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.functional.schedules import ScheduleName
    from scribbleseg.nn.network import Arch
    from scribbleseg.types import SegBatch

__all__ = ["IRNModule"]

logger = logging.getLogger(__name__)


class IRNModule(BoundaryModule):
    """Inter-pixel relations (Ahn et al., CVPR 2019): where classes end, learned from sparse labels.

    Pairs of nearby pixels of certain labels say whether a boundary lies between them. Two small
    heads on a frozen encoder learn the boundaries and, if asked for, the displacement of every
    pixel to the centroid of its object. The callback
    :class:`~scribbleseg.callbacks.RandomWalkWriter` then lets seeds walk up to the boundaries,
    which makes dense pseudo-labels. Labels are ``pseudo_label_dir`` of the data: those of
    :class:`~scribbleseg.callbacks.AffinityLabelWriter`, or any others with 255 where unsure.

    An image alone has boundaries and no classes: predictions show 255 on boundaries and the first
    class elsewhere, and validation says how well pairs of pixels are told apart.

    Args:
        num_classes: Number of classes, background included.
        arch: ``irn``, the only one.
        encoder: ``resnet50`` in the paper; any encoder works, and stays as it is.
        output_stride: 8 or 16 by dilation; ``null`` = 16 without dilation for ResNets as in the
            paper, else the encoder's own.
        radius: Pairs are closer than this many cells of 4 pixels; training crops need at least
            ``8·radius - 4`` columns.
        displacement: Also learn displacements, for masks of single objects; boundaries are the same
            without. Needs an encoder with five maps, such as a ResNet.
        displacement_lr_mult: Factor on ``lr`` for that head.
        boundary_threshold: Probability from which predictions show a boundary, in (0, 1).
        kwargs: See :class:`~scribbleseg.methods.base.ScribbleSegModule`; ``inference.flip``
            averages the logits of the mirror image. The momentum of the published code is none.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        arch: Literal["irn"] = "irn",
        encoder: str = "resnet50",
        radius: int = 10,
        displacement: bool = False,
        displacement_lr_mult: float = 10.0,
        boundary_threshold: float = 0.5,
        optimizer: Literal["adamw", "adam", "sgd"] = "sgd",
        lr: float = 0.1,
        weight_decay: float = 1e-4,
        momentum: float = 0.0,
        schedule: ScheduleName = "poly",
        **kwargs: Any,
    ) -> None:
        check_choice("arch", arch, ("irn",))
        check_whole(2, radius=radius)
        check_flag(displacement=displacement)
        check_number(
            displacement_lr_mult=displacement_lr_mult, boundary_threshold=boundary_threshold
        )
        if displacement_lr_mult <= 0 or not 0 < boundary_threshold < 1 or radius > 64:
            raise ConfigError(
                f"displacement_lr_mult={displacement_lr_mult}, boundary_threshold="
                f"{boundary_threshold}, radius={radius}: expected a number above 0, one between 0 "
                "and 1, and at most 64"
            )
        super().__init__(
            num_classes,
            arch=cast("Arch", arch),
            encoder=encoder,
            optimizer=optimizer,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            schedule=schedule,
            **kwargs,
        )
        self.save_hyperparameters(ignore=["inference"])
        if displacement:
            body: Any = self.network.encoder
            try:
                self.displacement = DisplacementHead(body.out_channels, pooling_of(body))
            except ValueError as error:
                raise ConfigError(f"displacement=True with encoder {encoder!r}: {error}") from error

    def make_network(self, arch: Arch, encoder: str, **options: Any) -> SegNetwork:
        """Frozen encoder and boundary head.

        Args:
            arch: ``irn``.
            encoder: Encoder name.
            options: See :func:`~scribbleseg.nn.network.build_network`.
        """
        # only for its encoder, whose weights are found and checked alike
        built = build_network("cam", encoder, **options)
        body: Any = built.encoder
        body.requires_grad_(False).eval()
        head = BoundaryHead(body.out_channels, pooling_of(body))
        return SegNetwork(
            body,
            head,
            nn.Conv2d(head.feature_dim, 1, 1),
            nn.Identity(),
            divisor=max(built.divisor, 16),
            channels_last=options["channels_last"],
        )

    def train(self, mode: bool = True) -> IRNModule:
        """Set the mode; the encoder stays in evaluation mode."""
        super().train(mode)
        self.network.encoder.eval()
        return self

    @property
    def train_inputs(self) -> frozenset[str]:
        """Pseudo-labels, and whole images if there are displacements."""
        images = {"unaugmented_images"} if self.hparams["displacement"] else set()
        return frozenset({"pseudo_label"} | images)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """As of every method, with the displacement head in groups of its own."""
        if self.displacement is None:
            return super().parameter_groups()
        own = {id(parameter) for parameter in self.displacement.parameters()}
        factor, made = self.hparams["displacement_lr_mult"], []
        for group in super().parameter_groups():
            mine = [p for p in group["params"] if id(p) in own]
            others = [p for p in group["params"] if id(p) not in own]
            made.append({**group, "params": others})
            name = group["name"].replace("head", "displacement")
            made.append({**group, "params": mine, "lr": group["lr"] * factor, "name": name})
        return [group for group in made if group["params"]]

    # --------------------------------------------------------------- training

    def training_step(self, batch: SegBatch, batch_idx: int) -> Tensor:
        """Loss of the pairs of certain pixels."""
        labels, radius = self._cell_labels(batch["pseudo_label"]), int(self.hparams["radius"])
        if labels.shape[1] < radius or labels.shape[2] < 2 * radius - 1:
            height, width = batch["image"].shape[2:]
            raise ConfigError(
                f"radius={radius} with crops of {height}×{width} pixels: their {labels.shape[1]} "
                f"by {labels.shape[2]} cells hold no pair; expected at least {4 * radius} rows and "
                f"{8 * radius - 4} columns: enlarge crop_size, or lower the radius"
            )
        maps = self.network.encode(batch["image"])
        logits = self.network.classify(self.network.decoder(maps))
        affinity = boundary_to_affinity(logits[:, 0].sigmoid(), radius=radius)
        background, foreground, different = affinity_targets(labels, radius=radius, ignore_index=-1)
        pairs = affinity_loss(affinity, background, foreground, different, across_ranks=True)
        terms = {"boundary": (1.0, pairs.loss())}
        parts = {f"train/affinity_{name}": value for name, value in pairs._asdict().items()}
        if self.displacement is not None:
            moved = displacement_loss(
                pair_displacement(full_precision(self.displacement(maps)), radius=radius),
                background,
                foreground,
                radius=radius,
                across_ranks=True,
            )
            terms["displacement"] = (1.0, moved.loss())
            parts |= {f"train/displacement_{k}": v for k, v in moved._asdict().items()}
        count = len(labels)
        self.log_dict({name: v.detach() for name, v in parts.items()}, batch_size=count)
        return self.log_losses(terms, batch_size=count)

    def _cell_labels(self, labels: Tensor) -> Tensor:
        """Labels of the cells: 0 = background, -1 = unsure; other classes from 1 on."""
        canvas = self.network.on_canvas(labels, fill=self.ignore_index)
        cells = downsample_label(canvas, (canvas.shape[1] // CELL, canvas.shape[2] // CELL))
        moved = cells + 1
        if self.data_info.background is not None:
            moved = moved.masked_fill(cells == self.data_info.background, 0)
        return moved.masked_fill(cells == self.ignore_index, -1)

    def on_train_epoch_end(self) -> None:
        """Before the last checkpoint: the mean displacement, which predictions are free of."""
        ends = self.training_progress() >= 1 or self.trainer.should_stop
        if self.displacement is None or not ends:
            return
        if self.unaugmented_images is None:
            logger.warning("no images to take the mean displacement of: it stays as it is")
            return
        means = []
        with evaluation_mode(self), torch.no_grad():
            shift = self.displacement.mean_shift
            shift.train()  # the identity
            for batch in self.unaugmented_images():
                found = self.displacement(self.network.encode(batch["image"].to(self.device)))
                means.append(found.float().mean(dim=(0, 2, 3)))
        mean = mean_over_ranks(torch.stack(means).mean(dim=0))
        self.displacement.mean_shift.set_mean([mean])
