"""Imports go downwards only, and optional or slow packages are imported inside functions."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "scribbleseg"
FILES = sorted(PACKAGE.rglob("*.py"))
LAZY = {"faiss", "wandb", "pycocotools", "nibabel", "h5py", "segmentation_models_pytorch", "timm"}
LAZY |= {"skimage", "matplotlib", "jinja2"}
# every file or folder of the package by the row it stands in, lowest row first; a longer name
# goes before the folder it lies in, and what stands together in a block may import each other
LAYOUT = (
    ("constants", "errors"),
    ("options", "types"),
    ("functional",),
    ("data", "nn", "metrics", "inference"),
    ("predictor+folder_prediction",),
    ("methods.base+methods.evaluation+methods.partial", "checkpoint"),
    ("methods.*", "callbacks"),  # each folder of `methods` is a block of its own
    ("__main__+cli+cli_errors+cli_merge+predict_command+runs",),
)
FACTS = {"scribbleseg.__version__", "scribbleseg.Facade"}  # of the package itself, no layer


def place(module: str) -> tuple[int, str]:
    """Row and block a module belongs to."""
    own = module.removeprefix("scribbleseg").lstrip(".")
    found = []
    for row, blocks in enumerate(LAYOUT):
        for block in blocks:
            for name in block.split("+"):
                if name.endswith(".*"):
                    folder = name.removesuffix(".*")
                    if own == folder:  # the list of its folders imports them all
                        return row, folder
                    if own.startswith(f"{folder}."):
                        found.append((len(folder), row, ".".join(own.split(".")[:2])))
                elif own == name or own.startswith(f"{name}."):
                    found.append((len(name), row, block))
    if not found:
        assert own == "", f"{module} is not in the layout"
        return len(LAYOUT), "scribbleseg"
    _, row, block = max(found)
    return row, block


def module_of(path: Path) -> str:
    parts = list(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class _WithoutTyping(ast.NodeTransformer):
    """Drops ``if TYPE_CHECKING`` blocks: they import nothing when the program runs."""

    def visit_If(self, node: ast.If) -> ast.AST | None:
        typing_only = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        return None if typing_only else self.generic_visit(node)


def imports(tree: ast.AST, *, top_level_only: bool, typing: bool = False) -> list[str]:
    names = []
    if not typing:
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
    row, block = place(module_of(path))
    for name in imports(ast.parse(path.read_text()), top_level_only=False):
        if name.split(".")[0] != "scribbleseg" or name in FACTS:
            continue
        other_row, other = place(existing(name))
        same = other == block or (block == "methods" and other.startswith("methods."))
        assert same or other_row < row, f"{block} (row {row}) imports {other} ({name})"
        assert not (block.startswith("methods") and other == "data"), "methods never import data"


def circles(uses: dict[str, set[str]]) -> list[list[str]]:
    """Files that lead back to themselves, as groups that reach each other."""
    reached = {name: set(own) for name, own in uses.items()}
    for middle in uses:
        for own in reached.values():
            if middle in own:
                own |= reached[middle]
    groups = {
        tuple(sorted(o for o in reached[n] if n in reached[o])) for n in uses if n in reached[n]
    }
    return sorted(map(list, groups))


def test_no_circle_of_imports_not_even_for_the_type_checker() -> None:
    uses: dict[str, set[str]] = {}
    for path in FILES:
        tree = ast.parse(path.read_text())
        found = imports(tree, top_level_only=False, typing=True)
        own = {existing(name) for name in found if name.startswith("scribbleseg.")}
        uses[module_of(path)] = own - {"scribbleseg", module_of(path)}
    everything = {name: {other for other in own if other in uses} for name, own in uses.items()}
    # a predictor offers as a method what labels a folder with it
    assert circles(everything) == [["scribbleseg.folder_prediction", "scribbleseg.predictor"]]
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_every_block_of_the_layout_exists() -> None:
    modules = {module_of(path).removeprefix("scribbleseg.") for path in FILES}
    for name in "+".join("+".join(blocks) for blocks in LAYOUT).split("+"):
        assert name.removesuffix(".*") in modules


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


def test_the_check_itself_sees_an_upward_import() -> None:
    tree = ast.parse("from scribbleseg.methods.base import ScribbleSegModule")
    (name,) = imports(tree, top_level_only=False)
    assert place(existing(name))[0] > place("scribbleseg.functional.losses")[0]
    assert place("scribbleseg.methods.pfa.module")[1] != place("scribbleseg.methods.cdsp")[1]
