"""Clicks of a file source, drawn as discs."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from scribbleseg.data import io
from scribbleseg.data.readers.clicks import Click, read_click_file, read_clicks
from scribbleseg.data.sources.weak_reader import WeakReader
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.strokes import Stroke, rasterize

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from scribbleseg.types import Record

__all__ = ["PointLabels"]

_CLICK_SUFFIXES = (".json", ".csv")


class PointLabels(WeakReader):
    """Clicks drawn as discs; those of the background first, so that objects win."""

    role = "point"

    @cached_property
    def _where(self) -> Path:
        if self.options.points is not None:
            return self.source.root / self.options.points
        folder = self.source.root / "points"
        return folder if folder.is_dir() else self.source.root / "points.json"

    @cached_property
    def _second(self) -> Path | None:
        named = self.options.background_points
        path = self.source.root / (named or "background_points.json")
        return path if named is not None or path.is_file() else None

    @property
    def place(self) -> str:
        """Folder or file of the clicks."""
        return str(self._where)

    @cached_property
    def _clicks(self) -> dict[str, list[Click]]:
        """Clicks of the JSON files by stem, the background first."""
        source = self.source
        clicks: dict[str, list[Click]] = {}
        if self._second is not None:
            if source.background is None:
                raise ConfigError(
                    f"{self._second}: clicks of the background, but these classes have none; "
                    "remove the file, or add a background class"
                )
            clicks = read_clicks(
                self._second, source._tags, source.num_classes, default_label=source.background
            )
            wrong = [(s, c.label) for s, found in clicks.items() for c in found]
            wrong = [(stem, label) for stem, label in wrong if label != source.background]
            if wrong:
                raise LabelFormatError(
                    f"D101 {self._second}: {len(wrong)} clicks are not of the background (e.g. "
                    f"{wrong[0][0]!r}: class {wrong[0][1]}), expected {source.background} only; is "
                    "this the file of object clicks? Set it as `points`"
                )
        if self._where.is_dir():
            return clicks
        for stem, found in read_clicks(self._where, source._tags, source.num_classes).items():
            clicks[stem] = [*clicks.get(stem, ()), *found]
        return clicks

    def _list_files(self) -> dict[str, Path]:
        if not self._where.exists():
            root = self.source.root
            looked = self._where if self.options.points else f"{root}/points and points.json"
            raise ScribbleNotFoundError(
                f"D301 {looked}: no clicks there; make them from masks with `python -m "
                f"scribbleseg.data synthesize {root} --mode points --out {root}/points`, or name "
                "the file or folder with `points`"
            )
        files = {stem: (self._second or self._where) / stem for stem in self._clicks}
        if self._where.is_dir():
            suffixes = (*_CLICK_SUFFIXES, *io.LABEL_SUFFIXES)
            files.update(io.find_images(self._where, suffixes=suffixes, unique=False))
        else:
            files = {stem: self._where / stem for stem in self._clicks}
        return files

    def draw(self, record: Record) -> NDArray[np.uint8]:
        """Discs around the clicks of an image.

        Raises:
            LabelFormatError: If a click is not on the image (D201), or the file is faulty.
        """
        source, path = self.source, self.files[record.image_id]
        clicks = self._clicks.get(record.image_id, [])
        if self._where.is_dir() and path.suffix.lower() in _CLICK_SUFFIXES:
            clicks = [*clicks, *read_click_file(path, source._tags, source.num_classes)]
        elif self._where.is_dir() and path.is_file():
            if source.is_own_label(path, record):
                return io.read_label(path, source.num_classes)
            return source._decode(path, "scribble", record)
        _, renderer, offset = source._strokes
        size = source._image_size(record)
        if self.options.max_rank is not None:
            clicks = [click for click in clicks if click.rank <= self.options.max_rank]
        for click in clicks:
            self._check(click, size, offset, path)
        return rasterize(
            [Stroke(click.label, [(click.x, click.y)]) for click in clicks],
            size,
            width=2 * self.options.point_radius,
            renderer=renderer,
            coordinate_offset=offset,
        )

    def _check(self, click: Click, size: tuple[int, int], offset: float, path: Path) -> None:
        reach = self.options.point_radius
        for value, length in ((click.x - offset, size[1]), (click.y - offset, size[0])):
            if not -reach <= value <= length - 1 + reach:
                raise LabelFormatError(
                    f"D201 {path}: click at x={click.x:g}, y={click.y:g} of class {click.label} is "
                    f"outside the image of {size[1]}x{size[0]} (width x height); the image was "
                    "resized, or x and y are exchanged: correct the clicks"
                )
