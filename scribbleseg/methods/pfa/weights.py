"""Which loss terms count in which phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from scribbleseg.errors import ConfigError
from scribbleseg.options import check_choice, check_number

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PRESETS", "TERMS", "LossPreset", "Phase", "phase_weights"]

Phase = Literal["warmup", "local", "global"]
LossPreset = Literal["joint", "reference", "paper"]

TERMS = ("plain", "pce_local", "pce_global", "con_local", "con_global")
"""Partial cross-entropies of the three predictions, and consistency with the plain one."""

PRESETS: dict[LossPreset, dict[Phase, dict[str, float]]] = {
    # the plain classifier stays supervised, because it is what predicts without labels
    "joint": {
        "warmup": {"plain": 1.0},
        "local": {"plain": 1.0, "pce_local": 1.0, "con_local": 0.02},
        "global": {"plain": 1.0, "pce_global": 1.0, "con_local": 0.01, "con_global": 0.01},
    },
    "reference": {  # the released code
        "warmup": {"plain": 1.0},
        "local": {"pce_local": 1.0, "con_local": 0.02},
        "global": {"pce_global": 1.0, "con_local": 0.01, "con_global": 0.01},
    },
    "paper": {  # as described; meant for the consistency `soft_ce`
        "warmup": {"plain": 1.0},
        "local": {"plain": 1.0, "con_local": 0.02},
        "global": {"plain": 1.0, "con_local": 0.02, "con_global": 0.05},
    },
}
"""Weights of the terms per phase; a term that is not named has weight 0."""


def phase_weights(
    preset: LossPreset, changes: Mapping[str, Mapping[str, float]] | None = None
) -> dict[Phase, dict[str, float]]:
    """The weight table of a preset with single values changed.

    Args:
        preset: Name of :data:`PRESETS`.
        changes: ``{phase: {term: weight}}``.

    Returns:
        Weight of every term in every phase.

    Raises:
        ConfigError: If a phase or term is unknown, or a weight is negative or no number.

    Example:
        >>> phase_weights("paper", {"global": {"pce_global": 0.5}})["global"]["pce_global"]
        0.5
    """
    check_choice("loss_preset", preset, tuple(PRESETS))
    table = {
        phase: {term: weights.get(term, 0.0) for term in TERMS}
        for phase, weights in PRESETS[preset].items()
    }
    for phase, weights in (changes or {}).items():
        check_choice("loss_weights: phase", phase, get_args(Phase))
        for term, weight in weights.items():
            check_choice(f"loss_weights.{phase}: term", term, TERMS)
            check_number(**{f"loss_weights.{phase}.{term}": weight})
            if weight < 0:
                raise ConfigError(f"loss_weights.{phase}.{term}={weight}: expected 0 or more")
            table[phase][term] = float(weight)  # type: ignore[index]
    if any(table["warmup"][term] for term in TERMS[1:]):
        raise ConfigError(
            "loss_weights.warmup: there are no prototypes before the end of the warm-up, so only "
            "`plain` may have a weight there; set `warmup: 0` to use them from the start"
        )
    return table
