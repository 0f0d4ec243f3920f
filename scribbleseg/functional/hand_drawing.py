"""How a hand draws along a given path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["hand_drawn"]

_MAX_SMOOTHING = 15.0  # pixels
_SIMPLIFY = 0.4  # pixels by which a drawn line may miss the planned one


def hand_drawn(
    path: NDArray[np.float64],
    room: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    width: float,
    length_ratio: float,
    jitter: float,
) -> NDArray[np.float64]:
    """A random stretch of a path of pixels, made smooth and shifted by a slow wobble.

    In a round region, whose axis is little more than a point, a line through the largest disc in
    it takes the place of the path. Where there is no way to go, one point remains.

    Args:
        path: Neighbouring pixels as (x, y), float, shape ``(n, 2)``, n ≥ 1.
        room: Distance of every pixel to the border of its region, in pixels, shape ``(n,)``.
        rng: Source of randomness.
        width: Stroke width in pixels; the stroke keeps half of it away from the border.
        length_ratio: Share in (0, 1] of the path that is kept.
        jitter: Size of the wobble as a share in [0, 1] of the room.

    Returns:
        Vertices as (x, y), float, shape ``(m, 2)``, m ≥ 1.

    Example:
        >>> path = np.stack([np.arange(40.0), np.full(40, 9.0)], axis=1)
        >>> rng = np.random.default_rng(0)
        >>> hand_drawn(path, np.full(40, 2.0), rng, width=3.0, length_ratio=0.5, jitter=0.0).round()
        array([[13.,  9.],
               [31.,  9.]])
    """
    path, room = _chord_if_round(path, room, rng, width)
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))])
    length = float(arc[-1])
    start = rng.random() * (1 - length_ratio) * length
    if length * length_ratio < width:
        return np.asarray(path[np.argmax(room)][None])
    typical = float(np.median(room))
    smooth = ndimage.gaussian_filter1d(
        path, float(np.clip(typical / 2, 1.0, _MAX_SMOOTHING)), axis=0, mode="nearest"
    )
    # one change of direction about every four half-widths of the region
    knots = max(4.0 * typical, 16.0)
    coarse = rng.normal(size=(int(length / knots) + 3, 2))
    positions = np.arange(len(coarse)) * knots
    wobble = np.stack([np.interp(arc, positions, line) for line in coarse.T], axis=1)
    wobble = ndimage.gaussian_filter1d(wobble, knots / 3, axis=0, mode="nearest")
    shift = smooth + wobble * jitter * room[:, None] - path
    # a stroke centred anywhere in this disc stays within the region
    limit = np.maximum(room - width / 2 + 0.5, 0.0)
    shift *= np.minimum(1.0, limit / np.maximum(np.hypot(*shift.T), 1e-9))[:, None]
    inside = (arc >= start) & (arc <= start + length_ratio * length)
    line = (path + shift)[inside].astype(np.float32)
    vertices = cv2.approxPolyDP(line[:, None], _SIMPLIFY, closed=False)[:, 0]
    return np.asarray(vertices, dtype=np.float64)


def _chord_if_round(
    path: NDArray[np.float64], room: NDArray[np.float64], rng: np.random.Generator, width: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The path and its room, or those of a line through the largest disc of a round region."""
    deepest = int(np.argmax(room))
    reach = room[deepest] - width / 2
    if len(path) > 2 * reach:
        return path, room
    angle = rng.uniform(0.0, np.pi)
    along = np.arange(-np.floor(reach), np.floor(reach) + 1)
    line = path[deepest] + along[:, None] * np.array([np.cos(angle), np.sin(angle)])
    return line, room[deepest] - np.abs(along)
