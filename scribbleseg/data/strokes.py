"""Strokes as polylines: ScribbleSup XML, alone or in a zip archive, and how they are drawn."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, get_args

import numpy as np

from scribbleseg.data.classes import normalise_name
from scribbleseg.data.decode import decoding
from scribbleseg.data.documents import MAX_BYTES, read_bytes, read_xml
from scribbleseg.errors import ConfigError, LabelFormatError, ScribbleNotFoundError
from scribbleseg.functional.strokes import Renderer, Stroke
from scribbleseg.options import check_choice
from scribbleseg.types import Label

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from xml.etree.ElementTree import Element

__all__ = [
    "SCRIBBLESUP_ALIASES",
    "StrokeOptions",
    "list_zip",
    "names_with_aliases",
    "read_scribblesup",
]

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


@dataclass(frozen=True)
class StrokeOptions:
    """How polylines are drawn; see :func:`~scribbleseg.functional.strokes.rasterize`.

    Attributes:
        width: Width in pixels, above 0.
        renderer: ``"distance"`` or ``"pillow"``.
        offset: Subtracted from coordinates; 1 draws as MATLAB does.

    Raises:
        ConfigError: If the width is not positive or the renderer is unknown.
    """

    width: float = 3.0
    renderer: Renderer = "distance"
    offset: float = 0.0

    def __post_init__(self) -> None:
        """Check the values."""
        check_choice("renderer", self.renderer, get_args(Renderer))
        if not self.width > 0:
            raise ConfigError(f"scribble_width={self.width}: expected a positive number of pixels")


def names_with_aliases(
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
    label: Label, ids: Mapping[str, int], *, image_size: tuple[int, int] | None = None
) -> list[Stroke]:
    """Strokes of one XML file in drawing order.

    Args:
        label: File, or member of a zip archive.
        ids: Normalised name to class id, see :func:`names_with_aliases`.
        image_size: Height and width of the image, which the file must declare.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: D501 for a DTD or entities, D202 for malformed XML, D401 for an unknown
            name, D104 if there is no polygon, D201 if the sizes differ.
    """
    path = str(label)  # for messages
    data = _read_member(label) if label.entry else read_bytes(label.path, "scribble")
    root = read_xml(data, path)
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
    return strokes


def _number(root: Element, where: str, path: str) -> int:
    text = (root.findtext(where) or "").strip()
    if not (text.isascii() and text.isdecimal() and len(text) < 10) or int(text) == 0:
        raise LabelFormatError(
            f"D202 {path}: <{where}> is {text[:40]!r}, expected a positive number of pixels; "
            "this is not a complete ScribbleSup file"
        )
    return int(text)


def _stroke(polygon: Element, ids: Mapping[str, int], path: str) -> Stroke:
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


def _read_member(label: Label) -> bytes:
    with decoding(label.path, "archive", "download the archive again"):
        archive = _open_zip(label.path, os.getpid())
        if label.entry not in archive.NameToInfo:
            raise ScribbleNotFoundError(f"D301 {label.entry} does not exist in {label.path}")
        info = archive.getinfo(label.entry)
        if info.file_size > MAX_BYTES:
            raise LabelFormatError(
                f"D501 {label}: unpacks to {info.file_size:,} bytes, more than 64 MiB"
            )
        return archive.read(info)


@lru_cache(maxsize=8)
def _open_zip(archive: Path, process: int) -> zipfile.ZipFile:
    """One handle per archive and process: a forked worker must not share its parent's position."""
    with decoding(archive, "archive", "it is not a complete zip archive: download it again"):
        return zipfile.ZipFile(archive)


def list_zip(archive: Path, suffix: str = ".xml") -> dict[str, Label]:
    """Stroke files in an archive by stem, without their folders."""
    names = [n for n in _open_zip(archive, os.getpid()).namelist() if n.lower().endswith(suffix)]
    return {
        PurePosixPath(name).stem: Label(archive, "strokes", name, "scribble")
        for name in sorted(names)
    }
