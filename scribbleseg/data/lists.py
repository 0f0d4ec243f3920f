"""Split files and folder listings: names from files are data, never paths to follow blindly."""

from __future__ import annotations

import csv
import logging
import os
import re
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from scribbleseg.constants import IMAGE_SUFFIXES
from scribbleseg.data.images import LABEL_SUFFIXES
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.image_files import walk_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "find_images",
    "image_key",
    "natural_key",
    "read_split",
    "voc_stem",
]

logger = logging.getLogger(__name__)

_UNSAFE = {
    r"\0": "holds a NUL character",
    r"\\": "holds a backslash",
    r"\A[A-Za-z]:": "starts with a drive letter",
    r"(\A|/)\.\.(/|\Z)": "leaves its folder with '..'",
}
_HEADINGS = {"name", "image", "images", "file", "filename", "file_name", "id", "image_id", "stem"}
_FILE_SUFFIXES = {*IMAGE_SUFFIXES, *LABEL_SUFFIXES, ".xml", ".json", ".h5", ".npy", ".npz", ".mat"}
_PREFIXES = re.compile(
    r"^(?:\./)*(?:"
    r"(?:(?:VOCdevkit/)?(?:VOC20\d\d/)?JPEGImages/)"
    r"|(?:SegNet/CamVid/(?:train|val|test)/)"
    r"|(?:images/)"
    r")?"
)
_VOC_NUMBER = re.compile(r"(20(?:07|08|09|10|11|12))(\d{6})")


def natural_key(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that orders ``slice_2`` before ``slice_10``.

    Example:
        >>> sorted(["s_10", "s_2"], key=natural_key)
        ['s_2', 's_10']
    """
    return tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part)
        for part in re.split(r"([0-9]+)", text)
        if part
    )


def voc_stem(stem: str) -> str:
    """VOC id of a number that lost its underscore; other names are returned as they are.

    Example:
        >>> voc_stem("2007000032")
        '2007_000032'
    """
    match = _VOC_NUMBER.fullmatch(stem)
    return f"{match[1]}_{match[2]}" if match else stem


def image_key(name: str) -> str:
    """What tells an image in every data set that holds it.

    VOC ids mean one image wherever they stand, with or without underscore; other names, such as
    ``slice_1``, may stand in the folders of many patients.

    Example:
        >>> [image_key(name) for name in ("JPEGImages/2008_000002", "2008000002", "p1/slice_1")]
        ['2008_000002', '2008_000002', 'p1/slice_1']
    """
    last = name.rsplit("/", 1)[-1].replace("_", "", 1)
    return voc_stem(last) if _VOC_NUMBER.fullmatch(last) else name


def read_split(path: str | Path, *, repeats: bool = False) -> list[str]:
    """Image stems of a split file, in its order.

    A line is a stem, an image path, or an image path and further columns (label files, tags), which
    are ignored; in ``.csv`` files commas separate columns and the first line may be a heading. A
    byte-order mark, CRLF, blank lines and ``#`` comments are accepted; a leading slash, a known
    prefix such as ``JPEGImages/`` and an image suffix are removed. Names may hold spaces in files
    of one column, and composed and decomposed letters are the same.

    Args:
        path: UTF-8 text file.
        repeats: Keep names that are listed several times, as lists of training images do to draw
            some images more often; a warning says how many.

    Returns:
        Stems relative to the image folder, POSIX separators, at least one.

    Raises:
        ScribbleNotFoundError: If the file does not exist or lists nothing (D301).
        LabelFormatError: If a line is not a safe relative name (D501), a stem is listed twice
            (D303), or the file is not text (D202).
    """
    path = Path(path)
    stems: list[str] = []
    lines: dict[str, int] = {}
    for number, name in _first_columns(path):
        stem = _stem(name, path, number)
        stems.append(stem)
        if stem in lines and not repeats:
            raise LabelFormatError(
                f"D303 {path}: {stem!r} is listed twice, in lines {lines[stem]} and {number}; "
                "remove one of them"
            )
        lines.setdefault(stem, number)
    if not lines:
        raise ScribbleNotFoundError(
            f"D301 {path}: lists no image (0 names); write one image name per line"
        )
    if len(lines) < len(stems):
        logger.warning(
            "%s: lists %d names %d times; images that are repeated are drawn more often",
            *(path, len(lines), len(stems)),
        )
    return stems


def _split_suffix(name: str) -> tuple[str, str]:
    """Name without its last suffix, and that suffix in lower case; far cheaper than a Path."""
    base, suffix = os.path.splitext(name)  # noqa: PTH122
    return base, suffix.lower()


def _first_columns(path: Path) -> Iterator[tuple[int, str]]:
    """Number and first column of every line that is neither empty, nor a comment or a heading."""
    if not path.is_file():  # folders and pipes too
        raise ScribbleNotFoundError(
            f"D301 {path}: split file does not exist; write one image name per line, or pass "
            "another list name"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelFormatError(
            f"D202 {path}: split file is not UTF-8 text ({error.reason} at byte {error.start}); "
            "save it as UTF-8 with one image name per line"
        ) from error
    table, first = path.suffix.lower() == ".csv", True
    # not splitlines(): it also breaks at characters that are legal inside a name
    for number, line in enumerate(map(str.strip, text.split("\n")), 1):
        if not line or line.startswith("#"):
            continue
        name = next(csv.reader([line]))[0].strip() if table else _first_column(line)
        if not (first and table and name.casefold() in _HEADINGS):
            yield number, name
        first = False


def _first_column(line: str) -> str:
    """Only a tab or a complete file name ends the first column: names may hold spaces."""
    if "\t" in line:
        return line.split("\t", 1)[0].strip()
    first, *others = line.split()
    return first if others and _split_suffix(first)[1] in _FILE_SUFFIXES else line


def _stem(name: str, path: Path, number: int) -> str:
    reasons = [reason for pattern, reason in _UNSAFE.items() if re.search(pattern, name)]
    relative = _PREFIXES.sub("", name.lstrip("/"), count=1)
    parts = [part for part in relative.split("/") if part not in ("", ".")]
    if reasons or not parts:
        raise LabelFormatError(
            f"D501 {path}: line {number} {(*reasons, 'names no file')[0]}: {name[:80]!r}, expected "
            "a name relative to the image folder; rewrite the list with plain names"
        )
    base, suffix = _split_suffix(parts[-1])
    if suffix in _FILE_SUFFIXES:
        parts[-1] = base
    return unicodedata.normalize("NFC", "/".join(parts))


def safe_id(image_id: str) -> str:
    """The id, if it can be the relative name of a file on every system.

    Raises:
        LabelFormatError: If it leads elsewhere or would be hidden (D501).

    Example:
        >>> safe_id("patient001/slice 3")
        'patient001/slice 3'
    """
    odd = re.match(r"[A-Za-z]:", image_id) or re.search(r"[\x00-\x1f\\]", image_id)
    if odd or any(not part or part.startswith(".") for part in image_id.split("/")):
        raise LabelFormatError(
            f"D501 image id {image_id[:80]!r}: expected a name relative to the image folder, "
            "without empty parts, leading dots, backslashes, drive letters and control characters; "
            "correct `image_id` in the source"
        )
    return image_id


def find_images(
    folder: str | Path,
    *,
    suffixes: Sequence[str] = IMAGE_SUFFIXES,
    unique: bool = True,
    within: Path | None = None,
) -> dict[str, Path]:
    """Files of a folder and its sub-folders by stem, sorted by stem.

    Args:
        folder: Where to look; hidden files are skipped.
        suffixes: Lower-case suffixes to accept, in any case on disk.
        unique: Refuse two files with one stem; otherwise the earlier suffix wins.
        within: Folder that links may not leave; by default ``folder``.

    Returns:
        Stem relative to ``folder`` (POSIX separators, no suffix) to file.

    Raises:
        ScribbleNotFoundError: If the folder does not exist (D301).
        LabelFormatError: If stems are not unique (D303) or a link leaves the folder (D501), see
            :func:`~scribbleseg.functional.walk_files`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ScribbleNotFoundError(f"D301 {folder}: folder does not exist; check the root folder")
    rank = {suffix: position for position, suffix in enumerate(suffixes)}
    found: dict[str, tuple[int, str]] = {}
    twice: list[str] = []
    for relative in walk_files(folder, suffixes, within=within):
        if not relative.isprintable():  # or not Unicode: neither lists nor fonts can hold it
            shown = relative.encode(errors="surrogateescape")
            raise LabelFormatError(
                f"D501 {folder}: the file name {shown!r} is not UTF-8 or holds control "
                "characters; rename it (convmv turns old codings into UTF-8)"
            )
        name, suffix = _split_suffix(unicodedata.normalize("NFC", relative))
        earlier = found.get(name)
        if earlier is not None:
            twice.append(f"{Path(earlier[1]).name} and {Path(relative).name}")
        if earlier is None or rank[suffix] < earlier[0]:
            found[name] = (rank[suffix], relative)
    if twice and unique:
        raise LabelFormatError(
            f"D303 {folder}: {len(twice)} stems belong to several images (e.g. "
            f"{'; '.join(sorted(twice)[:5])}), expected one file per stem; remove or rename one of "
            "each"
        )
    return {name: folder / found[name][1] for name in sorted(found)}
