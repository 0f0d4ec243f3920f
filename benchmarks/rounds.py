"""Variants of one benchmark against each other: each a process of its own, taking turns.

Peak memory is a process's, and whatever else the machine does falls on all variants alike.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING

from report import default_path, environment, write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

Round = dict[str, dict[str, float]]


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
