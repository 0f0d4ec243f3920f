"""One sample as tensors, samples as a batch, and a picture of them. Training has no masks."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset, default_collate

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.errors import LabelFormatError, ScribbleSegError
from scribbleseg.functional.images import compose_panel, overlay_labels
from scribbleseg.functional.intensity import rgb_view
from scribbleseg.functional.preprocess import mirrored_ids, normalize, resize_image
from scribbleseg.functional.superpixels import region_boundaries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from scribbleseg.data.degraded import DegradedScribbles
    from scribbleseg.data.label_maps import LabelMap
    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.data.training_extras import TrainingExtras
    from scribbleseg.data.transforms import TrainTransform
    from scribbleseg.types import DataInfo, Record, SegBatch

__all__ = ["EvalDataset", "SampleKey", "TrainDataset", "collate"]

logger = logging.getLogger(__name__)

_FILL = {"image": 0, "image_raw": 0, "scribble": IGNORE_INDEX, "mask": IGNORE_INDEX, "valid": 0}
_FILL |= {"source_index": -1, "superpixel": -1, "pseudo_label": IGNORE_INDEX}
_FILL |= {"scribble_distance": 255, "pseudo_distance": 255}
_LOST = "lost_labels"  # of items, not of batches
_TOLD: list[str] = []  # of a batch without labels, in this process
_LINE = (255, 221, 0)
_TITLES = {
    "superpixel": "superpixels",
    "pseudo_label": "pseudo-label",
    "scribble_distance": "near scribble",
    "pseudo_distance": "off boundary",
}
_GRAPH = ("superpixel_edges", "superpixel_weights")  # as many rows as an image has edges


class SampleKey(NamedTuple):
    """What the sampler hands to the data set.

    Attributes:
        item: Position in the split.
        epoch: Epoch for which the sample is drawn; seeds its augmentation in any worker.
        duplicate: True for samples repeated only to give every rank equally many.
    """

    item: int
    epoch: int = 0
    duplicate: bool = False


class TrainDataset(Dataset[dict[str, Any]]):
    """Augmented training samples; a sample is a pure function of (seed, epoch, index).

    Args:
        source: Where pixels come from.
        records: Samples of the training split.
        transform: Augmentation.
        info: Normalisation.
        seed: Seed of all augmentation.
        image_raw: Add ``image_raw``: same geometry, no colour change.
        source_index: Add ``source_index``: where each pixel comes from.
        degraded: Reads shortened scribbles in place of the whole ones.
        extras: Reads superpixels, pseudo-labels and distance maps.
    """

    def __init__(
        self,
        source: ScribbleSource,
        records: Sequence[Record],
        transform: TrainTransform,
        info: DataInfo,
        *,
        seed: int = 0,
        image_raw: bool = False,
        source_index: bool = False,
        degraded: DegradedScribbles | None = None,
        extras: TrainingExtras | None = None,
    ) -> None:
        self.source, self.records, self.transform, self.info = source, records, transform, info
        self.seed, self.image_raw, self.source_index = seed, image_raw, source_index
        self.degraded, self.extras = degraded, extras
        pairs = source.flip_pairs
        self._mirrored_ids = np.array(mirrored_ids(pairs, 256), np.uint8) if pairs else None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.records)

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        """One item of a training ``SegBatch``; a plain index means epoch 0."""
        index, epoch, _ = key if isinstance(key, SampleKey) else SampleKey(key)
        record = self.records[index]
        image = self.source.read_image(record)
        if self.degraded is None:
            scribble, known = self.source.read_scribble(record), self.source.class_labels(record)
        else:
            # tags as well: those of the whole scribble would say what was taken away
            scribble, known = self.degraded.read(record, index), None
        _check_size(scribble, image, "scribble", record)
        # before any crop: the tags say what the whole image shows
        tags = self._multi_hot(_drawn(scribble) if known is None else known)
        seed = int(np.random.SeedSequence([self.seed, epoch, index]).generate_state(1)[0])
        given: dict[str, LabelMap] = {}
        tensors: dict[str, Tensor] = {}
        if self.extras is not None:
            given, tensors = self.extras.read(record, image, scribble)
        sample = self.transform(image, [scribble], seed=seed, track=self.source_index, maps=given)
        label, maps = sample.labels[0], sample.maps
        if sample.mirrored and self._mirrored_ids is not None:
            # the mirror image of a right hand is a left hand, in the map and in the tags
            label = self._mirrored_ids[label]
            if "pseudo_label" in maps:
                maps["pseudo_label"] = self._mirrored_ids[maps["pseudo_label"]]
            tags = tags[self._mirrored_ids[: len(tags)].tolist()]
        item: dict[str, Any] = {
            "image": torch.from_numpy(normalize(sample.image, self.info.mean, self.info.std)),
            "scribble": torch.from_numpy(label.astype(np.int64)),
            "valid": torch.from_numpy(sample.valid),
            "class_labels": tags,
            "image_id": record.image_id,
            "index": torch.tensor(index),
            _LOST: bool((label == IGNORE_INDEX).all() and (scribble != IGNORE_INDEX).any()),
        }
        if self.image_raw:
            item["image_raw"] = _to_chw(rgb_view(sample.raw, self.info.rgb_channels))
        if sample.source_index is not None:
            item["source_index"] = torch.from_numpy(sample.source_index)
        if "pseudo_label" in maps:
            maps["pseudo_label"] = maps["pseudo_label"].astype(np.int64)
        return item | {name: torch.from_numpy(values) for name, values in maps.items()} | tensors

    def _multi_hot(self, labels: Sequence[int]) -> Tensor:
        """Tags as a vector; a background class counts as present in every image."""
        background = () if self.source.background is None else (self.source.background,)
        tags = np.zeros(self.source.num_classes, np.float32)
        tags[[*labels, *background]] = 1
        return torch.from_numpy(tags)


class EvalDataset(Dataset[dict[str, Any]]):
    """Images at network input size with labels at original size, for val, test and predict.

    Args:
        source: Where pixels come from.
        records: Samples of the split.
        info: Normalisation and resizing.
        labels: Whether to read masks (or scribbles, where a sample has no mask).
    """

    def __init__(
        self,
        source: ScribbleSource,
        records: Sequence[Record],
        info: DataInfo,
        *,
        labels: bool = True,
    ) -> None:
        self.source, self.records, self.info, self.labels = source, records, info, labels
        # scored on masks only if every sample has one: never a mixture
        self.has_masks = labels and all(_has(record, "mask") for record in records)

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.records)

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        """One item of a validation :class:`~scribbleseg.types.SegBatch`."""
        index, _, duplicate = key if isinstance(key, SampleKey) else SampleKey(key)
        record = self.records[index]
        raw = self.source.read_image(record)
        image = resize_image(raw, self.info.resize)
        item: dict[str, Any] = {
            "image": torch.from_numpy(normalize(image, self.info.mean, self.info.std)),
            "image_raw": _to_chw(rgb_view(raw, self.info.rgb_channels)),
            "image_id": record.image_id,
            "index": torch.tensor(index),
            "orig_size": torch.tensor(raw.shape[:2]),
            "input_size": torch.tensor(image.shape[:2]),
            "duplicate": torch.tensor(duplicate),
        }
        if self.labels:
            if _has(record, "scribble"):
                scribble = self.source.read_scribble(record)
                _check_size(scribble, raw, "scribble", record)
                item["scribble"] = torch.from_numpy(scribble.astype(np.int64))
            if self.has_masks:
                mask = self.source.read_mask(record)
                _check_size(mask, raw, "mask", record)
                item["mask"] = torch.from_numpy(mask.astype(np.int64))
            elif "scribble" not in item:
                raise ScribbleSegError(
                    f"{record.image_id} has neither mask nor scribble: nothing to validate on; "
                    "remove it from the validation list or add its label"
                )
        if record.group is not None:
            item["group"] = record.group
        if record.spacing is not None:
            item["spacing"] = torch.tensor(record.spacing)
        return item


def _has(record: Record, role: str) -> bool:
    """Whether a label exists; sources without files make every label."""
    return record.image is None or getattr(record, role) is not None


def _check_size(
    label: NDArray[np.uint8], image: NDArray[np.uint8], role: str, record: Record
) -> None:
    if label.shape != image.shape[:2]:
        path = getattr(record, role) or record.image_id
        raise LabelFormatError(
            f"D201 {path}: {role} is {label.shape[1]}×{label.shape[0]} (width×height), image "
            f"{record.image or record.image_id} is {image.shape[1]}×{image.shape[0]}; was "
            "the label exported from a resized or rotated copy? Export it again at the image's size"
        )


def _drawn(scribble: NDArray[np.uint8]) -> list[int]:
    """Classes of a scribble; faster than ``np.unique``."""
    counts = cv2.calcHist([scribble], [0], None, [256], [0, 256]).ravel()
    labels: list[int] = np.flatnonzero(counts[:IGNORE_INDEX]).tolist()
    return labels


def _to_chw(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


# ------------------------------------------------------------------------- batches


def collate(items: Sequence[dict[str, Any]]) -> SegBatch:
    """Batch items; images of different sizes are padded at the right and bottom.

    Padding is 0 in images (the mean colour), 255 in labels and distance maps, -1 in superpixels,
    False in ``valid``. Edges of superpixels come one image after the other; ``superpixel_image``
    says which.
    """
    batch: dict[str, Any] = {}
    if all(item.pop(_LOST, False) for item in items):
        _warn_of_lost_labels(str(items[0]["image_id"]))
    # a label that only some items have cannot be stacked, and is only for display
    keys = [key for key in items[0] if all(key in item for item in items)]
    for key in keys:
        values = [item[key] for item in items]
        if not isinstance(values[0], torch.Tensor):
            batch[key] = values
        elif key in _GRAPH:
            batch[key] = torch.cat(values)
        elif key not in _FILL or all(value.shape == values[0].shape for value in values):
            batch[key] = default_collate(values)  # straight into shared memory in a worker
        else:
            height = max(value.shape[-2] for value in values)
            width = max(value.shape[-1] for value in values)
            batch[key] = torch.stack(
                [
                    F.pad(v, (0, width - v.shape[-1], 0, height - v.shape[-2]), value=_FILL[key])
                    for v in values
                ]
            )
    if "superpixel_edges" in keys:
        counts = torch.tensor([len(item["superpixel_edges"]) for item in items])
        batch["superpixel_image"] = torch.arange(len(items)).repeat_interleave(counts)
    return batch  # type: ignore[return-value]


def _warn_of_lost_labels(name: str) -> None:
    if _TOLD:
        return
    _TOLD.append(name)
    logger.warning(
        "no pixel is labelled in a training batch (%s and others) although its images have "
        "scribbles: crops or rotations leave them out; use a larger `crop_size` or smaller "
        "`augmentation.scale` (said once for each process)",
        name,
    )


# ------------------------------------------------------------------------- picture


def draw_samples(
    items: Sequence[Mapping[str, Any]], palette: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """One row per training sample with ``image_raw``: image, scribble, and the maps it holds.

    Distance maps are dark at 0 and bright at 255. The result is RGB; ``palette`` has 256 colours.
    """
    shown = [key for key in _TITLES if key in items[0]]
    rows: list[list[NDArray[np.uint8]]] = []
    for item in items:
        raw = item["image_raw"].permute(1, 2, 0).numpy()
        scribble = overlay_labels(raw, item["scribble"].numpy(), palette, alpha=1.0)
        maps = [_draw(key, item[key].numpy(), raw, palette) for key in shown]
        rows.append([raw, scribble, *maps])
    titles = ["image", "scribble", *(_TITLES[key] for key in shown)]
    return compose_panel(rows, titles, captions=[item["image_id"] for item in items])


def _draw(
    key: str, values: NDArray[Any], raw: NDArray[np.uint8], palette: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    if key == "superpixel":
        lined = raw.copy()
        lined[region_boundaries(values)] = _LINE
        return lined
    if key == "pseudo_label":
        return overlay_labels(raw, values, palette)
    heat = cv2.applyColorMap(values, cv2.COLORMAP_VIRIDIS)
    return np.ascontiguousarray(heat[..., ::-1], dtype=np.uint8)
