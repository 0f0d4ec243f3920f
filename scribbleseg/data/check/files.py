"""Files below a data set's folder that could run code, escape it or hang a reader (D501)."""

from __future__ import annotations

import os
import re
import stat
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from scribbleseg.data.check.findings import Finding, found, some_names

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__: list[str] = []

_PICKLES = (".pkl", ".pickle", ".pth", ".pt", ".joblib", ".dill")
_LARGEST_TGZ = 64 << 20  # listing a compressed archive reads all of it
_DTD = re.compile(rb"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)
_MEMBER = (
    "expected names below the archive's own folder; unpacking it can overwrite other files: delete "
    "it, and download the original release"
)
_TEXTS = {
    "files hold pickled objects": "expected images, text or plain arrays; reading them can run any "
    "code, so they are never read: move them elsewhere, or write numbers as .npz without objects",
    "XML files declare a DTD or entities": "expected none; entities can read other files or fill "
    "the memory: take the files from their original release",
    "entries are pipes, sockets or devices": "expected files; reading one can wait for ever, so "
    "nothing was read: remove them",
}
_PICKLED, _DECLARED, _SPECIAL = _TEXTS


def find_unsafe_files(root: Path) -> tuple[list[Finding], bool]:
    """Search a folder for pickles, XML with a DTD, archives that leave their folder, and pipes.

    Only names, heads and tables of content are read: about 1 s for 20,000 files on a local disk.

    Returns:
        D501 findings, a warning for pickles, which are never read; and whether reading the files of
        the folder may hang.
    """
    findings, files = [], {what: list[str]() for what in _TEXTS}
    for path in _walk(root):
        suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 (far cheaper than a Path)
        # a file that cannot be read, or is not what its name says, is not this function's business
        with suppress(Exception):
            mode = os.stat(path).st_mode  # noqa: PTH116 (as above); fails for links to nothing
            if not stat.S_ISREG(mode):
                files[_SPECIAL] += [] if stat.S_ISDIR(mode) else [path]
            elif suffix in _PICKLES or _holds_objects(path, suffix):
                files[_PICKLED].append(path)
            elif suffix == ".xml" and _has_dtd(path):
                files[_DECLARED].append(path)
            for name, kind in _members(path, suffix) if stat.S_ISREG(mode) else ():
                if why := _why_unsafe(name, kind):
                    text = f"member {name[:120]!r} {why}, {_MEMBER}"
                    findings.append(found("D501", "error", path, text))
                    break
    for what, paths in files.items():
        if paths:
            severity = "warning" if what is _PICKLED else "error"
            text = f"{len(paths)} {what} ({some_names(paths)}), {_TEXTS[what]}"
            findings.append(found("D501", severity, paths[0], text))
    return findings, bool(files[_SPECIAL])


def _walk(root: Path) -> Iterator[str]:
    """Entries that are no folders; links to folders are not followed."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield f"{folder}{os.sep}{name}"


def _holds_objects(path: str, suffix: str) -> bool:
    """Whether an array file needs pickle, told by its header."""
    if suffix == ".npy":
        with Path(path).open("rb") as stream:
            return _is_object_array(stream)
    if suffix != ".npz":
        return False
    with zipfile.ZipFile(path) as content:
        arrays = [name for name in content.namelist() if name.endswith(".npy")]
        return any(_is_object_array(content.open(name)) for name in arrays)


def _is_object_array(stream: IO[bytes]) -> bool:
    old, form = np.lib.format.read_magic(stream) == (1, 0), np.lib.format
    read = form.read_array_header_1_0 if old else form.read_array_header_2_0
    return bool(read(stream)[2].hasobject)


def _has_dtd(path: str) -> bool:
    with Path(path).open("rb") as stream:
        # UTF-16 puts a zero byte beside every letter
        return _DTD.search(stream.read(4096).replace(b"\0", b"")) is not None


def _members(path: str, suffix: str) -> Iterator[tuple[str, str]]:
    """Names in an archive, and what is wrong with their kind."""
    if suffix == ".zip":
        with zipfile.ZipFile(path) as content:
            for info in content.infolist():
                yield info.filename, "is a link" * stat.S_ISLNK(info.external_attr >> 16)
    elif suffix == ".tar" or (suffix == ".tgz" and os.path.getsize(path) <= _LARGEST_TGZ):  # noqa: PTH202
        with tarfile.open(path) as packed:
            for item in packed:
                target = f"{item.name}/../{item.linkname}" if item.issym() else item.linkname
                # a link within the archive is harmless
                leaves = item.linkname.startswith("/") or os.path.normpath(target)[:2] == ".."
                link = (item.issym() or item.islnk()) and leaves
                yield item.name, "is a link" if link else "is a device" * item.isdev()


def _why_unsafe(name: str, kind: str) -> str:
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return kind or "is an absolute path"
    return kind or "leaves its folder with '..'" * (".." in re.split(r"[/\\]", name))
