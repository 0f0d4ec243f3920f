"""Data commands: ``python -m scribbleseg.data {check,convert,…} ROOT``."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(args: Sequence[str] | None = None) -> int:
    """Run a data command.

    Args:
        args: Command line without the program's name; ``sys.argv`` by default.

    Returns:
        Exit status: 0 = fine, 1 = the check found errors or some images failed, 2 = the command
        cannot be run, 130 = interrupted.
    """
    output = None
    try:
        # here: Ctrl-C while packages are imported is answered by a sentence as well
        from scribbleseg.data.commands import check, jobs
        from scribbleseg.data.findings import printable
        from scribbleseg.errors import ScribbleSegError

        parser = argparse.ArgumentParser(prog="python -m scribbleseg.data", description=__doc__)
        commands = parser.add_subparsers(dest="command", required=True)
        check.add(commands)
        jobs.add(commands)
        options = parser.parse_args(args)
        output = getattr(options, "out", None)
        logging.basicConfig(level=logging.WARNING, format="note: %(message)s")
        logging.getLogger("scribbleseg").setLevel(logging.INFO)
        try:
            status: int = options.run(options)
        except (ScribbleSegError, OSError) as error:
            lines = map(printable, str(error).split("\n"))
            sys.stderr.write("error: " + "\n".join(lines) + "\n")
            status = 2
    except KeyboardInterrupt:
        kept = "no label or image was changed"
        if output is not None:
            kept = f"finished images stay in {output}; the same command goes on there"
        sys.stderr.write(f"\ninterrupted: {kept}\n")
        return 130
    return status


if __name__ == "__main__":
    status = main()
    # whoever presses Ctrl-C again while Python says goodbye gets no trace
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(status)
