"""One problem of a data set, as sources, the check and training tell it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Finding"]


def printable(text: str) -> str:
    r"""Text for a terminal: control characters and what is no character become escapes.

    Example:
        >>> printable("a\x1b[2J\n")
        'a\\x1b[2J\\n'
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def some_names(names: Sequence[str]) -> str:
    """The first five names and the number of the others, for messages."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


@dataclass(frozen=True)
class Finding:
    """One problem.

    Attributes:
        code: Stable code, such as ``"D101"``.
        severity: ``"error"`` stops training, ``"warning"`` does not.
        message: What is wrong, where, the value, what was expected, the likely cause and the fix.
        file: File or folder that is concerned, if there is one.
    """

    code: str
    severity: Literal["error", "warning"]
    message: str
    file: str | None = None

    def __str__(self) -> str:
        return printable(f"{self.code} {self.message}")


def found(code: str, severity: str, file: str, text: str) -> Finding:
    """A finding whose message starts with its file."""
    return Finding(code, "error" if severity == "error" else "warning", f"{file}: {text}", file)
