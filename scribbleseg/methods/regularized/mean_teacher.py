"""Uncertainty-aware mean teacher."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, cast

import torch

from scribbleseg.errors import ConfigError
from scribbleseg.functional.losses import masked_mean
from scribbleseg.functional.schedules import ramp_factor
from scribbleseg.methods.regularized.losses import mean_teacher_consistency
from scribbleseg.methods.regularized.module import RegularizedModule
from scribbleseg.nn.teacher import EMATeacher
from scribbleseg.options import check_number, check_whole

if TYPE_CHECKING:
    from torch import Tensor

    from scribbleseg.types import SegBatch, SegOutput

__all__ = ["MeanTeacherModule"]


class MeanTeacherModule(RegularizedModule):
    r"""Consistency with a moving-average teacher where it is certain (USTM, Liu et al., PR 2022).

    The teacher sees the batch turned by a random number of quarter turns and with noise; T further
    noisy passes give its uncertainty. Pixels count while the uncertainty is below
    :math:`(0.75 + 0.25\,\mathrm{ramp})\,u_{max}`. Memory: the T passes run without gradient, one
    at a time. Prediction uses the student.

    Args:
        num_classes: Number of classes, background included.
        consistency_weight: Weight of the consistency at the end of its ramp.
        consistency_ramp: Share of the training over which the weight rises (sigmoid).
        samples: T, noisy passes of the teacher.
        decay: Largest decay of the moving average, in [0, 1).
        noise: Standard deviation of the noise in units of the normalised image, clipped at twice.
        max_entropy: :math:`u_{max}`: ``classes`` = log C, ``binary`` = log 2 as published.
        kwargs: See :class:`~scribbleseg.methods.regularized.RegularizedModule`.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        consistency_weight: float = 1.0,
        consistency_ramp: float = 1.0,
        samples: int = 8,
        decay: float = 0.99,
        noise: float = 0.1,
        max_entropy: Literal["classes", "binary"] = "classes",
        **kwargs: Any,
    ) -> None:
        check_whole(1, samples=samples)
        check_number(
            decay=decay,
            noise=noise,
            consistency_weight=consistency_weight,
            consistency_ramp=consistency_ramp,
        )
        if consistency_weight < 0 or not 0 <= consistency_ramp <= 1 or noise < 0:
            raise ConfigError(
                f"consistency_weight={consistency_weight}, consistency_ramp={consistency_ramp}, "
                f"noise={noise}: expected a ramp in [0, 1], and weight and noise that are not "
                "negative"
            )
        if not 0 <= decay < 1:
            raise ConfigError(f"decay={decay}: expected 0 to below 1")
        super().__init__(num_classes, **kwargs)
        self.save_hyperparameters(ignore=["inference"])
        self.teacher = EMATeacher(self.network, decay=decay)

    def unsupervised_terms(
        self, batch: SegBatch, output: SegOutput, logits: Tensor
    ) -> dict[str, tuple[float, Tensor]]:
        """The regularisers and the consistency with the teacher."""
        terms = super().unsupervised_terms(batch, output, logits)
        hparams, progress = self.hparams, self.training_progress()
        turns = int(torch.randint(0, 4, ()))  # drawn on the CPU: no device has to wait
        turned = torch.rot90(batch["image"], turns, (2, 3))
        target = self._noisy_teacher(turned)
        samples = torch.stack([self._noisy_teacher(turned) for _ in range(hparams["samples"])])
        valid = torch.rot90(batch["valid"], turns, (1, 2))
        ceiling = math.log(2 if hparams["max_entropy"] == "binary" else self.num_classes)
        ramp = ramp_factor(progress, length=1.0, shape="sigmoid")
        loss, uncertainty = mean_teacher_consistency(
            torch.rot90(logits, turns, (2, 3)),
            target,
            samples,
            threshold=(0.75 + 0.25 * ramp) * ceiling,
            mask=valid,
            across_ranks=True,
        )
        mean = masked_mean(uncertainty, valid)
        self.log("train/teacher_uncertainty", mean, batch_size=len(logits))
        weight = hparams["consistency_weight"] * ramp_factor(
            progress, length=hparams["consistency_ramp"], shape="sigmoid"
        )
        return terms | {"consistency": (weight, loss)}

    def _noisy_teacher(self, image: Tensor) -> Tensor:
        scale = self.hparams["noise"]
        noise = (torch.randn_like(image) * scale).clamp(-2 * scale, 2 * scale)
        return cast("Tensor", self.teacher(image + noise))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then move the teacher: before any callback can save a checkpoint."""
        super().optimizer_step(*args, **kwargs)
        # the trainer counts this step only afterwards
        self.teacher.update(self.network, self.trainer.global_step + 1)
