"""What commands that fill a folder image by image share: settings, fresh files, names, progress."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import TYPE_CHECKING, Any, TypeVar

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from scribbleseg.errors import ConfigError, LabelFormatError
from scribbleseg.functional.manifest import MANIFEST, read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["check_settings", "is_fresh", "last_change", "safe_id", "with_progress"]

Item = TypeVar("Item")


def check_settings(output: Path, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Refuse to mix files of different settings, or to write among other files.

    Args:
        output: Folder to fill; need not exist.
        settings: Plain JSON values that the folder's manifest must repeat.

    Returns:
        The manifest of an earlier call, ``None`` if the folder is new or empty.

    Raises:
        ConfigError: If ``output`` is a file, holds files but no manifest, or was made with other
            settings.
        LabelFormatError: If the manifest cannot be read (D202).
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file, expected a folder; choose another --out")
    cure = "use another folder, or delete this one"
    earlier = read_manifest(output)
    if earlier is None:
        if output.is_dir() and any(not p.name.startswith(".") for p in output.iterdir()):
            raise ConfigError(
                f"{output} holds files but no {MANIFEST}, so they are not of this command, and "
                f"new files beside them could be taken for each other; {cure} if it is not needed"
            )
        return None
    differing = [key for key, value in settings.items() if earlier.get(key) != value]
    if differing:
        changes = "; ".join(
            f"{key}: {earlier.get(key)!r}, now {settings[key]!r}" for key in differing
        )
        raise ConfigError(
            f"{output / MANIFEST}: the files there were made with other settings ({changes}); "
            f"one folder holds files of one kind: {cure}"
        )
    return earlier


def last_change(path: Path | None) -> float:
    """Time of the last change of a file, or of the archive that a path leads into; 0 if neither."""
    if path is not None:
        # most are files: the folders above are asked only if not
        for file in (path, *path.parents):
            with suppress(OSError):
                state = file.stat()
                return state.st_mtime if S_ISREG(state.st_mode) else 0.0
    return 0.0


def is_fresh(target: Path, *inputs: Path | None) -> bool:
    """Whether a file of an earlier call is there and not older than what it was made of.

    Args:
        target: File of an earlier call.
        inputs: What it was made of, see :meth:`~scribbleseg.data.source.ScribbleSource.inputs`.
    """
    try:
        found = target.stat()
    except OSError:
        return False
    return found.st_size > 0 and max(map(last_change, inputs), default=0.0) <= found.st_mtime


def safe_id(image_id: str) -> str:
    """The id, if it can be a relative file name on every system.

    Raises:
        LabelFormatError: If it leads elsewhere (D501), or would be hidden.

    Example:
        >>> safe_id("patient001/slice 3")
        'patient001/slice 3'
    """
    parts = image_id.split("/")
    reason = None
    if "\0" in image_id or "\n" in image_id or "\r" in image_id:
        reason = "holds a control character"
    elif "\\" in image_id:
        reason = "holds a backslash"
    elif re.match(r"[A-Za-z]:", image_id) or PurePosixPath(image_id).is_absolute():
        reason = "is absolute"
    elif any(part in ("", ".", "..") for part in parts):
        reason = "holds '.', '..' or an empty part"
    elif any(part.startswith(".") for part in parts):
        reason = "starts with a dot, which hides the file"
    if reason is not None:
        raise LabelFormatError(
            f"D501 image id {image_id[:80]!r} {reason}, expected a name relative to the image "
            "folder; correct `image_id` in the source"
        )
    return image_id


def with_progress(
    results: Iterable[Item], total: int, title: str, *, enabled: bool
) -> Iterator[Item]:
    """The results, with a progress bar and the remaining time on stderr."""
    # a log file gets a line now and then, not ten a second
    interval = 0.1 if sys.stderr.isatty() else 30.0
    yield from tqdm(
        results,
        total=total,
        desc=title,
        unit="image",
        file=sys.stderr,
        mininterval=interval,
        maxinterval=max(interval, 10.0),
        disable=not enabled,
    )
