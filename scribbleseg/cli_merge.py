"""Regularisers of several files and of the command line, merged term by term.

The parser would replace all options of a term by ``…regularizers.gated_crf.weight=0.5``, and all
terms by those of a second file, without a word.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["merge_regularizers"]

_OPTION = re.compile(r"--model(?:\.init_args)?\.regularizers(?P<keys>(?:\.[\w.]+)?)$")
_TARGET = "--model.init_args.regularizers"


def merge_regularizers(argv: Sequence[str]) -> list[str]:
    """Replace the options about regularisers by one that holds all of them.

    Files and options count in their order: a mapping adds to what came before and changes single
    options, ``null`` starts afresh, and so does a mapping given as a whole on the command line.
    Anything else is left for the parser to judge.

    Args:
        argv: Words of the command line.

    Example:
        >>> words = ["fit", "--model.init_args.regularizers.entropy.weight=0.1"]
        >>> merge_regularizers(words)[-1]
        '--model.init_args.regularizers={"entropy": {"weight": 0.1}}'
    """
    merged: dict[str, Any] | None = None
    kept: list[str] = []
    found = False
    words = iter(range(len(argv)))
    for index in words:
        word = argv[index]
        name, equals, value = word.partition("=")
        option = _OPTION.match(name)
        if name in ("--config", "-c"):
            path = value if equals else (argv[index + 1] if index + 1 < len(argv) else "")
            present, terms = _terms_of(path)
            if present:
                found, merged = True, _joined(merged, terms)
        if option is None:
            kept.append(word)
            continue
        if not equals:
            value = argv[next(words, index)]
        parsed = yaml.safe_load(value)
        keys = option["keys"].lstrip(".").split(".") if option["keys"] else []
        found = True
        if keys:
            for key in reversed(keys[1:]):
                parsed = {key: parsed}
            merged = _joined(merged, {keys[0]: parsed})
        else:
            merged = parsed
    if not found:
        return list(argv)
    # JSON but for the one number that YAML spells otherwise
    text = json.dumps(merged).replace("Infinity", ".inf")
    return [*kept, f"{_TARGET}={text}"]


def _terms_of(path: str) -> tuple[bool, Any]:
    """Whether a configuration file speaks of regularisers, and what it says."""
    try:
        content = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return False, None  # the parser says what is wrong with it
    model = content.get("model") if isinstance(content, dict) else None
    arguments = model.get("init_args") if isinstance(model, dict) else None
    if not isinstance(arguments, dict) or "regularizers" not in arguments:
        return False, None
    return True, arguments["regularizers"]


def _joined(before: Any, after: Any) -> Any:
    """``after`` on top of ``before``; a bare number is the weight of a term."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    joined = dict(before)
    for name, value in after.items():
        earlier = joined.get(name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if isinstance(earlier, dict) and number:
            joined[name] = {**earlier, "weight": value}
        elif isinstance(value, dict) and isinstance(earlier, (int, float)):
            joined[name] = {"weight": earlier, **value}
        elif isinstance(value, dict) and isinstance(earlier, dict):
            joined[name] = {**earlier, **value}
        else:
            joined[name] = value
    return joined
