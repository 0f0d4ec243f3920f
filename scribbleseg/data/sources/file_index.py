"""Files of a data set by stem, and what to say where some are missing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["CURES", "FileIndex", "OnMissing", "missing_files"]

OnMissing = Literal["error", "skip", "unlabelled"]
"""What to do with training images that have no scribble."""

CURES = {
    "image": "copy the files there, or remove the names from the list",
    "scribble": "draw them, remove the names from the list, or set `on_missing: skip`",
    "point": "add them, remove the names from the list, or set `on_missing: skip`",
    "box": "add them, remove the names from the list, or set `on_missing: skip`",
    "tag": "add them, remove the names from the list, or set `on_missing: skip`",
    "mask": "add them, or remove the names from the list; unlabelled images can only be predicted",
    "pseudo-label": "run the stage that makes them again, remove the names from the list, or set "
    "`on_missing: skip`",
}
"""What to do about missing files of each role."""


@dataclass(frozen=True)
class FileIndex:
    """Files of a data set by stem.

    Attributes:
        images: All images, labelled or not, in the order in which they are predicted.
        scribbles: Scribble files.
        masks: Dense label files; empty if the data set has none.
        places: Where images, scribbles and masks are, for messages.
    """

    images: dict[str, Path]
    scribbles: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)


def missing_files(
    stems: Sequence[str], files: Mapping[str, Path], *, role: str, split: str, place: str
) -> str:
    """One sentence about all files that are missing, not one per file.

    Args:
        stems: Stems that need a file.
        files: Files by stem.
        role: What they are: a key of :data:`CURES`.
        split: Split that lists the stems.
        place: Where they should be.

    Returns:
        Message of a D301 error; empty if nothing is missing.

    Example:
        >>> missing_files(["a", "b"], {}, role="mask", split="val", place="masks")[:53]
        "D301 2 of 2 masks of split 'val' missing in masks (e."
    """
    missing = [stem for stem in stems if stem not in files]
    if not missing:
        return ""
    # the command checks the data set's own files only
    more = "; `python -m scribbleseg.data check` lists all problems"
    return (
        f"D301 {len(missing)} of {len(stems)} {role}s of split {split!r} missing in {place} (e.g. "
        f"{', '.join(missing[:5])}); {CURES[role]}{'' if role == 'pseudo-label' else more}"
    )
