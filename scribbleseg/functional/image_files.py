"""Finding image files, naming what is derived from them, and writing files atomically."""

from __future__ import annotations

import glob
import os
import secrets
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from scribbleseg.constants import IMAGE_SUFFIXES
from scribbleseg.errors import LabelFormatError, ScribbleNotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = [
    "ImageFile",
    "find_images",
    "unique_names",
    "walk_files",
    "write_arrays",
    "write_atomic",
    "write_text",
]

ImageFile = tuple[Path, PurePosixPath]
"""Where an image is, and its name relative to the folder that was searched."""


def find_images(
    images: str | Path | Sequence[str | Path], *, exclude: Iterable[Path] = ()
) -> list[ImageFile]:
    """List image files in a stable order.

    Args:
        images: A folder (searched with its sub-folders, hidden ones left out), a pattern such as
            ``"photos/**/*.jpg"``, one file, or a sequence of files and folders. Files named
            explicitly may have any suffix and need not exist, if they are part of a sequence.
        exclude: Files and folders that are not searched, such as the results of an earlier run.

    Returns:
        Pairs of file and relative name. Names are relative to the folder, to the fixed part of the
        pattern, or to the folder that all files of a sequence have in common.

    Raises:
        ScribbleNotFoundError: If there is no such file or folder, or no image in it.
        LabelFormatError: If a link leaves the folder that is searched (D501), see
            :func:`walk_files`.
    """
    excluded = [path.resolve() for path in exclude]
    if not isinstance(images, (str, Path)):
        files = [file for item in images for file in _expand_item(Path(item), excluded)]
        found = list(dict.fromkeys(files))
        root = Path(os.path.commonpath([file.parent for file in found])) if found else Path()
    elif (path := Path(images).expanduser()).is_file():
        found, root = [path], path.parent
    elif path.is_dir():
        found, root = _search(path, excluded), path
    elif glob.has_magic(str(path)):
        root = _fixed_part(path)
        matches = map(Path, glob.glob(str(path), recursive=True))  # noqa: PTH207 (no absolute patterns)
        found = sorted(match for match in matches if _is_image(match, root, excluded))
        for match in found:
            _check_link(match, root.resolve())
    else:
        raise ScribbleNotFoundError(f"image file or folder {path} does not exist")
    if not found:
        raise ScribbleNotFoundError(
            f"no images in {images}: expected files with the suffix {', '.join(IMAGE_SUFFIXES)} "
            "(upper or lower case)"
        )
    return [(file, PurePosixPath(file.relative_to(root).as_posix())) for file in found]


def _expand_item(path: Path, excluded: list[Path]) -> list[Path]:
    path = path.expanduser().absolute()
    return _search(path, excluded) if path.is_dir() else [path]


def _search(folder: Path, excluded: list[Path]) -> list[Path]:
    found = (folder / name for name in walk_files(folder, IMAGE_SUFFIXES))
    return sorted(path for path in found if _is_image(path, folder, excluded))


def walk_files(
    folder: str | Path, suffixes: Collection[str], *, within: str | Path | None = None
) -> Iterator[str]:
    """Files of a folder and its sub-folders; the one rule for links in all commands.

    Hidden files and folders are skipped, and links to nothing. Links to files and folders inside
    ``folder`` are followed, except in circles. Links out of it are refused: in a data set of
    somebody else they could show any file of this machine. The folder itself may be a link.

    Args:
        folder: Where to look.
        suffixes: Lower-case suffixes to find, in any case on disk.
        within: Links may lead to anywhere in this folder; by default in ``folder`` itself.

    Yields:
        Names relative to ``folder`` with POSIX separators, sorted folder by folder.

    Raises:
        LabelFormatError: If a link to such a file, or to a folder, leaves ``within`` (D501).
    """
    real = Path(folder).resolve()
    home = real if within is None else Path(within).resolve()
    homes = (home, real) if home != real else (real,)  # the folder may be a link itself
    yield from _walk(str(folder), "", frozenset(suffixes), (real,), homes)


def _walk(
    folder: str,
    prefix: str,
    suffixes: frozenset[str],
    trail: tuple[Path, ...],
    homes: tuple[Path, ...],
) -> Iterator[str]:
    """Names of files below a folder; the trail is its real path after those of the ones above."""
    # strings where paths would be slow: folders of data sets hold tens of thousands of files
    with os.scandir(os.path.join(folder, prefix)) as entries:  # noqa: PTH118
        listed = sorted(entries, key=lambda entry: entry.name)
    for entry in listed:
        name, is_folder = f"{prefix}{entry.name}", entry.is_dir()
        fits = is_folder or os.path.splitext(entry.name)[1].lower() in suffixes  # noqa: PTH122
        if entry.name.startswith(".") or not fits:
            continue
        if entry.is_symlink():
            _check_link(entry.path, *homes)
        if is_folder:
            real = Path(entry.path).resolve() if entry.is_symlink() else trail[-1] / entry.name
            if real not in trail:
                yield from _walk(folder, f"{name}/", suffixes, (*trail, real), homes)
        elif entry.is_file():
            yield name


def _check_link(path: str | Path, *homes: Path) -> None:
    """Refuse a path that leads out of some folders, whose real paths are given."""
    real = Path(path).resolve()
    if not any(real.is_relative_to(home) for home in homes):
        raise LabelFormatError(
            f"D501 {path}: link leaves the folder {homes[0]}; copy what it points to into it, or "
            "pass the linked folder itself"
        )


def _is_image(path: Path, root: Path, excluded: list[Path]) -> bool:
    if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
        return False
    if any(part.startswith(".") for part in path.relative_to(root).parts):
        return False
    return not any(path.resolve().is_relative_to(folder) for folder in excluded)


def _fixed_part(pattern: Path) -> Path:
    """Folder above the first part of a pattern that holds a wildcard."""
    fixed = Path(pattern.anchor)
    for part in pattern.relative_to(pattern.anchor).parts:
        if glob.has_magic(part):
            break
        fixed /= part
    return fixed


def unique_names(paths: Sequence[PurePosixPath]) -> list[str]:
    """Names without suffix; images that would share one keep theirs.

    Names that differ only in case count as shared: some file systems do not tell them apart.

    Args:
        paths: Relative file names, all different.

    Returns:
        One name per path, all different.

    Example:
        >>> unique_names([PurePosixPath(p) for p in ("a/x.jpg", "a/x.png", "b/x.jpg")])
        ['a/x.jpg', 'a/x.png', 'b/x']
    """
    full = [str(path) for path in paths]
    names = [str(path.with_suffix("")) for path in paths]
    while True:
        count = Counter(name.casefold() for name in names)
        longer = [
            whole if count[name.casefold()] > 1 else name
            for name, whole in zip(names, full, strict=True)
        ]
        if longer == names:
            return names
        names = longer


def write_atomic(path: Path, write: Callable[[IO[bytes]], object], *, sync: bool = False) -> None:
    """Let ``write`` fill a hidden file, then rename it: a killed run leaves no half file.

    Args:
        path: Target; parent folders are made.
        write: Called with the open hidden file.
        sync: Wait until the disk has the content, so that even a crash of the machine leaves either
            the earlier file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with hidden.open("xb") as stream:  # not mkstemp, whose files only their owner may read
            write(stream)
            if sync:
                stream.flush()
                os.fsync(stream.fileno())
        hidden.replace(path)
    except BaseException:
        hidden.unlink(missing_ok=True)
        raise


def write_arrays(path: Path, **arrays: NDArray[np.generic]) -> None:
    """Write named arrays as a compressed ``.npz`` file; atomic."""
    named: dict[str, Any] = dict(arrays)  # numpy's stub takes any name for its own option
    write_atomic(path, lambda stream: np.savez_compressed(stream, **named))


def write_text(path: Path, text: str) -> bool:
    """Write UTF-8 text unless the file already holds it; atomic.

    Returns:
        Whether the file changed.
    """
    data = text.encode()
    if path.is_file() and path.read_bytes() == data:
        return False
    write_atomic(path, lambda stream: stream.write(data))
    return True
