"""Pure functions: tensors or arrays in, the same out; the only place of a shared equation."""

from __future__ import annotations

from scribbleseg import Facade

Facade.of(__name__)
