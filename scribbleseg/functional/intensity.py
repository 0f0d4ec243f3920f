"""From any pixel type to the 8 bits of the network input, and from any channels to a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from scribbleseg.errors import ConfigError, LabelFormatError
from scribbleseg.options import check_choice, check_number, check_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Intensity", "IntensityMode", "check_rgb_channels", "rgb_view"]

IntensityMode = Literal["percentile", "range", "dtype"]
"""Where the window comes from: the image itself, fixed numbers, or its number type."""


@dataclass(frozen=True)
class Intensity:
    """Window that is mapped to 0..255; values outside are clipped.

    ``percentile`` (the default) takes the window from every image, channel by channel; ``range``
    has fixed limits in the units of the file, such as Hounsfield units; ``dtype`` maps the whole
    range of an integer type, or [0, 1] of floating-point files. Images of 8 bits stay as they are,
    except with ``range``.

    Attributes:
        mode: See above.
        low: Lower limit: a percentile in [0, 100) (default 0.5) or a value of the file.
        high: Upper limit: a percentile in (0, 100] (default 99.5) or a value of the file.

    Raises:
        ConfigError: If limits are missing, not in order, or given for ``dtype``.

    Example:
        >>> window = Intensity("range", -100, 155)
        >>> window.apply(np.array([[[-500], [-100], [27], [400]]], np.int16))[0, :, 0].tolist()
        [0, 0, 127, 255]
    """

    mode: IntensityMode = "percentile"
    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        """Check the limits and fill in the default percentiles."""
        check_choice("intensity.mode", self.mode, get_args(IntensityMode))
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                check_number(**{f"intensity.{name}": getattr(self, name)})
        if self.mode == "dtype":
            if self.low is not None or self.high is not None:
                raise ConfigError(
                    f"intensity.low={self.low}, intensity.high={self.high}: mode 'dtype' has no "
                    "limits; remove them, or choose 'range'"
                )
            return
        if self.mode == "percentile":
            object.__setattr__(self, "low", 0.5 if self.low is None else self.low)
            object.__setattr__(self, "high", 99.5 if self.high is None else self.high)
        if self.low is None or self.high is None:
            raise ConfigError(
                f"intensity.low={self.low}, intensity.high={self.high}: mode 'range' needs both "
                "limits, in the units of the files"
            )
        percent = self.mode == "percentile"
        if not self.low < self.high or (percent and not 0 <= self.low < self.high <= 100):
            raise ConfigError(
                f"intensity.low={self.low}, intensity.high={self.high}: expected "
                f"{'0 <= low < high <= 100 percent' if percent else 'low < high'}"
            )

    @classmethod
    def from_options(cls, options: object) -> Intensity:
        """Window of a mapping ``{mode, low, high}``, as a YAML file holds it; ``None`` = default.

        Raises:
            ConfigError: If it is no such mapping.
        """
        if options is None:
            return cls()
        if isinstance(options, cls):
            return options
        if not isinstance(options, dict) or not set(options) <= {"mode", "low", "high"}:
            raise ConfigError(
                f"intensity={options!r}: expected {{mode: percentile|range|dtype, low: …, high: …}}"
            )
        known: Mapping[str, Any] = options
        return cls(**known)

    def to_tuple(self) -> tuple[str, float | None, float | None]:
        """``(mode, low, high)``: plain values, as a checkpoint holds them."""
        return self.mode, self.low, self.high

    @classmethod
    def from_tuple(cls, facts: Sequence[Any]) -> Intensity:
        """Inverse of :meth:`to_tuple`."""
        mode, low, high = facts
        return cls(mode, low, high)

    def apply(self, values: NDArray[np.generic], *, name: str = "image") -> NDArray[np.uint8]:
        """Values in 8 bits. Takes O(N) time and a floating-point copy of the values.

        Args:
            values: bool, integer or floating point, shape ``(..., K)``; percentiles are taken over
                all axes but the last. Values that are not finite count as the nearer limit, NaN as
                the lower one.
            name: File, for messages.

        Returns:
            uint8, the same shape; the input itself if it is left as it is. A channel without any
            contrast becomes 0.

        Raises:
            LabelFormatError: D203, if a type or range does not fit the mode.
        """
        if values.dtype == np.bool_:
            return values.astype(np.uint8) * np.uint8(255)
        if values.dtype == np.uint8 and self.mode != "range":
            return values.astype(np.uint8, copy=False)
        if not (
            np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)
        ):
            raise LabelFormatError(
                f"D203 {name}: holds values of type {values.dtype}, expected integer or real "
                "numbers; export magnitudes or another real channel"
            )
        # 24 bits of mantissa hold every 16-bit value; wider types keep their own precision
        wide = values.dtype.itemsize > 2 and values.dtype != np.float32
        floats: NDArray[Any] = values.astype(np.float64 if wide else np.float32)
        low, high = self._limits(values, floats, name)
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(floats).all():
            floats = np.clip(np.where(np.isnan(floats), low, floats), low, high)
        floats -= low
        floats /= np.maximum(high - low, 1e-12)
        np.clip(floats, 0, 1, out=floats)
        floats *= 255
        return np.round(floats, out=floats).astype(np.uint8)

    def _limits(
        self, values: NDArray[Any], floats: NDArray[Any], name: str
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """Lower and upper limit per channel, each of shape ``(K,)``."""
        channels = floats.shape[-1]
        limits = (float(self.low or 0), float(self.high or 0))
        if self.mode == "percentile":
            found = []
            for channel in range(channels):
                if np.issubdtype(values.dtype, np.integer) and values.dtype.itemsize <= 2:
                    found.append(_counted_percentiles(values[..., channel], limits))
                    continue
                flat = np.ascontiguousarray(floats[..., channel]).ravel()
                if not np.isfinite(flat).all():
                    flat = flat[np.isfinite(flat)]
                if not flat.size:
                    raise LabelFormatError(
                        f"D203 {name}: a channel holds no finite value ({values[..., 0].size:,} px "
                        "of NaN or infinity); export the image again"
                    )
                found.append(np.percentile(flat, limits))
            low, high = np.stack(found, axis=1)
            return low.astype(floats.dtype), high.astype(floats.dtype)
        if self.mode == "dtype" and np.issubdtype(values.dtype, np.integer):
            info = np.iinfo(values.dtype)
            limits = (float(info.min), float(info.max))
        elif self.mode == "dtype":
            if floats.size and not (floats.min() >= 0 and floats.max() <= 1):
                raise LabelFormatError(
                    f"D203 {name}: {values.dtype} values {floats.min():g} to {floats.max():g}, "
                    "expected [0, 1] with intensity mode 'dtype'; choose mode 'range' with `low` "
                    "and `high`, or 'percentile'"
                )
            limits = (0.0, 1.0)
        low, high = (np.full(channels, limit, dtype=floats.dtype) for limit in limits)
        return low, high


def _counted_percentiles(values: NDArray[Any], percent: tuple[float, float]) -> NDArray[np.float64]:
    """``np.percentile`` of at most 16-bit integers from their counts: many times faster."""
    first = int(np.iinfo(values.dtype).min)
    counts = np.bincount(values.ravel().astype(np.int64) - first)
    places = np.array(percent) / 100 * (values.size - 1)
    whole = np.floor(places)
    # the value at a place of the sorted list is the first whose cumulative count exceeds it
    below, above = (
        np.searchsorted(np.cumsum(counts), place, side="right")
        for place in (whole, np.ceil(places))
    )
    return np.asarray(first + below + (places - whole) * (above - below), dtype=np.float64)


def check_rgb_channels(
    rgb_channels: Sequence[int] | None, channels: int
) -> tuple[int, int, int] | None:
    """Checked option ``rgb_channels``: three channel numbers from 0, or ``None``.

    Raises:
        ConfigError: If there are not three, or they are not below the number of channels.
    """
    if rgb_channels is None:
        return None
    chosen = tuple(rgb_channels) if isinstance(rgb_channels, (list, tuple)) else ()
    if len(chosen) != 3:
        raise ConfigError(f"rgb_channels={rgb_channels!r}: expected three channel numbers")
    for channel in chosen:
        check_whole(0, rgb_channels=channel)
    if max(chosen) >= channels:
        raise ConfigError(
            f"rgb_channels={list(chosen)}: the images have {channels} channels, expected numbers "
            f"0 to {channels - 1}"
        )
    return chosen[0], chosen[1], chosen[2]


def rgb_view(
    image: NDArray[np.uint8], rgb_channels: Sequence[int] | None = None
) -> NDArray[np.uint8]:
    """Three channels of an image, for pictures and for what compares colours.

    Args:
        image: uint8, shape ``(H, W, K)`` or ``(H, W)``.
        rgb_channels: Channels shown as red, green and blue; by default one channel is repeated, of
            two the first is shown twice (red and blue), of more the first three.

    Returns:
        uint8, shape ``(H, W, 3)``; the input itself if it has three channels.

    Example:
        >>> rgb_view(np.array([[[1, 2]]], np.uint8)).tolist()
        [[[1, 2, 1]]]
    """
    if image.ndim == 2:
        image = image[..., None]
    if rgb_channels is None:
        if image.shape[-1] == 3:
            return image
        rgb_channels = {1: (0, 0, 0), 2: (0, 1, 0)}.get(image.shape[-1], (0, 1, 2))
    return np.ascontiguousarray(image[..., list(rgb_channels)])
