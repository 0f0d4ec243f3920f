"""Sources, readers, transforms and the data module."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scribbleseg.data.datamodule import ScribbleDataModule
    from scribbleseg.data.source import ScribbleSource

__all__ = ["ScribbleDataModule", "ScribbleSource"]

_FILES = {"ScribbleDataModule": "datamodule", "ScribbleSource": "source"}

if not TYPE_CHECKING:  # else a type checker would accept any name

    def __getattr__(name: str) -> object:
        # at the first use: torch and albumentations take seconds, data commands need neither
        if name not in _FILES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
