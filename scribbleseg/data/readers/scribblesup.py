"""ScribbleSup (PASCAL-Scribble) XML: one file per image, each ``polygon`` an open polyline."""

from __future__ import annotations

import os
import zipfile
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple
from xml.etree.ElementTree import ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from scribbleseg.data.classes import normalise_name
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.strokes import Stroke

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from xml.etree.ElementTree import Element

__all__ = ["SCRIBBLESUP_ALIASES", "StrokeFile", "class_ids", "list_zip", "read_scribblesup"]

SCRIBBLESUP_ALIASES = {
    "plane": "aeroplane",
    "airplane": "aeroplane",
    "bike": "bicycle",
    "table": "diningtable",
    "dining table": "diningtable",
    "motorcycle": "motorbike",
    "plant": "pottedplant",
    "potted plant": "pottedplant",
    "couch": "sofa",
    "monitor": "tvmonitor",
    "tv": "tvmonitor",
    "tv monitor": "tvmonitor",
}
"""Tags of the release and of other data sets, and the VOC devkit's name for each."""

_MAX_BYTES = 64 << 20


class StrokeFile(NamedTuple):
    """Content of one annotation file.

    Attributes:
        strokes: Polylines in drawing order.
        size: Height and width that the file declares, in pixels.
    """

    strokes: list[Stroke]
    size: tuple[int, int]


def class_ids(
    class_names: Sequence[str], aliases: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Normalised tag to id: the class names, the known short forms, and ``aliases``."""
    ids = {normalise_name(name): index for index, name in enumerate(class_names)}
    for short, name in SCRIBBLESUP_ALIASES.items():
        if name in ids:
            ids.setdefault(short, ids[name])
    ids.update({normalise_name(name): index for name, index in (aliases or {}).items()})
    return ids


def read_scribblesup(
    path: str | Path,
    ids: Mapping[str, int],
    *,
    image_size: tuple[int, int] | None = None,
) -> StrokeFile:
    """Strokes of one XML file.

    Args:
        path: File, or ``archive.zip/member.xml``.
        ids: Normalised tag to class id, see :func:`class_ids`.
        image_size: Height and width that the declared size must equal, in pixels.

    Returns:
        Strokes and the declared size.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: D501 for a DTD or entities, D202 for malformed XML, D401 for an unknown
            tag, D104 if there is no polygon, D201 if the sizes differ.
    """
    path = Path(path)
    try:
        root = fromstring(_read_bytes(path), forbid_dtd=True)
    except DefusedXmlException as error:
        raise LabelFormatError(
            f"D501 {path}: XML with a DTD or entity declaration ({type(error).__name__}) is "
            "refused: scribble files need none; take the file from its original release"
        ) from error
    except (ParseError, ValueError) as error:
        raise LabelFormatError(
            f"D202 {path}: is not well-formed XML ({error}); copy it again from its source"
        ) from error
    size = (_number(root, "size/height", path), _number(root, "size/width", path))
    if image_size is not None and size != image_size:
        raise LabelFormatError(
            f"D201 {path}: declares {size[1]}x{size[0]} (width x height), but the image has "
            f"{image_size[1]}x{image_size[0]}; the image was resized or belongs to another "
            "release: use the original image"
        )
    strokes = [_stroke(polygon, ids, path) for polygon in root.iter("polygon")]
    if not strokes:
        raise LabelFormatError(
            f"D104 {path}: holds 0 polygons, expected at least one stroke; the annotation is "
            "empty: draw it, or remove the image from the list"
        )
    return StrokeFile(strokes, size)


def _number(root: Element, where: str, path: Path) -> int:
    text = (root.findtext(where) or "").strip()
    if not text.isdigit() or int(text) == 0:
        raise LabelFormatError(
            f"D202 {path}: <{where}> is {text!r}, expected a positive number of pixels; this is "
            "not a complete ScribbleSup file"
        )
    return int(text)


def _stroke(polygon: Element, ids: Mapping[str, int], path: Path) -> Stroke:
    tag = (polygon.findtext("tag") or "").strip()
    label = ids.get(normalise_name(tag))
    if label is None:
        raise LabelFormatError(
            f"D401 {path}: unknown class tag {tag!r}, expected one of {sorted(ids)}; correct the "
            "tag, or add it to `aliases`"
        )
    try:
        points = [
            (float(point.findtext("X") or ""), float(point.findtext("Y") or ""))
            for point in polygon.iter("point")
        ]
    except ValueError as error:
        raise LabelFormatError(
            f"D202 {path}: a point of {tag!r} has no numeric X and Y ({error}); correct the point"
        ) from error
    if not points or not np.isfinite(points).all():
        raise LabelFormatError(
            f"D202 {path}: a polygon of {tag!r} has {len(points)} points, expected at least one "
            "with finite coordinates; remove the polygon"
        )
    return Stroke(label, points)


def _read_bytes(path: Path) -> bytes:
    for archive in path.parents:
        if archive.suffix.lower() == ".zip" and archive.is_file():
            return _read_member(archive, path.relative_to(archive).as_posix())
    try:
        too_large = path.stat().st_size > _MAX_BYTES
        data = b"" if too_large else path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ScribbleNotFoundError(f"scribble {path} does not exist") from error
    if too_large:
        raise LabelFormatError(f"D501 {path}: more than 64 MiB, too large for a scribble file")
    return data


def _read_member(archive: Path, member: str) -> bytes:
    opened = _open_zip(archive, os.getpid())
    try:
        info = opened.getinfo(member)
        if info.file_size > _MAX_BYTES:
            raise LabelFormatError(
                f"D501 {archive}/{member}: unpacks to {info.file_size:,} bytes, more than 64 MiB"
            )
        return opened.read(info)
    except KeyError as error:
        raise ScribbleNotFoundError(f"scribble {member} does not exist in {archive}") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise LabelFormatError(
            f"D202 {archive}/{member}: cannot be unpacked ({error}); download the archive again"
        ) from error


@lru_cache(maxsize=8)
def _open_zip(archive: Path, process: int) -> zipfile.ZipFile:
    """One handle per archive and process: a forked worker must not share its parent's position."""
    try:
        return zipfile.ZipFile(archive)
    except zipfile.BadZipFile as error:
        raise LabelFormatError(
            f"D202 {archive}: is not a complete zip archive ({error}); download it again"
        ) from error


def list_zip(archive: str | Path, suffix: str = ".xml") -> dict[str, Path]:
    """Members of an archive by stem, without their folders, as ``archive.zip/member`` paths."""
    archive = Path(archive)
    names = [n for n in _open_zip(archive, os.getpid()).namelist() if n.lower().endswith(suffix)]
    return {PurePosixPath(name).stem: archive / name for name in sorted(names)}
