"""Imports go downwards only, and optional or slow packages are imported inside functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "scribbleseg"
FILES = sorted(PACKAGE.rglob("*.py"))
LAZY = {"faiss", "wandb", "pycocotools", "nibabel", "h5py", "segmentation_models_pytorch", "timm"}
LAZY |= {"skimage"}
TOP = {"__init__", "__main__", "cli", "cli_errors", "cli_merge", "predict_command", "runs"}
LEVELS = {"constants": 0, "errors": 0, "options": 1, "types": 1, "functional": 2}
LEVELS |= {"data": 3, "nn": 3, "inference": 3, "metrics": 3, "predictor": 3, "folder_prediction": 3}
LEVELS |= {"methods.base": 4, "checkpoint": 4, "methods": 5, "callbacks": 5}
INFERENCE = {"inference", "predictor", "folder_prediction"}  # one block in three files


def block(module: str) -> str:
    """Name of the block a module belongs to."""
    parts = module.split(".")[1:]
    if not parts or parts[0] in TOP:
        return "top"
    if parts[0] == "methods" and parts[1:2] in (["base"], ["evaluation"], ["partial"]):
        return "methods.base"
    if parts[0] == "methods" and len(parts) > 1:
        return f"methods/{parts[1]}"
    return parts[0]


def level(name: str) -> int:
    return 6 if name == "top" else LEVELS[name.split("/")[0]]


def module_of(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class _WithoutTyping(ast.NodeTransformer):
    """Drops ``if TYPE_CHECKING`` blocks: they import nothing when the program runs."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        typing_only = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if typing_only else self.generic_visit(node)


def imports(tree: ast.AST, *, top_level_only: bool) -> list[str]:
    names = []
    tree = _WithoutTyping().visit(tree)
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def existing(name: str) -> str:
    """Longest prefix of an imported name that is a module of the package."""
    parts = name.split(".")
    while parts:
        path = PACKAGE.parent.joinpath(*parts)
        if path.is_dir() or path.with_suffix(".py").exists():
            return ".".join(parts)
        parts.pop()
    raise AssertionError(f"{name} is not a module of the package")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    own = block(module_of(path))
    for name in imports(ast.parse(path.read_text()), top_level_only=False):
        if name.split(".")[0] != "scribbleseg":
            continue
        if name == "scribbleseg.__version__":
            continue  # the version is a fact, not code
        other = block(existing(name))
        if other == own or {own, other} <= INFERENCE:
            continue
        if own == "methods" or own == "top":
            assert level(other) <= level(own), f"{own} imports {other} ({name})"
            continue
        assert level(other) < level(own), f"{own} (level {level(own)}) imports {other} ({name})"
        assert not (own.startswith("methods") and other == "data"), "methods never import data"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_slow_and_optional_packages_are_imported_lazily(path: Path) -> None:
    names = imports(ast.parse(path.read_text()), top_level_only=True)
    assert not {name.split(".")[0] for name in names} & LAZY


def test_only_transforms_knows_albumentations() -> None:
    users = {
        module_of(path)
        for path in FILES
        for name in imports(ast.parse(path.read_text()), top_level_only=False)
        if name.split(".")[0] == "albumentations"
    }
    assert users == {"scribbleseg.data.transforms"}


def test_the_check_itself_sees_an_upward_import(tmp_path) -> None:
    tree = ast.parse("from scribbleseg.methods.base import ScribbleSegModule")
    (name,) = imports(tree, top_level_only=False)
    assert level(block(existing(name))) > level("functional")
