"""Training scribbles that are shortened or dropped while they are read: robustness protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.errors import ConfigError
from scribbleseg.functional.degrade import Degradation, degrade_drawing, degrade_scribble

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__ = ["DegradedScribbles", "check_degradation", "read_degraded"]

_LABELLED, _EMPTY = 1, 2


def check_degradation(
    source: ScribbleSource, *, shrink: float, drop: float, seed: int
) -> Degradation | None:
    """The degradation that the options of a data module ask for, ``None`` if they ask for none.

    Args:
        source: Data set; must train on scribbles.
        shrink: Option ``scribble_shrink``.
        drop: Option ``scribble_drop``.
        seed: Option ``degrade_seed``.

    Raises:
        ConfigError: If an option is out of range, or the source does not train on scribbles.
    """
    try:
        degradation = Degradation(shrink=shrink, drop=drop, seed=seed)
    except ConfigError as error:  # it says what is wrong with which of its options
        prefix = "degrade_" if str(error).startswith("seed") else "scribble_"
        raise ConfigError(f"{prefix}{error}") from None
    if not degradation.active:
        return None
    kind = getattr(source, "label_type", "scribble")
    if kind != "scribble":
        raise ConfigError(
            f"scribble_shrink={shrink}, scribble_drop={drop} with label_type={kind!r}: only "
            "scribbles can be shortened or dropped; set both to 0, or `label_type: scribble`"
        )
    return degradation


def read_degraded(
    source: ScribbleSource, record: Record, degradation: Degradation
) -> NDArray[np.uint8]:
    """The degraded scribble of an image: of its polylines if the source has them, else its pixels.

    Args:
        source: Data set.
        record: Sample.
        degradation: What is taken away.

    Returns:
        Class ids, uint8, shape ``(H, W)``; 255 = not drawn.

    Raises:
        ScribbleNotFoundError: If there is no such scribble.
        LabelFormatError: If it is faulty.
    """
    drawing = source.read_strokes(record)
    if drawing is not None:
        return degrade_drawing(drawing, degradation, image_id=record.image_id)
    return degrade_scribble(source.read_scribble(record), degradation, image_id=record.image_id)


class DegradedScribbles:
    """Reads degraded scribbles, and counts in all loader processes which images lost all labels.

    Args:
        source: Data set.
        degradation: What is taken away.
        images: Number of training images.

    Attributes:
        logged: Whether the counts have been reported.
    """

    def __init__(self, source: ScribbleSource, degradation: Degradation, images: int) -> None:
        self.source, self.degradation = source, degradation
        import torch  # here: the commands that degrade scribbles need no torch

        # one byte per image in shared memory: workers write different ones, nothing is lost
        self.logged = False
        self._seen = torch.zeros(images, dtype=torch.uint8)
        self._seen.share_memory_()  # type: ignore[no-untyped-call]

    def read(self, record: Record, index: int) -> NDArray[np.uint8]:
        """Degraded scribble of a sample.

        Args:
            record: Sample.
            index: Its position in the training split.

        Returns:
            Class ids, uint8, shape ``(H, W)``; 255 = not drawn.
        """
        scribble = read_degraded(self.source, record, self.degradation)
        labelled = bool((scribble != IGNORE_INDEX).any())
        self._seen[index] = _LABELLED if labelled else _EMPTY
        return scribble

    @property
    def complete(self) -> bool:
        """Whether every image has been read by this process or its workers."""
        return bool((self._seen > 0).all())

    def format(self) -> str:
        """One line for the log: how many of the images read so far have no label left."""
        seen, empty = int((self._seen > 0).sum()), int((self._seen == _EMPTY).sum())
        settings = self.degradation
        return (
            f"scribble_shrink={settings.shrink}, scribble_drop={settings.drop}: {empty:,} of "
            f"{seen:,} training images read have no label left"
        )
