"""The text files of a plain folder: split files, classes, options and distances of voxels."""

from __future__ import annotations

import inspect
import re
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from scribbleseg.data import io
from scribbleseg.data.converter import is_plain_image
from scribbleseg.data.groups import group_in
from scribbleseg.data.prepared import safe_id
from scribbleseg.data.sources.folder import FolderSource
from scribbleseg.data.spacings import write_spacings
from scribbleseg.errors import LabelFormatError, ScribbleSegError
from scribbleseg.functional.image_files import write_text
from scribbleseg.functional.intensity import Intensity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__ = ["check_lists", "group_pattern", "write_folder_files"]

_MOST_GROUPS = 5000


def check_lists(listed: Mapping[str, Sequence[Record]]) -> None:
    """Refuse image ids that are no file names, or that a split file would not give back.

    Raises:
        LabelFormatError: Naming the first such id (D501).
    """
    for records in listed.values():
        ids = [safe_id(record.image_id) for record in records]
        twice = [name for name, count in Counter(ids).items() if count > 1]
        if twice:
            raise LabelFormatError(
                f"D303 image id {twice[0]!r} occurs more than once in one split ({len(twice)} such "
                "ids); correct `records` of the source"
            )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "list.txt"
            path.write_text(_lines(ids), encoding="utf-8")
            back = []
            with suppress(ScribbleSegError):  # nothing is left of the names
                back = io.read_split(path)
        wrong = [name for name, read in zip(ids, back, strict=False) if name != read]
        if wrong or len(back) != len(ids):
            name = (wrong or ids[len(back) :])[0]
            raise LabelFormatError(
                f"D501 image id {name!r} cannot be a line of a split file: a comment sign, outer "
                "spaces, a file suffix or a folder such as 'images/' is removed when it is read; "
                "correct `image_id` in the source"
            )


def _lines(ids: Sequence[str]) -> str:
    return "\n".join(ids) + "\n"


def write_folder_files(
    source: ScribbleSource, output: Path, listed: Mapping[str, Sequence[Record]]
) -> list[str]:
    """Write the text files of a plain folder; files that hold the same already are left alone.

    Args:
        source: Data set, for classes and options.
        output: The plain folder.
        listed: Records by split.

    Returns:
        Sentences about what a plain folder cannot hold.
    """
    notes = []
    for split, records in listed.items():
        write_text(output / f"{split}.txt", _lines([record.image_id for record in records]))
    write_text(output / "classes.yaml", _dump(_class_file(source)))
    options = _dataset_options(source)
    everything = [record for records in listed.values() for record in records]
    if everything and not is_plain_image(source, everything[0]):
        options.pop("intensity", None)  # pixels were written after the window
    pattern = group_pattern(everything, getattr(source, "_group_pattern", None))
    if pattern is not None:
        options["group_regex"] = pattern
    elif any(record.group is not None for record in everything):
        notes.append(
            "groups of the images cannot be told from their names and are lost: scores per volume "
            "need the original source"
        )
    if options:
        write_text(output / "dataset.yaml", _dump(options))
    write_spacings(output, everything, by_group=pattern is not None)
    return notes


def _class_file(source: ScribbleSource) -> dict[str, Any]:
    classes: list[dict[str, Any]] = []
    seen: set[tuple[int, ...]] = set()
    for label, name in enumerate(source.class_names):
        entry: dict[str, Any] = {"id": label, "name": str(name)}
        colour = tuple(int(part) for part in source.palette[label])
        if colour not in seen:
            # a class file gives every colour once
            entry["color"] = list(colour)
            seen.add(colour)
        classes.append(entry)
    content: dict[str, Any] = {"classes": classes, "background": source.background, "ignore": 255}
    pairs = getattr(source, "flip_pairs", ())
    if pairs:
        content["flip_pairs"] = [[int(a), int(b)] for a, b in pairs]
    return content


def _dataset_options(source: ScribbleSource) -> dict[str, Any]:
    """Options of a plain folder that its images and their use need; labels are coded already."""
    known = inspect.signature(FolderSource).parameters
    window = asdict(source.intensity)
    values = {
        "on_missing": getattr(source, "on_missing", None),
        "allow_dense_scribbles": getattr(source, "allow_dense_scribbles", None),
        "channels": source.in_channels,
        "intensity": None if source.intensity == Intensity() else window,
        "rgb_channels": None if source.rgb_channels is None else list(source.rgb_channels),
        "max_image_pixels": source.max_image_pixels,
    }
    return {
        name: value
        for name, value in values.items()
        if value is not None and value != known[name].default
    }


def _dump(content: dict[str, Any]) -> str:
    return str(
        yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None)
    )


def group_pattern(records: Sequence[Record], own: re.Pattern[str] | None = None) -> str | None:
    r"""A ``group_regex`` that gives every record its group, ``None`` if there is none.

    Args:
        records: Samples of all splits.
        own: Pattern of the source, tried first.

    Returns:
        Pattern whose first group, or whole match, is the group of each id.

    Example:
        >>> from scribbleseg.types import Record
        >>> group_pattern([Record("p1_slice_2", group="p1"), Record("p10_slice_11", group="p10")])
        '^(.+?)_slice_\\d+$'
    """
    known = [(record.image_id, record.group) for record in records]
    if not any(group is not None for _, group in known):
        return None
    if any(group is None for _, group in known):
        return None
    named = [(image_id, group) for image_id, group in known if group is not None]
    candidates = [] if own is None else [own.pattern]
    tails = {
        re.sub(r"[0-9]+", lambda _: r"\d+", re.escape(image_id[len(group) :]))
        for image_id, group in named
        if image_id.startswith(group)
    }
    if len(tails) == 1:
        candidates.append(f"^(.+?){tails.pop()}$")
    groups = sorted({group for _, group in named}, key=lambda group: (-len(group), group))
    if len(groups) <= _MOST_GROUPS:
        candidates.append(f"({'|'.join(map(re.escape, groups))})")
    for candidate in candidates:
        pattern = re.compile(candidate)
        if all((group_in(pattern, image_id) or image_id) == group for image_id, group in named):
            return candidate
    return None
