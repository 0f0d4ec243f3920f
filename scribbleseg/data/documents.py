"""Documents within limits: JSON, XML, YAML and npz, and entries by stem.

All raise a ScribbleNotFoundError (D301) for a file that does not exist, and a LabelFormatError for
one that is too large (D501) or cannot be read (D202).
"""

from __future__ import annotations

import json
import math
import unicodedata
import zipfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

import numpy as np
import yaml
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from scribbleseg.constants import IMAGE_SUFFIXES
from scribbleseg.data.decode import decoding
from scribbleseg.data.lists import voc_stem
from scribbleseg.errors import LabelFormatError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from numpy.typing import NDArray

MAX_BYTES = 64 << 20
_MAX_YAML = 256 << 10  # its reader is slow
_MAX_ARRAYS = 1 << 30

__all__: list[str] = []


def read_bytes(path: Path, what: str) -> bytes:
    """Content of a file of at most 64 MiB; ``what`` names it in messages."""
    with decoding(path, what, "check that it is the right file"):
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise LabelFormatError(
                f"D501 {path}: {size:,} bytes, more than 64 MiB, too large for a {what}; check "
                "that it is the right file, or split it by image"
            )
        return path.read_bytes()


def read_json(path: Path, what: str) -> Any:
    """Content of a JSON file of annotations; ``what`` names them in messages, in the plural.

    A repeated key is an error too (D303).
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise LabelFormatError(
                f"D303 {path}: key {twice!r} is there {keys.count(twice)} times, expected once; "
                "readers would drop all but the last: join the entries"
            )
        return found

    data = read_bytes(path, f"file of {what}")
    try:
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=unique)
    except LabelFormatError:
        raise
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, absurd nesting
        raise LabelFormatError(
            f"D202 {path}: is not valid JSON ({error}); copy the {what} again from their source"
        ) from error


def read_xml(data: bytes, name: str | Path) -> Element:
    """Root of an XML document; a DTD or entities are refused (D501)."""
    try:
        root: Element = fromstring(data, forbid_dtd=True)
    except DefusedXmlException as error:
        raise LabelFormatError(
            f"D501 {name}: XML with a DTD or entity declaration ({type(error).__name__}) is "
            "refused: annotations need none; take the file from its original release"
        ) from error
    except (ParseError, ValueError, LookupError, RecursionError) as error:
        raise LabelFormatError(
            f"D202 {name}: is not well-formed XML ({error}); copy it again from its source"
        ) from error
    return root


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases: a few lines of them stand for gigabytes of text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read: write the content out")
        return super().compose_node(parent, index)


def read_yaml(path: Path, what: str) -> Any:
    """Content of a YAML or JSON file of options.

    Raises:
        ValueError: If it has more than 256 KiB or is no such document; the message says why.
    """
    data = read_bytes(path, what)
    if len(data) > _MAX_YAML:
        raise ValueError(f"{len(data):,} bytes, more than 256 KiB")
    text = data.decode("utf-8-sig")
    try:
        return json.loads(text) if path.suffix.lower() == ".json" else yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, RecursionError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def read_npz(path: Path, what: str, cure: str) -> dict[str, NDArray[Any]]:
    """Arrays of an archive, never unpickled (D501); ``cure`` says what to do with objects."""
    with decoding(path, what, "it is not a complete .npz archive: copy it again"):
        with zipfile.ZipFile(path) as archive:
            total = sum(member.file_size for member in archive.infolist())
        if total > _MAX_ARRAYS:
            raise LabelFormatError(f"D501 {path}: unpacks to {total:,} bytes, more than 1 GiB")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return {key: np.asarray(arrays[key]) for key in arrays.files}
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            raise LabelFormatError(
                f"D501 {path}: holds pickled objects, which could run any program; they are not "
                f"opened: {cure}"
            ) from error


# ------------------------------------------------------------------------- annotations


def entries_by_stem(path: Path, what: str) -> dict[str, Any]:
    """Entries of a JSON object by stem; keys may be file names, or VOC ids without underscore."""
    content = read_json(path, what)
    if not isinstance(content, dict):
        raise LabelFormatError(
            f"D202 {path}: is a {type(content).__name__}, expected an object with the stem of each "
            f"image and its {what}"
        )
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = PurePosixPath(key)
        known = name.suffix.lower() in IMAGE_SUFFIXES
        stem = unicodedata.normalize("NFC", voc_stem(str(name.with_suffix("")) if known else key))
        if stem in found:
            raise LabelFormatError(
                f"D303 {path}: {stem!r} is there under several names, expected one entry per "
                "image; join the entries"
            )
        found[stem] = value
    return found


def list_of(value: object, path: Path, stem: str, what: str, form: str) -> list[Any]:
    """The entries of an image, if they are a list, of ``form``; else an error (D202)."""
    if not isinstance(value, list):
        raise LabelFormatError(
            f"D202 {path}: {what} of {stem!r} are a {type(value).__name__}, expected a list of "
            f"{form}"
        )
    return value


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number that fits a coordinate."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1e9 if isinstance(value, int) else math.isfinite(value)
