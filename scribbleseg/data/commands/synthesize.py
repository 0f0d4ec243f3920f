"""``synthesize ROOT --out DIR``: scribbles or points from masks, or degraded scribbles."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from scribbleseg.data.commands.opening import open_source
from scribbleseg.data.commands.working import add_folders, add_workers, finish
from scribbleseg.data.synthesize import synthesize_folder
from scribbleseg.errors import ConfigError
from scribbleseg.functional.degrade import Degradation
from scribbleseg.functional.scribble_styles import PointStyle, ScribbleStyle

if TYPE_CHECKING:
    import argparse

    from scribbleseg.data.synthesize import Recipe

__all__ = ["add"]

_RECIPES: dict[str, type[ScribbleStyle | PointStyle | Degradation]] = {
    "scribbles": ScribbleStyle,
    "points": PointStyle,
    "degrade": Degradation,
}


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "synthesize",
        help="make scribbles or points from masks, or shorten and drop scribbles; resumable",
        description="Write one palette PNG per image, manifest.json with all options, and "
        "overview.png. No drawn pixel contradicts its mask. Finished files are kept, so the same "
        "command goes on after an interruption. Train on them by naming DIR where the source "
        "takes a folder of scribbles (scribble_dir or scribbles), or, with any source, by "
        "label_type: pseudo and pseudo_label_dir: DIR.",
    )
    add_folders(parser)
    parser.add_argument("--split", choices=("train", "val", "test"), default="train")
    parser.add_argument(
        "--mode",
        choices=tuple(_RECIPES),
        default="scribbles",
        help="scribbles or points from masks (default: scribbles), or degrade: existing scribbles, "
        "shortened or dropped",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the data set (default: 0)")
    parser.add_argument(
        "--no-background", action="store_true", help="leave the background class out"
    )
    parser.add_argument(
        "--min-area", type=int, metavar="PX", help="smaller regions get nothing (default: 100)"
    )
    _add_scribble_options(parser.add_argument_group("mode scribbles"))
    points = parser.add_argument_group("mode points")
    points.add_argument("--count", type=int, help="points per class or component (default: 1)")
    points.add_argument("--radius", type=float, help="radius in pixels (default: 3)")
    points.add_argument(
        "--per", choices=("class", "component"), help="what gets the points (default: class)"
    )
    degrade = parser.add_argument_group("mode degrade")
    degrade.add_argument("--shrink", type=float, metavar="R", help="share of length taken away")
    degrade.add_argument("--drop", type=float, metavar="R", help="share of strokes left out")
    degrade.add_argument(
        "--anchor", choices=("random", "center"), help="what strokes shrink to (default: random)"
    )
    add_workers(parser)
    parser.set_defaults(run=_synthesize, allow_dense_scribbles=False)


def _add_scribble_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--width", type=float, metavar="PX", help="stroke width (default: 3)")
    group.add_argument(
        "--length-ratio", type=float, help="share of the longest path drawn (default: 0.7)"
    )
    group.add_argument(
        "--erosion", type=float, metavar="PX", help="distance kept from borders (default: 3)"
    )
    group.add_argument("--jitter", type=float, help="wobble, as a share of the room (default: 0.3)")
    group.add_argument(
        "--max-strokes", type=int, metavar="N", help="strokes per class (default: no limit)"
    )


def _recipe(options: argparse.Namespace) -> Recipe:
    """The recipe of the mode; options of other modes are refused, not ignored."""
    kind: Any = _RECIPES[options.mode]
    own = {field.name for field in fields(kind)} - {"skip", "seed"}
    every = {field.name for recipe in _RECIPES.values() for field in fields(recipe)}
    given = {
        name: getattr(options, name)
        for name in sorted(every - {"skip", "seed"})
        if getattr(options, name) is not None
    }
    foreign = [f"--{name.replace('_', '-')}" for name in given if name not in own]
    if options.no_background and kind is Degradation:
        foreign.append("--no-background")
    if foreign:
        raise ConfigError(
            f"{', '.join(foreign)}: not an option of --mode {options.mode}; remove it, or choose "
            "another mode"
        )
    if kind is Degradation:
        given["seed"] = options.seed
    recipe: Recipe = kind(**given)
    return recipe


def _synthesize(options: argparse.Namespace) -> int:
    recipe = _recipe(options)
    source = open_source(options)
    report = synthesize_folder(
        source,
        options.out,
        recipe,
        split=options.split,
        seed=options.seed,
        background=not options.no_background,
        workers=options.workers,
    )
    return finish(report, "made")
