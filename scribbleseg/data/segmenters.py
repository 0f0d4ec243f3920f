"""Over-segmentation methods by name with their options: for folders of files and while training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from scribbleseg.errors import ConfigError
from scribbleseg.functional.intensity import rgb_view
from scribbleseg.functional.superpixels import felzenszwalb_regions, grid_regions, slic_regions
from scribbleseg.options import check_choice, check_number, check_whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MOST_SUPERPIXELS", "SuperpixelMethod", "SuperpixelOptions", "over_segment"]

SuperpixelMethod = Literal["slic", "felzenszwalb", "grid"]
"""How regions are found, see :mod:`scribbleseg.functional.superpixels`."""

MOST_SUPERPIXELS = 65535
"""Ids 0..65534 of a 16-bit file; 65535 = none."""

_USED = {
    "slic": {"segments", "compactness"},
    "grid": {"segments"},
    "felzenszwalb": {"scale", "min_size"},
}


@dataclass(frozen=True)
class SuperpixelOptions:
    """Options of the over-segmentation methods; each method has its own, ``null`` = its default.

    Attributes:
        segments: About how many superpixels, 1 to 65,535; 800 by default. For ``slic``, ``grid``.
        compactness: Weight of position against colour in ``slic``, above 0; by default each
            superpixel fits its own (SLIC0).
        scale: Preference of ``felzenszwalb`` for large regions, above 0; 300 by default.
        min_size: Smallest region of ``felzenszwalb``, pixels; 100 by default.
    """

    segments: int | None = None
    compactness: float | None = None
    scale: float | None = None
    min_size: int | None = None

    def arguments(self, method: str) -> dict[str, Any]:
        """Arguments of a method's function, defaults included.

        Args:
            method: Name of the method.

        Raises:
            ConfigError: If the method is unknown, or an option is out of range or not of it.

        Example:
            >>> SuperpixelOptions(segments=200).arguments("grid")
            {'num_segments': 200}
        """
        check_choice("method", method, get_args(SuperpixelMethod))
        for name, value in vars(self).items():
            if value is not None and name not in _USED[method]:
                raise ConfigError(
                    f"{name}={value} is not an option of method {method!r}, which has "
                    f"{' and '.join(sorted(_USED[method]))}; remove it"
                )
        if method == "felzenszwalb":
            options = {"scale": _positive("scale", self.scale, 300.0)}
            if self.min_size is not None:
                check_whole(1, min_size=self.min_size)
                options["min_size"] = self.min_size
            return options
        number = 800 if self.segments is None else self.segments
        check_whole(1, segments=number)
        if number > MOST_SUPERPIXELS:
            raise ConfigError(
                f"segments={number}: expected at most {MOST_SUPERPIXELS}, ids have 16 bits"
            )
        if method == "grid":
            return {"num_segments": number}
        if self.compactness is None:
            return {"num_segments": number, "adaptive": True}
        compactness = _positive("compactness", self.compactness, 10.0)
        return {"num_segments": number, "compactness": compactness, "adaptive": False}


def _positive(name: str, value: float | None, default: float) -> float:
    if value is None:
        return default
    check_number(**{name: value})
    if value <= 0:
        raise ConfigError(f"{name}={value}: expected a number above 0, such as {default:g}")
    return float(value)


def over_segment(
    image: NDArray[np.uint8],
    method: str,
    arguments: dict[str, Any],
    *,
    rgb_channels: tuple[int, int, int] | None = None,
) -> NDArray[np.int32]:
    """Regions of one image.

    Args:
        image: uint8, shape ``(H, W, K)``.
        method: Name of the method.
        arguments: From :meth:`SuperpixelOptions.arguments`.
        rgb_channels: Channels that stand for red, green and blue.

    Returns:
        Ids from 0 without gaps, int32, shape ``(H, W)``.

    Raises:
        MissingExtraError: If scikit-image is not installed (extra ``regions``) and needed.

    Example:
        >>> import numpy as np
        >>> over_segment(np.zeros((2, 4, 1), np.uint8), "grid", {"num_segments": 2}).tolist()
        [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    if method == "grid":
        return grid_regions(*image.shape[:2], **arguments)
    rgb = rgb_view(image, rgb_channels)
    return (slic_regions if method == "slic" else felzenszwalb_regions)(rgb, **arguments)
