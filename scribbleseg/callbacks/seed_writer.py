"""Seeds and pseudo-labels of the training images, from the maps of a tag classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch.nn.functional as F

from scribbleseg.callbacks.training_image_writer import TrainingImageWriter
from scribbleseg.data.weak import box_pixels
from scribbleseg.errors import ConfigError
from scribbleseg.functional.cam import normalize_in_boxes
from scribbleseg.functional.cam_refinement import CAMRefinement, refine_cam
from scribbleseg.functional.crf import CRF_PRESETS
from scribbleseg.functional.image_files import write_arrays
from scribbleseg.options import check_choice, check_flag, check_number

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer

    from scribbleseg.callbacks.training_image import TrainingImage

__all__ = ["SeedWriter"]


class SeedWriter(TrainingImageWriter):
    """Writes the activation maps of every training image, and a pseudo-label made of them.

    At the end of training, and at the end of ``scribbleseg predict``. The classes of an image are
    those of its training scribble (as it is trained on, if scribbles are shortened or dropped), or
    those that the source knows. No mask is read. An interrupted run goes on where it stopped.

    Two folders, each with a ``manifest.json``: ``seeds/<id>.npz`` with ``classes``, int64, shape
    ``(n,)``, and ``maps``, float16 in [0, 1], shape ``(n, h, w)`` at a quarter of the network's
    input; ``pseudo_labels/<id>.png`` with ids at image size, for ``pseudo_label_dir``.

    Args:
        folder: Where both go; ``null`` = the folder of the run.
        threshold: Score of the background in (0, 1). Without a background class: below it a pixel
            is undecided.
        refine: ``none``, ``crf``, ``random_walk`` or ``random_walker``; see
            :func:`~scribbleseg.functional.cam_refinement.refine_cam`.
        crf: Preset of the dense CRF.
        confident: Scores above and below which a pixel is a seed of the random walker.
        paste_scribbles: Drawn pixels keep their class.
        seeds: Whether to write the maps too.
        per_box: For sources with boxes: stretch each map to [0, 1] in each box of its class, and
            nothing activates outside of them.
    """

    facts = {"tags": "classes of the training scribbles"}  # noqa: RUF012 - see the base class
    needs = ("class_maps", "a method with activation maps, such as CAMModule")

    def __init__(
        self,
        folder: str | None = None,
        *,
        threshold: float = 0.25,
        refine: CAMRefinement = "none",
        crf: str = "irn",
        confident: tuple[float, float] = (0.6, 0.1),
        paste_scribbles: bool = True,
        seeds: bool = True,
        per_box: bool = False,
    ) -> None:
        check_number(threshold=threshold)
        check_flag(paste_scribbles=paste_scribbles, seeds=seeds, per_box=per_box)
        check_choice("refine", refine, get_args(CAMRefinement))
        check_choice("crf", crf, tuple(CRF_PRESETS))
        if not 0 < threshold < 1:
            raise ConfigError(f"threshold={threshold}: expected a score between 0 and 1")
        if len(confident) != 2 or not 0 <= confident[1] < confident[0] < 1:
            raise ConfigError(
                f"confident={list(confident)}: expected two scores below 1, the larger one first"
            )
        super().__init__(folder)
        self.threshold, self.refine, self.crf = threshold, refine, crf
        self.confident, self.paste_scribbles, self.seeds = confident, paste_scribbles, seeds
        self.per_box = per_box

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a method without maps, and a source without boxes, before hours of training.

        Raises:
            ConfigError: If the method has no ``class_maps``.
            ScribbleNotFoundError: If boxes are asked for and the source has none.
        """
        super().setup(trainer, pl_module, stage)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if self.per_box and data is not None:
            data.source.boxes(data.records("train")[0])

    def folders(self, run: Path) -> list[Path]:
        """Those of the pseudo-labels and, if wanted, of the maps."""
        root = self.folder or run
        return [root / "pseudo_labels", *([root / "seeds"] if self.seeds else [])]

    def options(self) -> dict[str, Any]:
        """Options of the callback."""
        return {
            "threshold": self.threshold,
            "refine": self.refine,
            "crf": self.crf,
            "confident": list(self.confident),
            "paste_scribbles": self.paste_scribbles,
            **({"per_box": True} if self.per_box else {}),
        }

    def write_image(self, sample: TrainingImage, module: Any, folders: list[Path]) -> None:
        """Write maps and label of one image."""
        found, present = module.class_maps(sample.image), sample.tags
        maps = found.maps.float()
        full = F.interpolate(maps, sample.size, mode="bilinear", align_corners=False)[0]
        if self.per_box:
            boxes = sample.data.source.boxes(sample.record)
            regions = [box_pixels(box, sample.size) for box in boxes]
            full = normalize_in_boxes(full, [box.label for box in boxes], regions)
        labels = refine_cam(
            full,
            present,
            sample.raw.to(full.device),
            scribble=sample.scribble if self.paste_scribbles else None,
            method=self.refine,
            threshold=self.threshold,
            confident=self.confident,
            crf=self.crf,
            background=sample.data.source.background,
        )
        if self.seeds:
            classes = present.nonzero()[:, 0].cpu()
            kept = found.seeds[0].float().cpu()[classes].numpy().astype(np.float16)
            write_arrays(folders[1] / f"{sample.name}.npz", classes=classes.numpy(), maps=kept)
        # the label last: it says that the image is done
        sample.write_label(folders[0], sample.where_known(labels))
