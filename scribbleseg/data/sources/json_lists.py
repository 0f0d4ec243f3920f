"""Large JSON files read element by element, so that files of any size fit into memory."""

from __future__ import annotations

import json
import re
from typing import IO, TYPE_CHECKING, Any

from scribbleseg.errors import LabelFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__: list[str] = []

_CHUNK = 1 << 20  # characters
_LARGEST = 16 << 20  # characters of an element
_NO_SPACE = re.compile(r"[^\s\ufeff]")  # nor a byte-order mark


def read_lists(path: Path) -> Iterator[tuple[str, Any, int, int]]:
    """Key, value, first byte and end of every element of the lists in the object of a JSON file.

    Raises:
        LabelFormatError: If it is not such a file, or an element is larger than 16 MiB (D202).
    """
    key, count = "", 0
    with path.open(encoding="utf-8", newline="") as file:
        reader = _Reader(file)
        try:
            for _ in reader.members("{", "}"):
                key, count = str(reader.value()), 0
                reader.take(":")
                if reader.peek() != "[":
                    reader.value()
                    continue
                for _ in reader.members("[", "]"):
                    count += 1
                    begin = reader.offset
                    yield key, reader.value(), begin, reader.offset
            if reader.peek():
                raise ValueError("text behind its end")
        except (ValueError, RecursionError) as error:
            reason = getattr(error, "msg", str(error))  # without a place, which is of a piece
            raise LabelFormatError(
                f"D202 {path}: is not the JSON that was expected, in element {count:,} of "
                f"`{key[:40]}` ({reason}); the file is truncated or of another kind: download it "
                "again, or correct the program that wrote it"
            ) from error


class _Reader:
    """JSON read value by value; a piece of the file is in memory.

    Attributes:
        offset: Bytes that are read.
    """

    def __init__(self, file: IO[str]) -> None:
        self.file, self.decoder = file, json.JSONDecoder()
        self.text, self.place, self.offset = "", 0, 0

    def members(self, start: str, end: str) -> Iterator[None]:
        """One step for each member of a list or object; passes brackets and commas."""
        self.take(start)
        while self.peek() != end:
            yield
            if self.peek() != end:
                self.take(",")
        self.take(end)

    def take(self, character: str) -> None:
        """Pass one character, which must be this one."""
        found = self.peek()
        if found != character:
            raise ValueError(f"{found or 'the end'} in place of {character}")
        self._pass(self.place + 1)

    def peek(self) -> str:
        """The next character that is no space, empty at the end of the file."""
        while True:
            found = _NO_SPACE.search(self.text, self.place)
            self._pass(found.start() if found else len(self.text))
            if found or not self._read_on():
                return found[0] if found else ""

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.place)
            except ValueError:  # it may go on
                if not self._read_on():
                    raise
                continue
            if end < len(self.text) or not self._read_on():  # numbers may go on, too
                self._pass(end)
                return value

    def _pass(self, end: int) -> None:
        self.offset += len(self.text[self.place : end].encode())
        self.place = end

    def _read_on(self) -> bool:
        """Whether there was more to read."""
        kept = self.text[self.place :]
        more = self.file.read(max(_CHUNK, len(kept))) if len(kept) <= _LARGEST else ""
        if more:
            self.text, self.place = kept + more, 0
        return bool(more)
