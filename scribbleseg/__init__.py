"""Train semantic segmentation from scribbles and other weak labels."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scribbleseg.checkpoint import load
    from scribbleseg.data import ScribbleDataModule
    from scribbleseg.methods import (
        CAMModule,
        CC4SModule,
        CDSPModule,
        DMPLSModule,
        IRNModule,
        MeanTeacherModule,
        PFAModule,
        PtReClModule,
        RegularizedModule,
        Scribble2LabelModule,
        SPMLModule,
    )

__version__ = "0.1.0"

__all__ = [
    "CAMModule",
    "CC4SModule",
    "CDSPModule",
    "DMPLSModule",
    "IRNModule",
    "MeanTeacherModule",
    "PFAModule",
    "PtReClModule",
    "RegularizedModule",
    "SPMLModule",
    "Scribble2LabelModule",
    "ScribbleDataModule",
    "__version__",
    "load",
]

# a name that is not here is a method: a new one is added above, twice, and nowhere else
_ELSEWHERE = {"ScribbleDataModule": "scribbleseg.data", "load": "scribbleseg.checkpoint"}
_PACKAGES = ("data", "methods")

if not TYPE_CHECKING:  # else a type checker would accept any name

    def __getattr__(name: str) -> object:
        # at the first use: torch and Lightning take seconds to import, data commands need neither
        if name in _PACKAGES:
            return import_module(f"{__name__}.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_ELSEWHERE.get(name, f"{__name__}.methods")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
