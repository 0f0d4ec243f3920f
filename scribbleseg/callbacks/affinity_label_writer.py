"""Labels of certain pixels, from seeds: what a boundary network is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch.nn.functional as F

from scribbleseg.callbacks.training_image_writer import TrainingImageWriter
from scribbleseg.data.readers import SeedReader
from scribbleseg.errors import ConfigError
from scribbleseg.functional.crf import CRF_PRESETS
from scribbleseg.functional.manifest import parent_facts
from scribbleseg.functional.pseudo_labels import confident_labels, crf_index_refiner, spread_by_crf
from scribbleseg.options import check_choice, check_number

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from scribbleseg.callbacks.training_image import TrainingImage

__all__ = ["AffinityLabelWriter", "SeedSource"]

SeedSource = Literal["cam", "scribble", "cam+scribble"]


class AffinityLabelWriter(TrainingImageWriter):
    """Writes a label of the certain pixels of every training image, 255 elsewhere.

    Foreground where a seed exceeds one threshold, background where none exceeds a lower one, each
    after a dense CRF: see :func:`~scribbleseg.functional.pseudo_labels.confident_labels`. At the
    end of training and of ``scribbleseg predict``, after the callback that writes the seeds (list
    it behind). No mask is read, no network runs. ``affinity_labels/<id>.png`` and a
    ``manifest.json`` are the ``pseudo_label_dir`` of ``IRNModule``.

    Args:
        folder: Where to; ``null`` = ``affinity_labels`` in the folder of the run.
        seed_dir: Folder of seeds, of ours or anybody's; ``null`` = ``seeds`` in the folder of the
            run.
        seed_source: ``cam`` = the seeds alone, ``cam+scribble`` = drawn pixels keep their class,
            ``scribble`` = no seeds: scribbles propagated by a dense CRF.
        foreground: Score in (0, 1) that a class must exceed; 0.45 for reclassified maps.
        background: Score that no class may exceed; 0.25 for reclassified maps.
        refine: ``crf``, or ``none``.
        crf: Preset of the dense CRF.
        least: For ``scribble``: probability from which a pixel is labelled, in (0, 1).
    """

    written = "certain labels"

    def __init__(
        self,
        folder: str | None = None,
        *,
        seed_dir: str | None = None,
        seed_source: SeedSource = "cam+scribble",
        foreground: float = 0.3,
        background: float = 0.05,
        refine: Literal["crf", "none"] = "crf",
        crf: str = "irn",
        least: float = 0.9,
    ) -> None:
        check_number(foreground=foreground, background=background, least=least)
        check_choice("seed_source", seed_source, get_args(SeedSource))
        check_choice("refine", refine, ("crf", "none"))
        check_choice("crf", crf, tuple(CRF_PRESETS))
        if not 0 <= background <= foreground < 1 or not 0 < least < 1:
            raise ConfigError(
                f"foreground={foreground}, background={background}, least={least}: expected scores "
                "in [0, 1), the first one larger, and a probability"
            )
        super().__init__(folder)
        self.seed_dir = None if seed_dir is None else Path(seed_dir)
        self.seed_source, self.refine, self.crf = seed_source, refine, crf
        self.foreground, self.background, self.least = foreground, background, least
        self._seeds: SeedReader | None = None

    def folders(self, run: Path) -> list[Path]:
        """The one folder."""
        return [self.folder or run / "affinity_labels"]

    def options(self) -> dict[str, Any]:
        """Options of the callback, and what the seeds say of themselves."""
        return {
            "seed_source": self.seed_source,
            "foreground": self.foreground,
            "background": self.background,
            "refine": self.refine,
            "crf": self.crf,
            "least": self.least,
            **self.facts,
        }

    def write(self, trainer: Trainer, pl_module: LightningModule) -> Path:
        """See :meth:`TrainingImageWriter.write`."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self._seeds, self.facts = None, {}
        if data is not None and self.seed_source != "scribble":
            folder = self.seed_dir or Path(trainer.default_root_dir) / "seeds"
            self._seeds = SeedReader(data.source, data.records("train"), folder)
            self.facts = parent_facts(seeds=folder)
        return super().write(trainer, pl_module)

    def write_image(self, sample: TrainingImage, module: Any, folders: list[Path]) -> None:
        """Write the label of one image."""
        sample.write_label(folders[0], self._labels(sample.on_host()))

    def _labels(self, sample: TrainingImage) -> Tensor:
        source, raw = sample.data.source, sample.raw
        if self._seeds is None:
            if self.refine == "none":
                return sample.scribble
            return spread_by_crf(
                sample.scribble, raw, source.num_classes, least=self.least, params=self.crf
            )
        maps = self._seeds.read(sample.record)[None]
        full = F.interpolate(maps, sample.size, mode="bilinear", align_corners=False)[0]
        labels = confident_labels(
            full,
            sample.tags,
            foreground=self.foreground,
            background_score=self.background,
            refine=crf_index_refiner(raw, self.crf) if self.refine == "crf" else None,
            background=source.background,
        )
        labels = sample.where_known(labels)
        if self.seed_source == "cam":
            return labels
        return sample.with_scribble(labels)
