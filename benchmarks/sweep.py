"""Plans that vary one option over several values: more recipes, and curves of their scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def cell_name(recipe: str, option: str, value: float) -> str:
    """Name of a recipe at one value; at 0 an option changes nothing, so all options share it."""
    return recipe if value == 0 else f"{recipe} {option.rsplit('.', 1)[-1]} {value:g}"


def expand_sweep(plan: dict[str, Any]) -> dict[str, Any]:
    """A recipe for every recipe, swept option and value of the plan; the plan itself without."""
    if "sweep" not in plan:
        return plan
    recipes = {}
    for recipe, spec in plan["recipes"].items():
        for option, values in plan["sweep"].items():
            for value in values:
                changed = {} if value == 0 else {option: value}
                overrides = {**(spec.get("overrides") or {}), **changed}
                recipes[cell_name(recipe, option, value)] = {**spec, "overrides": overrides}
    return {**plan, "recipes": recipes, "swept": list(plan["recipes"])}


def plot_sweep(plan: dict[str, Any], results: list[dict[str, Any]], path: Path) -> None:
    """Score over value, one panel per data set and option, one line per recipe.

    Data sets without any run get no panel. The metric is the plan's ``plot``. Lines are means over
    seeds, bars the standard deviation.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    runs = {(cell["data"], cell["recipe"]): cell["runs"] for cell in results}
    shown = [name for name in plan["data"] if any(name == data for data, _ in runs)]
    shape = len(shown), len(plan["sweep"])
    figure, panels = plt.subplots(
        *shape, figsize=(4 * shape[1], 3.2 * shape[0]), squeeze=False, sharey="row"
    )
    for row, data in zip(panels, shown, strict=True):
        for panel, (option, values) in zip(row, plan["sweep"].items(), strict=True):
            for recipe in plan["swept"]:
                points = []
                for value in values:
                    cell = runs.get((data, cell_name(recipe, option, value)), [])
                    metric = plan["plot"][data]
                    scores = [100 * run["scores"][metric] for run in cell]
                    if scores:
                        points.append((value, np.mean(scores), np.std(scores)))
                if points:
                    panel.errorbar(*zip(*points, strict=True), marker="o", capsize=3, label=recipe)
            panel.set_xlabel(option.rsplit(".", 1)[-1].replace("_", " "))
            panel.set_title(data)
            panel.grid(alpha=0.3)
        row[0].set_ylabel(plan["metrics"][plan["plot"][data]] + " (%)")
        if row[0].get_legend_handles_labels()[0]:
            row[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
