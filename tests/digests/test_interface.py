"""Public names: parameters with defaults and annotations as written, fields, choices, members.

One line a name, so that a change of the interface is one line of a difference.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import inspect
import re
import types
from pathlib import PurePath
from typing import Any, ForwardRef, Literal, get_args, get_origin

import numpy as np
import pytest
from helpers.contract import TINY_ENCODER
from helpers.digests import sha, sha_of
from lightning.pytorch import Callback, LightningModule

from scribbleseg import callbacks, methods

FACADES = ("", "callbacks", "data", "data.sources", "functional", "methods", "nn")
# what the constructors of some callbacks cannot do without
NEEDED = {
    "PredictionPanel": {"folder": "panels"},
    "PreemptionCheckpoint": {"folder": "checkpoints"},
    "PseudoLabelWriter": {"folder": "predictions"},
    "RandomWalkWriter": {"seed_source": "scribble"},
    "ReclassificationWriter": {"mask_dir": "masks"},
    "RunSummary": {"folder": "run"},
}
LONGEST = 600  # characters of a constant; of longer ones the beginning and a digest


@functools.cache
def public_names(facade: str) -> dict[str, Any]:
    """What a facade gives; names of packages are not part of it."""
    package = importlib.import_module(f"scribbleseg.{facade}".rstrip("."))
    things = {name: getattr(package, name) for name in {*package._homes, *package.__all__}}
    kept = {n: t for n, t in things.items() if not isinstance(t, types.ModuleType)}
    return {name: kept[name] for name in sorted(kept) if name != "__version__"}


def home(facade: str, name: str, thing: Any) -> str:
    """The deepest facade that has the same thing: it tells what others only pass on."""
    others = [f for f in FACADES if public_names(f).get(name) is thing]
    return max(others, key=lambda f: (f.count("."), len(f))) if others else facade


@functools.cache
def public_classes() -> frozenset[type]:
    """Every class of the package that a user can import."""
    things = (thing for facade in FACADES for thing in public_names(facade).values())
    return frozenset(thing for thing in things if inspect.isclass(thing))


def is_ours(cls: type) -> bool:
    """Whether the package defines a class."""
    return cls.__module__.split(".")[0] == "scribbleseg"


def shown(value: Any) -> str:
    """A value without addresses, paths of this machine, and order of sets."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if inspect.isclass(value) or inspect.isroutine(value):
        return value.__qualname__
    if isinstance(value, PurePath):
        return f"Path({value.as_posix()})"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(shown, value)))}}}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        pairs = zip(value._fields, value, strict=True)
        return f"{type(value).__name__}({', '.join(f'{k}={shown(v)}' for k, v in pairs)})"
    if isinstance(value, np.ndarray):
        return sha_of(value)
    if isinstance(value, list | tuple):
        text = ", ".join(map(shown, value))
        return f"[{text}]" if isinstance(value, list) else f"({text}{',' * (len(value) == 1)})"
    if isinstance(value, dict | types.MappingProxyType):
        return "{" + ", ".join(f"{shown(k)}: {shown(v)}" for k, v in value.items()) + "}"
    if dataclasses.is_dataclass(value):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
        return f"{type(value).__name__}({', '.join(f'{k}={shown(v)}' for k, v in pairs)})"
    if isinstance(value, re.Pattern):
        return f"re({value.pattern!r})"
    text = repr(value)
    return type(value).__name__ if " at 0x" in text else text


def annotation(written: Any) -> str:
    """An annotation as it is written in the file, but for the files that names come from."""
    if written is inspect.Parameter.empty:
        return ""
    if isinstance(written, ForwardRef):
        written = written.__forward_arg__
    return without_files(written) if isinstance(written, str) else type_text(written)


def without_files(text: str) -> str:
    """``Tensor`` for ``torch.Tensor``."""
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Za-z])", "", text)


def type_text(alias: Any) -> str:
    """A type or an alias by its short name, the choices of a Literal as values."""
    if get_origin(alias) is Literal:
        return f"Literal[{', '.join(map(repr, get_args(alias)))}]"
    if inspect.isclass(alias) and not get_args(alias):
        return alias.__name__
    return without_files(str(alias))


def parameters(function: Any, *, skip: int = 0) -> str:
    """``(a: int, *, b='x')`` of a function."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # made outside of Python
        return "(…)"
    parts: list[str] = []
    kinds = [parameter.kind for parameter in signature.parameters.values()][skip:]
    for number, parameter in enumerate([*signature.parameters.values()][skip:]):
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        before = kinds[:number]
        if parameter.kind is parameter.KEYWORD_ONLY and not (
            {parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL} & {*before}
        ):
            parts.append("*")
        if before[-1:] == [parameter.POSITIONAL_ONLY] != [parameter.kind]:
            parts.append("/")
        text = stars.get(parameter.kind, "") + parameter.name
        note = annotation(parameter.annotation)
        text += f": {note}" if note else ""
        if parameter.default is not parameter.empty:
            text += f"={shown(parameter.default)}"
        parts.append(text)
    result = annotation(signature.return_annotation)
    return f"({', '.join(parts)})" + (f" -> {result}" if result else "")


def fields(cls: type) -> str:
    """``(a: int, b: list[int]=list())`` of a dataclass."""
    parts = []
    for field in dataclasses.fields(cls):
        text = f"{field.name}: {annotation(field.type)}"
        if field.default is not dataclasses.MISSING:
            text += f"={shown(field.default)}"
        elif field.default_factory is not dataclasses.MISSING:
            text += f"={shown(field.default_factory())}"
        parts.append(text if field.init else f"{text} (not an argument)")
    return f"({', '.join(parts)})"


def construction(cls: type) -> str:
    """Kind of a class and how it is made."""
    if issubclass(cls, enum.Enum):
        return "enum " + ", ".join(f"{item.name}={shown(item.value)}" for item in cls)
    if dataclasses.is_dataclass(cls):
        frozen = "frozen " if cls.__dataclass_params__.frozen else ""
        return f"{frozen}dataclass{fields(cls)}"
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        notes, defaults = cls.__annotations__, cls._field_defaults
        parts = [
            f"{name}: {annotation(notes[name])}"
            + (f"={shown(defaults[name])}" if name in defaults else "")
            for name in cls._fields
        ]
        return f"named tuple({', '.join(parts)})"
    if hasattr(cls, "__total__"):
        notes = (f"{name}: {annotation(note)}" for name, note in cls.__annotations__.items())
        optional = sorted(cls.__optional_keys__)
        return f"typed dict({', '.join(notes)})" + (f" optional {optional}" if optional else "")
    bases = [base.__name__ for base in cls.__mro__[1:] if base in public_classes()]
    outside = [base.__name__ for base in cls.__mro__[1:] if not is_ours(base)]
    owner = next((base for base in cls.__mro__ if "__init__" in vars(base)), object)
    made = parameters(owner.__init__, skip=1) if is_ours(owner) else "(as its base)"
    # the first foreign base says what it is to Lightning and torch, however many ours are between
    return f"class({', '.join(bases + outside[:1])}){made.removesuffix(' -> None')}"


def members(cls: type) -> dict[str, str]:
    """Public methods, properties and class attributes that are not those of a foreign base."""
    foreign = {name for base in cls.__mro__ if not is_ours(base) for name in dir(base)}
    names = {name for base in cls.__mro__ if is_ours(base) for name in vars(base)}
    plain = {*getattr(cls, "__dataclass_fields__", ()), *getattr(cls, "_fields", ())}
    if issubclass(cls, enum.Enum):
        plain |= {*cls.__members__}
    kept = sorted(name for name in names - foreign - plain if not name.startswith("_"))
    return {name: member(inspect.getattr_static(cls, name)) for name in kept}


def member(value: Any) -> str:
    """One attribute of a class."""
    if isinstance(value, property):
        result = annotation(inspect.signature(value.fget).return_annotation)
        return f": {result} (property{', can be set' if value.fset else ''})"
    if isinstance(value, functools.cached_property):
        return f": {annotation(inspect.signature(value.func).return_annotation)} (property)"
    if isinstance(value, staticmethod):
        return f"{parameters(value.__func__)} (static)"
    if isinstance(value, classmethod):
        return f"{parameters(value.__func__, skip=1)} (of the class)"
    if inspect.isfunction(value):
        return parameters(value, skip=1)
    return f" = {cut(shown(value))}"


def cut(text: str) -> str:
    """Not more than a line of a long constant."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:150]}… {len(text)} characters, {sha(text)}"


def describe(thing: Any) -> str:
    """One line for a public name."""
    if inspect.isclass(thing) and is_ours(thing):
        return construction(thing)
    if inspect.isroutine(thing) or hasattr(thing, "__wrapped__"):
        return parameters(thing)
    if get_origin(thing) is not None or inspect.isclass(thing):
        return f"type {type_text(thing)}"
    return f"{type(thing).__name__} {cut(shown(thing))}"


@pytest.mark.parametrize("facade", FACADES, ids=lambda f: f or "scribbleseg")
def test_public_names_and_their_parameters(facade: str, digest) -> None:
    facts = {}
    for name, thing in public_names(facade).items():
        told = home(facade, name, thing)
        facts[name] = describe(thing) if told == facade else f"see scribbleseg.{told}"
    digest.check(f"scribbleseg.{facade}".rstrip("."), facts)


@pytest.mark.parametrize("facade", FACADES, ids=lambda f: f or "scribbleseg")
def test_members_of_public_classes(facade: str, digest, monkeypatch) -> None:
    """A member that a public base has alike is told once, at the base."""
    monkeypatch.setattr(callbacks.PreemptionCheckpoint, "last_written", None)  # by tests before
    facts = {}
    for name, cls in public_names(facade).items():
        if not inspect.isclass(cls) or not is_ours(cls) or home(facade, name, cls) != facade:
            continue
        bases = [base for base in cls.__mro__[1:] if base in public_classes()]
        inherited = {item for base in bases for item in members(base).items()}
        facts |= {f"{name}.{key}": text for key, text in {*members(cls).items()} - inherited}
    digest.check(f"members of scribbleseg.{facade}".rstrip("."), facts)


@pytest.mark.parametrize("name", methods.__all__)
def test_attributes_of_a_method(name: str, digest) -> None:
    """Layers and values of a module as the command line makes it, but for Lightning's own."""
    options = {"encoder": TINY_ENCODER, "encoder_weights": None}
    module = getattr(methods, name)(3, **options)
    digest.check(f"attributes of {name}", attributes(module, LightningModule()))


@pytest.mark.parametrize("name", callbacks.__all__)
def test_attributes_of_a_callback(name: str, digest) -> None:
    callback = getattr(callbacks, name)(**NEEDED.get(name, {}))
    digest.check(f"attributes of {name}", attributes(callback, Callback()))


@pytest.mark.parametrize("name", [*methods.__all__, *callbacks.__all__])
def test_what_becomes_of_options_out_of_place(name: str, digest) -> None:
    """What a constructor says to words, minus one and zero in place of its numbers and flags."""
    if name in methods.__all__:
        cls = getattr(methods, name)
        given = {"num_classes": 3, "encoder": TINY_ENCODER, "encoder_weights": None}
    else:
        cls, given = getattr(callbacks, name), NEEDED.get(name, {})
    outcomes = {}
    for option in inspect.signature(cls).parameters.values():
        kind = str(option.annotation).split(" | ")[0]
        for value in {"bool": ["false"], "int": ["3", -1, 0], "float": ["3", -1.0, 0.0]}.get(
            kind, []
        ):
            try:
                cls(**{**given, option.name: value})
                said = "accepted"
            except Exception as error:  # noqa: BLE001 - which one it is, is what is recorded
                said = f"{type(error).__name__}: {cut(str(error))}"
            outcomes[f"{option.name}={value!r}"] = said
    digest.check(f"options out of place of {name}", outcomes)


def attributes(thing: Any, foreign: Any) -> str:
    """Names of public attributes that a constructor sets."""
    kinds = ("_modules", "_parameters", "_buffers")
    names = {*vars(thing), *(name for kind in kinds for name in vars(thing).get(kind, ()))}
    return " ".join(sorted(n for n in names - {*vars(foreign)} if not n.startswith("_")))
