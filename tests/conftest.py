from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.digests import Digests

# of several test processes (pytest -n) each has its share of the cores, and what it starts too
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if _WORKERS > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // _WORKERS, 1)))
# fonts are listed once for all test runs, although these have caches of their own
os.environ.setdefault("MPLCONFIGDIR", str(Path("~/.cache/matplotlib").expanduser()))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        default=str(Path(__file__).parent / "golden"),
        help="folder of golden vectors (*.npz) with the documented keys; shapes are free",
    )
    parser.addoption(
        "--rewrite-digests",
        action="store_true",
        help="record what the package gives today, instead of comparing it with the digests",
    )


@pytest.fixture
def digest(request: pytest.FixtureRequest) -> Digests:
    """What was recorded for this test file; see :mod:`helpers.digests`."""
    name = request.path.stem.removeprefix("test_")
    rewrite = request.config.getoption("--rewrite-digests")
    return Digests(request.path.with_name(f"{name}.json"), rewrite=rewrite)


@pytest.fixture(scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _no_leftovers(monkeypatch: pytest.MonkeyPatch, _cache: Path) -> None:
    # tests must neither see the developer's runs and caches nor leave theirs behind
    monkeypatch.setenv("XDG_CACHE_HOME", str(_cache))
    for name in ("PL_GLOBAL_SEED", "SCRIBBLESEG_RUN_DIR", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
