"""Evaluation mode for a while."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

__all__ = ["evaluation_mode"]


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode inside the block, and every part back as it was.

    ``train()`` afterwards would wake parts that are to stay in evaluation mode, such as a teacher
    or frozen normalisation.

    Args:
        module: Any module.

    Example:
        >>> from torch import nn
        >>> block = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
        >>> with evaluation_mode(block):
        ...     print(block[0].training)
        False
        >>> block[0].training, block[1].training
        (True, False)
    """
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
