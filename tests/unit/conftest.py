from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.digests import Digests

CONTRACT = Path(__file__).parents[1] / "digests" / "contract.json"


class _OfAllTests(Digests):
    """Facts of many test files in one file."""

    def _command(self) -> str:
        return "python -m pytest tests/unit/methods tests/unit/nn --rewrite-digests"


@pytest.fixture
def recorded(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Compare facts with what was recorded for this test: ``recorded(facts, rtol=1e-3)``."""
    owner = f"{request.cls.__name__}: " if request.cls else ""
    rewrite = request.config.getoption("--rewrite-digests")
    digests = _OfAllTests(CONTRACT, rewrite=rewrite)

    def check(facts: Any, *, rtol: float = 1e-3, atol: float = 1e-6) -> None:
        digests.check(f"{owner}{request.node.name}", facts, rtol=rtol, atol=atol)

    return check
