"""What a call of ``synthesize`` did, as text for one screen and as a picture to judge it by."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data import io, overview
from scribbleseg.data.overview import draw_labels, draw_strokes, overview_path, picture_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__ = ["SynthesisReport", "write_overview"]

_NAMES, _CLASS_ROWS = 3, 25


def _no_pixels() -> NDArray[np.int64]:
    return np.zeros(256, dtype=np.int64)


@dataclass
class SynthesisReport:
    """Outcome of :func:`~scribbleseg.data.synthesize.synthesize_folder`.

    Attributes:
        output: Folder of the label files.
        class_names: One name per class.
        written: Images made by this call.
        kept: Images that were there already.
        failed: Image id to what went wrong.
        empty: Ids of images on which nothing is drawn.
        drawn: Pixels per id, int64, shape ``(256,)``; 255 = not drawn.
        present: Images per class in which the class is drawn, int64, shape ``(256,)``.
        seconds: Duration of the work.
        overview: Contact sheet, ``None`` if there is nothing to show.
    """

    output: Path
    class_names: tuple[str, ...]
    written: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    drawn: NDArray[np.int64] = field(default_factory=_no_pixels)
    present: NDArray[np.int64] = field(default_factory=_no_pixels)
    seconds: float = 0.0
    overview: Path | None = None

    @property
    def coverage(self) -> float:
        """Drawn pixels in percent of all."""
        return float(100 * self.drawn[:IGNORE_INDEX].sum() / max(int(self.drawn.sum()), 1))

    def format(self) -> str:
        """Summary of at most about 30 lines."""
        rate = self.written / self.seconds if self.seconds > 0 else 0.0
        lines = [
            f"{self.written + self.kept:,} label files in {self.output}: {self.written:,} written, "
            f"{self.kept:,} kept from earlier, {len(self.failed):,} failed",
            f"coverage {self.coverage:.2f} % of the pixels, {rate:.1f} images/s",
        ]
        shown = sorted(range(len(self.class_names)), key=lambda label: -self.drawn[label])
        total = max(int(self.drawn.sum()), 1)
        lines += [
            f"  {self.class_names[label][:22]:<22} {100 * self.drawn[label] / total:>8.3f} %  in "
            f"{self.present[label]:,} images"
            for label in sorted(shown[:_CLASS_ROWS])
        ]
        if self.empty:
            lines.append(
                f"{len(self.empty):,} images have no label (e.g. {', '.join(self.empty[:_NAMES])})"
            )
        if self.overview is not None:
            lines.append(f"look at {self.overview} before you train on these labels")
        return "\n".join(lines)


def write_overview(
    source: ScribbleSource, output: Path, records: Sequence[Record], *, mode: str
) -> Path:
    """Contact sheet of eight images: image, what was read, what was drawn.

    Args:
        source: Reads images, masks and scribbles.
        output: Folder of the labels, and of the picture.
        records: Images to choose from, at least one.
        mode: Title of the labels; ``"degrade"`` shows scribbles beside them, else masks.

    Returns:
        Path of the picture: ``overview.png``, with underscores in front if an image is called so.
    """
    degraded = mode == "degrade"

    def tiles(record: Record) -> list[NDArray[np.uint8]]:
        image = picture_of(source, record)
        labels = io.read_label(output / f"{record.image_id}.png", source.num_classes)
        if degraded:
            made_of = draw_strokes(image, source.read_scribble(record), source)
        else:
            made_of = draw_labels(image, source.read_mask(record), source)
        return [image, made_of, draw_strokes(image, labels, source)]

    titles = ("image", "scribble" if degraded else "mask", mode)
    path = overview_path(output, {record.image_id for record in records})
    return overview.write_overview(path, records, tiles, titles)
