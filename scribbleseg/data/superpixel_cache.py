"""Over-segmentations on disk: one 16-bit PNG per image, made once, and readers of foreign forms."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from scribbleseg.data.image_work import failure, work_through
from scribbleseg.data.overview import overview_path, picture_of, write_overview
from scribbleseg.data.prepared import check_settings, is_fresh, safe_id
from scribbleseg.data.readers.superpixels import (
    SUPERPIXEL_FILL,
    find_superpixels,
    read_distance_map,
    read_superpixels,
)
from scribbleseg.data.segmenters import (
    MOST_SUPERPIXELS,
    SuperpixelMethod,
    SuperpixelOptions,
    over_segment,
)
from scribbleseg.data.settings import image_settings
from scribbleseg.errors import LabelFormatError
from scribbleseg.functional.image_files import write_atomic
from scribbleseg.functional.manifest import write_manifest
from scribbleseg.functional.superpixels import region_boundaries
from scribbleseg.options import check_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record, Split

__all__ = [
    "SUPERPIXEL_FILL",
    "SuperpixelMethod",
    "SuperpixelReport",
    "find_superpixels",
    "read_distance_map",
    "read_superpixels",
    "write_superpixels",
]

_COMMAND = "scribbleseg.data superpixels"
_LINE = (255, 221, 0)


@dataclass
class SuperpixelReport:
    """Outcome of :func:`write_superpixels`.

    Attributes:
        output: Folder of the cache.
        counts: Image id to number of superpixels.
        written: Images done by this call.
        kept: Images that were there already.
        failed: Image id to what went wrong.
        overview: Picture of boundaries, ``None`` if there is nothing to show.
    """

    output: Path
    counts: dict[str, int] = field(default_factory=dict)
    written: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    overview: Path | None = None

    def format(self) -> str:
        """Summary of a few lines."""
        lines = [
            f"{len(self.counts):,} over-segmentations in {self.output}: {self.written:,} written, "
            f"{self.kept:,} kept from earlier, {len(self.failed):,} failed"
        ]
        if self.counts:
            numbers = np.array(list(self.counts.values()))
            lines.append(
                f"superpixels per image: {numbers.min():,} to {numbers.max():,}, median "
                f"{int(np.median(numbers)):,}"
            )
        if self.overview is not None:
            lines.append(f"look at {self.overview}: lines should follow the borders of objects")
        return "\n".join(lines)


class _Result(NamedTuple):
    """What became of one image; ``reason`` is empty if all went well."""

    image_id: str
    number: int
    written: bool
    reason: str = ""


@dataclass(frozen=True)
class _Segmenter:
    """All that a worker needs to segment one image."""

    source: ScribbleSource
    output: Path
    method: SuperpixelMethod
    options: dict[str, Any]

    def __call__(self, record: Record) -> _Result:
        try:
            return self._segment(record)
        except Exception as error:  # noqa: BLE001 - one broken file must not stop the others
            return _Result(record.image_id, 0, False, failure(error))

    def _segment(self, record: Record) -> _Result:
        target = self.output / f"{safe_id(record.image_id)}.png"
        regions = self._earlier(record, target)
        written = regions is None
        if regions is None:
            image = self.source.read_image(record)
            channels = self.source.rgb_channels
            regions = over_segment(image, self.method, self.options, rgb_channels=channels)
            _write(target, regions)
        return _Result(record.image_id, int(regions.max()) + 1, written)

    def _earlier(self, record: Record, target: Path) -> NDArray[np.int32] | None:
        """Superpixels of an earlier call, unless they are damaged or older than their image."""
        if not is_fresh(target, *self.source.inputs(record, "image")):
            return None
        try:
            return read_superpixels(target)
        except LabelFormatError:
            return None


def _write(path: Path, regions: NDArray[np.int32]) -> None:
    count = int(regions.max()) + 1
    if count > MOST_SUPERPIXELS:
        raise LabelFormatError(
            f"{path}: {count:,} superpixels do not fit into 16 bits, at most {MOST_SUPERPIXELS:,}; "
            "ask for fewer, or tile the image"
        )
    image = Image.fromarray(regions.astype(np.uint16))
    write_atomic(path, lambda stream: image.save(stream, format="PNG"))


def write_superpixels(
    source: ScribbleSource,
    output: str | Path,
    *,
    splits: Sequence[Split] = ("train",),
    method: SuperpixelMethod = "slic",
    segments: int | None = None,
    compactness: float | None = None,
    scale: float | None = None,
    min_size: int | None = None,
    workers: int = 0,
    progress: bool = True,
) -> SuperpixelReport:
    """Over-segment the images of some splits into a folder of 16-bit PNGs.

    Writes ``STEM.png`` of image size (ids from 0), ``manifest.json`` and ``overview.png``. Files
    appear atomically, so an interrupted call continues where it stopped; files older than their
    image are made anew. An image that fails is reported and does not stop the others. SLIC needs
    240 ms for 500×281 pixels on one core, Felzenszwalb 280 ms, a grid the time to write the file.

    Args:
        source: Data set; only images are read.
        output: Folder to write: new, empty, or of an earlier call with the same settings.
        splits: Splits to segment.
        method: ``"slic"`` (about equal sizes), ``"felzenszwalb"`` (irregular, follow edges) or
            ``"grid"`` (rectangles, no package needed).
        segments: About how many superpixels, 1 to 65,535; 800 by default. Not for
            ``"felzenszwalb"``.
        compactness: Weight of position against colour in SLIC, above 0; by default each superpixel
            fits its own (SLIC0), as CC4S does.
        scale: Preference of ``"felzenszwalb"`` for large regions, above 0; 300 by default.
        min_size: Smallest region of ``"felzenszwalb"``, pixels; 100 by default.
        workers: Processes, see :func:`~scribbleseg.data.processes.map_in_processes`; 0 = this one.
        progress: Show a progress bar on stderr.

    Returns:
        What was done; look at ``failed``.

    Raises:
        ConfigError: If an option is out of range or not of the method, or ``output`` holds
            anything else.
        MissingExtraError: If scikit-image is not installed (extra ``regions``) and needed.
        ScribbleNotFoundError: If images or lists are missing (D301).
        ScribbleSegError: If a worker process was killed.
    """
    output = Path(output).expanduser()
    options = SuperpixelOptions(segments, compactness, scale, min_size).arguments(method)
    check_whole(0, workers=workers)
    # a package that is missing is one sentence, not one per image
    over_segment(np.zeros((2, 2, source.in_channels), np.uint8), method, {})
    records = list({r.image_id: r for split in splits for r in source.records(split)}.values())
    facts: dict[str, Any] = {
        "command": _COMMAND,
        "data": image_settings(source),
        "method": method,
        "options": options,
    }
    names = list(source.class_names)
    earlier = check_settings(output, facts) or {}
    if earlier.get("complete") is not True:
        write_manifest(output, class_names=names, files=0, complete=False, **facts)
    report = SuperpixelReport(output)
    segmenter = _Segmenter(source, output, method, options)

    def count(result: _Result) -> None:
        report.counts[result.image_id] = result.number

    work_through(
        *(segmenter, records, report),
        title="superpixels",
        workers=workers,
        progress=progress,
        each=count,
    )
    shown = [record for record in records if record.image_id in report.counts]
    if shown:
        report.overview = _write_overview(source, output, shown, again=bool(report.written))
    there = len(find_superpixels(output))
    write_manifest(output, class_names=names, files=there, complete=not report.failed, **facts)
    return report


def _write_overview(
    source: ScribbleSource, output: Path, records: Sequence[Record], *, again: bool
) -> Path:
    """Images with the boundaries of their superpixels."""
    path = overview_path(output, {record.image_id for record in records})
    if path.is_file() and not again:
        return path

    def tiles(record: Record) -> list[NDArray[np.uint8]]:
        image = picture_of(source, record)
        lined = image.copy()
        lined[region_boundaries(read_superpixels(output / f"{record.image_id}.png"))] = _LINE
        return [image, lined]

    def caption(record: Record) -> str:
        regions = read_superpixels(output / f"{record.image_id}.png")
        return f"{record.image_id}: {int(regions.max()) + 1:,}"

    return write_overview(path, records, tiles, ("image", "superpixels"), caption=caption)
