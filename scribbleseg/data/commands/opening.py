"""The data set that a command is about: arguments, and which source its folder belongs to."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scribbleseg.data.sources import SOURCES, recognised
from scribbleseg.errors import ConfigError, ScribbleNotFoundError

if TYPE_CHECKING:
    import argparse

    from scribbleseg.data.sources.files import FileSource

__all__ = ["add_source", "open_source"]


def add_source(parser: argparse.ArgumentParser) -> None:
    """Add ``root``, ``--source`` and the options that some sources have."""
    parser.add_argument("root", type=Path, help="folder of the data set")
    parser.add_argument(
        "--source",
        choices=("auto", *SOURCES),
        default="auto",
        help="layout of the folder (default: recognised by its content)",
    )
    parser.add_argument("--unlabelled-value", type=int, help="scribble value for 'not drawn'")


def open_source(options: argparse.Namespace) -> FileSource:
    """The source of ``options.root``; further options are passed on where the source has them.

    Raises:
        ScribbleNotFoundError: If there is no such folder, or no known layout in it.
        ConfigError: If an option was given that the source does not have.
    """
    root: Path = options.root
    if not root.is_dir():
        raise ScribbleNotFoundError(f"{root}: no such folder")
    name = _recognise(root) if options.source == "auto" else options.source
    kind: Any = SOURCES[name]
    known = inspect.signature(kind).parameters
    given: dict[str, Any] = {}
    for option, unset in (("unlabelled_value", None), ("allow_dense_scribbles", False)):
        value = getattr(options, option, unset)
        if value == unset:
            continue
        if option not in known:
            raise ConfigError(
                f"--{option.replace('_', '-')} is not an option of {name}, but {root} is "
                f"read as {name!r}; pass --source folder if it is a plain folder"
            )
        given[option] = value
    source: FileSource = kind(root, **given)
    return source


def _recognise(root: Path) -> str:
    found = recognised(root)
    if found:
        return found[0]
    layouts = ", ".join(SOURCES)
    raise ScribbleNotFoundError(f"{root}: not a known layout; expected one of: {layouts}")
