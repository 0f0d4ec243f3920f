"""Contact sheet of a data check: images with their scribbles, those with findings first."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.overview import picture_of
from scribbleseg.errors import ScribbleSegError
from scribbleseg.functional.images import overlay_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scribbleseg.data.findings import Finding
    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record, Split

__all__ = ["draw_sheet"]

_PICTURES, _FLAGGED, _COLUMNS = 24, 12, 4
_WIDE, _HIGH, _TEXT, _GAP = 300, 220, 24, 10
_PAPER, _MAT, _INK, _SOFT = (255, 255, 255), (236, 239, 243), (28, 36, 48), (92, 102, 117)
_FRAME = {"error": (201, 42, 42), "warning": (224, 138, 30)}
_BLACK = (150, 150, 150)  # palettes have black, which does not show on dark images


class _Tile(NamedTuple):
    """One picture to draw: the sample, its split and what was found about it."""

    record: Record
    split: str
    finding: Finding | None


def draw_sheet(
    source: ScribbleSource, findings: Sequence[Finding], *, splits: Sequence[Split]
) -> NDArray[np.uint8] | None:
    """Up to 24 images with their scribbles as one picture.

    Args:
        source: Reads images and scribbles.
        findings: Of the check; images whose files they name come first and are framed.
        splits: Splits to choose from.

    Returns:
        RGB, uint8; ``None`` if there is no image to show.
    """
    tiles = _choose(source, findings, splits)
    if not tiles:
        return None
    palette = np.array(source.palette, dtype=np.uint8)
    black = np.flatnonzero(palette[: source.num_classes].max(axis=1) < 24)
    palette[black] = _BLACK
    columns = min(_COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new(
        "RGB",
        (columns * (_WIDE + _GAP) + _GAP, rows * (_HIGH + _TEXT + _GAP) + _GAP),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for number, tile in enumerate(tiles):
        left = _GAP + number % columns * (_WIDE + _GAP)
        top = _GAP + number // columns * (_HIGH + _TEXT + _GAP)
        _draw_tile(sheet, draw, font, source, palette, tile, (left, top))
    return np.asarray(sheet)


def _choose(
    source: ScribbleSource, findings: Sequence[Finding], splits: Sequence[Split]
) -> list[_Tile]:
    listed: list[tuple[str, Record]] = []
    for split in splits:
        with suppress(ScribbleSegError):  # the report says why
            listed += [(split, record) for record in source.records(split)]
    named = {finding.file: finding for finding in reversed(findings) if finding.file is not None}
    flagged = []
    for name, record in listed:
        mask = source.with_mask(record).mask
        for file in (record.scribble, record.image, mask, record.image_id):
            finding = named.get(str(file))
            if file is not None and finding is not None:
                flagged.append(_Tile(record, name, finding))
                break
    flagged.sort(key=lambda tile: tile.finding is None or tile.finding.severity != "error")
    chosen = flagged[:_FLAGGED]
    taken = {tile.record.image_id for tile in flagged}
    others = [_Tile(record, name, None) for name, record in listed if record.image_id not in taken]
    count = min(len(others), _PICTURES - len(chosen))
    places = np.linspace(0, max(len(others) - 1, 0), count).round().astype(int)
    return chosen + [others[place] for place in np.unique(places)]


def _draw_tile(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    source: ScribbleSource,
    palette: NDArray[np.uint8],
    tile: _Tile,
    place: tuple[int, int],
) -> None:
    left, top = place
    draw.rectangle((left, top, left + _WIDE - 1, top + _HIGH - 1), fill=_MAT)
    note = ""
    try:
        picture, share = _picture(source, tile.record, palette)
        note = f"{share:.1f} %" if share is not None else "no scribble"
        offset = (left + (_WIDE - picture.width) // 2, top + (_HIGH - picture.height) // 2)
        sheet.paste(picture, offset)
    except Exception as error:  # noqa: BLE001 - a broken file is drawn as its message
        words = f"cannot be read: {type(error).__name__}"
        draw.text((left + 12, top + _HIGH // 2 - 8), words, font=font, fill=_FRAME["error"])
    ink = _INK
    title = f"{tile.split}  {tile.record.image_id}"
    if tile.finding is not None:
        ink = _FRAME[tile.finding.severity]
        title = f"{tile.finding.code}  {title}"
        box = (left - 3, top - 3, left + _WIDE + 2, top + _HIGH + 2)
        draw.rectangle(box, outline=ink, width=3)
    room = _WIDE - draw.textlength(note, font=font) - 12
    while len(title) > 4 and draw.textlength(title, font=font) > room:
        title = title[:-2].rstrip("…") + "…"
    baseline = top + _HIGH + 5
    draw.text((left + 1, baseline), title, font=font, fill=ink)
    draw.text(
        (left + _WIDE - draw.textlength(note, font=font), baseline), note, font=font, fill=_SOFT
    )


def _picture(
    source: ScribbleSource, record: Record, palette: NDArray[np.uint8]
) -> tuple[Image.Image, float | None]:
    """The image with its scribble, fitted to a tile, and the labelled share in percent."""
    image = picture_of(source, record)
    height, width = image.shape[:2]
    scale = min(_WIDE / width, _HIGH / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    kind = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = np.asarray(cv2.resize(image, size, interpolation=kind), dtype=np.uint8)
    if record.scribble is None and record.image is not None:
        return Image.fromarray(small), None
    try:
        scribble = source.read_scribble(record)
    except ScribbleSegError:
        return Image.fromarray(small), None
    share = 100 * float((scribble != IGNORE_INDEX).mean())
    if scribble.shape == (height, width):
        if scale < 1:
            # thin strokes must survive the reduction
            scribble = _thicken(scribble, round(0.6 / scale))
        drawn = np.asarray(cv2.resize(scribble, size, interpolation=cv2.INTER_NEAREST), np.uint8)
        small = overlay_labels(small, drawn, palette, alpha=0.9)
    return Image.fromarray(small), share


def _thicken(scribble: NDArray[np.uint8], radius: int) -> NDArray[np.uint8]:
    if radius < 1 or (scribble != IGNORE_INDEX).mean() > 0.5:
        return scribble
    kernel = np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)
    return np.asarray(255 - cv2.dilate(255 - scribble, kernel), dtype=np.uint8)
