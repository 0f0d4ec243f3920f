"""What a call of ``spread`` did, as text for one screen and as a picture to judge it by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data import io, overview
from scribbleseg.data.overview import draw_labels, draw_strokes, overview_path, picture_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__ = ["SpreadReport", "write_overview"]

_CLASS_ROWS = 25
_NAMES = 3


def _no_pixels() -> NDArray[np.int64]:
    return np.zeros(256, dtype=np.int64)


@dataclass
class SpreadReport:
    """Outcome of :func:`~scribbleseg.data.spread.spread_scribbles`.

    Attributes:
        output: Folder of the pseudo-labels.
        class_names: One name per class.
        written: Images spread by this call.
        kept: Images whose labels were there already.
        failed: Image id to what went wrong.
        empty: Ids of images on which nothing is drawn; their labels are 255 everywhere.
        drawn: Scribble pixels per id, int64, shape ``(256,)``; 255 = not drawn.
        labelled: Pseudo-label pixels per id, int64, shape ``(256,)``; 255 = undecided.
        overview: Contact sheet, ``None`` if there is nothing to show.
    """

    output: Path
    class_names: tuple[str, ...]
    written: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    drawn: NDArray[np.int64] = field(default_factory=_no_pixels)
    labelled: NDArray[np.int64] = field(default_factory=_no_pixels)
    overview: Path | None = None

    def format(self) -> str:
        """Summary of at most about 30 lines; shares are of all pixels of all images."""
        before = 100 * self.drawn / max(int(self.drawn.sum()), 1)
        after = 100 * self.labelled / max(int(self.labelled.sum()), 1)
        shown = list(range(len(self.class_names)))
        if len(shown) > _CLASS_ROWS:
            shown = sorted(shown, key=lambda label: -after[label])[:_CLASS_ROWS]
        rows = [(self.class_names[label], before[label], after[label]) for label in shown]
        rows.append(("labelled", before[:IGNORE_INDEX].sum(), after[:IGNORE_INDEX].sum()))
        lines = [
            f"{self.written + self.kept:,} images labelled in {self.output}: {self.written:,} "
            f"written, {self.kept:,} kept from earlier, {len(self.failed):,} failed",
            f"{'share of pixels':<24} {'scribbles':>11} {'labels':>11}",
            *(f"  {name[:22]:<22} {old:>9.2f} % {new:>9.2f} %" for name, old, new in rows),
        ]
        if self.empty:
            lines.append(
                f"{len(self.empty):,} images have no scribble, so nothing is labelled on them "
                f"(e.g. {', '.join(self.empty[:_NAMES])})"
            )
        if self.overview is not None:
            lines.append(f"look at {self.overview} before you train on these labels")
        return "\n".join(lines)


def write_overview(
    source: ScribbleSource, output: Path, records: Sequence[Record], *, taken: Collection[str]
) -> Path:
    """Contact sheet of eight images, their scribbles and labels.

    Args:
        source: Reads images and scribbles.
        output: Folder of the labels, and of the picture.
        records: Images to choose from, at least one.
        taken: Stems of the label files, which the picture must not replace.

    Returns:
        Path of the picture: ``overview.png``, with underscores in front if that is taken.
    """

    def tiles(record: Record) -> list[NDArray[np.uint8]]:
        image = picture_of(source, record)
        labels = io.read_label(output / f"{record.image_id}.png", source.num_classes)
        drawn = draw_strokes(image, source.read_scribble(record), source)
        return [image, drawn, draw_labels(image, labels, source)]

    titles = ("image", "scribbles", "spread labels")
    return overview.write_overview(overview_path(output, taken), records, tiles, titles)
