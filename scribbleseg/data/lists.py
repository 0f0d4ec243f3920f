"""Split files and folder listings: names from files are data, never paths to follow blindly."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.images import IMAGE_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "LABEL_SUFFIXES",
    "find_images",
    "image_key",
    "natural_key",
    "read_split",
    "voc_stem",
]

LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".jpg", ".jpeg")
"""Label suffixes, preferred first; JPEG is listed to be found and refused."""

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


def read_split(path: str | Path) -> list[str]:
    """Image stems of a split file, in its order.

    A line is a stem, an image path, or an image path and further columns (label files, tags), which
    are ignored. A byte-order mark, CRLF, blank lines and ``#`` comments are accepted; a leading
    slash, a known prefix such as ``JPEGImages/`` and an image suffix are removed. Names may hold
    spaces in files of one column.

    Args:
        path: UTF-8 text file.

    Returns:
        Stems relative to the image folder, POSIX separators, at least one.

    Raises:
        ScribbleNotFoundError: If the file does not exist or lists nothing (D301).
        LabelFormatError: If a line is not a safe relative name (D501), a stem is listed twice
            (D303), or the file is not text (D202).
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ScribbleNotFoundError(
            f"D301 {path}: split file does not exist; write one image name per line, or pass "
            "another list name"
        ) from error
    except UnicodeDecodeError as error:
        raise LabelFormatError(
            f"D202 {path}: split file is not UTF-8 text ({error.reason} at byte {error.start}); "
            "save it as UTF-8 with one image name per line"
        ) from error
    lines: dict[str, int] = {}
    # not splitlines(): it also breaks at characters that are legal inside a name
    for number, raw in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        stem = _stem(_first_column(line), path, number)
        if stem in lines:
            raise LabelFormatError(
                f"D303 {path}: {stem!r} is listed twice, in lines {lines[stem]} and {number}; "
                "remove one of them"
            )
        lines[stem] = number
    if not lines:
        raise ScribbleNotFoundError(
            f"D301 {path}: lists no image (0 names); write one image name per line"
        )
    return list(lines)


def _split_suffix(name: str) -> tuple[str, str]:
    """Name without its last suffix, and that suffix in lower case; far cheaper than a Path."""
    base, suffix = os.path.splitext(name)  # noqa: PTH122
    return base, suffix.lower()


def _first_column(line: str) -> str:
    """Only a tab or a complete file name ends the first column: names may hold spaces."""
    if "\t" in line:
        return line.split("\t", 1)[0].strip()
    first, *others = line.split()
    columns = others and _split_suffix(first)[1] in _FILE_SUFFIXES
    return first if columns else line


def _stem(name: str, path: Path, number: int) -> str:
    reason = None
    if "\0" in name:
        reason = "holds a NUL character"
    elif "\\" in name:
        reason = "holds a backslash"
    elif re.match(r"[A-Za-z]:", name):
        reason = "starts with a drive letter"
    elif ".." in name.split("/"):
        reason = "leaves its folder with '..'"
    if reason is not None:
        raise LabelFormatError(
            f"D501 {path}: line {number} {reason}: {name[:80]!r}, expected a name relative to the "
            "image folder; rewrite the list with plain names"
        )
    name = _PREFIXES.sub("", name.lstrip("/"), count=1)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts:
        raise LabelFormatError(
            f"D501 {path}: line {number} names no file; expected a name relative to the image "
            "folder"
        )
    base, suffix = _split_suffix(parts[-1])
    if suffix in _FILE_SUFFIXES:
        parts[-1] = base
    return "/".join(parts)


def find_images(
    folder: str | Path, *, suffixes: Sequence[str] = IMAGE_SUFFIXES, unique: bool = True
) -> dict[str, Path]:
    """Files of a folder and its sub-folders by stem, sorted by stem.

    Args:
        folder: Where to look; hidden files are skipped.
        suffixes: Lower-case suffixes to accept, in any case on disk.
        unique: Refuse two files with one stem; otherwise the earlier suffix wins.

    Returns:
        Stem relative to ``folder`` (POSIX separators, no suffix) to file.

    Raises:
        ScribbleNotFoundError: If the folder does not exist (D301).
        LabelFormatError: If stems are not unique (D303) or a link leaves the folder (D501).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ScribbleNotFoundError(f"D301 {folder}: folder does not exist; check the root folder")
    rank = {suffix: position for position, suffix in enumerate(suffixes)}
    found: dict[str, tuple[int, str]] = {}
    twice: list[str] = []
    home = folder.resolve()
    for relative, entry in _walk(str(folder), ""):
        name, suffix = _split_suffix(relative)
        position = rank.get(suffix)
        if position is None:
            continue
        if not relative.isprintable():  # or not Unicode: neither lists nor fonts can hold it
            shown = relative.encode(errors="surrogateescape")
            raise LabelFormatError(
                f"D501 {folder}: the file name {shown!r} is not UTF-8 or holds control "
                "characters; rename it (convmv turns old codings into UTF-8)"
            )
        if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(home):
            raise LabelFormatError(
                f"D501 {entry.path}: link leaves the folder {folder}; copy the file, or pass the "
                "linked folder itself"
            )
        earlier = found.get(name)
        if earlier is not None:
            twice.append(f"{Path(earlier[1]).name} and {entry.name}")
        if earlier is None or position < earlier[0]:
            found[name] = (position, entry.path)
    if twice and unique:
        raise LabelFormatError(
            f"D303 {folder}: {len(twice)} stems belong to several images (e.g. "
            f"{'; '.join(sorted(twice)[:5])}), expected one file per stem; remove or rename one of "
            "each"
        )
    return {name: Path(found[name][1]) for name in sorted(found)}


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda item: item.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path, f"{prefix}{entry.name}/")
            else:
                yield f"{prefix}{entry.name}", entry
