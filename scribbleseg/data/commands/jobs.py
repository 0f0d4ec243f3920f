"""``convert``, ``synthesize``, ``propagate``, ``superpixels``: commands that fill a folder."""

from __future__ import annotations

import inspect
import os
import re
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from scribbleseg.data.commands.opening import add_source, open_source
from scribbleseg.data.jobs.convert import convert_source
from scribbleseg.data.jobs.labels import MODES, propagate_scribbles, synthesize_folder
from scribbleseg.data.jobs.superpixels import write_superpixels
from scribbleseg.errors import ConfigError
from scribbleseg.functional.superpixels import SuperpixelMethod, SuperpixelOptions

if TYPE_CHECKING:
    import argparse

    from scribbleseg.data.jobs.job import ImageJob

__all__ = ["add"]

_LISTED = 20
_SPLITS = ("train", "val", "test")
_ASKED_APART = {"skip", "seed"}  # options of recipes that belong to the whole command
_COMMANDS: dict[str, tuple[Any, str, str]] = {
    "convert": (convert_source, "converted", "write a data set as a plain folder"),
    "synthesize": (synthesize_folder, "made", "make scribbles or points from masks, or degrade"),
    "propagate": (propagate_scribbles, "propagated", "propagate scribbles into pseudo-labels"),
    "superpixels": (write_superpixels, "segmented", "over-segment images into 16-bit PNGs"),
}
_TRAIN = (
    "Train on them by naming DIR where the source takes a folder of scribbles (scribble_dir or "
    "scribbles), or, with any source, by label_type: pseudo and pseudo_label_dir: DIR."
)


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to the parser."""
    parsers = {name: _add(commands, name) for name in _COMMANDS}
    for name in ("propagate", "synthesize"):
        text = "split to make labels for (default: train)"
        parsers[name].add_argument("--split", choices=_SPLITS, default="train", help=text)
    option = parsers["convert"].add_argument
    text = "splits to convert (default: train, val, and test if there is one)"
    option("--split", nargs="+", dest="splits", choices=_SPLITS, help=text)
    option("--link", action="store_true", help="hard links to image files where the disk can")
    option = parsers["propagate"].add_argument
    option("--beta", type=float, default=100.0, help="how strongly edges stop the labels (100)")
    option("--min-confidence", type=float, help="probability (0 to 1) that a label needs")
    option = parsers["synthesize"].add_argument
    option("--mode", choices=tuple(MODES), default="scribbles", help="what to make")
    option("--seed", type=int, default=0, help="seed of the data set (default: 0)")
    leave_out = "leave the background class out"
    option("--no-background", action="store_false", dest="background", help=leave_out)
    for mode, kind in MODES.items():
        _add_fields(parsers["synthesize"].add_argument_group(f"mode {mode}"), kind)
    option = parsers["superpixels"].add_argument
    text = "splits to segment; predict = all images (default: train)"
    splits = (*_SPLITS, "predict")
    option("--split", nargs="+", dest="splits", choices=splits, default=["train"], help=text)
    text = "about equal sizes, irregular ones that follow edges, or rectangles (default: slic)"
    option("--method", choices=get_args(SuperpixelMethod), default="slic", help=text)
    _add_fields(parsers["superpixels"], SuperpixelOptions)


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str
) -> argparse.ArgumentParser:
    """A command with the options that all have; its function describes it."""
    function, _, text = _COMMANDS[name]
    described = re.split(r"See\s+:|Args:", str(inspect.getdoc(function)))[0].replace("``", "")
    parser = commands.add_parser(
        name,
        help=f"{text}; resumable",
        description=re.sub(r":\w+:`~?(?:\w+\.)*(\w+)`", r"\1", described),
        epilog=_TRAIN if name in ("synthesize", "propagate") else None,
    )
    add_source(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write to")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parser.add_argument(
        "--workers",
        type=int,
        default=min(8, cores or 1),
        help="processes, each with its own memory; 0 = in this process (default: %(default)s)",
    )
    parser.set_defaults(run=_run, allow_dense_scribbles=False)
    return parser


def _add_fields(parser: argparse._ActionsContainer, kind: type[Any]) -> None:
    """Options of a dataclass, explained as in its docstring; ``None`` = not given."""
    text, hints = str(inspect.getdoc(kind)), get_type_hints(kind)
    for field in fields(kind):
        flag = f"--{field.name.replace('_', '-')}"
        if field.name in _ASKED_APART or flag in parser._option_string_actions:
            continue
        first, *others = get_args(hints[field.name]) or (hints[field.name],)
        explained = re.search(rf"\n    {field.name}: ((?:.|\n {{8}})+)", text)
        default = "" if field.default is None else f" (default: {field.default})"
        parser.add_argument(
            flag,
            type=type(first) if isinstance(first, str) else first,
            choices=(first, *others) if isinstance(first, str) else None,
            help=" ".join(explained[1].replace("``", "").split()) + default if explained else None,
        )


def _given(options: argparse.Namespace, kind: type[Any]) -> dict[str, Any]:
    """Options of a dataclass that were given."""
    names = [field.name for field in fields(kind) if field.name not in _ASKED_APART]
    return {n: getattr(options, n) for n in names if getattr(options, n) is not None}


def _run(options: argparse.Namespace) -> int:
    """Do the job; the exit status."""
    function, done, _ = _COMMANDS[options.command]
    known = inspect.signature(function).parameters
    how = {n: value for n, value in vars(options).items() if n in known and n != "source"}
    if "recipe" in known:
        how["recipe"] = _recipe(options)
    if "options" in known:
        how["options"] = SuperpixelOptions(**_given(options, SuperpixelOptions))
    job: ImageJob = function(open_source(options), options.out, **how)
    sys.stdout.write(job.format() + "\n")
    if not job.failed:
        return 0
    failed = list(job.failed.items())
    reasons = "".join(f"  {name}: {why}\n" for name, why in failed[:_LISTED])
    more = f"  … and {len(failed) - _LISTED} more\n" if len(failed) > _LISTED else ""
    sys.stderr.write(
        f"error: {len(failed)} images could not be {done}:\n{reasons}{more}correct them and run "
        "the same command again: it does only what is missing\n"
    )
    return 1


def _recipe(options: argparse.Namespace) -> Any:
    """What to synthesize; options of other modes are refused, not ignored."""
    kind = MODES[options.mode]
    given = _given(options, kind)
    foreign = {name for other in MODES.values() for name in _given(options, other)} - given.keys()
    if not options.background and options.mode == "degrade":
        foreign.add("no_background")
    if foreign:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(foreign))
        raise ConfigError(
            f"{flags}: not an option of --mode {options.mode}; remove it, or choose another mode"
        )
    return kind(**given, **({"seed": options.seed} if options.mode == "degrade" else {}))
