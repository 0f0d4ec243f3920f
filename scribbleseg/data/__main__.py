"""Data commands: ``python -m scribbleseg.data {check,convert,…} ROOT``."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from scribbleseg.data.commands import check, convert, spread, superpixels, synthesize
from scribbleseg.errors import ScribbleSegError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]

_COMMANDS = (check, convert, synthesize, spread, superpixels)


def main(args: Sequence[str] | None = None) -> int:
    """Run a data command.

    Args:
        args: Command line without the program's name; ``sys.argv`` by default.

    Returns:
        Exit status: 0 = fine, 1 = the check found errors or some images could not be spread, 2 =
        the command cannot be run, 130 = interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m scribbleseg.data", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in _COMMANDS:
        command.add(commands)
    options = parser.parse_args(args)
    try:
        status: int = options.run(options)
    except (ScribbleSegError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
