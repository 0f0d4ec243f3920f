"""The console script: the version and the list of commands at once, all else by the command line.

Torch and Lightning take seconds to import, so that neither question waits for them.
"""

from __future__ import annotations

import sys

from scribbleseg import __version__

__all__ = ["main"]

HELP = """\
usage: scribbleseg [-h] [--version] [-c CONFIG] {fit,validate,test,predict} ...

Train semantic segmentation from scribbles and other weak labels.

commands:
  fit       Train; with --ckpt_path FILE resume a run.
  validate  Score a checkpoint on the validation images.
  test      Score a checkpoint on the test images.
  predict   Predict labels; images without labels:
            scribbleseg predict --ckpt_path FILE --images FOLDER --output FOLDER

  scribbleseg COMMAND --help lists the options of a command.
  python -m scribbleseg.data {check,convert,synthesize,propagate,superpixels} ROOT
            works on data folders; check names what is wrong in one.

options:
  -h, --help            Show this help and exit.
  --version             Print the version and exit.
  -c, --config CONFIG   Options of a command from a YAML file; may be repeated.
  --print_config        Print the options after COMMAND and exit.
"""


def main() -> None:
    """Answer ``--version`` and ``--help``, and hand everything else to the command line."""
    if sys.argv[1:2] == ["--version"]:
        sys.stdout.write(f"scribbleseg {__version__}\n")
    elif sys.argv[1:2] in (["--help"], ["-h"]):
        sys.stdout.write(HELP)
    else:
        from scribbleseg.cli import main as run

        run()


if __name__ == "__main__":
    main()
