"""Train semantic segmentation from scribbles and other weak labels."""

from __future__ import annotations

import ast
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

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

__version__ = "0.1.0"


class Facade(ModuleType):
    """A package that imports its public names at their first use.

    The imports in the package's ``__init__.pyi`` are the list, which type checkers read as well.
    Torch and Lightning take seconds to import, and data commands need neither.
    """

    _homes: dict[str, tuple[str, str]]

    @classmethod
    def of(cls, package: str) -> None:
        """Make a package that is being imported a facade.

        Args:
            package: Its ``__name__``.
        """
        module = sys.modules[package]
        stub = Path(str(module.__file__)).with_suffix(".pyi")
        module.__dict__["_homes"] = {
            alias.asname: (str(node.module), alias.name)
            for node in ast.parse(stub.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.asname is not None  # "x as x" is what a stub hands on
        }
        for name, (home, _) in module._homes.items():
            if home != package and isinstance(module.__dict__.get(name), ModuleType):
                del module.__dict__[name]  # see __setattr__
        module.__dict__.setdefault("__all__", sorted(module._homes))
        module.__class__ = cls

    def __getattr__(self, name: str) -> object:
        if name not in self._homes:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        home, original = self._homes[name]
        if home == self.__name__:  # a package inside this one
            return import_module(f"{home}.{original}")
        value = getattr(import_module(home), original)
        self.__dict__[name] = value
        return value

    def __setattr__(self, name: str, value: object) -> None:
        # importing a file sets it as an attribute: it must not hide its function of the same name
        home = self._homes.get(name, (self.__name__, name))[0]
        if home == self.__name__ or not isinstance(value, ModuleType):
            super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *self._homes})


Facade.of(__name__)
