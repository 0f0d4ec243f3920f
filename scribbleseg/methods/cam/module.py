"""Image-tag classifier whose activation maps are seeds for other methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F

from scribbleseg.errors import ConfigError
from scribbleseg.functional.cam import assemble_cam, cam_probabilities
from scribbleseg.functional.geometry import area_pool, class_labels_from_scribble
from scribbleseg.functional.losses import full_precision, weighted_mean
from scribbleseg.functional.preprocess import mirrored_ids
from scribbleseg.functional.tta import scale_image
from scribbleseg.methods.base import ScribbleSegModule
from scribbleseg.methods.cam.tag_scores import TagScores
from scribbleseg.nn.encoder_stages import first_stages
from scribbleseg.options import check_choice, check_number, check_whole

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.nn.network import Arch, SegNetwork
    from scribbleseg.types import SegBatch

__all__ = ["CAMModule", "ClassMaps", "class_activation_maps", "image_tag_loss", "merge_flips"]


class ClassMaps(NamedTuple):
    """What a classifier sees in an image.

    Attributes:
        scores: Tag logits, mean over scales and flips, shape ``(B, C)``.
        seeds: Maps at a quarter of the image's resolution, in [0, 1), shape ``(B, C, h, w)``.
        maps: The same at image size, shape ``(B, C, H, W)``.
    """

    scores: Tensor
    seeds: Tensor
    maps: Tensor


class CAMModule(ScribbleSegModule):
    """Class activation maps (Zhou et al., CVPR 2016) from the classes of the scribbles.

    A classifier without bias on globally averaged features learns which classes an image shows;
    where its features speak for a class is that class's map. Tags are ``class_labels``: those drawn
    in the whole image, whatever the crop shows. Training images get seeds and pseudo-labels, by
    their own tags, from the callback :class:`~scribbleseg.callbacks.SeedWriter`. Validation and
    prediction know no tags: they use those that the classifier finds. The maps are averaged over
    ``inference.scales`` and ``flip``.

    Args:
        num_classes: Number of classes, background included. Background has no tag; without a
            background class, every class is one.
        arch: ``cam``, the only one.
        encoder: ``resnet50`` in the literature; any encoder works.
        output_stride: 8 or 16 by dilation; ``null`` = 16 without dilation for ResNets as in the
            literature, else the encoder's own.
        encoder_depth: Maps of the encoder up to the classifier's, 3 to 5. Cells of the last one
            look far beyond small images, so that classes may show anywhere: try 4 there.
        frozen_stages: Parts of a ResNet that keep their weights, from the input on, at most 5:
            stem, ``layer1`` to ``layer4``. The literature freezes 3.
        tag_threshold: Probability in (0, 1) from which a class counts as found.
        map_threshold: Score of the background in predictions, in (0, 1).
        kwargs: See :class:`~scribbleseg.methods.base.ScribbleSegModule`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        arch: Literal["cam"] = "cam",
        encoder: str = "resnet50",
        encoder_depth: int = 5,
        frozen_stages: int = 0,
        tag_threshold: float = 0.5,
        map_threshold: float = 0.25,
        **kwargs: Any,
    ) -> None:
        check_choice("arch", arch, ("cam",))
        check_whole(0, frozen_stages=frozen_stages)
        if encoder_depth not in (3, 4, 5):
            raise ConfigError(f"encoder_depth={encoder_depth}: expected 3, 4 or 5")
        check_number(tag_threshold=tag_threshold, map_threshold=map_threshold)
        if not (0 < tag_threshold < 1 and 0 < map_threshold < 1):
            raise ConfigError(
                f"tag_threshold={tag_threshold}, map_threshold={map_threshold}: expected numbers "
                "between 0 and 1"
            )
        super().__init__(num_classes, arch=arch, encoder=encoder, **kwargs)
        self.save_hyperparameters(ignore=["inference"])
        self._freeze(frozen_stages)
        self.tag_scores = TagScores(threshold=tag_threshold)
        self._seen_scores: list[Tensor] | None = None  # of the images of a validation batch

    def make_network(self, arch: Arch, encoder: str, **options: Any) -> SegNetwork:
        """See the base class; the encoder ends at ``encoder_depth``."""
        depth = int(self.hparams["encoder_depth"])
        return super().make_network(arch, encoder, encoder_depth=depth, **options)

    def _freeze(self, stages: int) -> None:
        layers = first_stages(self.network.encoder, stages)
        if layers is None:
            raise ConfigError(
                f"frozen_stages={stages} with encoder {self.hparams['encoder']!r}: expected at "
                "most 5, and a ResNet; use 0 for other encoders"
            )
        for layer in layers:
            layer.requires_grad_(False)

    @property
    def tag_classes(self) -> list[int]:
        """Classes that have a tag: all but the background."""
        return [c for c in range(self.num_classes) if c != self.data_info.background]

    def training_step(self, batch: SegBatch, batch_idx: int) -> Tensor:
        """Cross-entropy of the tags, of the mean score over the cells that show the image."""
        logits = self.forward_features(batch["image"]).logits
        valid = self.network.on_canvas(batch["valid"], fill=0)
        share = area_pool(valid[:, None].float(), (logits.shape[2], logits.shape[3]))
        loss = image_tag_loss(
            _mean_score(logits, share),
            batch["class_labels"],
            background=self.data_info.background,
            across_ranks=True,
        )
        return self.log_losses({"tags": (1.0, loss)}, batch_size=len(logits))

    def class_maps(self, image: Tensor) -> ClassMaps:
        """Activation maps of all classes, over the scales and flips of ``inference``.

        Args:
            image: Normalised, float, shape ``(B, K, H, W)``.

        Raises:
            ConfigError: If ``inference`` asks for windows or a base size.
        """
        if self.inference.window is not None or self.inference.base_size is not None:
            raise ConfigError(
                f"inference: window={self.inference.window}, base_size="
                f"{self.inference.base_size} with CAMModule: maps are divided by their maximum "
                "over the whole image; leave both null"
            )
        config, size = self.inference, (int(image.shape[-2]), int(image.shape[-1]))
        scales, scores = [], []
        for scale in config.scales:
            resized = scale_image(image, scale)
            found, score = self._one_scale(resized)
            scores.append(score)
            if config.flip:
                mirrored, score = self._one_scale(resized.flip(-1))
                swapped = mirrored_ids(self.data_info.flip_pairs, self.num_classes)
                found = merge_flips(torch.stack([found, mirrored[:, swapped]]))
                scores.append(score[:, swapped])
            scales.append(found)
        quarter = (-(-size[0] // 4), -(-size[1] // 4))
        return ClassMaps(
            torch.stack(scores).mean(dim=0),
            assemble_cam(scales, quarter),
            assemble_cam(scales, size, canvas=self.network.padded_size(*size)),
        )

    def _one_scale(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``(B, C, h, w)`` and tag logits ``(B, C)`` of images as they are."""
        output = self.forward_features(image)
        weight: Any = self.network.classifier.weight
        share = torch.ones_like(output.logits[:, :1])
        found = class_activation_maps(output.features, weight.flatten(1))
        return found, _mean_score(output.logits, share)

    def predict_logits(self, image: Tensor) -> Tensor:
        """Log probabilities ``(B, C, H, W)``: maps of the classes that the classifier finds."""
        found = self.class_maps(image)
        if self._seen_scores is not None:
            self._seen_scores.append(found.scores)
        present = found.scores.sigmoid() > self.hparams["tag_threshold"]
        background = self.data_info.background
        if background is None:  # every pixel has a class: at least the likeliest one is there
            present = present | F.one_hot(found.scores.argmax(dim=1), self.num_classes).bool()
        probs = cam_probabilities(
            found.maps,
            present,
            threshold=self.hparams["map_threshold"],
            background=background,
        )
        return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()

    def validation_step(self, batch: SegBatch, batch_idx: int) -> dict[str, Any]:
        """Score the maps as a segmentation, and the tags against the classes of the labels."""
        self._seen_scores = []
        result = super().validation_step(batch, batch_idx)
        scores, self._seen_scores = torch.cat(self._seen_scores), None
        key = "mask" if "mask" in batch else "scribble" if "scribble" in batch else None
        if key is not None:
            truth = cast("Tensor", batch[key])  # type: ignore[literal-required]
            tags = class_labels_from_scribble(
                truth, self.num_classes, ignore_index=self.ignore_index
            )
            kept = ~batch["duplicate"] if "duplicate" in batch else slice(None)
            self.tag_scores.update(scores[kept], tags[kept])
        return result

    def on_validation_epoch_start(self) -> None:
        """Start counting afresh."""
        super().on_validation_epoch_start()
        self.tag_scores.reset()

    def _log_scores(self, stage: str) -> None:
        super()._log_scores(stage)
        if self.tag_scores.update_called:
            scores = self.tag_scores.compute()
            self.log(f"{stage}/tag_map", scores["average_precision"][self.tag_classes].nanmean())
            self.log(f"{stage}/tag_f1", scores["f1"][self.tag_classes].nanmean())


def _mean_score(logits: Tensor, share: Tensor) -> Tensor:
    """Mean over the cells, weighted by how much of each is image, shape ``(B, C)``."""
    logits = logits.float()
    total = (logits * share).sum(dim=(2, 3))
    return total / share.sum(dim=(2, 3)).clamp_min(torch.finfo(share.dtype).eps)


def class_activation_maps(features: Tensor, weight: Tensor) -> Tensor:
    r"""Positive part of every class's score at every cell.

    .. math:: M_c(p) = \max\Big(0, \sum_k W_{ck} f_k(p)\Big)

    (Zhou et al., CVPR 2016, eq. 2; Ahn et al., CVPR 2019). Time O(B·C·D·h·w).

    Args:
        features: Last map of a classifier with global average pooling, shape ``(B, D, h, w)``.
        weight: Its classifier, shape ``(C, D)``.

    Returns:
        Shape ``(B, C, h, w)``; float32 for 16-bit input.

    Example:
        >>> weight = torch.tensor([[1.0, 2.0], [1.0, -3.0]])
        >>> class_activation_maps(torch.ones(1, 2, 1, 1), weight).flatten()
        tensor([3., 0.])
    """
    return F.conv2d(full_precision(features), full_precision(weight)[:, :, None, None]).relu()


def merge_flips(pair: Tensor) -> Tensor:
    """Sum of the maps of images and of their mirror images, which are turned back.

    Cells of a network of stride s lie up to s - 1 pixels apart after turning back, as in the
    released code of IRN.

    Args:
        pair: Non-negative maps of the images and of the mirror images, shape ``(2, …, h, w)``.

    Returns:
        Shape ``(…, h, w)``.

    Example:
        >>> merge_flips(torch.tensor([[[[1.0, 0.0]]], [[[0.0, 2.0]]]])).tolist()
        [[[3.0, 0.0]]]
    """
    return pair[0] + pair[1].flip(-1)


def image_tag_loss(
    scores: Tensor,
    class_labels: Tensor,
    *,
    background: int | None = 0,
    across_ranks: bool = False,
) -> Tensor:
    r"""Multi-label soft margin: sigmoid cross-entropy, mean over classes and images.

    .. math:: L = -\frac{1}{B |F|} \sum_b \sum_{c \in F} y_{bc} \log \sigma(z_{bc}) +
        (1 - y_{bc}) \log \sigma(-z_{bc})

    with F all classes but the background, which has no tag. Without a background class, an image
    without tags says nothing and counts nothing; with one, it shows background only.

    Args:
        scores: z, float, shape ``(B, C)``.
        class_labels: y, multi-hot, shape ``(B, C)``.
        background: Class without tag; ``None`` = every class has one.
        across_ranks: See :func:`~scribbleseg.functional.losses.weighted_mean`.

    Returns:
        Scalar in nats; an exact differentiable 0 if no image counts.

    Raises:
        ValueError: If the shapes disagree.

    Example:
        >>> round(image_tag_loss(torch.zeros(1, 3), torch.tensor([[1.0, 1.0, 0.0]])).item(), 4)
        0.6931
    """
    if scores.shape != class_labels.shape or scores.ndim != 2:
        raise ValueError(
            f"scores {tuple(scores.shape)} and class_labels {tuple(class_labels.shape)} disagree: "
            "expected (B, C) both"
        )
    scores, tags = full_precision(scores), class_labels.to(full_precision(scores).dtype)
    counted = torch.ones_like(scores)
    if background is None:
        counted = counted * (tags > 0).any(dim=1, keepdim=True)
    else:
        counted[:, background] = 0
    losses = F.binary_cross_entropy_with_logits(scores, tags, reduction="none") * counted
    return weighted_mean(losses.sum(), counted.sum(), across_ranks=across_ranks)
