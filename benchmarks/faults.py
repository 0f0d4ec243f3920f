"""How many random faults the tests see: each is placed in a copy of the package, one at a time.

    python benchmarks/faults.py --faults 60 --seed 0 --out faults.json

The checkout is cloned, the default tests run once under ``coverage`` to learn which of them reach
which line, and each fault is then judged by the tests that reach it. A run that was stopped goes on
where it stopped. ``coverage`` and ``pytest-cov`` are needed besides the extra ``test``.
"""

from __future__ import annotations

import argparse
import ast
import collections
import json
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from report import environment, write

GROUPS = ("data", "functional", "methods", "nn", "callbacks")  # the rest is "top level"
COMPARISONS = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
ARITHMETIC = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
}
MOST, MOST_LONG = 120, 6  # tests that judge one fault, and how many of them train networks
SYMMETRIC = {
    "min",
    "max",
    "math.isclose",
    "np.maximum",
    "np.minimum",
    "torch.maximum",
    "torch.minimum",
}
SKIPPED = ("__all__", "logger", "TYPE_CHECKING")


@dataclass(frozen=True)
class Fault:
    """A replacement of one piece of source text."""

    path: str
    line: int
    start: int  # offsets in the file, in bytes
    stop: int
    kind: str
    old: str
    new: str

    @property
    def group(self) -> str:
        """Folder of the package by whose share of lines faults are placed."""
        folder = Path(self.path).parts[1]
        return folder if folder in GROUPS else "top level"


def faults_of(path: Path, name: str) -> list[Fault]:
    """Every fault that can be placed in a file."""
    content = path.read_bytes()
    starts = [0]
    for line in content.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, new, kind in _changes(ast.parse(content)):
        start = starts[node.lineno - 1] + node.col_offset
        stop = starts[node.end_lineno - 1] + node.end_col_offset
        old = content[start:stop].decode()
        found.append(Fault(name, node.lineno, start, stop, kind, old, new))
    return found


def _changes(tree: ast.AST):
    """Nodes with the text that replaces them; annotations and texts are left alone."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom | ast.Raise | ast.JoinedStr):
            continue
        text = ast.unparse(node)
        if isinstance(node, ast.stmt) and text.removeprefix("if ").startswith(SKIPPED):
            continue
        yield from (change for change in _changes_of(node) if change[1] != ast.unparse(change[0]))
        if isinstance(node, ast.FunctionDef):
            parts = [*node.body, *node.args.defaults, *(d for d in node.args.kw_defaults if d)]
            for part in parts:
                yield from _changes(ast.Module([part], []))
        elif isinstance(node, ast.AnnAssign):
            if node.value is not None:
                yield from _changes(ast.Module([node.value], []))
        else:
            yield from _changes(node)


def _changes_of(node: ast.AST):
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        new = ast.Compare(node.left, [COMPARISONS[type(node.ops[0])](), *node.ops[1:]], [])
        new.comparators = node.comparators
        yield node, f"({ast.unparse(new)})", "comparison"
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        new = ast.BinOp(node.left, ARITHMETIC[type(node.op)](), node.right)
        yield node, f"({ast.unparse(new)})", "arithmetic"
    elif isinstance(node, ast.BoolOp):
        new = ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        yield node, f"({ast.unparse(new)})", "and/or"
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node, f"({ast.unparse(node.operand)})", "sign"
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield node, str(not node.value), "constant"
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        value = node.value + 1 if isinstance(node.value, int) else node.value * 2 or 1.0
        yield node, repr(value), "constant"
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        yield node.test, "False", "condition"
    elif isinstance(node, ast.Return) and node.value is not None:
        yield node.value, "None", "return"
    elif isinstance(node, ast.AugAssign) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ):
        yield node, "pass", "statement"
    elif (
        isinstance(node, ast.Call)
        and len(node.args) > 1
        and ast.unparse(node.func) not in SYMMETRIC
    ):
        args = [node.args[1], node.args[0], *node.args[2:]]
        if not any(isinstance(arg, ast.Starred) for arg in args):
            yield node, ast.unparse(ast.Call(node.func, args, node.keywords)), "arguments"


def chosen(tree: Path, count: int, seed: int) -> list[Fault]:
    """Random faults: groups by their share of lines, lines within them alike."""
    lines: collections.Counter[str] = collections.Counter()
    by_line: dict[str, dict[tuple[str, int], list[Fault]]] = collections.defaultdict(dict)
    for path in sorted((tree / "scribbleseg").rglob("*.py")):
        name = path.relative_to(tree).as_posix()
        for fault in faults_of(path, name):
            by_line[fault.group].setdefault((name, fault.line), []).append(fault)
        group = Fault(name, 0, 0, 0, "", "", "").group
        lines[group] += len(path.read_text().splitlines())
    rng = random.Random(seed)
    groups = rng.choices(list(lines), weights=list(lines.values()), k=count)
    found = []
    for group in groups:
        place = rng.choice(sorted(by_line[group]))
        found.append(rng.choice(by_line[group].pop(place)))
    return found


def covered(tree: Path) -> dict[str, dict[int, list[str]]]:
    """Tests that reach each line; learned once and kept beside the tree."""
    kept = tree / ".covered.json"
    if not kept.is_file():
        command = ["-m", "pytest", "-q", "-n", "2", "--cov=scribbleseg", "--cov-context=test"]
        _python(tree, [*command, "--cov-report="], timeout=3600)
        from coverage import CoverageData

        data = CoverageData(str(tree / ".coverage"))
        data.read()
        table = {
            Path(file).relative_to(tree).as_posix(): {
                line: sorted({test.rsplit("|", 1)[0] for test in tests if test})
                for line, tests in data.contexts_by_lineno(file).items()
            }
            for file in data.measured_files()
        }
        kept.write_text(json.dumps(table))
    return {
        file: {int(line): tests for line, tests in lines.items()}
        for file, lines in json.loads(kept.read_text()).items()
    }


def likely(fault: Fault, tests: list[str]) -> list[str]:
    """The tests that are most likely to see a fault, in that order.

    A line of a constructor is reached by hundreds; the others run only where these see nothing.
    """
    stem, folder = Path(fault.path).stem, Path(fault.path).parent.name
    rank = ("tests/unit", "tests/digests", "tests/golden", "scribbleseg", "tests/integration")

    def order(test: str) -> tuple[bool, bool, int, str]:
        place = next((i for i, start in enumerate(rank) if test.startswith(start)), len(rank))
        return stem not in test, folder not in test, place, test

    own = sorted(tests, key=order)
    short = [test for test in own if not test.startswith("tests/integration")]
    long = [test for test in own if test.startswith("tests/integration")]
    digests = [test for test in short if test.startswith("tests/digests")][: MOST // 3]
    return list(dict.fromkeys([*short[: MOST - len(digests)], *digests, *long[:MOST_LONG]]))


def judge(tree: Path, fault: Fault, tests: list[str], timeout: float) -> tuple[bool, str]:
    """Whether a test fails with the fault in place, and which one."""
    path = tree / fault.path
    original = path.read_bytes()
    first = likely(fault, tests)
    rest = sorted(set(tests) - set(first))
    try:
        path.write_bytes(original[: fault.start] + fault.new.encode() + original[fault.stop :])
        killed, by = _fails(tree, first, timeout)
        return _fails(tree, rest, timeout, "-n", "2") if rest and not killed else (killed, by)
    except subprocess.TimeoutExpired:  # seen as well: the suite does not end
        return True, "no end within the time limit"
    finally:
        path.write_bytes(original)


def _fails(tree: Path, tests: list[str], timeout: float, *words: str) -> tuple[bool, str]:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.write("\n".join(tests))
        listed.flush()
        command = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *words, f"@{listed.name}"]
        run = _python(tree, command, timeout=timeout)
    lines = [line for line in run.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    by = lines[0][:200] if lines else run.stdout[-200:].strip()
    # 0: all passed, 4 and 5: nothing was run; a crash of the interpreter is seen as well
    return run.returncode not in (0, 4, 5), by.replace(f"{tree}/", "")


def _python(tree: Path, words: list[str], timeout: float) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=tree, env=env, capture_output=True, text=True, timeout=timeout
    )


def main() -> None:
    """Place the faults one by one and write what became of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tree", type=Path, help="clone to work in; made if it is not there")
    parser.add_argument(
        "--timeout", type=float, default=900, help="seconds for the tests of a fault"
    )
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    tree = options.tree or Path(tempfile.mkdtemp()) / "scribbleseg"
    tree = tree.resolve()
    if not tree.exists():
        root = Path(__file__).resolve().parents[1]
        subprocess.run(["git", "clone", "--quiet", str(root), str(tree)], check=True)
    table, results = covered(tree), []
    progress = tree / f".faults_{options.seed}.json"
    if progress.is_file():
        results = json.loads(progress.read_text())
    for fault in chosen(tree, options.faults, options.seed)[len(results) :]:
        lines = table.get(fault.path, {})
        # lines that run at import belong to no test: those of the whole file may see them
        tests = lines.get(fault.line) or sorted({test for own in lines.values() for test in own})
        killed, by = judge(tree, fault, tests, options.timeout)
        results.append({**asdict(fault), "reached_by": len(tests), "killed": killed, "by": by})
        progress.write_text(json.dumps(results))
        mark = "killed  " if killed else "SURVIVED"
        print(
            f"{len(results):3} {mark} {fault.path}:{fault.line} {fault.old!r} -> {fault.new!r}",
            flush=True,
        )
    share = sum(result["killed"] for result in results) / len(results)
    print(f"{share:.1%} of {len(results)} faults were seen")
    settings = {"faults": options.faults, "timeout": options.timeout}
    header = environment("faults", seed=options.seed, settings=settings)
    head = subprocess.run(
        ["git", "-C", str(tree), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    )
    write(options.out, {**header, "commit": head.stdout.strip()}, results)  # that of the clone


if __name__ == "__main__":
    main()
