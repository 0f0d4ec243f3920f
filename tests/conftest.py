from __future__ import annotations

from pathlib import Path

import pytest


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
