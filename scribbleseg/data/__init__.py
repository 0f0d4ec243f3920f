"""Sources, readers, transforms and the data module."""

from __future__ import annotations

from scribbleseg import Facade

Facade.of(__name__)
