"""Pseudo-labels of the training images, propagated by a walk between alike embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F

from scribbleseg.callbacks.training_image_writer import TrainingImageWriter
from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.errors import ConfigError, ScribbleNotFoundError
from scribbleseg.functional.cam import cam_background_score, normalize_class_scores
from scribbleseg.functional.crf import CRF_PRESETS, dense_crf
from scribbleseg.functional.geometry import resize_labels
from scribbleseg.functional.manifest import parent_facts
from scribbleseg.inference import InferenceConfig
from scribbleseg.options import check_choice, check_flag, check_whole

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from scribbleseg.callbacks.training_image import TrainingImage

__all__ = ["PropagatedLabelWriter"]

ScoreSource = Literal["classifier", "nearest", "seeds", "retrieval"]


class PropagatedLabelWriter(TrainingImageWriter):
    """Writes a pseudo-label of every training image, for the next stage of SPML or of any method.

    Scores of the classes of the image, of which each is divided by its maximum, walk between cells
    of alike embeddings; a dense CRF on the original pixels and the largest score follow (SPML, ICLR
    2021). The classes are those drawn, or those that the source knows. At the end of training and
    of ``scribbleseg predict``; no mask is read. The folder holds ``<id>.png`` at image size and
    ``manifest.json``: a ``pseudo_label_dir``.

    Args:
        folder: Where to; ``null`` = ``pseudo_labels`` in the folder of the run.
        scores: ``classifier``; ``nearest``: of the labelled segments of the image (for points on
            body parts); ``seeds``: activation maps (for tags); ``retrieval``: votes of the nearest
            segments of all training images, which do not walk.
        seeds: Folder of activation maps, ``<id>.npz``, as ``SeedWriter`` makes them.
        prototypes: File for ``retrieval``; ``null`` = ``prototypes/prototypes.npz`` of the run.
        walk_steps: Steps of the walk, at least 0.
        stride: Pixels of the network's input per cell of the walk.
        crf: Preset of the dense CRF; ``null`` = none.
        paste_scribbles: Drawn pixels keep their class (the released code does not do that).
        exclude_self: ``retrieval`` without the segments of the image itself.
        mask_absent: ``retrieval`` with the classes of the image only; else they are only raised.
        inference: Test-time options of these predictions; ``null`` = the image and its mirror
            image.
    """

    needs = ("propagated_scores", "a method with embeddings to walk on, such as SPMLModule")

    def __init__(
        self,
        folder: str | None = None,
        *,
        scores: ScoreSource = "classifier",
        seeds: str | None = None,
        prototypes: str | None = None,
        walk_steps: int = 64,
        stride: int = 8,
        crf: str | None = "spml",
        paste_scribbles: bool = True,
        exclude_self: bool = True,
        mask_absent: bool = True,
        inference: InferenceConfig | None = None,
    ) -> None:
        check_choice("scores", scores, ("classifier", "nearest", "seeds", "retrieval"))
        check_choice("crf", crf, (None, *CRF_PRESETS))
        check_whole(0, walk_steps=walk_steps)
        check_whole(1, stride=stride)
        check_flag(
            paste_scribbles=paste_scribbles, exclude_self=exclude_self, mask_absent=mask_absent
        )
        if (scores == "seeds") != (seeds is not None):
            raise ConfigError(
                f"scores={scores!r}, seeds={seeds!r}: seeds need the folder that SeedWriter made, "
                "and other scores none"
            )
        super().__init__(folder, InferenceConfig(flip=True) if inference is None else inference)
        self.scores, self.seeds, self.prototypes = scores, seeds, prototypes
        self.walk_steps, self.stride, self.crf = walk_steps, stride, crf
        self.paste_scribbles, self.exclude_self = paste_scribbles, exclude_self
        self.mask_absent = mask_absent

    def folders(self, run: Path) -> list[Path]:
        """The one folder."""
        return [self.folder or run / "pseudo_labels"]

    def options(self) -> dict[str, Any]:
        """Options of the callback."""
        names = ("scores", "walk_steps", "stride", "crf", "paste_scribbles", "exclude_self")
        given = {name: getattr(self, name) for name in (*names, "mask_absent")}
        return {**given, "seeds": self.seeds, **self.facts}

    def write(self, trainer: Trainer, pl_module: LightningModule) -> Path:
        """See :meth:`TrainingImageWriter.write`; with the prototype file for ``retrieval``."""
        module: Any = pl_module
        before = module.retriever
        module.retriever = None
        self.facts = parent_facts(seeds=self.seeds)
        try:
            if self.scores == "retrieval":
                self._use_prototypes(Path(trainer.default_root_dir), module)
            return super().write(trainer, pl_module)
        finally:
            module.retriever = before

    def _use_prototypes(self, run: Path, module: Any) -> None:
        path = Path(self.prototypes or run / "prototypes/prototypes.npz")
        module.use_retrieval(str(path))
        if module.retriever.oracle:
            raise ConfigError(
                f"{path}: is labelled by dense masks of the training images (oracle): labels made "
                "with it would be full supervision; make one with PrototypeWriter, `labels: "
                "scribble` or a folder of pseudo-labels"
            )
        self.facts = {**self.facts, "prototypes": module.retriever.digest()}

    def write_image(self, sample: TrainingImage, module: Any, folders: list[Path]) -> None:
        """Write one label."""
        present, size = _tags(sample), sample.size
        if self.scores == "retrieval":
            found = self._votes(module, sample, present)
        else:
            given = self._given(module, sample)
            found = module.propagated_scores(
                sample.image,
                present,
                scores=given,
                normalize=self.scores != "seeds",
                steps=self.walk_steps,
                stride=self.stride,
            )
        full = F.interpolate(found[None], size, mode="bilinear", align_corners=False)
        labels = full.argmax(1)[0]
        if self.crf is not None and bool(present.any()):
            raw = sample.raw[None].to(full.device)
            labels = dense_crf(full, raw, params=self.crf)[0].argmax(0)
        if not present.any():
            labels = torch.full_like(labels, IGNORE_INDEX)  # nothing is known of this image
        if self.paste_scribbles:
            labels = sample.with_scribble(labels)
        sample.write_label(folders[0], labels)

    def _votes(self, module: Any, sample: TrainingImage, present: Tensor) -> Tensor:
        module.retriever.without = sample.name if self.exclude_self else None
        votes: Tensor = module.predict_logits(sample.image).float().softmax(1)[0]
        absent: Literal["zero", "keep"] = "zero" if self.mask_absent else "keep"
        return normalize_class_scores(votes, present, floor=0.15, absent=absent)

    def _given(self, module: Any, sample: TrainingImage) -> Tensor | None:
        """Scores that are not the classifier's, ``(C, h, w)``."""
        if self.scores == "nearest":
            labels = resize_labels(sample.scribble[None], sample.input_size)
            nearest: Tensor = module.nearest_label_scores(sample.image, labels)
            return nearest
        if self.scores == "classifier":
            return None
        path = Path(str(self.seeds)) / f"{sample.name}.npz"
        if not path.is_file():
            raise ScribbleNotFoundError(
                f"{path}: no activation maps of this training image; make them with SeedWriter, "
                "with `seeds: true`"
            )
        with np.load(path, allow_pickle=False) as stored:
            classes, maps = stored["classes"], torch.from_numpy(stored["maps"].astype(np.float32))
        scores = torch.zeros(module.num_classes, *maps.shape[1:])
        scores[classes.tolist()] = maps
        background = module.data_info.background
        if background is not None:
            scores[background] = cam_background_score(maps)[0] if len(classes) else 1.0
        return scores.to(sample.image.device)


def _tags(sample: TrainingImage) -> Tensor:
    """Classes of a training image, the background if it is drawn.

    It is also there in an image whose tags are known and in which nothing is drawn. Where neither
    is known, nothing is.
    """
    scribble, background = sample.scribble, sample.data.source.background
    present = sample.tags.clone()
    undrawn = not bool((scribble != IGNORE_INDEX).any())
    tagged = undrawn and sample.known_classes is not None
    if background is not None and (tagged or bool((scribble == background).any())):
        present[background] = 1
    return present
