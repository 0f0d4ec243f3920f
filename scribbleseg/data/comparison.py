"""Classes of a data set against those of a checkpoint (D402) or of other files, named exactly."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scribbleseg.data.classes import normalise_name
from scribbleseg.data.findings import Finding
from scribbleseg.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scribbleseg.data.source import ScribbleSource

__all__ = ["check_checkpoint", "class_difference", "read_facts"]

_LISTED = 5


def class_difference(theirs: Sequence[str], ours: Sequence[str], *, owner: str) -> str:
    """How two lists of class names differ: number, order, spelling, or which names.

    Args:
        theirs: Names of the other side, index = id.
        ours: Names of the data set.
        owner: What the other side is called in the sentence.

    Returns:
        A clause; empty if the lists are equal.

    Example:
        >>> class_difference(["sky", "car", "tree"], ["sky", "car"], owner="checkpoint")
        "3 classes in the checkpoint, 2 in the data; only in the checkpoint: 'tree' (id 2)"
    """
    theirs, ours = list(theirs), list(ours)
    if theirs == ours:
        return ""
    pairs = [
        f"id {index}: {owner} {a!r}, data {b!r}"
        for index, (a, b) in enumerate(zip(theirs, ours, strict=False))
        if a != b
    ]
    listed = "; ".join(pairs[:_LISTED]) + ("; …" if len(pairs) > _LISTED else "")
    if sorted(theirs) == sorted(ours):
        return f"the same {len(ours)} names in another order ({listed})"
    if [normalise_name(name) for name in theirs] == [normalise_name(name) for name in ours]:
        return f"{len(pairs)} names are spelt otherwise ({listed})"
    parts = []
    if len(theirs) != len(ours):
        parts.append(f"{len(theirs)} classes in the {owner}, {len(ours)} in the data")
    for where, names, others in ((owner, theirs, ours), ("data", ours, theirs)):
        only = [f"{name!r} (id {names.index(name)})" for name in names if name not in others]
        if only:
            more = f" and {len(only) - _LISTED} more" if len(only) > _LISTED else ""
            parts.append(f"only in the {where}: {', '.join(only[:_LISTED])}{more}")
    if pairs:
        parts.append(f"differing: {listed}")
    return "; ".join(parts)


def check_checkpoint(source: ScribbleSource, path: str | Path) -> list[Finding]:
    """Compare the classes of a data set with those that a checkpoint was trained on.

    Weights are not loaded into memory where the file allows it.

    Args:
        source: Data set.
        path: Checkpoint of this library.

    Returns:
        One D402 error, or nothing.

    Raises:
        CheckpointError: If the file cannot be read, or does not say its classes.
    """
    path = Path(path)
    stored = _stored_classes(path)
    difference = class_difference(stored, source.class_names, owner="checkpoint")
    if not difference:
        return []
    return [
        Finding(
            "D402",
            "error",
            f"{path}: was trained on other classes than this data set has: {difference}; ids would "
            "mean other classes: use the class file of its training data, or train a new model",
            str(path),
        )
    ]


def read_facts(path: Path) -> Any:
    """What a checkpoint says about itself beside its weights, which stay on disk where possible.

    Returns:
        The entry of this library; ``None`` if the file holds none.

    Raises:
        CheckpointError: If the file cannot be read.
    """
    import torch  # here: commands that read no checkpoint need no torch

    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]}); it is truncated, not a checkpoint, or holds "
            "pickled objects, which are never loaded"
        ) from error
    return state.get("scribbleseg") if isinstance(state, dict) else None


def _stored_classes(path: Path) -> list[str]:
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist; correct --checkpoint")
    facts = read_facts(path)
    try:
        return [str(name) for name in facts["data"]["class_names"]]
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} does not say its classes, so it was not written by scribbleseg; choose a file "
            "of a run's checkpoints folder"
        ) from error
