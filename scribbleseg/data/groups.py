"""Groups that the names of images show: patients, volumes and videos, which splits never divide."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from scribbleseg.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from scribbleseg.types import Record

__all__ = ["check_pattern", "check_time", "group_in", "group_pattern"]

_SECONDS = 2.0
_TRIAL = "import json, re, sys; p, s = json.load(sys.stdin); [*map(re.compile(p).search, s)]"
_MOST_GROUPS = 5000


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


def check_time(
    pattern: re.Pattern[str] | None, stems: Iterable[str], option: str = "group_regex"
) -> None:
    """Refuse a pattern that would search for ever, such as ``(a+)+b``: a trial in a process.

    Raises:
        ConfigError: If the names take longer than 2 s (D501).
    """
    if pattern is None:
        return
    task = json.dumps([pattern.pattern, list(stems)])
    command = [sys.executable, "-I", "-S", "-c", _TRIAL]
    try:
        # Python cannot stop a search that has begun; where no process can start, nothing is tried
        with suppress(OSError):
            subprocess.run(command, input=task, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"D501 {option}={pattern.pattern!r}: searching the image names with it takes longer "
            f"than {_SECONDS:g} s; nested repeats such as (a+)+ try every way to divide a name: "
            "write each part once"
        ) from error


def group_pattern(records: Sequence[Record], own: re.Pattern[str] | None = None) -> str | None:
    r"""A ``group_regex`` that gives every record its group, ``None`` if there is none.

    Args:
        records: Samples of all splits.
        own: Pattern of the source, tried first.

    Example:
        >>> from scribbleseg.types import Record
        >>> group_pattern([Record("p1_slice_2", group="p1"), Record("p10_slice_11", group="p10")])
        '^(.+?)_slice_\\d+$'
    """
    named = [(record.image_id, record.group) for record in records if record.group is not None]
    if not named or len(named) < len(records):
        return None
    # what follows the group in every name, whatever its numbers; else the groups themselves
    tails = {re.escape(name[len(group) :]) for name, group in named if name.startswith(group)}
    tails = {re.sub("[0-9]+", r"\\d+", tail) for tail in tails}
    groups = sorted({group for _, group in named}, key=lambda group: (-len(group), group))
    candidates = [] if own is None else [own.pattern]
    candidates += [f"^(.+?){tail}$" for tail in tails if len(tails) == 1]
    candidates += [f"({'|'.join(map(re.escape, groups))})"] if len(groups) <= _MOST_GROUPS else []
    for candidate in candidates:
        pattern = re.compile(candidate)
        if all((group_in(pattern, name) or name) == group for name, group in named):
            return candidate
    return None
