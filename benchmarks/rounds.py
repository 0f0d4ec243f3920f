"""Variants of one benchmark against each other: each a process of its own, taking turns.

Peak memory is a process's, and whatever else the machine does falls on all variants alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from report import default_path, environment, write

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Round = dict[str, dict[str, float]]


def parse(
    parser: argparse.ArgumentParser,
    variants: Sequence[str],
    measure: Callable[[argparse.Namespace], Mapping[str, float]],
    *,
    rounds: int = 3,
) -> argparse.Namespace:
    """Options of a benchmark. In the process of one variant: measure it, print it, and end.

    Args:
        parser: With the options of its own; those of rounds, variants and output are added.
        variants: Their names.
        measure: Measures ``options.variant``.
        rounds: How often by default.
    """
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--variant", choices=variants, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        print(json.dumps(measure(options)))
        raise SystemExit
    return options


def alternate(variants: Sequence[str], rounds: int, *, once: Sequence[str] = ()) -> list[Round]:
    """Run the calling script with ``--variant NAME`` in turns; its last line is a JSON object.

    Args:
        variants: Run in every round, in an order that turns round each time.
        rounds: Number of rounds.
        once: Run in the first round only.

    Returns:
        For each round, what each variant printed.
    """
    made: list[Round] = []
    for number in range(rounds):
        row: Round = {}
        order = [*(variants if number % 2 else reversed(variants)), *([] if number else once)]
        for variant in order:
            command = [sys.executable, *sys.argv, "--variant", variant]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            row[variant] = json.loads(done.stdout.splitlines()[-1])
        made.append(row)
        print(row)
    return made


def ratio(rounds: Sequence[Round], variant: str, other: str, key: str) -> float:
    """Median over the rounds of one variant's value divided by another's."""
    return statistics.median(row[variant][key] / row[other][key] for row in rounds)


def median(rounds: Sequence[Round], variant: str, key: str) -> float:
    """Median over the rounds."""
    return statistics.median(row[variant][key] for row in rounds)


def judge(found: Mapping[str, float], bars: Mapping[str, float]) -> None:
    """Say which bars are met."""
    for name, bar in bars.items():
        met = "met" if found[name] <= bar else "MISSED"
        print(f"{name} {found[name]:.2f}, bar {bar}: {met}")


def save(name: str, options: argparse.Namespace, results: object, *, seed: int = 0) -> None:
    """Write the result file of a benchmark with its settings."""
    settings = {k: v for k, v in vars(options).items() if k not in {"output", "variant"}}
    write(
        options.output or default_path(name),
        environment(name, seed=seed, settings=settings),
        results,
    )
