"""Digests: what the package gave when they were recorded, as JSON beside the tests.

A test hands its facts to the fixture ``digest``; they are compared with the entry of that name in
``tests/digests/<name of the test file>.json``. After a change that is meant::

    python -m pytest tests/digests/test_<name>.py --rewrite-digests
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

LENGTH = 16  # hexadecimal digits of a SHA-256: 64 bits are enough to see a change


def sha(content: bytes | str) -> str:
    """Beginning of the SHA-256 of some bytes or text."""
    content = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(content).hexdigest()[:LENGTH]


def sha_of(array: Any) -> str:
    """Digest of an array or tensor with its dtype and shape: ``uint8[40,48,3] 0f3a…``."""
    array = array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)
    order = array.dtype.newbyteorder("<")
    content = np.ascontiguousarray(array.astype(order)).tobytes()
    return f"{array.dtype.name}{list(array.shape)} {sha(content)}".replace(", ", ",")


def sha_of_folder(folder: Path, *, skip: tuple[str, ...] = ()) -> dict[str, str]:
    """Digest of every file below a folder by its relative path, ``skip`` being endings."""
    return {
        path.relative_to(folder).as_posix(): sha(path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(skip or ("\0",))
    }


class Digests:
    """The recorded facts of one test file.

    Args:
        path: JSON file beside the tests.
        rewrite: Record what is given instead of comparing it.
        tests: File of the tests, if it is not the one of the same stem in ``tests/digests``.
    """

    def __init__(self, path: Path, *, rewrite: bool = False, tests: str | None = None) -> None:
        self.path, self.rewrite = path, rewrite
        self.tests = tests or f"tests/digests/test_{path.stem}.py"

    def check(self, name: str, facts: Any, *, rtol: float = 0.0, atol: float = 0.0) -> None:
        """Compare facts with the entry of this name.

        Args:
            name: Entry of the file; one test may check several.
            facts: Anything that JSON holds; NaN and infinities as well.
            rtol: Relative tolerance of floats; everything else must be equal.
            atol: Absolute tolerance of floats.
        """
        recorded = json.loads(self.path.read_text()) if self.path.is_file() else {}
        facts = json.loads(json.dumps(facts))  # tuples become lists, keys become text
        if self.rewrite:
            recorded[name] = facts
            text = json.dumps(_shortened(recorded), indent=1, sort_keys=True, ensure_ascii=False)
            self.path.write_text(text + "\n")
            return
        assert name in recorded, f"{self.path.name} has no entry {name!r}: {self._command()}"
        changed = list(_differences(recorded[name], facts, name, rtol, atol))
        shown = "\n  ".join(changed[:20]) + ("\n  …" if len(changed) > 20 else "")
        assert not changed, (
            f"{len(changed)} facts differ from those recorded:\n  {shown}\n"
            f"If this is meant: {self._command()}"
        )

    def _command(self) -> str:
        return f"python -m pytest {self.tests} --rewrite-digests"


def _shortened(facts: Any) -> Any:
    """Floats with eight digits, so that a rewritten file shows only what really changed."""
    if isinstance(facts, float) and math.isfinite(facts):
        return float(f"{facts:.8g}")
    if isinstance(facts, list):
        return [_shortened(fact) for fact in facts]
    if isinstance(facts, dict):
        return {name: _shortened(fact) for name, fact in facts.items()}
    return facts


def _differences(old: Any, new: Any, place: str, rtol: float, atol: float) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            if key not in new:
                yield f"{place}/{key}: gone (was {old[key]!r})"
            elif key not in old:
                yield f"{place}/{key}: new ({new[key]!r})"
            else:
                yield from _differences(old[key], new[key], f"{place}/{key}", rtol, atol)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from _differences(a, b, f"{place}/{index}", rtol, atol)
    elif isinstance(old, float | int) and isinstance(new, float) and not isinstance(old, bool):
        limit = atol + max(rtol, 1e-7) * abs(old)  # recorded with eight digits
        same = old == new or (math.isnan(old) and math.isnan(new)) or abs(old - new) <= limit
        if not same:
            yield f"{place}: {old!r} -> {new!r}"
    elif old != new or type(old) is not type(new):
        yield f"{place}: {old!r} -> {new!r}"
