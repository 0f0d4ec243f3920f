"""What tests of data commands share: running one command, and what a folder holds."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from scribbleseg.errors import ScribbleSegError

if TYPE_CHECKING:
    from pathlib import Path


def run_command(command: Any, *arguments: object) -> int:
    """Exit status of one data command, as ``python -m scribbleseg.data`` would give it."""
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers(required=True))
    name = command.__name__.rsplit(".", 1)[-1]
    options = parser.parse_args([name, *map(str, arguments)])
    try:
        return int(options.run(options))
    except (ScribbleSegError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def times(folder: Path) -> dict[str, int]:
    """Time of the last change of every file, in nanoseconds."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file()
    }
