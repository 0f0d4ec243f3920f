"""Label images to ids in the one internal coding, and what to say if a file does not hold ids."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from scribbleseg.constants import IGNORE_INDEX, MAX_CLASSES, voc_palette
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

__all__ = ["encode_label", "read_label", "read_raw_label"]

_ID_MODES = {"P", "L", "1", "I", "I;16", "I;16B", "I;16L", "I;16N"}
_COLOUR_MODES = {"RGB", "RGBA", "RGBX"}


def read_label(
    path: str | Path,
    num_classes: int,
    *,
    unlabelled_value: int | None = None,
    ignore: Iterable[int] = (),
    palette: Mapping[tuple[int, int, int], int] | None = None,
    remap: NDArray[np.integer] | None = None,
) -> NDArray[np.uint8]:
    """Ids of a scribble or mask file.

    Args:
        path: PNG, TIFF, BMP or GIF of Pillow mode P, L, 1, I or I;16. The palette of a P file is
            ignored: its indices are the ids.
        num_classes: Number of classes C, background included.
        unlabelled_value: Value of the file that means "not drawn"; 255 always does.
        ignore: Further values that become 255, such as a void code.
        palette: Exact colours and their ids; without it colour files are refused.
        remap: Table from file values to ids with 256 or 65536 entries; a negative entry is a value
            that must not occur.

    Returns:
        Ids 0..C-1 and 255 = unlabelled or void, uint8, shape ``(H, W)``.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If the file cannot be decoded or holds anything else than such ids. The
            message starts with a code: D101 id out of range, D102 luminance of a palette, D103
            colours or lossy compression, D202 undecodable, D203 float values.
    """
    raw = read_raw_label(path, palette=palette)
    return encode_label(
        raw,
        num_classes,
        path=path,
        unlabelled_value=unlabelled_value,
        ignore=ignore,
        remap=remap,
    )


def read_raw_label(
    path: str | Path, *, palette: Mapping[tuple[int, int, int], int] | None = None
) -> NDArray[np.integer]:
    """Values of a label file as they are stored, without any check of their range.

    Args:
        path: See :func:`read_label`.
        palette: Exact colours and their ids, for colour files.

    Returns:
        uint8, uint16 or int32, shape ``(H, W)``.

    Raises:
        ScribbleNotFoundError: If the file does not exist.
        LabelFormatError: If the file cannot be decoded, is lossy, or holds colours that are not in
            ``palette``.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _values(image, path, palette)
    except FileNotFoundError as error:
        raise ScribbleNotFoundError(f"label {path} does not exist") from error
    except LabelFormatError:
        raise
    except (
        OSError,
        UnidentifiedImageError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombWarning,
        Image.DecompressionBombError,
    ) as error:
        raise LabelFormatError(
            f"D202 {path}: cannot be decoded ({error}); the file is truncated or not an image: "
            "copy it again from its source, or remove it from the list"
        ) from error


def _values(
    image: Image.Image, path: Path, palette: Mapping[tuple[int, int, int], int] | None
) -> NDArray[np.integer]:
    if image.format in {"JPEG", "MPO"} or path.suffix.lower() in {".jpg", ".jpeg"}:
        raise LabelFormatError(
            f"D103 {path}: a label file must not be a JPEG; compression changes the ids: export "
            "the labels again as PNG"
        )
    if image.mode in _ID_MODES:
        values = np.asarray(image)
        return values.astype(np.uint8) if values.dtype == np.bool_ else values
    if image.mode == "F":
        raise LabelFormatError(
            f"D203 {path}: holds floating point values, expected integer ids 0..254 and 255; "
            "probably a probability or distance map: export ids as 8-bit PNG"
        )
    if palette is None or image.mode not in _COLOUR_MODES:
        colours = len(image.convert("RGB").getcolors(maxcolors=1 << 24) or ())
        raise LabelFormatError(
            f"D103 {path}: mode {image.mode} with {colours} colours, expected one channel of class "
            "ids (mode P or L); a colour picture cannot be mapped without its colour table: give "
            "every class a `color` in classes.yaml, or export the labels as ids"
        )
    return _ids_of_colours(np.asarray(image.convert("RGB")), path, palette)


def _ids_of_colours(
    pixels: NDArray[np.uint8], path: Path, palette: Mapping[tuple[int, int, int], int]
) -> NDArray[np.uint8]:
    packed = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    found, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    colours = [(int(c) >> 16, int(c) >> 8 & 255, int(c) & 255) for c in found]
    unknown = [index for index, colour in enumerate(colours) if colour not in palette]
    if unknown:
        worst = sorted(unknown, key=lambda index: -int(counts[index]))[:3]
        examples = ", ".join(f"{colours[index]} on {counts[index]:,} px" for index in worst)
        raise LabelFormatError(
            f"D103 {path}: {len(unknown)} colours are not in the colour table: {examples}; many "
            "unknown colours come from JPEG compression or anti-aliasing, few from a missing "
            "class: add them to `color` in classes.yaml, or export the labels without smoothing"
        )
    ids = np.array([palette[colour] for colour in colours], dtype=np.uint8)
    return ids[inverse.reshape(packed.shape)]


def encode_label(
    raw: NDArray[np.integer],
    num_classes: int,
    *,
    path: str | Path,
    unlabelled_value: int | None = None,
    ignore: Iterable[int] = (),
    remap: NDArray[np.integer] | None = None,
) -> NDArray[np.uint8]:
    """Stored values to ids 0..C-1 and 255, in one table look-up.

    Args:
        raw: Integer values, shape ``(H, W)``.
        num_classes: Number of classes C.
        path: File that the values are from, for messages.
        unlabelled_value: See :func:`read_label`.
        ignore: See :func:`read_label`.
        remap: See :func:`read_label`.

    Returns:
        uint8, shape ``(H, W)``.

    Raises:
        LabelFormatError: D101 or D102, if a value is neither an id nor 255.
        ValueError: If ``num_classes`` is not in 1..255, or values are not a 2-D integer array.
    """
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ValueError(f"num_classes must be in 1..{MAX_CLASSES}, got {num_classes}")
    if raw.ndim != 2 or not np.issubdtype(raw.dtype, np.integer):
        raise ValueError(f"{path}: labels must be a 2-D integer array, got {raw.dtype} {raw.shape}")
    ignored = {int(value) for value in ignore}
    if unlabelled_value is not None:
        ignored.add(unlabelled_value)
    ignored.discard(IGNORE_INDEX)
    if not ignored and remap is None:
        if raw.size and not ((raw < num_classes) & (raw >= 0) | (raw == IGNORE_INDEX)).all():
            _complain(raw, num_classes, Path(path), ())
        return raw.astype(np.uint8)
    table = _table(num_classes, ignored, remap)
    ids: NDArray[np.int16]
    if raw.dtype == np.uint8:
        ids = table[raw]
    else:
        inside = (raw >= 0) & (raw < len(table))
        ids = np.where(inside, table[np.where(inside, raw, 0)], -1)
    if (ids < 0).any():
        valid = np.flatnonzero(table >= 0)
        _complain(raw, num_classes, Path(path), [int(v) for v in valid if v != IGNORE_INDEX])
    return ids.astype(np.uint8)


def _table(
    num_classes: int, ignored: set[int], remap: NDArray[np.integer] | None
) -> NDArray[np.int16]:
    """File value to id; -1 marks values that must not occur."""
    entries = 65536 if max(ignored, default=0) > 255 or remap is not None else 256
    table = np.full(entries, -1, dtype=np.int16)
    if remap is None:
        table[:num_classes] = np.arange(num_classes)
    else:
        if len(remap) not in (256, 65536):
            raise ValueError(f"remap must have 256 or 65536 entries, got {len(remap)}")
        allowed = (remap >= 0) & ((remap < num_classes) | (remap == IGNORE_INDEX))
        table[: len(remap)] = np.where(allowed, remap, -1)
    table[IGNORE_INDEX] = IGNORE_INDEX
    table[[value for value in ignored if 0 <= value < entries]] = IGNORE_INDEX
    return table


def _luminance(num_classes: int) -> set[int]:
    """Values that ids 0..C-1 and 255 of a VOC palette become in a conversion to grey, ± 1."""
    colours = voc_palette()[[*range(num_classes), IGNORE_INDEX]].astype(np.float64)
    grey = np.round(colours @ [0.299, 0.587, 0.114]).astype(int)
    return {int(value) + step for value in grey for step in (-1, 0, 1)} | {0}


def _complain(raw: NDArray[np.integer], num_classes: int, path: Path, valid: Iterable[int]) -> None:
    values, counts = np.unique(raw, return_counts=True)
    allowed = set(valid) or set(range(num_classes))
    allowed.add(IGNORE_INDEX)
    bad = [(int(v), int(n)) for v, n in zip(values, counts, strict=True) if int(v) not in allowed]
    if not bad:
        return
    bad.sort(key=lambda item: -item[1])
    listed = ", ".join(
        f"value {value} on {count:,} px ({100 * count / raw.size:.1f} %)"
        for value, count in bad[:5]
    )
    more = f" and {len(bad) - 5} further values" if len(bad) > 5 else ""
    expected = f"expected classes 0-{num_classes - 1} and 255"
    tones = _luminance(num_classes)
    grey_only = {int(v) for v in values} - {IGNORE_INDEX} <= tones
    # the tones of many classes are most values there are, and prove nothing
    grey_only &= 2 * len(tones - set(range(num_classes))) < IGNORE_INDEX - num_classes
    single_code = len(bad) == 1 and bad[0][0] == num_classes
    if grey_only and not single_code:
        raise LabelFormatError(
            f"D102 {path}: {listed}{more}, {expected}; all values are grey tones of the VOC "
            "palette: a palette PNG was converted to luminance (Pillow convert('L'), OpenCV "
            "IMREAD_GRAYSCALE). Ids 1/16 and 3/18 share a tone, so it cannot be undone: use the "
            "original palette file"
        )
    top, top_count = bad[0]
    if len(bad) == 1 and (single_code or 2 * top_count > raw.size):
        cause = (
            f"{top} looks like an unlabelled or void code: set `unlabelled_value: {top}` if the "
            f"file is a scribble, `ignore: [{top}]` in classes.yaml if it is a mask"
        )
    elif min(value for value, _ in bad) < 0:
        cause = "negative ids cannot be stored in 8 bits: write unlabelled pixels as 255"
    else:
        cause = (
            "the class list is too short or the file belongs to another data set: list "
            f"{max(value for value, _ in bad) + 1} classes, or map the value with `ignore` or "
            "`id` in classes.yaml"
        )
    raise LabelFormatError(f"D101 {path}: {listed}{more}, {expected}; {cause}")
