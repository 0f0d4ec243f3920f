"""Augmentation: the only place that knows albumentations, so that it can be replaced."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from scribbleseg.constants import IGNORE_INDEX, IMAGENET_MEAN
from scribbleseg.data.label_maps import keep_labels, resize_labels, resize_map
from scribbleseg.errors import ConfigError
from scribbleseg.functional.preprocess import resize_image, resized_shape

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network at import
import albumentations as A

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scribbleseg.data.label_maps import LabelMap, Number

__all__ = ["Augmentation", "TrainSample", "TrainTransform"]

_CROP_TRIES = 10
_CV_CHANNELS = 4  # that OpenCV fills with a colour
_JITTERED_CHANNELS = (1, 3)  # albumentations knows grey and RGB only
_JITTER_PROBABILITY = 0.8
_FLIPS = ("HorizontalFlip", "VerticalFlip")


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training image; geometric steps treat image and labels alike.

    Attributes:
        scale: Range of the random scale factor, ``null`` = none.
        rotate: Largest rotation in degrees (with probability 0.5).
        rot90: Random quarter turns.
        hflip: Horizontal flip with probability 0.5.
        vflip: Vertical flip with probability 0.5.
        blur: Probability of a Gaussian blur (5×5, σ 1.1).
        color_jitter: Strength of brightness, contrast and saturation jitter in [0, 1]; saturation
            only of images with three channels.
    """

    scale: tuple[float, float] | None = None
    rotate: float = 0.0
    rot90: bool = False
    hflip: bool = True
    vflip: bool = False
    blur: float = 0.0
    color_jitter: float = 0.0

    def __post_init__(self) -> None:
        """Reject ranges that albumentations would misread."""
        if self.scale is not None and not 0 < self.scale[0] <= self.scale[1]:
            raise ConfigError(f"augmentation.scale={self.scale}: expected 0 < smallest <= largest")
        for name, value in (("color_jitter", self.color_jitter), ("blur", self.blur)):
            if not 0 <= value <= 1:
                raise ConfigError(f"augmentation.{name}={value}: expected 0 to 1")
        if not 0 <= self.rotate <= 180:
            raise ConfigError(f"augmentation.rotate={self.rotate}: expected 0 to 180 degrees")


@dataclass
class TrainSample:
    """Result of a training transform; all arrays have one size.

    Attributes:
        image: uint8 after colour changes, shape ``(H, W, K)``.
        raw: uint8 before colour changes.
        labels: Scribble and further label maps, 255 in padding.
        valid: bool, False in padding.
        source_index: Row and column of the resized image that each pixel shows, int32, -1 in
            padding, shape ``(2, H, W)``; only if asked for.
        mirrored: Whether left and right are exchanged: an odd number of flips, horizontal or
            vertical. Rotations keep them, and so do two flips, which are half a turn.
        maps: The further maps by name, each of its own type.
    """

    image: NDArray[np.uint8]
    raw: NDArray[np.uint8]
    labels: list[NDArray[np.uint8]]
    valid: NDArray[np.bool_]
    source_index: NDArray[np.int32] | None = None
    mirrored: bool = False
    maps: dict[str, NDArray[Any]] = field(default_factory=dict)


class TrainTransform:
    """Resize, geometric augmentation, padded random crop, colour augmentation.

    The result depends only on the inputs and the seed of the call: not on the worker, the rank, or
    anything drawn before. Padding is 255 in every label map, the mean colour in the image.

    Args:
        augmentation: What to draw.
        resize: Fixed first step: ``(H, W)``, or the longer side; ``None`` = original size.
        crop_size: ``(H, W)`` of the random crop, ``None`` = no crop. A crop without any
            labelled pixel is drawn again up to 10 times.
        mean: Value of the padding as fraction, one number per channel K.
    """

    def __init__(
        self,
        augmentation: Augmentation,
        *,
        resize: int | tuple[int, int] | None = None,
        crop_size: tuple[int, int] | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
    ) -> None:
        self.resize, self._crop_size = resize, crop_size
        self._fill = tuple(round(255 * channel) for channel in mean)
        self._rotates = augmentation.rotate > 0
        self._scale: A.Compose | None = None
        if augmentation.scale is not None:
            low, high = augmentation.scale
            # albumentations adds the limit to 1
            self._scale = A.Compose([A.RandomScale((low - 1, high - 1), p=1.0)])
        steps: list[Any] = []
        if augmentation.rotate:
            # a step that can create canvas says fill_mask: albumentations' default is class 0
            canvas: dict[str, Any] = {
                "border_mode": cv2.BORDER_CONSTANT,
                "fill": self._fill if len(mean) <= _CV_CHANNELS else 0,
                "fill_mask": IGNORE_INDEX,
            }
            steps.append(A.Rotate((-augmentation.rotate, augmentation.rotate), p=0.5, **canvas))
        if augmentation.rot90:
            steps.append(A.RandomRotate90(p=1.0))
        if augmentation.hflip:
            steps.append(A.HorizontalFlip(p=0.5))
        if augmentation.vflip:
            steps.append(A.VerticalFlip(p=0.5))
        self._geometric = A.Compose(steps, save_applied_params=True) if steps else None
        colour: list[Any] = []
        if augmentation.blur:
            colour.append(A.GaussianBlur((5, 5), (1.1, 1.1), p=augmentation.blur))
        strength, self._jitter = augmentation.color_jitter, 0.0
        if len(mean) not in _JITTERED_CHANNELS:
            self._jitter = strength
        elif strength:
            around = (1 - strength, 1 + strength)
            jitter = A.ColorJitter(around, around, around, (0.0, 0.0), p=_JITTER_PROBABILITY)
            colour.append(jitter)
        self._colour = A.Compose(colour) if colour else None

    def __call__(
        self,
        image: NDArray[np.uint8],
        labels: Sequence[NDArray[np.uint8]],
        *,
        seed: int,
        track: bool = False,
        maps: Mapping[str, LabelMap] | None = None,
    ) -> TrainSample:
        """Transform one sample.

        Args:
            image: uint8, shape ``(H, W, K)``.
            labels: Label maps of the same size, ids and 255; the first decides about empty crops.
            seed: Everything random in this call follows from it.
            track: Also say where each pixel comes from (``source_index``).
            maps: Further maps by name, at the size of the image or at that of ``resize``. They are
                looked up where each pixel comes from, so any integer type will do.
        """
        geometry, crop, colour, jitter = np.random.SeedSequence(seed).spawn(4)
        if self.resize is not None:
            height, width = resized_shape(image.shape[0], image.shape[1], self.resize)
            image = resize_image(image, self.resize)
            labels = [resize_labels(label, (height, width)) for label in labels]
        size, count = image.shape[:2], len(labels)
        masks: list[NDArray[Any]] = list(labels)
        if track or maps:  # replays any geometry, whatever it is made of
            masks.extend(np.indices(size, dtype=np.uint16))
        if self._rotates:  # the one step before the crop that makes canvas
            masks.append(np.ones(size, np.uint8))
        image, masks, mirrored = self._move(image, masks, count, geometry)
        if not self._rotates:
            masks.append(np.ones(image.shape[:2], np.uint8))
        if self._crop_size is not None:
            image, masks = self._labelled_crop(image, masks, self._crop_size, crop)
        valid = masks[-1] == 1
        if image.shape[2] > _CV_CHANNELS and not valid.all():
            image[~valid] = self._fill
        raw = image
        if self._colour is not None:
            _reseed([self._colour], colour)
            image = self._colour(image=image)["image"]
        if self._jitter:
            image = _jitter(image, self._jitter, jitter)
        # albumentations gives all masks one type
        sample = TrainSample(image, raw, [np.asarray(m, np.uint8) for m in masks[:count]], valid)
        sample.mirrored = mirrored
        if track or maps:
            places = np.stack(masks[count:-1]).astype(np.int32)
            places[:, ~valid] = -1
            sample.source_index = places if track else None
            sample.maps = _look_up(maps or {}, places, size)
        return sample

    def _move(
        self,
        image: NDArray[np.uint8],
        masks: list[NDArray[Any]],
        labels: int,
        stream: np.random.SeedSequence,
    ) -> tuple[NDArray[np.uint8], list[NDArray[Any]], bool]:
        """Scale, rotate and flip; the first masks are labels. Also whether sides have changed."""
        _reseed([self._scale, self._geometric], stream)
        mirrored = False
        if self._scale is not None:
            out, whole = self._scale(image=image, masks=masks), masks
            image, masks = out["image"], list(out["masks"])
            for index in range(labels):
                masks[index] = keep_labels(whole[index], np.asarray(masks[index], np.uint8))
        if self._geometric is not None:
            out = self._geometric(image=image, masks=masks)
            image, masks = out["image"], list(out["masks"])
            mirrored = sum(name in _FLIPS for name, _ in out["applied_transforms"]) == 1
        return image, masks, mirrored

    def _labelled_crop(
        self,
        image: NDArray[np.uint8],
        masks: list[NDArray[Any]],
        size: tuple[int, int],
        stream: np.random.SeedSequence,
    ) -> tuple[NDArray[np.uint8], list[NDArray[Any]]]:
        """Pad around the centre where needed, then crop: plain slices, since all samples do it."""
        height, width = size
        missing = [max(want - have, 0) for want, have in zip(size, image.shape[:2], strict=True)]
        if any(missing):
            top, left = missing[0] // 2, missing[1] // 2
            sides = (top, missing[0] - top, left, missing[1] - left)
            image = _pad(image, sides, self._fill)
            masks = [_pad(mask, sides, (IGNORE_INDEX,)) for mask in masks]
        rng = np.random.default_rng(stream)
        room = [image.shape[0] - height + 1, image.shape[1] - width + 1]
        for top, left in rng.integers(0, room, size=(_CROP_TRIES, 2)).tolist():
            window = np.s_[top : top + height, left : left + width]
            if int(masks[0][window].min()) < IGNORE_INDEX:
                break
        return image[window].copy(), [mask[window].copy() for mask in masks]


def _pad(
    values: NDArray[Number], sides: tuple[int, int, int, int], fill: tuple[int, ...]
) -> NDArray[Number]:
    """Add rows and columns above, below, left and right; 0 if there are too many channels."""
    if len(fill) > _CV_CHANNELS:
        return np.pad(values, (sides[:2], sides[2:], (0, 0)))
    padded = cv2.copyMakeBorder(values, *sides, cv2.BORDER_CONSTANT, value=fill)
    return np.asarray(padded, values.dtype).reshape(*padded.shape[:2], *values.shape[2:])


def _look_up(
    maps: Mapping[str, LabelMap], places: NDArray[np.int32], size: tuple[int, int]
) -> dict[str, NDArray[Any]]:
    """Values of whole maps at places (rows and columns, -1 = padding)."""
    rows, columns = places
    position = rows.astype(np.intp) * size[1] + columns
    padding = rows < 0
    # one more entry, which holds the fill
    position[padding] = size[0] * size[1]
    moved = {}
    for name, (values, fill) in maps.items():
        entries = np.append(resize_map(values, size), values.dtype.type(fill))
        moved[name] = entries.take(position)
    return moved


def _reseed(groups: Sequence[A.Compose | None], stream: np.random.SeedSequence) -> None:
    """Give each step a stream of its own: with one for all, some pairs of steps never occur."""
    composed = [group for group in groups if group is not None]
    steps = [step for group in composed for step in group.transforms]
    own, *children = stream.generate_state(1 + len(steps)).tolist()
    for group in composed:
        group.set_random_seed(own)
    for step, child in zip(steps, children, strict=True):
        step.set_random_seed(child)


def _jitter(
    image: NDArray[np.uint8], strength: float, stream: np.random.SeedSequence
) -> NDArray[np.uint8]:
    """Brightness and contrast of images that are neither grey nor RGB, alike in all channels."""
    rng = np.random.default_rng(stream)
    if rng.random() >= _JITTER_PROBABILITY:
        return image
    brightness, contrast = rng.uniform(1 - strength, 1 + strength, 2)
    # contrast acts around the mean, which the brightness has moved
    centre = float(image.mean()) * brightness
    levels = np.arange(256) * brightness
    table = np.clip(np.round((levels - centre) * contrast + centre), 0, 255).astype(np.uint8)
    return np.asarray(table[image], dtype=np.uint8)
