"""Sources, readers, transforms and the data module."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scribbleseg.data.datamodule import ScribbleDataModule
    from scribbleseg.data.source import ScribbleSource

__all__ = ["ScribbleDataModule", "ScribbleSource"]


def __getattr__(name: str) -> object:
    # lazily: albumentations costs import time that inference does not need
    if name == "ScribbleDataModule":
        from scribbleseg.data.datamodule import ScribbleDataModule

        return ScribbleDataModule
    if name == "ScribbleSource":
        from scribbleseg.data.source import ScribbleSource

        return ScribbleSource
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
