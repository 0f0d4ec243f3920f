"""Seeds and pseudo-labels of the training images, from the maps of a tag classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
import torch.nn.functional as F

from scribbleseg.callbacks.training_image_writer import TrainingImageWriter, training_scribble
from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.errors import ConfigError
from scribbleseg.functional.cam_refinement import CAMRefinement, refine_cam
from scribbleseg.functional.crf import CRF_PRESETS
from scribbleseg.functional.image_files import write_arrays
from scribbleseg.functional.images import write_label
from scribbleseg.options import check_choice, check_flag, check_number

if TYPE_CHECKING:
    from pathlib import Path

    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from scribbleseg.types import Record

__all__ = ["SeedWriter", "scribble_and_tags"]


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
    """

    facts = {"tags": "classes of the training scribbles"}  # noqa: RUF012 - see the base class

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
    ) -> None:
        check_number(threshold=threshold)
        check_flag(paste_scribbles=paste_scribbles, seeds=seeds)
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

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a method that has no maps, before it trains for hours.

        Raises:
            ConfigError: If the method has no ``class_maps``.
        """
        if not hasattr(pl_module, "class_maps"):
            raise ConfigError(
                f"SeedWriter needs a method with activation maps, such as CAMModule; "
                f"{type(pl_module).__name__} has none: remove the callback"
            )

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
        }

    def is_written(self, folders: list[Path], image_id: str) -> bool:
        """Whether the label, and the maps if wanted, are there."""
        suffixes = (".png", ".npz")
        return all(
            (f / f"{image_id}{s}").is_file() for f, s in zip(folders, suffixes, strict=False)
        )

    def write_image(
        self,
        batch: Any,
        position: int,
        module: Any,
        data: Any,
        record: Record,
        folders: list[Path],
    ) -> None:
        """Write maps and label of one image."""
        scribble, present = scribble_and_tags(data, record)
        height, width = batch["input_size"][position].tolist()
        image = batch["image"][position, None, :, :height, :width]
        found = module.class_maps(image.to(module.device))
        rows, columns = batch["orig_size"][position].tolist()
        raw = batch["image_raw"][position, :, :rows, :columns]
        full = F.interpolate(
            found.maps.float(), (rows, columns), mode="bilinear", align_corners=False
        )[0]
        labels = refine_cam(
            full,
            present.to(full.device),
            raw.to(full.device),
            scribble=scribble.to(full.device) if self.paste_scribbles else None,
            method=self.refine,
            threshold=self.threshold,
            confident=self.confident,
            crf=self.crf,
            background=data.source.background,
        )
        if self.seeds:
            classes = present.nonzero()[:, 0]
            kept = found.seeds[0].float().cpu()[classes].numpy().astype(np.float16)
            write_arrays(folders[1] / f"{record.image_id}.npz", classes=classes.numpy(), maps=kept)
        # the label last: it says that the image is done
        label_file = folders[0] / f"{record.image_id}.png"
        write_label(label_file, labels.cpu().numpy().astype(np.uint8), data.source.palette)


def scribble_and_tags(data: Any, record: Record) -> tuple[Tensor, Tensor]:
    """Scribble of a training image as it is trained on, and its classes without background.

    Args:
        data: The data module.
        record: Record of the image.

    Returns:
        Ids, int64, shape ``(H, W)``, 255 = not drawn; and multi-hot float, shape ``(C,)``.
    """
    source, scribble = data.source, training_scribble(data, record)
    # what the source knows of an image holds for its whole scribble only
    known = source.class_labels(record) if data.degradation is None else None
    if known is None:
        known = [int(label) for label in np.unique(scribble) if label != IGNORE_INDEX]
    present = torch.zeros(source.num_classes)
    present[[label for label in known if label != source.background]] = 1
    return torch.from_numpy(scribble), present
