"""Groups of images, such as patients, told from names by a pattern."""

from __future__ import annotations

import re

from scribbleseg.errors import ConfigError

__all__ = ["check_pattern", "group_in"]


def check_pattern(**option: str | None) -> re.Pattern[str] | None:
    """Compile an option that holds a pattern.

    Args:
        option: Its name and value.

    Raises:
        ConfigError: If it is no regular expression.

    Example:
        >>> check_pattern(group_regex="(p1")
        Traceback (most recent call last):
        scribbleseg.errors.ConfigError: group_regex='(p1': missing ), unterminated subpattern at...
    """
    ((name, value),) = option.items()
    try:
        return None if value is None else re.compile(value)
    except re.error as error:
        raise ConfigError(f"{name}={value!r}: {error}") from error


def group_in(pattern: re.Pattern[str], stem: str) -> str | None:
    r"""Group that a name shows: the first group of the match, or all of it; ``None`` without one.

    Example:
        >>> [group_in(re.compile(r"p(\d+)|x"), stem) for stem in ("p12_s3", "x_s3", "q12")]
        ['12', 'x', None]
    """
    match = pattern.search(stem)
    if match is None:
        return None
    return str(match[1]) if match.groups() and match[1] is not None else str(match[0])
