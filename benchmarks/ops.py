"""Time and memory of the building blocks against the plain formula and against other packages.

    python benchmarks/ops.py [--device cuda] [--peer-python PYTHON_WITH_PYDENSECRF]

Every case computes one thing in several ways: ours, the formula as one would write it down, and
what one would install instead. Rounds run all ways in turns, so that a slow spell of the machine
hits all alike; memory is measured in a fresh process per way. Only a run of everything writes the
result files of this version by default; say ``--output`` for parts.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ops_cases import Case, Setup

PEERS = {"scipy": "scipy", "faiss": "faiss", "scikit-image": "skimage", "scikit-learn": "sklearn"}
QUICK = {"sides": [8, 16], "batches": [1, 2], "limit_s": 1.0}
FULL = {"sides": [64, 128, 256, 512], "batches": [1, 4, 16], "limit_s": 3.0}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases; 'growth' for its tables")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9, help="at most")
    parser.add_argument("--seconds", type=float, default=6.0, help="budget of a case's rounds")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try things out")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peer-python", default="", help="interpreter that has pydensecrf")
    parser.add_argument("--output", type=Path, help="JSON file; the table goes beside it as .md")
    return parser.parse_args()


def pin(options: argparse.Namespace) -> None:
    """Start anew with the environment that numpy, faiss and scikit-learn read when imported.

    A CPU run hides the GPUs, which faiss would use. The path is for the server that forks the
    processes whose memory is measured: Python does not tell it where this script lies.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    wanted = dict.fromkeys(names, str(options.threads))
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    wanted["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(Path(__file__).parent), *paths]))
    if options.device == "cpu":
        wanted["CUDA_VISIBLE_DEVICES"] = ""
    if any(os.environ.get(key) != value for key, value in wanted.items()):
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})


def measure_case(case: Case, setup: Setup, options: argparse.Namespace) -> dict[str, Any]:
    """Times, peaks and agreement of the ways of a case."""
    import torch
    from ops_measure import deviation, peak_memory, time_in_turns

    sizes = case.quick if options.quick else case.full
    ways = case.ways(setup, **sizes)
    usable = [way for way in ways if not way.missing]
    times, results = time_in_turns(
        usable,
        rounds=options.rounds,
        budget_s=options.seconds,
        device=torch.device(setup.device),
    )
    measured = dict(zip([way.label for way in usable], times, strict=True))
    outcomes = dict(zip([way.label for way in usable], results, strict=True))
    first = ways[0]
    rows = []
    for way in ways:
        row: dict[str, Any] = {"kind": way.kind, "label": way.label}
        if way.missing:
            rows.append({**row, "skipped": way.missing})
            continue
        row |= measured[way.label]
        if way is not first and first.label in measured:
            row["ratio"] = measured[first.label]["median_s"] / row["median_s"]
            row["deviation"] = deviation(outcomes[way.label], outcomes[first.label])
        rows.append(row)
    del ways, usable, results, outcomes
    for row in rows:
        if "skipped" not in row and not options.no_memory:
            row["peak_mib"] = peak_memory(case.name, row["label"], sizes, setup)
    return {"name": case.name, "about": case.about, "sizes": sizes, "ways": rows}


def versions(setup: Setup) -> dict[str, str]:
    from ops_cases.dense_crf import peer_version

    found = {
        package: importlib.import_module(module).__version__
        for package, module in PEERS.items()
        if find_spec(module)
    }
    crf = peer_version(setup.peer_python or sys.executable)
    return {**found, **({"pydensecrf": crf} if crf else {})}


def main() -> None:
    options = parse()
    pin(options)
    import torch
    from ops_cases import CASES, Setup
    from ops_growth import GROWTH, growth
    from ops_tables import case_rows, growth_table, judge, markdown
    from report import default_path, environment, write

    if options.list:
        print("\n".join([*(f"{name}: {case.about}" for name, case in CASES.items()), "growth"]))
        return
    wanted = options.only or [*CASES, "growth"]
    unknown = [name for name in wanted if name not in {*CASES, "growth"}]
    if unknown:
        raise SystemExit(f"--only {' '.join(unknown)}: expected some of {', '.join(CASES)}, growth")
    if options.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit(f"--device {options.device}: torch sees no GPU; leave it at cpu")
    torch.set_num_threads(options.threads)
    setup = Setup(options.device, options.threads, options.peer_python)
    on_cpu = options.device == "cpu"
    cases = []
    for name in wanted:
        case = CASES.get(name)
        if case is None or (case.cpu_only and not on_cpu):
            continue
        cases.append(measure_case(case, setup, options))
        for cells in case_rows(cases[-1]):
            print("  ".join(cells), flush=True)
    tables = []
    for name in GROWTH if "growth" in wanted else ():
        tables += growth(name, setup, **(QUICK if options.quick else FULL))
        print("\n".join(growth_table([t for t in tables if t["name"] == name])), flush=True)
    bars = judge([] if options.quick else cases) if on_cpu else []  # they hold for the full sizes
    for bar in bars:
        if bar["met"] is not None:
            print(f"{'met' if bar['met'] else 'MISSED'}: {bar['bar']}, measured {bar['value']:.3g}")
    results = {"cases": cases, "bars": bars, "growth": tables}
    path = options.output
    if path is None and not options.only and not options.quick:
        path = default_path("ops" if on_cpu else "ops_cuda")
    if path is not None:
        settings = {k: v for k, v in vars(options).items() if k not in {"output", "list"}}
        if settings["peer_python"] is not None:  # where it is, is this machine's affair
            settings["peer_python"] = Path(settings["peer_python"]).name
        header = environment("ops", seed=0, settings=settings)
        header["versions"] |= versions(setup)
        write(path, header, results)
        path.with_suffix(".md").write_text(markdown(header, results))


if __name__ == "__main__":
    main()
