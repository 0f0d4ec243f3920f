"""What each stage of CC4S trains, and the formulas that a preset chooses."""

from __future__ import annotations

from typing import Any, Literal

from scribbleseg.errors import ConfigError
from scribbleseg.options import check_choice, check_flag, check_number, check_whole

__all__ = ["PRESETS", "STAGES", "LossPreset", "Stage", "check_options", "stage_options"]

Stage = Literal["certainty", "consistency", "retrain"]
LossPreset = Literal["library", "reference", "paper"]

STAGES: dict[Stage, dict[str, float]] = {
    "certainty": {"consistency_weight": 0.0, "consistency_start": 0.0, "colour_weight": 0.0},
    "consistency": {"consistency_weight": 30.0, "consistency_start": 0.0, "colour_weight": 0.0},
    # both phases again, one after the other, on pseudo-labels
    "retrain": {"consistency_weight": 30.0, "consistency_start": 0.5, "colour_weight": 1.0},
}
"""Weights and starts of the terms that differ between the stages."""

PRESETS: dict[LossPreset, dict[str, Any]] = {
    "library": {"consistency_axis": "query"},
    # the released colour term has gradients 10^-11 times those of the cross-entropy
    "reference": {"consistency_axis": "query", "colour_weight": 0.0},
    # the transition matrix that the walk itself uses
    "paper": {"consistency_axis": "key"},
}
"""Formulas: the library's, those that the released code amounts to, those of the abstracts."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "consistency_feature": ("P", "x", "z"),
    "consistency_axis": ("query", "key"),
    "consistency_transform": ("flip", "translation", "random"),
}
_WEIGHTS = ("entropy_weight", "consistency_weight", "colour_weight", "trace_weight")
_SHARES = ("entropy_start", "entropy_ramp", "consistency_start", "shift")


def stage_options(stage: Stage, loss_preset: LossPreset, given: dict[str, Any]) -> dict[str, Any]:
    """Options of a stage: what is given, else the preset's, else the stage's.

    Args:
        stage: Row of :data:`STAGES`.
        loss_preset: Row of :data:`PRESETS`.
        given: Name to value; ``None`` = not given.

    Raises:
        ConfigError: If a name is unknown.

    Example:
        >>> stage_options("retrain", "reference", {"consistency_start": 0.3})["consistency_start"]
        0.3
    """
    check_choice("stage", stage, tuple(STAGES))
    check_choice("loss_preset", loss_preset, tuple(PRESETS))
    chosen = {name: value for name, value in given.items() if value is not None}
    return {**STAGES[stage], **PRESETS[loss_preset], **chosen}


def check_options(options: dict[str, Any], *, walk: bool) -> None:
    """Refuse options that are out of range or would have no effect.

    Args:
        options: Result of :func:`stage_options`.
        walk: Whether there is a random walk.

    Raises:
        ConfigError: Naming the option, its value and what is expected.
    """
    check_flag(entropy_boundaries=options["entropy_boundaries"])
    for name, choices in _CHOICES.items():
        check_choice(name, options[name], choices)
    check_whole(0, view_seed=options["view_seed"])
    check_number(**{name: options[name] for name in (*_WEIGHTS, *_SHARES)})
    for name in _WEIGHTS:
        if options[name] < 0:
            raise ConfigError(f"{name}={options[name]}: expected 0 or more")
    for name in _SHARES:
        value = options[name]
        if not 0 <= value <= 1 or (value == 1 and name.endswith("_start")):
            raise ConfigError(f"{name}={value}: expected a share of the whole, such as 0.5")
    feature = options["consistency_feature"]
    if not walk and options["consistency_weight"] and feature != "x":
        raise ConfigError(
            f"walk=False with consistency_feature={feature!r}: without a walk there is nothing of "
            "it that could agree; set consistency_feature: x, or consistency_weight: 0"
        )
    if options["entropy_boundaries"] and not options["entropy_weight"]:
        raise ConfigError(
            "entropy_boundaries=True with entropy_weight=0: superpixels would not be used; set it "
            "to false, or give the entropy a weight"
        )
