"""Large JSON objects read piece by piece, with the place of every element in the file."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any

from scribbleseg.errors import LabelFormatError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["JsonStream"]

_CHUNK = 1 << 20
_SPACE = " \t\r\n"


class JsonStream:
    """One JSON object of long lists; memory is a few MB, or twice the longest element.

    Bytes are decoded as Latin-1, one character each, so that positions are byte offsets; text of
    other encodings keeps its structure, because JSON's own characters are ASCII. Read names with
    letters beyond ASCII again, from the bytes.

    Args:
        file: Opened in binary mode, at its start.
        path: For messages.

    Example:
        >>> import io
        >>> stream = JsonStream(io.BytesIO(b'{"n": 1, "list": [{"a": 2}, 3]}'), "x.json")
        >>> for key in stream.members():
        ...     print(key, list(stream.elements()) if key == "list" else stream.value())
        n 1
        list [(18, 8, {'a': 2}), (28, 1, 3)]
    """

    def __init__(self, file: IO[bytes], path: str | Path) -> None:
        self._file, self._path = file, path
        self._text, self._at, self._base = "", 0, 0  # buffer, place in it, its offset in the file
        self._start = 0  # offset of the value that was read last
        self._decoder = json.JSONDecoder()
        while len(self._text) < 3 and self._fill():
            pass
        if self._text.startswith("\xef\xbb\xbf"):  # a byte-order mark
            self._at = 3

    def members(self) -> Iterator[str]:
        """Keys of the object; read the value of each before asking for the next."""
        self._expect("{")
        if self._peek() == "}":
            return
        while True:
            key = self.value()
            if not isinstance(key, str):
                raise self._fault(f"a key is {key!r}")
            self._expect(":")
            yield key
            if self._expect(",}") == "}":
                return

    def elements(self) -> Iterator[tuple[int, int, Any]]:
        """Elements of a list: byte offset, length in bytes, and value."""
        self._expect("[")
        if self._peek() == "]":
            self._at += 1
            return
        while True:
            value = self.value()
            yield self._start, self._base + self._at - self._start, value
            if self._expect(",]") == "]":
                return

    def value(self) -> Any:
        """The next value, whatever it is."""
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if not self._fill():
                    raise self._fault(error.msg) from error
                continue
            except RecursionError as error:
                raise self._fault("lists are nested too deeply") from error
            # a number may go on behind the buffer
            if end < len(self._text) or not self._fill():
                self._start, self._at = self._base + self._at, end
                return value

    def _peek(self) -> str:
        """The next character that is no space; an empty text at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def _expect(self, characters: str) -> str:
        found = self._peek()
        if not found or found not in characters:
            wanted = " or ".join(repr(c) for c in characters)
            raise self._fault(f"{found!r} where {wanted} belongs" if found else "the file ends")
        self._at += 1
        return found

    def _fill(self) -> bool:
        """Drop what was read and read on; False at the end of the file."""
        rest = self._text[self._at :]
        data = self._file.read(max(_CHUNK, len(rest)))
        if not data:
            return False
        self._base += self._at
        self._text, self._at = rest + data.decode("latin-1"), 0
        return True

    def _fault(self, what: str) -> LabelFormatError:
        return LabelFormatError(
            f"D202 {self._path}: is not the JSON that was expected ({what} at byte "
            f"{self._base + self._at:,}); the file is truncated or of another kind: download it "
            "again"
        )
