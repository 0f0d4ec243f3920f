"""``python -m scribbleseg`` is the console script."""

from __future__ import annotations

from scribbleseg.cli import main

if __name__ == "__main__":
    main()
