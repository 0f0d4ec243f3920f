"""Which function checks which component, and which components wait for a later block."""

from __future__ import annotations

CHECKS = {}

NOT_BUILT = {}


def check(file: str, component: str):
    def register(function):
        CHECKS[file, component] = function
        return function

    return register
