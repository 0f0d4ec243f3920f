"""COCO instance files read once into a small database, which paints masks without the JSON."""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from scribbleseg.data.classes import normalise_name
from scribbleseg.data.coco_masks import CocoIndex, encode_runs, query, shown
from scribbleseg.data.documents import is_number
from scribbleseg.errors import (
    LabelFormatError,
    MissingExtraError,
    ScribbleNotFoundError,
    ScribbleSegError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["read_coco_index"]

_VERSION = 1  # of the stored index
_CHUNK = 1 << 20
_DEEPEST = 50  # nested lists and objects
_MOST_PIXELS = 100_000_000  # of an image
_NO_NUMBER = re.compile(rb"(?<![^\[,:\s])-?(?:NaN|Infinity)(?![^\],}\s])")
_TABLES = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
CREATE TABLE images (id INTEGER PRIMARY KEY, height INTEGER, width INTEGER);
CREATE TABLE annotations (image INTEGER, name TEXT, label INTEGER, crowd INTEGER, area REAL,
    x REAL, y REAL, width REAL, height REAL, runs BLOB, fault TEXT);
CREATE TABLE stamp (text TEXT);
"""


def read_coco_index(path: str | Path, categories: Mapping[int, str]) -> CocoIndex:
    """Index of an instance file, made at the first call and stored for the next.

    The JSON is read once in pieces: a minute and less than 200 MB of memory for the 605,000
    annotations of train2014. ``NAME.index.sqlite`` beside it keeps the result (a third of its
    size) until size or time of the file change; if that folder cannot be written, the index is in
    ``$XDG_CACHE_HOME/scribbleseg`` or ``~/.cache/scribbleseg``.

    Args:
        path: ``instances_*.json``.
        categories: Expected names by ``category_id``; in ascending order they become the classes
            1, 2, …, after the background.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: If it is no such file (D202, D303), or has other categories (D401).
        MissingExtraError: If ijson or pycocotools is not installed.
        ScribbleSegError: If no folder for the index can be written.
    """
    path = Path(path)
    try:
        found = path.stat()
        with path.open("rb"):
            pass
    except OSError as error:
        raise ScribbleNotFoundError(
            f"D301 {path}: does not exist or cannot be opened ({error.strerror}); unpack the "
            "annotations of the release there"
        ) from error
    stamp = f"{_VERSION} {found.st_size} {found.st_mtime_ns} {sorted(categories.items())}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "scribbleseg"
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    places = [path.with_suffix(".index.sqlite"), cache / f"{path.stem}_{name}.index.sqlite"]
    for place in places:
        if _is_current(place, stamp):
            return CocoIndex(path, place)
    for place in places:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            folder = TemporaryDirectory(prefix=".index-", dir=place.parent)
        except OSError:
            continue
        with folder:
            database = Path(folder.name) / "index.sqlite"
            with closing(sqlite3.connect(database)) as connection:
                try:
                    _Builder(path, categories, connection).build(stamp)
                except sqlite3.OperationalError as error:
                    raise ScribbleSegError(
                        f"{place}: the index of {path} cannot be written ({error}); make room there"
                    ) from error
            database.replace(place)  # a killed run leaves no half index
        return CocoIndex(path, place)
    raise ScribbleSegError(
        f"{path}: its index can be stored neither in {places[0].parent} nor in {cache}; set "
        "XDG_CACHE_HOME to a folder that can be written"
    )


def _is_current(place: Path, stamp: str) -> bool:
    """Whether an index is there, undamaged and of this state of the JSON file."""
    try:
        return place.is_file() and query(place, "SELECT text FROM stamp") == [(stamp,)]
    except (OSError, sqlite3.Error):
        return False


class _Builder:
    """Fills the database of an instance file."""

    def __init__(
        self, path: Path, categories: Mapping[int, str], database: sqlite3.Connection
    ) -> None:
        self.path, self.categories, self.database = path, categories, database
        self.labels = {category: label for label, category in enumerate(sorted(categories), 1)}
        self.sizes: dict[int, tuple[int, int]] = {}
        self.found: dict[int, str] = {}  # categories

    def build(self, stamp: str) -> None:
        self.database.executescript(_TABLES)
        counts = {"images": 0, "annotations": 0, "categories": 0}
        for key, entry in _entries(self.path, counts):
            name = f"number {counts[key]} of `{key}`"
            if key == "annotations":
                if not self.sizes:  # images come later in the file: it is read twice
                    for _, image in _entries(self.path, {"images": 0}):
                        self._image(image, "an entry of `images`")
                self._annotation(entry, name)
            elif key == "categories":
                category = self._whole(entry, "id", name)
                self.found[category] = str(entry.get("name"))
            else:
                try:
                    self.database.execute(
                        "INSERT INTO images VALUES (?, ?, ?)", self._image(entry, name)
                    )
                except sqlite3.IntegrityError as error:
                    raise LabelFormatError(
                        f"D303 {self.path}: image id {entry['id']} is listed twice, expected "
                        "once; remove the copies"
                    ) from error
        absent = [key for key, count in counts.items() if not count]
        if absent:
            raise LabelFormatError(
                f"D202 {self.path}: has no {' and no '.join(absent)}, expected an instance file of "
                "COCO: an object with the lists images, annotations and categories"
            )
        self._check_categories()
        self.database.execute("CREATE INDEX by_image ON annotations (image, crowd, label)")
        self.database.execute("INSERT INTO stamp VALUES (?)", (stamp,))
        self.database.commit()

    def _image(self, entry: Any, name: str) -> tuple[int, int, int]:
        number = self._whole(entry, "id", name)
        height, width = (self._whole(entry, key, f"image {number}") for key in ("height", "width"))
        if not 1 <= height * width <= _MOST_PIXELS:
            raise self._wrong(
                f"image {number}", "size", f"{width}x{height}", f"1 to {_MOST_PIXELS:,} pixels"
            )
        self.sizes[number] = height, width
        return number, height, width

    def _annotation(self, entry: Any, name: str) -> None:
        name = f"annotation {self._whole(entry, 'id', name)}"
        category = self._whole(entry, "category_id", name)
        image = self._whole(entry, "image_id", name)
        label, size = self.labels.get(category), self.sizes.get(image)
        if label is None:
            raise LabelFormatError(
                f"D401 {self.path}: {name} has category_id {category}, expected one of the "
                f"{len(self.labels)} ids {min(self.labels)} to {max(self.labels)}; the file is not "
                "of this data set"
            )
        if size is None:
            raise LabelFormatError(
                f"D202 {self.path}: {name} is of image {image}, which is not listed; the file is "
                "not complete"
            )
        crowd, area, box = entry.get("iscrowd", 0), entry.get("area"), entry.get("bbox")
        if not isinstance(crowd, (int, float)) or crowd not in (0, 1):
            raise self._wrong(name, "iscrowd", crowd, "0 or 1")
        if area is not None and not is_number(area):
            raise self._wrong(name, "area", area, "a number of pixels")
        corners = box if isinstance(box, list) else []
        fits = len(corners) == 4 and all(map(is_number, corners)) and min(corners[2:]) >= 0
        if box is not None and not fits:
            raise self._wrong(name, "bbox", box, "[x, y, width, height] in pixels")
        runs = fault = None
        try:
            runs = encode_runs(entry.get("segmentation"), size)
        except ValueError as error:  # told when it is painted: labels and boxes do not need it
            fault = f"cannot be drawn ({error})"
        self.database.execute(
            f"INSERT INTO annotations VALUES ({', '.join('?' * 11)})",
            (image, name, label, int(crowd), area, *(box or [None] * 4), runs, fault),
        )

    def _whole(self, entry: Any, key: str, name: str) -> int:
        if not isinstance(entry, dict):
            raise self._wrong(name, "content", entry, "an object")
        value = entry.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
            raise self._wrong(name, key, value, "a whole number from 0, not text")
        return value

    def _wrong(self, name: str, key: str, value: Any, expected: str) -> LabelFormatError:
        return LabelFormatError(
            f"D202 {self.path}: {name} has {key} {shown(value)}, expected {expected}, as in "
            "COCO's instance files; correct the program that wrote it"
        )

    def _check_categories(self) -> None:
        for category in sorted({*self.categories, *self.found}):
            ours, theirs = self.categories.get(category), self.found.get(category)
            if normalise_name(str(ours)) != normalise_name(str(theirs)):
                raise LabelFormatError(
                    f"D401 {self.path}: category {category} is {theirs!r}, expected {ours!r} "
                    f"({len(self.found)} categories in the file, {len(self.categories)} in the "
                    "data set); convert other data sets to a plain folder with their own class file"
                )


# ---------------------------------------------------------------------------------- JSON


class _Text:
    """Bytes of a JSON file; NaN and Infinity, which Python writes but JSON lacks, become null."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.rest = file, file.read(3)
        if self.rest == b"\xef\xbb\xbf":  # a byte-order mark
            self.rest = b""

    def read(self, size: int) -> bytes:
        if not size:  # ijson asks for the type
            return b""
        data = self.file.read(size)
        whole = self.rest + data
        cut = whole.rfind(b",") + 1 if data else 0  # numbers are not cut in two
        data, self.rest = (whole[:cut], whole[cut:]) if cut else (whole, b"")
        if b"NaN" in data or b"Infinity" in data:
            data = _NO_NUMBER.sub(b"null", data)
        return data


def _entries(path: Path, counts: dict[str, int]) -> Iterator[tuple[str, Any]]:
    """Key and value of the elements of some lists of a JSON object, counted in ``counts``."""
    try:
        import ijson  # type: ignore[import-untyped,unused-ignore]
    except ImportError as error:
        raise MissingExtraError("ijson", "coco", "reading COCO annotations") from error
    key = name = ""
    top: Any = None  # innermost list or object of an element
    outer: list[Any] = []
    size = path.stat().st_size
    seconds = 0.1 if sys.stderr.isatty() else 30.0  # a log file gets a line now and then
    with (
        path.open("rb") as file,
        tqdm.wrapattr(
            file, "read", total=size, desc=f"index of {path.name}", mininterval=seconds, delay=2
        ) as reader,
    ):
        try:
            for event, value in ijson.basic_parse(_Text(reader), buf_size=_CHUNK, use_float=True):
                if event == "number" and isinstance(top, list):  # most of the file
                    top.append(value)
                elif event == "map_key":
                    name = value
                    key = value if len(outer) == 1 else key
                elif event in ("start_map", "start_array"):
                    new: Any = {} if event == "start_map" else []
                    _put(top, name, new)
                    outer.append(top)
                    top = new if len(outer) > 2 else None
                    if len(outer) > _DEEPEST:
                        raise ValueError(f"nested more than {_DEEPEST} deep")
                elif event in ("end_map", "end_array"):
                    value, top = top, outer.pop()
                    if len(outer) == 2 and key in counts:
                        counts[key] += 1
                        yield key, value
                elif len(outer) == 2 and key in counts:
                    counts[key] += 1
                    yield key, value
                else:
                    _put(top, name, value)
        except (ijson.JSONError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise LabelFormatError(
                f"D202 {path}: is not the JSON that was expected, after {sum(counts.values()):,} "
                f"entries, in `{key[:40]}` ({reason}); the file is truncated or of another kind: "
                "download it again, or correct the program that wrote it"
            ) from error


def _put(container: Any, key: str, value: Any) -> None:
    if isinstance(container, list):
        container.append(value)
    elif container is not None:
        container[key] = value
