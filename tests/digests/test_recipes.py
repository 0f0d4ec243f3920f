"""What recipes and command lines mean: every option that is not its class's default, and options.

A recipe's whole configuration, as ``--print_config`` prints it, is what is recorded of the recipe,
on top of the defaults recorded of its classes and commands.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.recipes import EXAMPLES, PRESETS, RECIPES, below_preset, name_of
from jsonargparse import ArgumentParser
from lightning.pytorch import Trainer

import scribbleseg
from scribbleseg import callbacks, data, functional, main, merge_regularizers, methods
from scribbleseg.data import sources

FACADES = (scribbleseg, callbacks, data, functional)
CLASSES = {
    "ScribbleDataModule": data.ScribbleDataModule,
    "SyntheticSource": sources.SyntheticSource,
    **{name: getattr(methods, name) for name in methods.__all__},
    **{name: getattr(callbacks, name) for name in callbacks.__all__},
    **{name: getattr(sources, name) for name in sources.__all__ if name.endswith("Source")},
}
COMMANDS = {
    **{f"scribbleseg {stage}": (main, [stage]) for stage in ("fit", "validate", "test", "predict")},
    "scribbleseg predict --images": (main, ["predict", "--images", "folder"]),
    **{
        f"python -m scribbleseg.data {command}": (data.main, [command])
        for command in ("check", "convert", "synthesize", "propagate", "superpixels")
    },
}


# set by links to others, or by the parser itself
LINKED = ("num_classes", "in_channels", "subcommand", "config", "help", "print_config")


@functools.cache
def parser_of(command: str) -> argparse.ArgumentParser:
    """The parser that answers ``COMMAND --help``."""
    function, words = COMMANDS[command]
    asked: list[argparse.ArgumentParser] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "print_help", lambda self, *_: asked.append(self))
        with pytest.raises(SystemExit):
            function([*words, "--help"])
    return asked[0]


def plain(value: Any) -> Any:
    """A value as JSON holds it."""
    return json.loads(json.dumps(value, default=str))


@functools.cache
def defaults_of(cls: Any) -> dict[str, Any]:
    """What the command line sets if a recipe says nothing about an option of a class."""
    if dataclasses.is_dataclass(cls):
        return plain({field.name: field.default for field in dataclasses.fields(cls)})
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, fail_untyped=False)
    return plain(parser.get_defaults().as_dict())


@functools.cache
def defaults_of_keys(keys: tuple[str, ...]) -> dict[str, Any]:
    """Defaults of the public dataclass with these fields, nothing if there is none."""
    for facade in FACADES:
        for name in facade._homes:
            thing = getattr(facade, name)
            if inspect.isclass(thing) and dataclasses.is_dataclass(thing):
                fields = [field.name for field in dataclasses.fields(thing)]
                if sorted(fields) == sorted(keys):
                    return defaults_of(thing)
    return {}


@functools.cache
def defaults_of_stage(command: str = "scribbleseg fit") -> dict[str, Any]:
    """Options outside of model, data and Lightning's own defaults."""
    actions = parser_of(command)._actions
    found = {action.dest: plain(action.default) for action in actions}
    return {key: value for key, value in found.items() if key not in ("model", "data", *LINKED)}


def chosen(config: Any, place: str = "") -> Any:
    """Dotted names and values of what differs from the defaults, in the order of the config."""
    if isinstance(config, dict) and "class_path" in config:
        path = config["class_path"]
        yield place, path
        options = config.get("init_args", {})
        usual = defaults_of(CLASSES[path.rsplit(".", 1)[-1]])
        yield from differing(options, usual, f"{place}.")
    elif isinstance(config, dict):
        yield from differing(config, defaults_of_keys(tuple(config)), f"{place}.")
    elif isinstance(config, list) and any(isinstance(item, dict) for item in config):
        for number, item in enumerate(config):
            yield from chosen(item, f"{place}.{number}")
    else:
        yield place, config


def differing(options: dict[str, Any], usual: dict[str, Any], place: str) -> Any:
    """As :func:`chosen`; defaults that are missing are told as well."""
    for key, value in options.items():
        if key not in usual or value != usual[key]:
            yield from chosen(value, f"{place}{key}")
    for key in usual.keys() - options.keys() - {*LINKED}:
        yield f"{place}{key}", "missing"


@functools.cache
def parsed(*files: Path) -> dict[str, Any]:
    """The configuration of ``fit --config FILE …``."""
    parser: Any = parser_of("scribbleseg fit")
    words = merge_regularizers(["fit", *(f"--config={file}" for file in files)])
    return yaml.safe_load(
        parser.dump(parser.parse_args(words[1:]), skip_validation=True, skip_unset=False)
    )


def told(config: dict[str, Any]) -> dict[str, Any]:
    """The options of a configuration that are not as usual; lists as text, a line each."""
    usual = defaults_of_stage()
    flat = {key: value for key, value in config.items() if key != "trainer"}
    flat |= {f"trainer.{key}": value for key, value in config["trainer"].items()}
    pairs = [
        pair
        for key, value in flat.items()
        if key in ("model", "data") or key not in usual or value != usual[key]
        for pair in chosen(value, key)
    ]
    return {k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in pairs}


@pytest.mark.parametrize("recipe", RECIPES, ids=name_of)
def test_configuration_of_a_recipe(recipe: Path, digest) -> None:
    digest.check(name_of(recipe), told(parsed(recipe)))


@pytest.mark.parametrize("preset", PRESETS, ids=name_of)
def test_configuration_of_a_preset_on_top_of_a_recipe(preset: Path, digest) -> None:
    """What it changes; options that are as usual then are ``gone``."""
    below = below_preset(preset)
    before, after = told(parsed(*below[:1])), told(parsed(*below, preset))
    changes = {key: value for key, value in after.items() if before.get(key, "") != value}
    digest.check(name_of(preset), changes | dict.fromkeys(before.keys() - after.keys(), "gone"))


@pytest.mark.parametrize("name", ["pce_acdc", "ptrecl_voc/4_reclassify"])
def test_print_config_prints_it(name: str, capsys) -> None:
    file = EXAMPLES / f"{name}.yaml"
    with pytest.raises(SystemExit) as caught:
        main(["fit", "--config", str(file), "--print_config"])
    assert caught.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out) == parsed(file)


@pytest.mark.parametrize("name", CLASSES)
def test_options_of_a_class_on_the_command_line(name: str, digest) -> None:
    """Those that it passes on to its base included."""
    pairs = (f"{key}={json.dumps(v)}" for key, v in defaults_of(CLASSES[name]).items())
    digest.check(f"options of {name}", ", ".join(pairs))


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_a_command(command: str, digest) -> None:
    """Names, choices and defaults that its help lists, but for what Lightning's trainer has."""
    trainer = inspect.signature(Trainer).parameters
    lines = []
    for action in parser_of(command)._actions:
        name = action.dest.removeprefix("trainer.")
        if name.endswith(".help") or action.default == argparse.SUPPRESS:
            continue  # of the parser itself
        own = action.dest == name or action.default != trainer[name].default
        if own and action.dest not in LINKED:
            lines.append(option(action))
    digest.check(command, lines)


def option(action: argparse.Action) -> str:
    """One option of a parser."""
    text = ", ".join(action.option_strings) or action.dest
    text += f" nargs={action.nargs}" if action.nargs not in (None, 1) else ""
    text += f" of {[str(choice) for choice in action.choices]}" if action.choices else ""
    if action.required:
        return f"{text} (required)"
    if action.dest == "workers":
        return f"{text} = one per core"
    return f"{text} = {json.dumps(plain(action.default))}"
