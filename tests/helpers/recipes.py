"""The recipes in examples/: which there are, and what a preset goes on top of."""

from __future__ import annotations

from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
PRESETS = sorted((EXAMPLES / "presets").glob("*.yaml"))
RECIPES = sorted(set(EXAMPLES.rglob("*.yaml")) - set(PRESETS))


def name_of(recipe: Path) -> str:
    """``ptrecl_voc/1_cam.yaml``."""
    return recipe.relative_to(EXAMPLES).as_posix()


def below_preset(preset: Path) -> list[Path]:
    """Files that a preset goes on top of in tests."""
    # regions are the choice of what it goes on top of
    regions = [preset.with_name("spml.yaml")] if preset.stem == "spml_reference" else []
    return [EXAMPLES / "pce_acdc.yaml", *regions]
