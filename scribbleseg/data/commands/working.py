"""What commands that fill a folder share: its arguments, processes, and what to say of failures."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from scribbleseg.data.commands.opening import add_source

if TYPE_CHECKING:
    import argparse

__all__ = ["Outcome", "add_folders", "add_workers", "finish"]

_LISTED = 20


class Outcome(Protocol):
    """What the function behind such a command returns."""

    failed: dict[str, str]

    def format(self) -> str:
        """Summary for the screen."""


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add ``root`` with its options, and ``--out``."""
    add_source(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``; one process per core by default, at most eight."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, cores or 1),
        help="processes, each with its own memory; 0 = in this process (default: %(default)s)",
    )


def finish(outcome: Outcome, done: str) -> int:
    """Print what was done, and list images that failed on stderr.

    Args:
        outcome: Its summary and failures (image id to what went wrong).
        done: What was to be done with them, such as ``"converted"``.

    Returns:
        Exit status: 0 without failures, else 1.
    """
    sys.stdout.write(outcome.format() + "\n")
    if not outcome.failed:
        return 0
    failed = list(outcome.failed.items())
    reasons = "".join(f"  {name}: {why}\n" for name, why in failed[:_LISTED])
    more = f"  … and {len(failed) - _LISTED} more\n" if len(failed) > _LISTED else ""
    sys.stderr.write(
        f"error: {len(failed)} images could not be {done}:\n{reasons}{more}correct them and run "
        "the same command again: it does only what is missing\n"
    )
    return 1
