"""Modules with parameters or buffers."""

from __future__ import annotations

from scribbleseg import Facade
from scribbleseg.nn.network import SegNetwork, build_network
from scribbleseg.nn.prototype_bank import PrototypeBank
from scribbleseg.nn.segment_queue import SegmentQueue
from scribbleseg.nn.teacher import EMATeacher

__all__ = [
    "EMATeacher",
    "PrototypeBank",
    "SegNetwork",
    "SegmentQueue",
    "build_network",
]

Facade.of(__name__)
