"""Plain and augmented predictions of PFA: classifier, prototype bank, feature augmenter."""

from __future__ import annotations

import logging
import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from torch import nn

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.errors import ConfigError
from scribbleseg.functional.geometry import class_labels_from_scribble
from scribbleseg.methods.partial import PartiallySupervisedModule
from scribbleseg.methods.pfa.augmentation import PixelQueries, PrototypeFeatureAugmentation
from scribbleseg.methods.pfa.prototypes import (
    ClassPrototypes,
    confident_prototypes,
    predicted_class_labels,
)
from scribbleseg.metrics import SegmentationMetrics
from scribbleseg.nn.prototype_bank import PrototypeBank
from scribbleseg.options import check_choice, check_flag, check_number, check_whole
from scribbleseg.types import SegOutput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from scribbleseg.types import SegBatch

__all__ = ["AugmentedModule", "Head", "HeadScores", "Prediction"]

logger = logging.getLogger(__name__)

Head = Literal["none", "local", "global"]


class Prediction(NamedTuple):
    """What the network says before any prototype.

    Attributes:
        logits: Plain scores, shape ``(B, C, h, w)``.
        features: Decoder features after the channel dropout, shape ``(B, D, h, w)``.
        clean: The same before it.
    """

    logits: Tensor
    features: Tensor
    clean: Tensor


class AugmentedModule(PartiallySupervisedModule):
    """A network whose features may be enriched by local or global prototypes before they are read.

    Args:
        num_classes: Number of classes, background included.
        num_prototypes: Global prototypes per class, K.
        prototype_rate: Share of the old prototype that an update of the bank keeps.
        topk_ratio: Share of the pixels that form a local prototype.
        confidence: Rank the pixels of a class by its ``logit`` as published, or by its ``centred``
            logit, less the mean over the classes, which does not depend on a common offset.
        feature_dropout: Probability of dropping a channel of the decoder features in training.
        prototype_inference: Predict with the plain classifier (``none``), or with features
            augmented by ``local`` or ``global`` prototypes.
        class_source: Classes that those may use: ``predicted`` by the plain classifier on more than
            ``min_pixels`` pixels, or ``all``.
        min_pixels: Pixels above which a class counts as predicted, of what the network sees: of the
            image after ``resize``, of each window and of each scale.
        extra_heads: Heads scored beside it in validation, as ``val/miou_<head>``.
        oracle: Also score ``local`` and ``global`` with the classes of the dense masks, as
            ``oracle/miou_<head>``: what the published evaluation does. For analysis only.
        kwargs: See :class:`~scribbleseg.methods.partial.PartiallySupervisedModule`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        num_prototypes: int = 10,
        prototype_rate: float = 0.99,
        topk_ratio: float = 1 / 12,
        confidence: Literal["logit", "centred"] = "logit",
        feature_dropout: float = 0.1,
        prototype_inference: Head = "none",
        class_source: Literal["predicted", "all"] = "predicted",
        min_pixels: int = 100,
        extra_heads: list[Literal["local", "global"]] | None = None,
        oracle: bool = False,
        **kwargs: Any,
    ) -> None:
        check_whole(1, num_prototypes=num_prototypes)
        check_whole(0, min_pixels=min_pixels)
        check_choice("prototype_inference", prototype_inference, ("none", "local", "global"))
        check_choice("confidence", confidence, ("logit", "centred"))
        check_choice("class_source", class_source, ("predicted", "all"))
        shares = {
            "prototype_rate": prototype_rate,
            "topk_ratio": topk_ratio,
            "feature_dropout": feature_dropout,
        }
        check_number(**shares)
        for name, share in shares.items():
            inside = 0 < share <= 1 if name == "topk_ratio" else 0 <= share < 1
            if not inside:
                limits = "(0, 1]" if name == "topk_ratio" else "[0, 1)"
                raise ConfigError(f"{name}={share}: expected a share in {limits}; 8 % is 0.08")
        super().__init__(num_classes, **kwargs)
        self.save_hyperparameters(ignore=["inference"])
        self.feature_dropout = nn.Dropout2d(feature_dropout)
        self.augmenter = PrototypeFeatureAugmentation(self.feature_dim)
        self.bank = PrototypeBank(
            num_classes, k=num_prototypes, dim=self.feature_dim, rate=prototype_rate
        )
        self.head: Head = prototype_inference
        self._given_classes: Tensor | None = None
        self.head_scores = HeadScores(self, extra_heads or [], oracle=oracle)

    def forward_features(self, image: Tensor) -> SegOutput:
        """Plain logits and features at decoder resolution."""
        found = self.plain_prediction(image)
        return SegOutput(found.logits, found.features)

    def plain_prediction(self, image: Tensor) -> Prediction:
        """Scores and features without prototypes."""
        clean = self.network.decoder(self.network.encode(image))
        features = self.feature_dropout(clean)
        return Prediction(self.network.classify(features), features, clean)

    def augmented_logits(
        self,
        features: Tensor | PixelQueries,
        present: Tensor,
        local: ClassPrototypes | None = None,
    ) -> Tensor:
        """Scores of features that prototypes have enriched.

        Args:
            features: Decoder features, shape ``(B, D, h, w)``, or what the augmenter read in them:
                local and global prototypes share that.
            present: Classes whose global prototypes an image may use, shape ``(B, C)``.
            local: Local prototypes of each image; ``None`` = global ones.

        Returns:
            Shape ``(B, C, h, w)``.
        """
        of = self.augmenter.read(features) if isinstance(features, torch.Tensor) else features
        if local is not None:
            enriched = self.augmenter.enrich(of, local.prototypes, local.valid)
        else:
            bank = self.bank.prototypes.flatten(0, 1)[None].detach().clone()
            mask = (present > 0)[:, :, None] & self.bank.filled
            enriched = self.augmenter.enrich(of, bank, mask.flatten(1))
        return self.network.classify(enriched)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``(B, C, H, W)`` of images ``(B, K, H, W)``, by the head in use."""
        size = (image.shape[-2], image.shape[-1])
        output = self.forward_features(image)
        if self.head == "none":
            return self.upsample_logits(output.logits, size)
        present = self._classes_to_use(self.upsample_logits(output.logits, size))
        local = None
        if self.head == "local":
            local = confident_prototypes(
                output.features,
                self._without_canvas(self.confidence(output.logits), size),
                present,
                ratio=self.hparams["topk_ratio"],
            )
        return self.upsample_logits(self.augmented_logits(output.features, present, local), size)

    def confidence(self, logits: Tensor) -> Tensor:
        """Scores by which pixels are ranked for a local prototype; shape of the logits.

        A class whose scores are nowhere positive gives none. Logits may all be negative where the
        class wins; centred ones, less their mean over the classes, are not.
        """
        if self.hparams["confidence"] == "centred":
            return logits - logits.mean(dim=1, keepdim=True)
        return logits

    def _without_canvas(self, scores: Tensor, size: tuple[int, int]) -> Tensor:
        """Ranking scores with those beyond the image at their lowest: padding is no evidence."""
        canvas = self.network.padded_size(*size)
        rows, columns = (
            math.ceil(side * cells / full)
            for side, cells, full in zip(size, scores.shape[-2:], canvas, strict=True)
        )
        inside = torch.zeros(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        inside[:rows, :columns] = True
        return scores.masked_fill(~inside, torch.finfo(scores.dtype).min)

    def _classes_to_use(self, logits: Tensor) -> Tensor:
        if self._given_classes is not None:
            return self._given_classes.expand(len(logits), -1)
        if self.hparams["class_source"] == "all":
            return logits.new_ones(logits.shape[:2])
        background = self.data_info.background
        return predicted_class_labels(
            logits,
            (logits.shape[-2], logits.shape[-1]),
            min_pixels=self.hparams["min_pixels"],
            always=() if background is None else (background,),
        )

    @contextmanager
    def using(self, head: Head, classes: Tensor | None = None) -> Iterator[None]:
        """Predict with another head inside the block.

        Args:
            head: ``none``, ``local`` or ``global``.
            classes: Classes that prototypes may be used of, multi-hot, shape ``(1, C)``; by default
                as ``class_source`` says.
        """
        before = self.head, self._given_classes
        self.head, self._given_classes = head, classes
        try:
            yield
        finally:
            self.head, self._given_classes = before

    def on_test_start(self) -> None:
        """Say if the chosen head has nothing to offer."""
        self._warn_if_empty()

    def on_predict_start(self) -> None:
        """Say if the chosen head has nothing to offer."""
        self._warn_if_empty()

    def _warn_if_empty(self) -> None:
        if self.head == "global" and not self.bank.filled.any():
            logger.warning(
                "prototype_inference='global', but the bank of this checkpoint is empty: the plain "
                "prediction is used. Train beyond the warm-up, or predict with 'none'"
            )

    def on_validation_epoch_start(self) -> None:
        """Start counting afresh."""
        super().on_validation_epoch_start()
        self.head_scores.reset()

    def validation_step(self, batch: SegBatch, batch_idx: int) -> dict[str, Any]:
        """Score the chosen head, and the extra ones."""
        self.head_scores.update(batch)
        return super().validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of the whole set."""
        super().on_validation_epoch_end()
        self.log_dict(self.head_scores.compute("val"))

    def on_test_epoch_end(self) -> None:
        """Log the scores of the whole set."""
        super().on_test_epoch_end()
        self.log_dict(self.head_scores.compute("test"))


class HeadScores(nn.Module):
    """Counts the predictions of further heads over a validation or test set.

    Args:
        module: Whose heads; not registered as a part of this one.
        heads: ``local``, ``global`` or both, with classes that need no labels.
        oracle: Also both heads with the classes of the dense mask. The published evaluation does
            that; a user of the model cannot.
    """

    def __init__(self, module: AugmentedModule, heads: Sequence[str], *, oracle: bool) -> None:
        super().__init__()
        for head in heads:
            check_choice("extra_heads", head, ("local", "global"))
        check_flag(oracle=oracle)
        self._module = [module]  # in a list: a module must not contain itself
        names = [*heads, *(("oracle_local", "oracle_global") if oracle else ())]
        self.metrics = nn.ModuleDict({n: SegmentationMetrics(module.num_classes) for n in names})

    def reset(self) -> None:
        """Start counting afresh."""
        for metric in self.metrics.values():
            cast("SegmentationMetrics", metric).reset()

    def update(self, batch: SegBatch) -> None:
        """Count a batch; without dense masks nothing is counted."""
        if not self.metrics or "mask" not in batch:
            return
        module = self._module[0]
        # one by one: each image has its own classes
        for index in range(len(batch["image"])):
            one = _only(batch, index)
            height, width = one["orig_size"][0].tolist()
            target = one["mask"][0, :height, :width]
            if bool(one["duplicate"][0]) if "duplicate" in one else False:
                target = target.new_full(target.shape, IGNORE_INDEX)
            for name, metric in self.metrics.items():
                classes = self._true_classes(one["mask"]) if name.startswith("oracle") else None
                with module.using(name.removeprefix("oracle_"), classes):  # type: ignore[arg-type]
                    prediction = module.predict_labels(one)[0]
                cast("SegmentationMetrics", metric).update(prediction, target)

    def _true_classes(self, mask: Tensor) -> Tensor:
        module = self._module[0]
        background = module.data_info.background
        return class_labels_from_scribble(
            mask, module.num_classes, always=() if background is None else (background,)
        )

    def compute(self, stage: str) -> dict[str, Tensor]:
        """Scores by their logged name: ``<stage>/miou_<head>`` and ``oracle/miou_<head>``."""
        scores = {}
        for name, metric in self.metrics.items():
            own = cast("SegmentationMetrics", metric)
            if own.update_called:
                prefix = "oracle" if name.startswith("oracle_") else stage
                scores[f"{prefix}/miou_{name.removeprefix('oracle_')}"] = own.compute()["miou"]
        return scores


def _only(batch: SegBatch, index: int) -> SegBatch:
    """One image of a batch."""
    one: Any = {key: value[index : index + 1] for key, value in batch.items()}  # type: ignore[index]
    return cast("SegBatch", one)
