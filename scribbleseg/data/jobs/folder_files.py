"""The text files of a plain folder: split files, classes, options and distances of voxels."""

from __future__ import annotations

import inspect
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from scribbleseg.data.groups import group_pattern
from scribbleseg.data.lists import read_split, safe_id
from scribbleseg.data.sources import FolderSource
from scribbleseg.data.volumes import write_spacings
from scribbleseg.errors import LabelFormatError, ScribbleSegError
from scribbleseg.functional.image_files import write_text
from scribbleseg.functional.intensity import Intensity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record

__all__: list[str] = []


def check_lists(listed: Mapping[str, Sequence[Record]]) -> None:
    """Refuse image ids that are no file names, or that a split file would not give back.

    Raises:
        LabelFormatError: Naming the first such id (D303, D501).
    """
    for records in listed.values():
        ids = [safe_id(record.image_id) for record in records]
        twice = [name for name, count in Counter(ids).items() if count > 1]
        if twice:
            raise LabelFormatError(
                f"D303 image id {twice[0]!r} occurs more than once in one split ({len(twice)} such "
                "ids); correct `records` of the source"
            )
        back: list[str] = []
        with tempfile.TemporaryDirectory() as folder, suppress(ScribbleSegError):
            path = Path(folder) / "list.txt"
            write_text(path, _lines(ids))
            back = read_split(path)
        if back != ids:
            wrong = [name for name, read in zip(ids, back, strict=False) if name != read]
            raise LabelFormatError(
                f"D501 image id {(wrong or ids[len(back) :])[0]!r} cannot be a line of a split "
                "file: a comment sign, outer spaces, a file suffix or a folder such as 'images/' "
                "is removed when it is read; correct `image_id` in the source"
            )


def _lines(ids: Sequence[str]) -> str:
    return "\n".join(ids) + "\n"


def write_folder_files(
    source: ScribbleSource, output: Path, listed: Mapping[str, Sequence[Record]], *, windowed: bool
) -> list[str]:
    """Write the text files of a plain folder; files that hold the same already are left alone.

    Args:
        source: Data set, for classes and options.
        output: The plain folder.
        listed: Records by split.
        windowed: Images are written after the window of intensities.

    Returns:
        Sentences about what a plain folder cannot hold.
    """
    notes = []
    everything = [record for records in listed.values() for record in records]
    options = _dataset_options(source)
    if windowed:
        options.pop("intensity", None)
    pattern = group_pattern(everything, getattr(source, "_group_pattern", None))
    if pattern is not None:
        options["group_regex"] = pattern
    elif any(record.group is not None for record in everything):
        notes.append(
            "groups of the images cannot be told from their names and are lost: scores per volume "
            "need the original source"
        )
    for split, records in listed.items():
        write_text(output / f"{split}.txt", _lines([record.image_id for record in records]))
    for name, content in (("classes", _class_file(source)), ("dataset", options)):
        if content:
            text = yaml.safe_dump(
                content, sort_keys=False, allow_unicode=True, default_flow_style=None
            )
            write_text(output / f"{name}.yaml", text)
    write_spacings(output, everything, by_group=pattern is not None)
    return notes


def _class_file(source: ScribbleSource) -> dict[str, Any]:
    classes: list[dict[str, Any]] = []
    seen: list[list[int]] = []
    for label, name in enumerate(source.class_names):
        colour = [int(part) for part in source.palette[label]]
        # a class file gives every colour once
        own = {} if colour in seen else {"color": colour}
        classes.append({"id": label, "name": str(name), **own})
        seen.append(colour)
    content: dict[str, Any] = {"classes": classes, "background": source.background, "ignore": 255}
    if source.flip_pairs:
        content["flip_pairs"] = [[int(a), int(b)] for a, b in source.flip_pairs]
    return content


def _dataset_options(source: ScribbleSource) -> dict[str, Any]:
    """Options of a plain folder that its images and their use need; labels are coded already."""
    known = inspect.signature(FolderSource).parameters
    values = {
        "on_missing": getattr(source, "on_missing", None),
        "allow_dense_scribbles": getattr(source, "allow_dense_scribbles", None),
        "channels": source.in_channels,
        "intensity": None if source.intensity == Intensity() else asdict(source.intensity),
        "rgb_channels": None if source.rgb_channels is None else list(source.rgb_channels),
        "max_image_pixels": source.max_image_pixels,
    }
    return {k: v for k, v in values.items() if v is not None and v != known[k].default}
