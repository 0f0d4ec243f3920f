from __future__ import annotations

from pathlib import Path

import pytest
from helpers.digests import Digests


class _OfRuns(Digests):
    def _command(self) -> str:
        return "python -m pytest tests/integration --rewrite-digests"


@pytest.fixture
def digest(request: pytest.FixtureRequest) -> Digests:
    """What was recorded of whole runs in ``tests/digests/trained.json``."""
    path = Path(__file__).parents[1] / "digests" / "trained.json"
    return _OfRuns(path, rewrite=request.config.getoption("--rewrite-digests"))
