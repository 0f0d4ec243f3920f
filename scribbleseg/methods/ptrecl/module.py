"""PtReCl: a network trained on noisy masks, whose features decide every pixel anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import nn

from scribbleseg.errors import ConfigError
from scribbleseg.functional.cam import assemble_cam
from scribbleseg.functional.losses import full_precision
from scribbleseg.functional.tta import scale_image
from scribbleseg.methods.base import ScribbleSegModule
from scribbleseg.methods.ptrecl.losses import (
    conditioned_cross_entropy,
    label_conditioning_mask,
    label_gate,
)
from scribbleseg.methods.ptrecl.prototypes import PrototypePairs, Vote, label_by_margin
from scribbleseg.nn.modes import evaluation_mode
from scribbleseg.options import check_choice, check_flag, check_number, check_whole

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.functional.schedules import ScheduleName
    from scribbleseg.nn.network import Arch
    from scribbleseg.types import SegBatch

__all__ = ["PtReClModule", "ReclassifiedMaps"]

Conditioning = Literal["logit_mask", "gate", "none"]


class ReclassifiedMaps(NamedTuple):
    """What prototypes say of images.

    Attributes:
        seeds: Positive margins at a quarter of the image's resolution, each class divided by its
            maximum, in [0, 1), shape ``(B, C, h, w)``.
        margin: Margins at image size, not divided, shape ``(B, C, H, W)``.
    """

    seeds: Tensor
    margin: Tensor


class PtReClModule(ScribbleSegModule):
    """Reclassification of pseudo-masks with prototypes (PtReCl, 2024).

    A segmentation network, the pseudo-mask recovery network, learns from noisy masks
    (``pseudo_label_dir`` of the data), knowing which classes an image shows. The callback
    :class:`~scribbleseg.callbacks.ReclassificationWriter` then clusters the features of its encoder
    inside and outside of the masks of each class, decides every pixel of the training images by the
    margin between both, and writes that as seeds for another round of ``IRNModule``, and as labels.
    Validation and prediction are those of the plain network and know no image labels. The paper is
    known by a summary only: what is our definition is said in the card.

    Args:
        num_classes: Number of classes, background included.
        arch: ``deeplab_v2`` in our reading of the paper; any other works.
        encoder: ``resnet50``; any other works.
        label_conditioning: ``logit_mask`` = classes that the image does not show take no part in
            the loss, ``gate`` = features are weighted by the classes of the image (AMN, CVPR 2022),
            or ``none``.
        balance: Background and foreground count alike in the loss.
        label_smoothing: Share of the target spread over the allowed classes, in [0, 1).
        feature_level: Features that are clustered: of the ``encoder``'s last map, or of the
            ``decoder``, which is finer for networks with one.
        num_prototypes: K, prototypes per set.
        top_m: M: how many of the largest similarities decide; of several numbers the mean.
        vote: ``per_set`` = difference of the mean similarities to foreground and background;
            ``joint_vote`` = share of the foreground among the largest of both.
        threshold: Margin above which a pixel is foreground: a number, or ``auto`` = where the
            margins agree best with the masks.
        model_background: The background has prototypes of its own, and competes with the classes.
        kwargs: See :class:`~scribbleseg.methods.base.ScribbleSegModule`; ``inference.scales`` and
            ``flip`` also average the reclassified maps.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        arch: Arch = "deeplab_v2",
        encoder: str = "resnet50",
        label_conditioning: Conditioning = "logit_mask",
        balance: bool = True,
        label_smoothing: float = 0.0,
        feature_level: Literal["encoder", "decoder"] = "encoder",
        num_prototypes: int = 20,
        top_m: int | tuple[int, ...] = (10, 15, 20),
        vote: Vote = "per_set",
        threshold: float | Literal["auto"] = "auto",
        model_background: bool = False,
        optimizer: Literal["adamw", "adam", "sgd"] = "sgd",
        lr: float = 2.5e-4,
        head_lr_mult: float = 10.0,
        weight_decay: float = 5e-4,
        schedule: ScheduleName = "poly",
        **kwargs: Any,
    ) -> None:
        ms = (top_m,) if isinstance(top_m, int) else tuple(top_m)
        check_choice("label_conditioning", label_conditioning, get_args(Conditioning))
        check_choice("feature_level", feature_level, ("encoder", "decoder"))
        check_choice("vote", vote, get_args(Vote))
        check_flag(balance=balance, model_background=model_background)
        check_whole(
            1, num_prototypes=num_prototypes, **{f"top_m[{i}]": m for i, m in enumerate(ms)}
        )
        check_number(label_smoothing=label_smoothing)
        if threshold != "auto":
            check_number(threshold=threshold)
        if not ms or not 0 <= label_smoothing < 1:
            raise ConfigError(
                f"top_m={list(ms)}, label_smoothing={label_smoothing}: expected at least one "
                "number of prototypes, and a share in [0, 1)"
            )
        super().__init__(
            num_classes,
            arch=arch,
            encoder=encoder,
            optimizer=optimizer,
            lr=lr,
            head_lr_mult=head_lr_mult,
            weight_decay=weight_decay,
            schedule=schedule,
            **kwargs,
        )
        self.save_hyperparameters(ignore=["inference"])
        if self.network.remainder:
            raise ConfigError(
                f"arch={arch!r} computes at points, not at cells, so masks have no cells to be "
                "sampled from: use deeplab_v2, or an architecture of segmentation-models-pytorch"
            )
        self.gate: nn.Linear | None = None
        if label_conditioning == "gate":
            self.gate = nn.Linear(num_classes, self.feature_dim)
        body: Any = self.network.encoder
        dim = self.feature_dim if feature_level == "decoder" else int(body.out_channels[-1])
        self.prototypes = PrototypePairs(num_classes, k=num_prototypes, dim=dim)
        self._stride: int | None = None

    @property
    def train_inputs(self) -> frozenset[str]:
        """Pseudo-labels."""
        return frozenset({"pseudo_label"})

    # --------------------------------------------------------------- training

    def training_step(self, batch: SegBatch, batch_idx: int) -> Tensor:
        """Cross-entropy on the pseudo-labels, given the classes of the image."""
        labels, tags = batch["pseudo_label"], batch["class_labels"]
        features = self.network.decoder(self.network.encode(batch["image"]))
        coarse = self._classify(features, tags)
        logits = self.upsample_logits(coarse, (labels.shape[1], labels.shape[2]))
        background = self.data_info.background
        allowed = torch.ones_like(tags, dtype=torch.bool)
        if self.hparams["label_conditioning"] == "logit_mask":
            allowed = label_conditioning_mask(tags, background=background)
        loss = conditioned_cross_entropy(
            logits,
            labels,
            allowed,
            balance=self.hparams["balance"],
            label_smoothing=self.hparams["label_smoothing"],
            background=background,
            across_ranks=True,
            ignore_index=self.ignore_index,
        )
        with torch.no_grad():
            # without ground truth the only sign of when noise is being memorised
            found = logits.masked_fill(~allowed[..., None, None], -torch.inf).argmax(dim=1)
            known = labels != self.ignore_index
            agreement = ((found == labels) & known).sum() / known.sum().clamp_min(1)
        self.log("train/agreement", agreement, batch_size=len(labels))
        return self.log_losses({"masks": (1.0, loss)}, batch_size=len(labels))

    def _classify(self, features: Tensor, tags: Tensor | None = None) -> Tensor:
        """Logits of decoder features; without tags every class may be there."""
        if self.gate is not None:
            if tags is None:
                tags = torch.ones(len(features), self.num_classes, device=features.device)
            features = label_gate(features, tags, self.gate.weight, self.gate.bias)
        found: Tensor = self.network.classifier(features)
        return found

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, C, H, W)`` of normalised images ``(B, K, H, W)``, of all classes."""
        features = self.network.decoder(self.network.encode(image))
        return self.upsample_logits(self._classify(features), (image.shape[-2], image.shape[-1]))

    # ------------------------------------------------------- reclassification

    @property
    def cell_stride(self) -> int:
        """Pixels of the network's input per cell of the features."""
        if self._stride is None:
            side = 2 * self.network.divisor
            with evaluation_mode(self), torch.no_grad():
                blank = torch.zeros(
                    1, int(self.hparams["in_channels"]), side, side, device=self.device
                )
                self._stride = side // int(self.cell_features(blank).shape[-1])
        return self._stride

    def cell_grid(self, size: tuple[int, int]) -> tuple[int, int]:
        """Cells of the features of an image of ``(H, W)`` pixels, its padding included."""
        height, width = self.network.padded_size(*size)
        return height // self.cell_stride, width // self.cell_stride

    def cell_features(self, image: Tensor) -> Tensor:
        """Features that are clustered and compared, before any conditioning.

        Args:
            image: Normalised, float, shape ``(B, K, H, W)``.

        Returns:
            Float32, shape ``(B, D, h, w)``; see :meth:`cell_grid`.
        """
        maps = self.network.encode(image)
        if self.hparams["feature_level"] == "decoder":
            return full_precision(self.network.decoder(maps))
        return full_precision(maps[-1])

    def modelled_classes(self, class_labels: Tensor) -> Tensor:
        """Classes of images that have prototypes: without the background unless it is modelled.

        Args:
            class_labels: Multi-hot by class id, shape ``(B, C)``.
        """
        found = (class_labels > 0).float()
        if self.data_info.background is not None:
            found[:, self.data_info.background] = float(self.hparams["model_background"])
        return found

    def vote_options(self) -> dict[str, Any]:
        """M and the form of the vote."""
        return {"top_m": self.hparams["top_m"], "vote": self.hparams["vote"]}

    def reclassified_maps(self, image: Tensor, class_labels: Tensor) -> ReclassifiedMaps:
        """Margins of the classes of an image, over the scales and flips of ``inference``.

        Features of both flips are added before they are compared.

        Args:
            image: Normalised, float, shape ``(B, K, H, W)``.
            class_labels: Multi-hot by class id, shape ``(B, C)``.

        Raises:
            ConfigError: If ``inference`` asks for windows or a base size, or there are no
                prototypes yet.
        """
        config, size = self.inference, (int(image.shape[-2]), int(image.shape[-1]))
        if config.window is not None or config.base_size is not None:
            raise ConfigError(
                f"inference: window={config.window}, base_size={config.base_size} with "
                "PtReClModule: maps are divided by their maximum over the whole image; leave both "
                "null while reclassifying"
            )
        if self.prototypes.is_empty:
            raise ConfigError(
                "there are no prototypes: list the callback ReclassificationWriter, or load a "
                "prototypes.npz with module.prototypes.load"
            )
        present, margins = self.modelled_classes(class_labels), []
        for scale in config.scales:
            view = scale_image(image, scale)
            features = self._inner_features(view)
            if config.flip:
                features = features + self._inner_features(view.flip(-1)).flip(-1)
            margin = self.prototypes.margin(features, present, **self.vote_options())
            margins.append(self._on_view(margin, (int(view.shape[2]), int(view.shape[3]))))
        quarter = (-(-size[0] // 4), -(-size[1] // 4))
        seeds = assemble_cam([margin.relu() / len(margins) for margin in margins], quarter)
        mean = torch.zeros((), device=image.device)
        for margin in margins:
            full = F.interpolate(margin, size, mode="bilinear", align_corners=False)
            mean = mean + full / len(margins)
        return ReclassifiedMaps(seeds, mean)

    def _inner_features(self, view: Tensor) -> Tensor:
        """Features of an image without the cells that lie on its padding alone."""
        rows, columns = (-(-side // self.cell_stride) for side in view.shape[2:])
        return self.cell_features(view)[..., :rows, :columns]

    def _on_view(self, margin: Tensor, size: tuple[int, int]) -> Tensor:
        """A map of the cells of an image; at image size where its last cells overhang."""
        covered = [side * self.cell_stride for side in margin.shape[2:]]
        if covered == list(size):
            return margin
        full = F.interpolate(margin, covered, mode="bilinear", align_corners=False)
        return full[..., : size[0], : size[1]]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Prototypes of another number or of other features are left out: they are made anew."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["state_dict"]
        own = {n: v for n, v in self.state_dict().items() if n.startswith("prototypes.")}
        if any(n not in state or state[n].shape != v.shape for n, v in own.items()):
            state.update(own)

    def labels_of(self, margin: Tensor, class_labels: Tensor) -> Tensor:
        """Ids ``(B, H, W)`` by margins ``(B, C, H, W)``; see :func:`label_by_margin`.

        Args:
            margin: Of :meth:`reclassified_maps`, at any size.
            class_labels: Multi-hot by class id, shape ``(B, C)``.
        """
        limit = self.hparams["threshold"]
        there = self.prototypes.num_foreground > 0
        return label_by_margin(
            margin,
            self.modelled_classes(class_labels) * there,
            self.prototypes.threshold if limit == "auto" else float(limit),
            background=self.data_info.background,
            model_background=bool(self.hparams["model_background"]),
            ignore_index=self.ignore_index,
        )
