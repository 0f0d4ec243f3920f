"""Classes that a mirror image exchanges, such as the left and the right hand."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["mirrored_ids"]


def mirrored_ids(flip_pairs: Sequence[tuple[int, int]], num_classes: int) -> list[int]:
    """Id that each class has in a mirror image: an involution of the ids.

    The same list maps ids (``ids[label]``) and reorders channels (``logits[:, ids]``), because it
    is its own inverse.

    Args:
        flip_pairs: Pairs of ids that a mirroring exchanges; every other class keeps its id.
        num_classes: C, or 256 for a table of all values of 8-bit labels.

    Returns:
        C ids.

    Raises:
        ValueError: If an id is not in 0..C-1 or is used twice.

    Example:
        >>> mirrored_ids([(1, 2)], 4)
        [0, 2, 1, 3]
    """
    used = list(chain.from_iterable(flip_pairs))
    if len(set(used)) < len(used) or not all(0 <= label < num_classes for label in used):
        raise ValueError(
            f"flip_pairs={tuple(flip_pairs)!r}: expected pairs of ids in 0..{num_classes - 1}, "
            "each id at most once"
        )
    ids = list(range(num_classes))
    for first, second in flip_pairs:
        ids[first], ids[second] = second, first
    return ids
