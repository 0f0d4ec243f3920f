"""Checks of option values: each error names the option, its value and what was expected."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from scribbleseg.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["check_choice", "check_flag", "check_number", "check_whole"]


def check_number(**values: object) -> None:
    """Refuse what is not a finite number, naming the option.

    Raises:
        ConfigError: For text, ``true``/``false``, ``null``, nan and inf.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"{name}={value!r}: expected a number")
        if not math.isfinite(value):
            raise ConfigError(f"{name}={value}: expected a finite number")


def check_whole(least: int, **values: object) -> None:
    """Refuse what is not a whole number of at least ``least``, naming the option.

    Raises:
        ConfigError: Naming the option and its value.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name}={value!r}: expected a whole number of at least {least}")


def check_flag(**values: object) -> None:
    """Refuse what is not true or false: the word "false" would count as true.

    Raises:
        ConfigError: Naming the option and its value.
    """
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ConfigError(f"{name}={value!r}: expected true or false, without quotes")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse an option that is not one of its choices.

    Raises:
        ConfigError: Naming the option, its value and the choices.
    """
    if value not in choices:
        raise ConfigError(f"{name}={value!r}: expected one of {', '.join(map(repr, choices))}")
