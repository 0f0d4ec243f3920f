"""Golden vectors: values and gradients computed independently of this library.

``pytest tests/golden --golden-dir DIR`` checks any folder with the documented keys. A file that is
not there is skipped. A component that is there must have a check; those of blocks that this release
does not contain yet are listed in ``registry.NOT_BUILT`` and reported as skipped.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from golden.registry import CHECKS, NOT_BUILT
from golden.vectors import Vectors

for file in sorted((Path(__file__).parent / "checks").glob("*.py")):
    importlib.import_module(f"golden.checks.{file.stem}")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "component" not in metafunc.fixturenames:
        return
    folder = Path(metafunc.config.getoption("--golden-dir"))
    if not folder.is_dir():
        raise pytest.UsageError(f"--golden-dir {folder} is not a folder")
    cases = []
    there = {path.stem for path in folder.glob("*.npz")}
    for file in sorted({name for name, _ in CHECKS} | set(NOT_BUILT) | there):
        path = folder / f"{file}.npz"
        if not path.is_file():
            skip = pytest.mark.skip(reason=f"{file}.npz is not in this folder")
            cases.append(pytest.param(path, "", marks=skip, id=file))
            continue
        with np.load(path) as archive:
            components = sorted({key.split("/")[0] for key in archive})
        cases += [pytest.param(path, name, id=f"{file}-{name}") for name in components]
    metafunc.parametrize(("path", "component"), cases)


def test_component(path: Path, component: str) -> None:
    function = CHECKS.get((path.stem, component))
    if function is None:
        planned = NOT_BUILT.get(path.stem, "")
        if planned == "*" or component in planned.split():
            pytest.skip(f"{path.stem}/{component}: this block is not in the library yet")
        pytest.fail(f"{path.name} holds {component!r}, which no check covers")
    vectors = Vectors(path, component)
    function(vectors)
    vectors.assert_all_compared()


def test_what_is_checked_is_not_listed_as_missing() -> None:
    missing = {(file, name) for file, names in NOT_BUILT.items() for name in names.split()}
    assert not missing & set(CHECKS)
    assert not {file for file, name in missing if name == "*"} & {file for file, _ in CHECKS}
