"""A folder that is filled image by image: what convert, propagate and the other jobs share."""

from __future__ import annotations

import sys
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from scribbleseg.data.jobs.processes import map_in_processes
from scribbleseg.data.jobs.settings import is_fresh
from scribbleseg.data.labels import read_label
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.images import compose_panel, overlay_labels, write_image
from scribbleseg.functional.intensity import rgb_view
from scribbleseg.functional.manifest import MANIFEST, read_manifest, write_manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scribbleseg.data.source import FileRole, ScribbleSource
    from scribbleseg.types import Record, Split

__all__ = ["ImageJob"]

Item = TypeVar("Item")

_NAMES = 3  # of many, in messages
_ROWS, _TILE_HEIGHT = 8, 240  # images of an overview, pixels
_BACKGROUND = (150, 150, 150)  # palettes have black, which does not show on dark images


@dataclass(frozen=True)
class _Maker:
    """Makes the files of one image in a worker; never raises."""

    make: Callable[[Record], tuple[bool, Any]]

    def __call__(self, record: Record) -> tuple[bool, Any, str]:
        """Whether a file was written, what is to be counted, and what went wrong."""
        try:
            return *self.make(record), ""
        except MemoryError as error:
            return False, None, f"does not fit into memory: {error}"
        except Exception as error:  # noqa: BLE001 - one broken file must not stop the others
            return False, None, str(error) or type(error).__name__


@dataclass
class ImageJob:
    """A folder that is filled image by image, and what a call did there.

    The folder is refused if it holds other files, or files of other settings, and marked as
    incomplete in ``manifest.json`` until all images are done. An image that fails is counted and
    does not stop the others. Files appear atomically and are kept while they are not older than
    what they are made of, so that an interrupted call goes on where it stopped.

    Attributes:
        output: Folder: new, empty, or of an earlier call with the same settings.
        command: Name of the command.
        settings: What the manifest says: plain JSON values, equal in all calls.
        class_names: One name per class; of equal importance if ``of_classes``.
        earlier: Manifest of an earlier call, empty if there was none.
        written: Images of which this call wrote a file.
        kept: Images whose files were all there already.
        failed: Image id to what went wrong.
        found: What the command counted, by name.
        overview: Picture to judge the files by, ``None`` if there is nothing to show.
        summary: Lines for the screen.
    """

    output: Path
    command: str
    settings: dict[str, Any]
    class_names: Sequence[str]
    of_classes: bool = True
    earlier: dict[str, Any] = field(init=False)
    written: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    found: dict[str, Any] = field(default_factory=dict)
    overview: Path | None = None
    summary: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Look at what is there; nothing is written yet."""
        self.settings = {"command": f"scribbleseg.data {self.command}", **self.settings}
        output, manifest = self.output, self.output / MANIFEST
        cure = "use another folder, or delete this one"
        if output.exists() and not output.is_dir():
            raise ConfigError(f"{output} is a file, expected a folder; choose another --out")
        self.earlier = read_manifest(output) or {}
        if not self.earlier:
            if output.is_dir() and any(not p.name.startswith(".") for p in output.iterdir()):
                raise ConfigError(
                    f"{output} holds files but no {MANIFEST}, so they are not of this command, and "
                    "new files beside them could be taken for each other; "
                    f"{cure} if it is not needed"
                )
            return
        now = {**self.settings, "class_names": list(self.class_names)}
        changes = [
            f"{key}: {self.earlier.get(key)!r}, now {value!r}"
            for key, value in now.items()
            if self.earlier.get(key) != value and (self.of_classes or key != "class_names")
        ]
        if changes:
            raise ConfigError(
                f"{manifest}: the files there were made with other settings ({'; '.join(changes)});"
                f" one folder holds files of one kind: {cure}"
            )

    def run(
        self,
        make: Callable[[Record], tuple[bool, Any]],
        records: Sequence[Record],
        count: Callable[[Record, Any], None] = lambda record, found: None,
        *,
        workers: int,
        progress: bool,
        start: str | None = None,
    ) -> list[Record]:
        """Do the work on all images in their order.

        Args:
            make: Writes the files of one image where they are missing; returns whether, and what
                is to be counted. Picklable.
            records: Images.
            count: Called in this process with every image that did not fail.
            workers: Processes; 0 = this one.
            progress: Show a progress bar on stderr.
            start: How processes start, see :func:`~scribbleseg.data.map_in_processes`.

        Returns:
            Images that did not fail.
        """
        done = []
        # before the first file: a call that is interrupted must know its settings when it goes on
        if not self.earlier.get("complete"):
            self.describe(0, complete=False)
        made = map_in_processes(_Maker(make), records, workers=workers, start=start)
        with closing(made) as results:
            shown = with_progress(results, len(records), self.command, enabled=progress)
            for record, (written, found, reason) in zip(records, shown, strict=True):
                if reason:
                    self.failed[record.image_id] = reason
                    continue
                if written and not self.written:
                    self.describe(0, complete=False)
                self.written += written
                self.kept += not written
                done.append(record)
                count(record, found)
        return done

    def describe(self, files: int, *, complete: bool) -> None:
        """Write the manifest: how many files are there, and whether all of them."""
        names, facts = list(self.class_names), self.settings
        write_manifest(self.output, class_names=names, files=files, complete=complete, **facts)

    def finish(
        self,
        done: Sequence[Record],
        tiles: Callable[[Record], dict[str, NDArray[np.uint8]]],
        *,
        chosen: Sequence[Record] = (),
        caption: Callable[[Record], str] = lambda record: record.image_id,
        files: int | None = None,
    ) -> None:
        """Write the manifest, and a picture of eight images to judge the files by.

        The picture is ``overview.png``, with underscores in front while an image is called so.

        Args:
            done: Images that did not fail.
            tiles: Titled pictures of an image, a row of the picture.
            chosen: Images to choose from for the picture; by default those that are done.
            caption: What to write under a row.
            files: How many files are there; by default one per image that is done.
        """
        if done:
            name, taken = "overview", {record.image_id for record in done}
            while name in taken:
                name = f"_{name}"
            self.overview = self.output / f"{name}.png"
            if self.written or not self.overview.is_file():
                write_overview(self.overview, chosen or done, tiles, caption)
        self.describe(len(done) if files is None else files, complete=not self.failed)

    def headline(self, what: str) -> str:
        """First line of a summary."""
        return (
            f"{self.written + self.kept:,} {what} {self.output}: {self.written:,} written, "
            f"{self.kept:,} kept from earlier, {len(self.failed):,} failed"
        )

    def format(self) -> str:
        """Summary for the screen."""
        return "\n".join(self.summary)


def write_overview(
    path: Path,
    records: Sequence[Record],
    tiles: Callable[[Record], dict[str, NDArray[np.uint8]]],
    caption: Callable[[Record], str],
) -> None:
    """Write titled pictures of eight images that are spread over some records, a row each."""
    places = np.unique(np.linspace(0, len(records) - 1, _ROWS).round().astype(int))
    shown = [records[place] for place in places]
    rows = [tiles(record) for record in shown]
    picture = compose_panel(
        [list(row.values()) for row in rows],
        list(rows[0]),
        tile_height=_TILE_HEIGHT,
        captions=[caption(record) for record in shown],
    )
    write_image(path, picture)


def earlier_label(
    source: ScribbleSource, target: Path, record: Record, *roles: FileRole
) -> NDArray[np.uint8] | None:
    """Labels of an earlier call; ``None`` if damaged, or older than the files of these roles."""
    if is_fresh(target, *(path for role in roles for path in source.inputs(record, role))):
        with suppress(OSError, LabelFormatError):
            return read_label(target, source.num_classes)
    return None


def require_scribbles(source: ScribbleSource, split: Split, done: str) -> list[Record]:
    """Images of a split; all have a scribble (D301), unless the source says that some have none."""
    kind = getattr(source, "label_type", "scribble")
    if kind != "scribble":
        raise ConfigError(
            f"label_type={kind!r}: only scribbles are {done}; leave the option at 'scribble'"
        )
    records = source.records(split)
    missing = [r.image_id for r in records if r.image is not None and r.scribble is None]
    if missing and getattr(source, "on_missing", "unlabelled") != "unlabelled":
        raise ScribbleNotFoundError(
            f"D301 {len(missing)} of {len(records)} images of split {split!r} have no scribble "
            f"({some_ids(missing)}); draw them, or remove the names from the list"
        )
    return records


def some_ids(image_ids: Sequence[str]) -> str:
    """The first of many image ids, for a message."""
    return f"e.g. {', '.join(image_ids[:_NAMES])}"


def picture_of(source: ScribbleSource, record: Record) -> NDArray[np.uint8]:
    """The image as three channels that can be shown, shape ``(H, W, 3)``."""
    return rgb_view(source.read_image(record), source.rgb_channels)


def draw_labels(
    picture: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    source: ScribbleSource,
    *,
    strokes: bool = False,
) -> NDArray[np.uint8]:
    """Labels over an image, half transparent; strokes opaque, and thick enough for an overview."""
    palette = np.array(source.palette, dtype=np.uint8)
    if source.background is not None:
        palette[source.background] = _BACKGROUND
    thicken = round(picture.shape[0] / _TILE_HEIGHT) if strokes else 0
    return overlay_labels(picture, labels, palette, alpha=1.0 if strokes else 0.5, thicken=thicken)


def with_progress(
    results: Iterable[Item], total: int, title: str, *, enabled: bool
) -> Iterator[Item]:
    """The results, with a progress bar and the remaining time on stderr."""
    # a log file gets a line now and then, not ten a second
    least = 0.1 if sys.stderr.isatty() else 30.0
    pace = {"mininterval": least, "maxinterval": max(least, 10.0)}
    yield from tqdm(results, title, total, unit="image", disable=not enabled, **pace)
