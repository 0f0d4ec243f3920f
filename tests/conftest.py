from __future__ import annotations

import os
from pathlib import Path

import pytest

# of several test processes (pytest -n) each has its share of the cores, and what it starts too
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _WORKERS > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // _WORKERS, 1)))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        default=str(Path(__file__).parent / "golden"),
        help="folder of golden vectors (*.npz) with the documented keys; shapes are free",
    )


@pytest.fixture(autouse=True)
def _no_leftovers(monkeypatch: pytest.MonkeyPatch) -> None:
    # tests must neither see the developer's runs nor leave their own seed behind
    for name in ("PL_GLOBAL_SEED", "SCRIBBLESEG_RUN_DIR", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
