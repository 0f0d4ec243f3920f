"""Modules with parameters or buffers."""

from __future__ import annotations

from scribbleseg.nn.network import SegNetwork, build_network

__all__ = ["SegNetwork", "build_network"]
