"""Errors that say what is wrong, where, what was expected, and what to do.

All derive from :class:`ScribbleSegError`, and from the built-in that fits, so that callers can
catch either. The command line prints them without a stack trace and exits with status 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataCheckError",
    "LabelFormatError",
    "MissingExtraError",
    "NonFiniteLossError",
    "ScribbleNotFoundError",
    "ScribbleSegError",
    "WeightsError",
]


class ScribbleSegError(Exception):
    """Base of every error that a user can act on."""


class ScribbleNotFoundError(ScribbleSegError, FileNotFoundError):
    """A folder, split file, image or label file is missing."""


class LabelFormatError(ScribbleSegError, ValueError):
    """A file's content is not what its role requires; names file, value, cause and fix.

    Attributes:
        values: Pixels per stored value, where values are no ids (D101).
    """

    values: Mapping[int, int] = {}


class DataCheckError(ScribbleSegError, ValueError):
    """The data check found errors; the message lists them with their codes."""


class ConfigError(ScribbleSegError, ValueError):
    """Options that exclude each other or are out of range."""


class CheckpointError(ScribbleSegError, ValueError):
    """A checkpoint cannot be read, or does not belong to this data or module."""


class WeightsError(ScribbleSegError, RuntimeError):
    """Encoder weights cannot be had or do not fit the encoder."""


class NonFiniteLossError(ScribbleSegError, FloatingPointError):
    """The loss stayed NaN or infinite for several steps."""


class MissingExtraError(ScribbleSegError, ImportError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f'{purpose} needs the package "{package}": pip install "scribbleseg[{extra}]"'
        )
