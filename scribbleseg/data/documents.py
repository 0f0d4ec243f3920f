"""Documents within limits: JSON, XML, YAML and npz, and entries by stem."""

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
from scribbleseg.data.decode import check_promise, decoding
from scribbleseg.data.lists import voc_stem
from scribbleseg.errors import LabelFormatError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from xml.etree.ElementTree import Element

    from numpy.typing import NDArray

__all__ = [
    "entries_by_stem",
    "is_number",
    "list_of",
    "read_bytes",
    "read_json",
    "read_npz",
    "read_xml",
    "read_yaml",
]

MAX_BYTES = 64 << 20
_MAX_YAML = 256 << 10  # its reader is slow
_MAX_ARRAYS = 1 << 30


def read_json(path: str | Path, what: str) -> Any:
    """Content of an annotation file.

    Args:
        path: UTF-8 JSON file of at most 64 MiB.
        what: What the file holds, in the plural, for messages: ``"clicks"``.

    Raises:
        ScribbleNotFoundError: If the file does not exist (D301).
        LabelFormatError: If it is too large (D501), not JSON (D202), or a key is repeated (D303).
    """
    path = Path(path)

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
    """Root of an XML document.

    Raises:
        LabelFormatError: If it declares a DTD or entities (D501), or is malformed (D202).
    """
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
    """Content of a YAML or JSON file of options, at most 256 KiB.

    Raises:
        ScribbleNotFoundError: If there is no such file (D301).
        ValueError: If it is too large or no such document; the message says why.
    """
    data = read_bytes(path, what)
    if len(data) > _MAX_YAML:
        raise ValueError(f"{len(data):,} bytes, more than 256 KiB")
    text = data.decode("utf-8-sig")
    try:
        if path.suffix.lower() == ".json":
            return json.loads(text)
        return yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, RecursionError, TypeError, AttributeError) as error:
        raise ValueError(str(error)) from error


def read_npz(path: Path, what: str, cure: str) -> dict[str, NDArray[Any]]:
    """Arrays of an archive, never unpickled.

    Args:
        path: File.
        what: What it is, for messages.
        cure: What to do with pickled objects.

    Raises:
        ScribbleNotFoundError: If there is no such file (D301).
        LabelFormatError: If it holds pickled objects or unpacks to more than 1 GiB (D501), or
            cannot be read (D202).
    """
    arrays: dict[str, NDArray[Any]] = {}
    whole = "it is not a complete .npz archive: copy it again"
    with decoding(path, what, whole), zipfile.ZipFile(path) as archive:
        total = sum(member.file_size for member in archive.infolist())
        if total > _MAX_ARRAYS:
            raise LabelFormatError(f"D501 {path}: unpacks to {total:,} bytes, more than 1 GiB")
        for member in archive.infolist():
            with archive.open(member) as stream:
                first = np.lib.format.read_magic(stream) == (1, 0)
                read = np.lib.format.read_array_header_2_0
                shape, _, dtype = (np.lib.format.read_array_header_1_0 if first else read)(stream)
            if dtype.hasobject:
                raise LabelFormatError(
                    f"D501 {path}: holds pickled objects, which could run any program; they are "
                    f"not opened: {cure}"
                )
            check_promise(path, math.prod(shape) * dtype.itemsize, member.file_size, packed=False)
            with archive.open(member) as stream:
                key = member.filename.removesuffix(".npy")
                arrays[key] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


def read_bytes(path: Path, what: str) -> bytes:
    """Content of a file of at most 64 MiB.

    Raises:
        ScribbleNotFoundError: If there is no such file (D301).
        LabelFormatError: If it is too large (D501), or cannot be read (D202).
    """
    with decoding(path, what, "check that it is the right file"):
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise LabelFormatError(
                f"D501 {path}: {size:,} bytes, more than 64 MiB, too large for a {what}; check "
                "that it is the right file, or split it by image"
            )
        return path.read_bytes()


def entries_by_stem(path: Path, what: str) -> dict[str, Any]:
    """Entries of a JSON object by stem; keys may be file names, or VOC ids without underscore."""
    content = read_json(path, what)
    if not isinstance(content, dict):
        raise LabelFormatError(
            f"D202 {path}: is a {type(content).__name__}, expected an object with the stem of each "
            f"image and its {what}"
        )
    return _unique(content, path)


def _unique(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in content.items():
        name = PurePosixPath(key)
        known = name.suffix.lower() in IMAGE_SUFFIXES
        stem = voc_stem(str(name.with_suffix("")) if known else key)
        stem = unicodedata.normalize("NFC", stem)
        if stem in found:
            raise LabelFormatError(
                f"D303 {path}: {stem!r} is there under several names, expected one entry per "
                "image; join the entries"
            )
        found[stem] = value
    return found


def list_of(value: object, path: Path, stem: str, what: str, form: str) -> list[Any]:
    """The entries of an image, which must be a list.

    Raises:
        LabelFormatError: D202, naming the expected form.
    """
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
