"""The contracts between layers: what sources yield, batches hold and networks return."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypedDict

from scribbleseg.constants import IMAGENET_MEAN, IMAGENET_STD, voc_palette

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = ["DataInfo", "Label", "LabelKind", "Record", "SegBatch", "SegOutput", "Split"]

Split = Literal["train", "val", "test", "predict"]


LabelKind = Literal["map", "strokes", "points", "boxes", "image_labels", "pseudo_label"]
"""What a label is: a value per pixel, polylines, clicks, boxes, the classes of the whole image, or
a value per pixel that an earlier stage made."""


@dataclass(frozen=True)
class Label:
    """One label of an image: what it is, and where its bytes are.

    Attributes:
        path: The file.
        kind: Decides how the file is read.
        entry: Part of the file that is meant: a member of an archive, a data set of an HDF5 file,
            a slice of a volume, the entry of an image in a file of all images; empty = all of it.
        coding: What its values mean: ``"scribble"`` and ``"mask"`` as in the files of the data
            set, ``"ids"`` class ids and 255, as this library writes them.
    """

    path: Path
    kind: LabelKind = "map"
    entry: str = ""
    coding: Literal["scribble", "mask", "ids"] = "ids"

    def __str__(self) -> str:
        """The file and what is meant in it, for messages."""
        return f"{self.path}/{self.entry}" if self.entry else str(self.path)


@dataclass(frozen=True)
class Record:
    """Where the bytes of one sample are; no pixels.

    Attributes:
        image_id: Stem relative to the image folder, POSIX separators, unique within a split.
        image: Image file; ``None`` when the source makes the image itself.
        scribble: What trains, if there is something.
        mask: Dense label, if there is one. Never read for training items.
        group: Patient, volume or video the sample belongs to; Dice is reported per group.
        spacing: Distance of neighbouring slices, rows and columns in mm, where the file says so.
    """

    image_id: str
    image: Path | None = None
    scribble: Label | None = None
    mask: Label | None = None
    group: str | None = None
    spacing: tuple[float, float, float] | None = None


class SegBatch(TypedDict, total=False):
    """The only interface between data and methods.

    B images, C classes including background, K image channels, H×W network input, H0×W0 original
    image. ``valid`` is False on canvas that padding added; unlabelled (255) and padding are
    different things.
    """

    image: Tensor  # (B, K, H, W) float32, normalised
    image_id: list[str]
    index: Tensor  # (B,) int64, position in the split
    scribble: Tensor  # (B, H, W) int64, 255 = not drawn; at (H0, W0) for val and test
    class_labels: Tensor  # (B, C) float32 multi-hot, from the uncropped scribble (train)
    valid: Tensor  # (B, H, W) bool, False = padding
    image_raw: Tensor  # (B, 3, H, W) uint8, same geometry, no colour change, three channels of
    # whatever the image has; at (H0, W0) for val
    source_index: Tensor  # (B, 2, H, W) int32, row and column in the resized image, -1 = none
    # the next seven for training, each only if the method asks for it; ids are those of the whole
    # image at network size, E = edges between adjacent superpixels of all images
    superpixel: Tensor  # (B, H, W) int32, from 0, -1 = padding or none
    superpixel_edges: Tensor  # (E, 2) int64, pairs of ids
    superpixel_weights: Tensor  # (E,) float32, affinity
    superpixel_image: Tensor  # (E,) int64, position in the batch
    pseudo_label: Tensor  # (B, H, W) int64, 255 = undecided or padding
    scribble_distance: Tensor  # (B, H, W) uint8, 255 = on a scribble, 0 = far; 255 in padding
    pseudo_distance: Tensor  # (B, H, W) uint8, 0 = on a boundary, 255 = far; 255 in padding
    mask: Tensor  # (B, H0, W0) int64, 255 = void (val and test only)
    orig_size: Tensor  # (B, 2) int64, (H0, W0) (val, test, predict)
    input_size: Tensor  # (B, 2) int64, size of the image inside the padded batch canvas
    duplicate: Tensor  # (B,) bool, True = repeated only to even out the ranks (val and test)
    group: list[str]  # volume of each image, where the source has volumes
    spacing: Tensor  # (B, 3) float32, mm between slices, rows and columns, where known (val, test)


class SegOutput(NamedTuple):
    """What a network returns.

    Attributes:
        logits: Class scores at decoder resolution, float, shape ``(B, C, h, w)``.
        features: Decoder features that the classifier reads, float, shape ``(B, D, h, w)``.
    """

    logits: Tensor
    features: Tensor


@dataclass(frozen=True)
class DataInfo:
    """Facts about the data that a checkpoint carries, so that prediction needs nothing else.

    Attributes:
        class_names: One name per class, index = id.
        palette: 256 RGB colours.
        background: Id of the background class, or ``None`` if every pixel has a proper class.
        mean: Subtracted from image/255, per channel.
        std: Divided by, per channel.
        resize: Network input size: ``(H, W)``, or the longer side, or ``None`` for original size.
        source: Class name of the source that the data came from.
        flip_pairs: Pairs of ids that a mirror image exchanges, such as left and right hand.
        in_channels: Image channels K.
        intensity: Mode, lower and upper limit of the window to 8 bits; see
            :class:`~scribbleseg.functional.intensity.Intensity`.
        rgb_channels: Channels that pictures and comparisons of colour use; ``None`` = the default
            of :func:`~scribbleseg.functional.intensity.rgb_view`.
        train_images: Digests of the ids of the images that the weights were trained on, those of
            the checkpoint they started from included.
    """

    class_names: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] = field(
        default_factory=lambda: tuple((int(r), int(g), int(b)) for r, g, b in voc_palette()),
        repr=False,
    )
    background: int | None = 0
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: int | tuple[int, int] | None = None
    source: str = ""
    flip_pairs: tuple[tuple[int, int], ...] = ()
    in_channels: int = 3
    intensity: tuple[str, float | None, float | None] = ("percentile", 0.5, 99.5)
    rgb_channels: tuple[int, int, int] | None = None
    train_images: str = field(default="", repr=False)

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.class_names)

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values only, as a checkpoint that loads with ``weights_only=True`` needs."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> DataInfo:
        """Inverse of :meth:`to_dict`; unknown keys of later versions are ignored."""
        known = {key: value for key, value in state.items() if key in cls.__dataclass_fields__}
        for key in ("class_names", "mean", "std", "intensity", "rgb_channels"):
            if known.get(key) is not None:
                known[key] = tuple(known[key])
        for key in ("palette", "flip_pairs"):
            if key in known:
                known[key] = tuple(tuple(item) for item in known[key])
        if isinstance(known.get("resize"), list):
            known["resize"] = tuple(known["resize"])
        return cls(**known)
