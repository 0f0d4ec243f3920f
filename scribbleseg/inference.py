"""Test-time options and what applies them: scales, flips, sliding windows, dense CRF."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn import functional as F

from scribbleseg.errors import ConfigError
from scribbleseg.functional.crf import CRF_PRESETS, CRFParams, dense_crf
from scribbleseg.functional.tta import (
    multi_scale_probabilities,
    resized_window_probabilities,
    sliding_window_logits,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

__all__ = [
    "InferenceConfig",
    "argmax_at_size",
    "is_out_of_memory",
    "predict_logits",
    "refine_logits",
]

logger = logging.getLogger(__name__)

_SMALLEST_WINDOW = 64  # pixels; below this the context is too small to be worth a try
_WINDOW_MULTIPLE = 32  # the usual divisor of encoders, so that halved windows need no padding


@dataclass(frozen=True)
class InferenceConfig:
    """Test-time options; the default is one plain forward pass.

    They are no hyper-parameters of a model, so that a checkpoint can be evaluated with others.
    Scores obtained with different options must not be compared.

    Attributes:
        scales: Factors of the network input size whose predictions are averaged, in (0, 8].
        flip: Also average over the mirror image of every scale.
        window: Side length, or ``(height, width)``, of sliding windows in pixels of the (scaled)
            network input; ``null`` = the whole image at once.
        overlap: Share of a window that its neighbour covers too, in [0, 0.9].
        window_batch: Windows per forward pass, at least 1.
        average: What scales and flips average: ``probs`` or ``logits``.
        base_size: Longer side of the image at scale 1 in pixels, whatever its own size; ``null`` =
            the network input size. Then windows average probabilities alike, on a canvas of at
            least a window: with 512, ``window: 465``, ``overlap: 0.3333`` and the scales 0.5 to 2
            in steps of 0.25 the published test of URSS, CC4S and CDSP.
        crf: Dense CRF on the original pixels of the image as last step: a preset (``irn``,
            ``cc4s``, ``spml`` or ``tel``), parameters of your own, or ``null`` for none. It can
            lower the scores of strong networks: report results with and without.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    window: int | tuple[int, int] | None = None
    overlap: float = 0.5
    window_batch: int = 4
    average: Literal["probs", "logits"] = "probs"
    crf: str | CRFParams | None = None
    base_size: int | None = None

    def __post_init__(self) -> None:
        """Turn lists into tuples and check the ranges."""
        scales: object = self.scales
        if not isinstance(scales, (list, tuple)) or not scales or not all(map(_is_scale, scales)):
            raise _range_error(
                "scales", scales, "one or more numbers in (0, 8]", "use [1.0] for a single scale"
            )
        object.__setattr__(self, "scales", tuple(map(float, scales)))
        window: object = self.window
        if isinstance(window, list):
            object.__setattr__(self, "window", tuple(window))
        flip: object = self.flip
        if not isinstance(flip, bool):
            raise _range_error("flip", flip, "true or false", "remove any quotes")
        sides = self.window if isinstance(self.window, tuple) else (self.window,) * 2
        if self.window is not None and (len(sides) != 2 or not all(map(_is_count, sides))):
            raise _range_error(
                "window",
                self.window,
                "null, a whole number of pixels of at least 1, or a pair [height, width]",
                "use the crop size of training, or null for the whole image",
            )
        if not _is_number(self.overlap) or not 0 <= self.overlap <= 0.9:
            raise _range_error("overlap", self.overlap, "a share in [0, 0.9]", "0.5 is usual")
        if not _is_count(self.window_batch):
            raise _range_error(
                "window_batch", self.window_batch, "a whole number of at least 1", "4 is usual"
            )
        if self.average not in ("probs", "logits"):
            raise _range_error("average", self.average, "probs or logits", "probs is usual")
        if self.base_size is not None and not _is_count(self.base_size):
            raise _range_error(
                "base_size", self.base_size, "null or a whole number of pixels", "512 is usual"
            )
        if self.base_size is not None and self.average == "logits":
            raise _range_error(
                "average", self.average, "probs together with base_size", "or leave base_size null"
            )
        object.__setattr__(self, "crf", _crf_option(self.crf))

    def to_dict(self) -> dict[str, Any]:
        """Plain Python values only, as a checkpoint that loads with ``weights_only=True`` needs."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> InferenceConfig:
        """Inverse of :meth:`to_dict`; lists are accepted where tuples belong.

        Raises:
            ConfigError: If a key is unknown (ignoring it would change results silently).
        """
        unknown = sorted(set(state) - set(cls.__dataclass_fields__))
        if unknown:
            raise ConfigError(
                f"inference options {', '.join(unknown)} are unknown; known are "
                f"{', '.join(cls.__dataclass_fields__)}: correct the spelling, or use the version "
                "of scribbleseg that wrote them"
            )
        return cls(**state)


def _range_error(name: str, value: object, valid: str, fix: str) -> ConfigError:
    return ConfigError(f"inference.{name}={value!r}: expected {valid}; {fix}")


def _crf_option(value: object) -> str | CRFParams | None:
    """The option ``crf``, a mapping turned into parameters."""
    if isinstance(value, Mapping):
        try:
            return CRFParams(**value)
        except (TypeError, ValueError) as error:
            names = ", ".join(CRFParams.__dataclass_fields__)
            raise _range_error("crf", value, f"values for any of {names}", str(error)) from error
    if value is None or isinstance(value, CRFParams):
        return value
    if isinstance(value, str) and value in CRF_PRESETS:
        return value
    if value == "None":  # what the command line makes of null inside nested options
        return None
    presets = ", ".join(CRF_PRESETS)
    raise _range_error(
        "crf", value, f"null, one of the presets {presets}, or parameters", "cc4s is usual"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_scale(value: Any) -> bool:
    return _is_number(value) and 0 < value <= 8


def predict_logits(
    forward: Callable[[Tensor], Tensor],
    image: Tensor,
    config: InferenceConfig,
    *,
    flip_pairs: Sequence[tuple[int, int]] = (),
) -> Tensor:
    """Scores of an image under test-time options; their softmax is the predicted probability.

    The default options are one call of ``forward``, whose result is returned unchanged. If memory
    runs out, windows are processed one at a time, then halved, until it fits; a warning is logged.

    Args:
        forward: Logits at the size of its input, ``(B, 3, h, w)`` to ``(B, C, h, w)``, finite.
        image: Network input, float, shape ``(B, 3, H, W)``.
        config: The options.
        flip_pairs: Pairs of classes that a mirror image exchanges, for ``config.flip``.

    Returns:
        Shape ``(B, C, H, W)``. For one scale without flip or base size: logits. Otherwise the log
        of the mean probabilities, or with ``average="logits"`` the mean of the logits.

    Raises:
        RuntimeError: The out-of-memory error itself, if windows of about 64 pixels do not fit.

    Example:
        >>> image = torch.rand(1, 3, 4, 6)
        >>> torch.equal(predict_logits(torch.exp, image, InferenceConfig()), image.exp())
        True
    """
    while True:
        try:
            return _predict_logits(forward, image, config, flip_pairs)
        except RuntimeError as error:
            smaller = _with_less_memory(config, image) if is_out_of_memory(error) else None
            if smaller is None:
                raise
        logger.warning(
            "out of memory on an input of %d x %d pixels; trying again with window=%s and "
            "window_batch=%d. Set them in the inference options to save the failed attempt",
            *image.shape[-2:],
            smaller.window,
            smaller.window_batch,
        )
        config = smaller
        if image.device.type == "cuda":
            torch.cuda.empty_cache()


def _predict_logits(
    forward: Callable[[Tensor], Tensor],
    image: Tensor,
    config: InferenceConfig,
    flip_pairs: Sequence[tuple[int, int]],
) -> Tensor:
    window = config.window

    def scores(x: Tensor) -> Tensor:
        if window is None:
            return forward(x)
        return sliding_window_logits(
            forward,
            x,
            window=window,
            overlap=config.overlap,
            batch_size=config.window_batch,
        )

    if config.base_size is not None:
        averaged = resized_window_probabilities(
            forward,
            image,
            base_size=config.base_size,
            scales=config.scales,
            window=window,
            overlap=config.overlap,
            batch_size=config.window_batch,
            flip=config.flip,
            flip_pairs=flip_pairs,
        )
        return averaged.clamp_min(torch.finfo(averaged.dtype).tiny).log()
    if config.scales == (1.0,) and not config.flip:
        return scores(image)
    averaged = multi_scale_probabilities(
        scores,
        image,
        scales=config.scales,
        flip=config.flip,
        average=config.average,
        flip_pairs=flip_pairs,
    )
    if config.average == "logits":
        return averaged / (len(config.scales) * (2 if config.flip else 1))
    return averaged.clamp_min(torch.finfo(averaged.dtype).tiny).log()


def refine_logits(logits: Tensor, image: Tensor, config: InferenceConfig) -> Tensor:
    """The last step of prediction: the dense CRF, if the options ask for one.

    Scores are scaled bilinearly to the size of the image before. Time and memory of
    :func:`~scribbleseg.functional.crf.dense_crf` at the size of the image.

    Args:
        logits: What :func:`predict_logits` returned, shape ``(B, C, h, w)``.
        image: Original RGB pixels, uint8, shape ``(B, 3, H, W)``.
        config: The options.

    Returns:
        The logits unchanged without a CRF. Otherwise the log of its probabilities at the size of
        the image, finite, float32, shape ``(B, C, H, W)``.

    Example:
        >>> logits, image = torch.rand(1, 2, 4, 6), torch.zeros(1, 3, 8, 12, dtype=torch.uint8)
        >>> refine_logits(logits, image, InferenceConfig(crf="tel")).shape
        torch.Size([1, 2, 8, 12])
    """
    if config.crf is None:
        return logits
    size = (image.shape[-2], image.shape[-1])
    scores = logits.float()
    if scores.shape[-2:] != size:
        scores = F.interpolate(scores, size=size, mode="bilinear", align_corners=False)
    probs = scores.softmax(dim=1)
    refined = dense_crf(probs, image.to(probs.device), params=config.crf)
    return refined.clamp_min(torch.finfo(refined.dtype).tiny).log()


def _with_less_memory(config: InferenceConfig, image: Tensor) -> InferenceConfig | None:
    """The next thing to try when memory ran out, or ``None``."""
    if config.window is not None and config.window_batch > 1:
        return replace(config, window_batch=1)
    base = 1.0 if config.base_size is None else config.base_size / max(image.shape[-2:])
    sides = [math.ceil(side * base * max(config.scales)) for side in image.shape[-2:]]
    if config.window is not None:
        window = (config.window,) * 2 if isinstance(config.window, int) else config.window
        sides = [min(pair) for pair in zip(sides, window, strict=True)]
    halves = [math.ceil(side / 2 / _WINDOW_MULTIPLE) * _WINDOW_MULTIPLE for side in sides]
    if max(halves) < _SMALLEST_WINDOW:
        return None
    return replace(config, window=(halves[0], halves[1]), window_batch=1)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch means that the processor's memory is exhausted.

    Example:
        >>> is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
        True
    """
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    text = str(error).lower()
    phrases = ("out of memory", "can't allocate memory", "cudnn_status_alloc_failed")
    return isinstance(error, RuntimeError) and any(phrase in text for phrase in phrases)


def argmax_at_size(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Most likely class per pixel after scaling the logits bilinearly to another size.

    Equal to ``interpolate(logits, size).argmax(1)``, but holds only some classes at that size at a
    time: a photograph of 24 megapixels with 60 classes needs 0.8 GB instead of 5.8 GB.

    Args:
        logits: Class scores, shape ``(B, C, h, w)``.
        size: ``(H, W)`` in pixels.

    Returns:
        int64, shape ``(B, H, W)``; the lowest id where classes tie.

    Example:
        >>> argmax_at_size(torch.tensor([[[[0.0]], [[1.0]]]]), (1, 2))
        tensor([[[1, 1]]])
    """
    if logits.shape[-2:] == size:
        return logits.argmax(dim=1)
    best: Tensor | None = None
    for start in range(0, logits.shape[1], 4):
        scaled = F.interpolate(
            logits[:, start : start + 4], size=size, mode="bilinear", align_corners=False
        )
        values, ids = scaled.max(dim=1)
        ids += start
        if best is None:
            best, labels = values, ids
        else:
            labels = torch.where(values > best, ids, labels)
            best = torch.maximum(values, best)
    if best is None:
        raise ValueError(f"logits of shape {tuple(logits.shape)} hold no class")
    return labels
