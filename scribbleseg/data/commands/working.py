"""What commands that work through many images share: processes, and what to say of failures."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

__all__ = ["add_workers", "report_failures"]

_LISTED = 20


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``; one process per core by default, at most eight."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, cores or 1),
        help="processes, each with its own memory; 0 = in this process (default: %(default)s)",
    )


def report_failures(failed: Mapping[str, str], done: str) -> int:
    """List images that failed on stderr.

    Args:
        failed: Image id to what went wrong.
        done: What was to be done with them, such as ``"converted"``.

    Returns:
        Exit status: 0 without failures, else 1.
    """
    if not failed:
        return 0
    reasons = "".join(f"  {name}: {why}\n" for name, why in list(failed.items())[:_LISTED])
    more = f"  … and {len(failed) - _LISTED} more\n" if len(failed) > _LISTED else ""
    sys.stderr.write(
        f"error: {len(failed)} images could not be {done}:\n{reasons}{more}correct them and run "
        "the same command again: it does only what is missing\n"
    )
    return 1
