"""Prototypes of the segments of all training images, labelled by what supervises them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from scribbleseg.callbacks.training_image_writer import TrainingImageWriter
from scribbleseg.data.labels import read_label
from scribbleseg.errors import ConfigError, ScribbleNotFoundError, ScribbleSegError
from scribbleseg.functional.geometry import resize_labels
from scribbleseg.functional.image_files import write_arrays
from scribbleseg.functional.regions import majority_labels
from scribbleseg.options import check_flag, check_number

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch import Tensor

    from scribbleseg.callbacks.training_image import TrainingImage

__all__ = ["PrototypeWriter"]

_COLUMNS = ("prototypes", "labels", "image", "segment", "scale")


class PrototypeWriter(TrainingImageWriter):
    """Writes ``prototypes.npz``, with which SPML predicts by the nearest segments (``retrieval``).

    Every training image is split as in prediction; each segment has the label of most of its
    labelled pixels, and segments without any are left out. At the end of training and of
    ``scribbleseg predict``. Arrays: ``prototypes`` float32 ``(M, D)``, ``labels`` uint8, ``image``
    int32 (position in ``image_ids``), ``segment`` int32 (number within the image), ``scale``
    float32, ``image_ids``, ``oracle``.

    Args:
        folder: Where to; ``null`` = ``prototypes`` in the folder of the run, or
            ``oracle_prototypes``.
        labels: ``scribble``, or a folder of pseudo-label PNGs. A folder of the run that another
            callback has just written may be given relative to it, such as ``pseudo_labels``.
        oracle: Label by the dense masks of the training images instead. That is full supervision:
            scores with such a file are logged as ``oracle/…``. So are those of a file whose
            ``scribble`` labels are dense masks (``label_type: mask``).
        scales: Factors of the network's input size whose segments are all kept.
    """

    written = "segment prototypes"
    needs = ("segments_of", "a method with segments, such as SPMLModule")

    def __init__(
        self,
        folder: str | None = None,
        *,
        labels: str = "scribble",
        oracle: bool = False,
        scales: tuple[float, ...] = (1.0,),
    ) -> None:
        check_flag(oracle=oracle)
        check_number(**{f"scales[{number}]": scale for number, scale in enumerate(scales)})
        if not scales or min(scales) <= 0:
            raise ConfigError(f"scales={list(scales)}: expected one or more numbers above 0")
        if oracle and labels != "scribble":
            raise ConfigError(
                f"oracle=True with labels={labels!r}: masks replace all other labels; remove one"
            )
        super().__init__(folder)
        self.labels, self.oracle, self.scales = labels, oracle, tuple(scales)
        self._parts: dict[str, list[Any]] = {}
        self._label_folder = Path(labels)

    def folders(self, run: Path) -> list[Path]:
        """The one folder."""
        return [self.folder or run / ("oracle_prototypes" if self.oracle else "prototypes")]

    def options(self) -> dict[str, Any]:
        """Options of the callback."""
        return {"labels": self.labels, "oracle": self.oracle, "scales": list(self.scales)}

    def is_written(self, folders: list[Path], image_id: str) -> bool:
        """Never: there is one file for all."""
        return False

    def write(self, trainer: Trainer, pl_module: LightningModule) -> Path:
        """See :meth:`TrainingImageWriter.write`; ends with one file of all ranks' segments.

        Raises:
            ScribbleSegError: If no segment has a label.
        """
        self._parts = {name: [] for name in (*_COLUMNS, "image_ids")}
        run = Path(trainer.default_root_dir)
        inside = run / self.labels
        self._label_folder = inside if inside.is_dir() else Path(self.labels)
        folder = super().write(trainer, pl_module)
        self._save(folder / f"part_{trainer.global_rank}.npz")
        trainer.strategy.barrier("prototypes")
        if trainer.is_global_zero:
            dense = self.labels == "scribble" and _label_type(trainer) == "mask"
            _merge(folder, trainer.world_size, oracle=self.oracle or dense)
        trainer.strategy.barrier("prototypes merged")
        self._parts = {}
        return folder

    def write_image(self, sample: TrainingImage, module: Any, folders: list[Path]) -> None:
        """Add the segments of one image."""
        if sample.name in self._parts["image_ids"]:
            return  # repeated to even out the ranks
        image, given = sample.image, self._read(sample)[None]
        height, width = sample.input_size
        number = len(self._parts["image_ids"])
        self._parts["image_ids"].append(sample.name)
        for scale in self.scales:
            size = (max(round(height * scale), 1), max(round(width * scale), 1))
            if size == (height, width):
                scaled = image
            else:
                scaled = F.interpolate(image, size, mode="bilinear", align_corners=False)
            self._add(module, scaled, resize_labels(given, size), number, scale)

    def _add(self, module: Any, image: Tensor, labels: Tensor, number: int, scale: float) -> None:
        found = module.segments_of(image)
        count = len(found.prototypes)
        size = (int(image.shape[2]), int(image.shape[3]))
        numbers = torch.arange(count, device=image.device)[:, None]
        ids = module.segment_map(found.ids, numbers + 1.0, size)[:, 0].long() - 1
        votes = majority_labels(labels, ids, count, module.num_classes)[0]
        kept = votes < module.num_classes
        ones = torch.ones_like(votes[kept])
        rows = (found.prototypes[kept], votes[kept], number * ones, numbers[kept, 0], scale * ones)
        for name, values in zip(_COLUMNS, rows, strict=True):
            self._parts[name].append(values.cpu().numpy())

    def _read(self, sample: TrainingImage) -> Tensor:
        """Labels of one training image, int64, 255 = not labelled."""
        if self.labels == "scribble" and not self.oracle:
            return sample.scribble
        source, path = sample.data.source, self._label_folder / f"{sample.name}.png"
        if self.oracle:
            return self._tensor(source.read_mask(source.with_mask(sample.record)), sample)
        if not path.is_file():
            raise ScribbleNotFoundError(
                f"labels={self.labels!r}: {path} does not exist; give `scribble`, or a folder with "
                "a pseudo-label of every training image, such as PropagatedLabelWriter makes"
            )
        return self._tensor(read_label(path, source.num_classes), sample)

    @staticmethod
    def _tensor(labels: Any, sample: TrainingImage) -> Tensor:
        return torch.from_numpy(labels.astype(np.int64)).to(sample.image.device)

    def _save(self, path: Path) -> None:
        ids = np.array(self._parts["image_ids"], dtype=np.str_)
        arrays = {n: np.concatenate(v) for n, v in self._parts.items() if n != "image_ids" and v}
        write_arrays(path, image_ids=ids, **arrays)


def _label_type(trainer: Trainer) -> str:
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    return str(getattr(data.source, "label_type", "scribble"))


def _merge(folder: Path, ranks: int, *, oracle: bool) -> None:
    """One file of the parts of all ranks; an image that two of them hold counts once."""
    known: dict[str, int] = {}
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for rank in range(ranks):
        path = folder / f"part_{rank}.npz"
        with np.load(path, allow_pickle=False) as part:
            ids = [str(name) for name in part["image_ids"]]
            fresh = np.array([name not in known for name in ids], dtype=bool)
            places = np.array([known.setdefault(name, len(known)) for name in ids], dtype=np.int32)
            if "image" in part.files:
                image = part["image"].astype(np.int32)
                kept = fresh[image]
                for name in _COLUMNS:
                    columns[name].append((places[image] if name == "image" else part[name])[kept])
        path.unlink()
    if not sum(len(rows) for rows in columns["labels"]):
        raise ScribbleSegError(
            f"{folder}: no segment of any training image has a label, so there is nothing to "
            "retrieve; label them with `labels: pseudo_labels`, or use the classifier"
        )
    kinds = {"prototypes": np.float32, "labels": np.uint8, "scale": np.float32}
    joined = {n: np.concatenate(v).astype(kinds.get(n, np.int32)) for n, v in columns.items()}
    names = np.array(list(known), dtype=np.str_)
    write_arrays(folder / "prototypes.npz", image_ids=names, oracle=np.array(oracle), **joined)
