"""What training batches hold beside images and scribbles, for the methods that ask for it."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np
import torch

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.label_maps import LabelMap
from scribbleseg.data.readers import PseudoLabelReader, SuperpixelReader
from scribbleseg.data.superpixels import SUPERPIXEL_FILL
from scribbleseg.errors import ConfigError
from scribbleseg.functional.distance import boundary_distance_map, scribble_distance_map
from scribbleseg.functional.superpixels import SuperpixelMethod, SuperpixelOptions
from scribbleseg.options import check_flag, check_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__ = ["ExtraOptions", "TrainingExtras"]

logger = logging.getLogger(__name__)

_LAMBDAS = (math.e, math.e**6)
_LEVELS = 255
_SUPERPIXELS = frozenset({"superpixel", "superpixel_graph"})
_PSEUDO_LABELS = frozenset({"pseudo_label", "distance_maps"})
_CHECKED = 64  # images whose maps are read before training


@dataclass(frozen=True)
class ExtraOptions:
    """The options of :class:`~scribbleseg.data.ScribbleDataModule` that concern optional keys.

    Raises:
        ConfigError: If an option is out of range, or has no effect beside the others.
    """

    superpixels: str | None = None
    superpixel_options: SuperpixelOptions | None = None
    pseudo_label_dir: str | None = None
    paste_scribbles: bool = False
    distance_lambdas: tuple[float, float] = _LAMBDAS

    def __post_init__(self) -> None:
        """Check the values; folders are looked for when training starts."""
        check_flag(paste_scribbles=self.paste_scribbles)
        if len(self.distance_lambdas) != 2:
            raise ConfigError(
                f"distance_lambdas={list(self.distance_lambdas)}: expected two numbers, of the "
                "distances to the scribbles and to the boundaries of the pseudo-labels"
            )
        for number, value in enumerate(self.distance_lambdas):
            check_number(**{f"distance_lambdas[{number}]": value})
            if value <= 0:
                raise ConfigError(
                    f"distance_lambdas[{number}]={value}: expected a number above 0, such as "
                    f"{_LAMBDAS[number]:.3f}"
                )
        if self.superpixel_options is not None:
            if self.superpixels not in get_args(SuperpixelMethod):
                raise ConfigError(
                    f"superpixel_options={self.superpixel_options} with superpixels="
                    f"{self.superpixels!r}: options belong to slic, felzenszwalb or grid; remove "
                    "them"
                )
            self.superpixel_options.arguments(str(self.superpixels))
        if self.paste_scribbles and self.pseudo_label_dir is None:
            raise ConfigError(
                "paste_scribbles=True without `pseudo_label_dir`: there is nothing to write them "
                "over; set the folder, or remove the option"
            )

    def _inputs(self, module: object | None) -> frozenset[str]:
        """Optional inputs that a method asks for; without one, those that the options allow.

        Raises:
            ConfigError: If an option is missing that the method needs.
        """
        if module is None:
            nothing: frozenset[str] = frozenset()
            labels = nothing if self.pseudo_label_dir is None else _PSEUDO_LABELS
            return labels | (nothing if self.superpixels is None else {"superpixel"})
        wanted: frozenset[str] = getattr(module, "train_inputs", frozenset())
        name = type(module).__name__
        if wanted & _SUPERPIXELS and self.superpixels is None:
            raise ConfigError(
                f"{name} trains with superpixels, and `superpixels` of the data is not set: choose "
                "slic, felzenszwalb or grid, or a folder that `python -m scribbleseg.data "
                "superpixels ROOT --out DIR` made"
            )
        if wanted & _PSEUDO_LABELS and self.pseudo_label_dir is None:
            raise ConfigError(
                f"{name} trains on pseudo-labels, and `pseudo_label_dir` of the data is not set: "
                "give a folder of label PNGs, such as `python -m scribbleseg.data propagate ROOT "
                "--out DIR` or a predict run writes"
            )
        return wanted & (_SUPERPIXELS | _PSEUDO_LABELS)

    def set_up(
        self,
        source: ScribbleSource,
        records: Sequence[Record],
        module: object | None,
        *,
        resize: int | tuple[int, int] | None = None,
        workers: int = 0,
        check: bool = True,
    ) -> TrainingExtras | None:
        """Find or make the files of the inputs that a method asks for, before training starts.

        Args:
            source: Data set.
            records: Training samples.
            module: The LightningModule that is trained; without one, all that the options allow.
            resize: Network input size.
            workers: Processes that make superpixels; 0 = this one.
            check: Read the files of some samples.

        Returns:
            What reads the inputs, ``None`` if there are none.

        Raises:
            ConfigError: If an option is missing that the method needs.
            ScribbleSegError: If a folder or file is missing, or does not fit the data set.
        """
        inputs = self._inputs(module)
        changed = tuple(self.distance_lambdas) != _LAMBDAS
        without_effect = {
            "superpixels": self.superpixels is not None and not inputs & _SUPERPIXELS,
            "pseudo_label_dir": self.pseudo_label_dir is not None and not inputs & _PSEUDO_LABELS,
            "distance_lambdas": changed and "distance_maps" not in inputs,
        }
        if any(without_effect.values()):
            logger.warning(
                "%s: %s with these options does not use what they give, so they have no effect",
                ", ".join(name for name, unused in without_effect.items() if unused),
                "nothing" if module is None else type(module).__name__,
            )
        superpixels, pseudo_labels = None, None
        if inputs & _SUPERPIXELS:
            superpixels = SuperpixelReader(
                *(source, records, str(self.superpixels), self.superpixel_options),
                resize=resize,
                graph="superpixel_graph" in inputs,
                workers=workers,
            )
        if inputs & _PSEUDO_LABELS:
            pseudo_labels = PseudoLabelReader(
                source, records, str(self.pseudo_label_dir), paste_scribbles=self.paste_scribbles
            )
        if superpixels is None and pseudo_labels is None:
            return None
        lambdas = self.distance_lambdas if "distance_maps" in inputs else None
        extras = TrainingExtras(source, superpixels, pseudo_labels, lambdas)
        if check:
            extras.check_files(records)
        return extras


@dataclass
class TrainingExtras:
    """Reads the optional maps of a training sample, before its augmentation.

    Attributes:
        source: Data set.
        superpixels: Reads ``superpixel`` and the graph.
        pseudo_labels: Reads ``pseudo_label``.
        distance_lambdas: λ of ``scribble_distance`` and ``pseudo_distance``; ``None`` = neither.
    """

    source: ScribbleSource
    superpixels: SuperpixelReader | None = None
    pseudo_labels: PseudoLabelReader | None = None
    distance_lambdas: tuple[float, float] | None = None

    def read(
        self, record: Record, image: NDArray[np.uint8], scribble: NDArray[np.uint8]
    ) -> tuple[dict[str, LabelMap], dict[str, Tensor]]:
        """Maps of one sample.

        Args:
            record: Sample.
            image: Pixels at original size, uint8, shape ``(H, W, K)``.
            scribble: Scribble as it is trained on, shape ``(H, W)``.

        Returns:
            Maps that follow the geometry of the image, by batch key, and tensors that do not.

        Raises:
            LabelFormatError: If a file is faulty.
        """
        maps: dict[str, LabelMap] = {}
        tensors: dict[str, Tensor] = {}
        if self.superpixels is not None:
            regions, graph = self.superpixels.read(record, image)
            maps["superpixel"] = LabelMap(regions, SUPERPIXEL_FILL)
            if graph is not None:
                tensors["superpixel_edges"] = torch.from_numpy(graph.edges)
                tensors["superpixel_weights"] = torch.from_numpy(graph.weights)
        if self.pseudo_labels is not None:
            label = self.pseudo_labels.read(record, scribble)
            maps["pseudo_label"] = LabelMap(label, IGNORE_INDEX)
            if self.distance_lambdas is not None:
                background = self.source.background
                of_scribble, of_boundary = self.distance_lambdas
                near = scribble_distance_map(scribble, sharpness=of_scribble, background=background)
                far = boundary_distance_map(label, sharpness=of_boundary, background=background)
                maps["scribble_distance"] = LabelMap(_levels(near), _LEVELS)
                maps["pseudo_distance"] = LabelMap(_levels(far), _LEVELS)
        return maps, tensors

    def check_files(self, records: Sequence[Record]) -> None:
        """Read the files of some samples, so that a faulty one stops a run before it starts.

        Raises:
            ScribbleSegError: If a file is faulty.
        """
        count = min(len(records), _CHECKED)
        for index in np.linspace(0, len(records) - 1, count).astype(int).tolist():
            image = self.source.read_image(records[index])
            if self.pseudo_labels is not None:
                blank = np.full(image.shape[:2], IGNORE_INDEX, np.uint8)
                self.pseudo_labels.read(records[index], blank)
            if self.superpixels is not None:
                self.superpixels.read(records[index], image)


def _levels(weights: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Weights in [0, 1], which are multiples of 1/255, as these multiples."""
    return np.rint(weights * _LEVELS).astype(np.uint8)
