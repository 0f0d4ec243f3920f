"""How masks of COCO are painted from instances, and the command of a source that paints all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from scribbleseg.data.readers.coco_masks import Crowd, MaskReport, Overlap, write_masks
from scribbleseg.data.sources.coco_files import SPLITS
from scribbleseg.errors import ConfigError
from scribbleseg.options import check_choice

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scribbleseg.data.sources.coco import COCOSource

__all__ = ["CocoMaskStyle", "MaskStyle", "write_coco_masks"]

_PRESET = "coco2014-wsss"

MaskStyle = Literal["coco2014-wsss", "custom"]
"""``coco2014-wsss``: the masks of the published comparisons; ``custom``: options of your own."""


@dataclass(frozen=True)
class CocoMaskStyle:
    """A style with its options; scores of different styles cannot be compared.

    Attributes:
        name: See :data:`MaskStyle`.
        crowd: What becomes of crowd regions.
        overlap: Which object is on top.

    Raises:
        ConfigError: If an option is unknown, or contradicts the style.
    """

    name: MaskStyle
    crowd: Crowd
    overlap: Overlap

    def __post_init__(self) -> None:
        """Check the values."""
        check_choice("mask_style", self.name, get_args(MaskStyle))
        check_choice("crowd", self.crowd, get_args(Crowd))
        check_choice("overlap", self.overlap, get_args(Overlap))
        if self.name == _PRESET and (self.crowd, self.overlap) != ("background", "order"):
            raise ConfigError(
                f"mask_style={self.name!r} with crowd={self.crowd!r} and overlap={self.overlap!r}: "
                "this style is 'background' and 'order'; set `mask_style: custom`"
            )

    @property
    def folder(self) -> str:
        """Name of the folder of such masks."""
        style = self.name if self.name == _PRESET else f"{self.name}_{self.crowd}_{self.overlap}"
        return f"masks_{style}"

    def file_name(self, number: int, stem: str) -> str:
        """Stem of the mask of an image, by its number without zeros or like the image."""
        return str(number) if self.name == _PRESET else stem

    def arguments(self) -> str:
        """The options as arguments of a source, for messages."""
        given = f"mask_style={self.name!r}"
        if self.name != _PRESET:
            given += f", crowd={self.crowd!r}, overlap={self.overlap!r}"
        return given


def write_coco_masks(
    source: COCOSource,
    out: str | Path | None = None,
    *,
    splits: Sequence[str] = SPLITS,
    workers: int = 0,
    progress: bool = True,
) -> MaskReport:
    """Paint the masks of all images of a source once, into a folder it reads them from.

    See :func:`~scribbleseg.data.readers.coco_masks.write_masks`: parallel, resumable, and with a
    manifest of style and pycocotools version.

    Args:
        source: Data set and style.
        out: Target, by default ``source.mask_dir``.
        splits: ``"train"``, ``"val"``, or both.
        workers: Processes; 0 = this one.
        progress: Show a progress bar on stderr.

    Returns:
        What was done; look at ``failed``.
    """
    return write_masks(
        source.mask_dir if out is None else out,
        {f"{split}{source.year}": source.index(split) for split in splits},
        {f"{split}{source.year}": source.mask_names(split) for split in splits},
        class_names=source.class_names,
        crowd=source.crowd,
        overlap=source.overlap,
        workers=workers,
        progress=progress,
        mask_style=source.mask_style,
        year=source.year,
    )
