"""What ``ops.py`` measures: each case computes one thing in several ways.

A case is a function of a :class:`Setup` and of sizes that makes the inputs and returns the ways;
importing a module of this package registers its cases.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CASES", "Case", "Setup", "Way", "case", "why_missing"]


@dataclass(frozen=True)
class Setup:
    """Where to run.

    Attributes:
        device: Of the inputs, ``"cpu"`` or ``"cuda"``.
        threads: Of each way.
        peer_python: Interpreter that has the peers which do not install everywhere.
    """

    device: str = "cpu"
    threads: int = 1
    peer_python: str = ""


@dataclass(frozen=True)
class Way:
    """One way to compute the thing.

    Attributes:
        kind: Ours, the formula as one would write it down, or another package.
        label: What it calls; no two of a case are equal.
        run: Computes it once on inputs that are ready; what it returns is compared with the first
            way's, unless None.
        missing: Why it cannot run here.
        on_host: Runs on the CPU, whatever the device.
        outcome: Computes it once and returns the result, if ``run`` does not.
        memory: Measures its own peak in MiB, if it runs in another process.
    """

    kind: Literal["ours", "naive", "peer"]
    label: str
    run: Callable[[], Any]
    missing: str | None = None
    on_host: bool = False
    outcome: Callable[[], Any] | None = None
    memory: Callable[[], float | None] | None = None


@dataclass(frozen=True)
class Case:
    """A registered case.

    Attributes:
        name: For ``--only``.
        about: What is computed.
        ways: Makes the ways; the first is ours.
        full: Sizes that are reported.
        quick: Sizes for tests, and for loading code before memory is measured.
        cpu_only: The function works on arrays of the host.
    """

    name: str
    about: str
    ways: Callable[..., list[Way]]
    full: dict[str, Any]
    quick: dict[str, Any]
    cpu_only: bool = False


CASES: dict[str, Case] = {}


def case(
    name: str,
    about: str,
    *,
    full: dict[str, Any],
    quick: dict[str, Any],
    cpu_only: bool = False,
) -> Callable[[Callable[..., list[Way]]], Callable[..., list[Way]]]:
    """Register a function as a case; ``quick`` may name the sizes that differ only."""

    def register(ways: Callable[..., list[Way]]) -> Callable[..., list[Way]]:
        CASES[name] = Case(name, about, ways, full, {**full, **quick}, cpu_only)
        return ways

    return register


def why_missing(module: str, package: str | None = None) -> str | None:
    """Reason to skip a peer, None if it is installed."""
    return None if find_spec(module) else f"{package or module} is not installed"


for _module in ("grid_losses", "trees", "dense_crf", "walks", "pixels", "clustering"):
    importlib.import_module(f"{__name__}.{_module}")
