"""``manifest.json``: what a folder of label files tells a later stage about itself."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scribbleseg.errors import LabelFormatError
from scribbleseg.functional.image_files import write_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "MANIFEST",
    "check_manifest",
    "class_difference",
    "content_digest",
    "made_by_library",
    "parent_facts",
    "read_manifest",
    "text_digest",
    "write_manifest",
]

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
"""Name of the file, beside the labels that it describes."""

_LISTED = 5  # classes that a message names
_VOLATILE = ("version", "files", "complete", "class_names")  # say nothing about what the files hold


def write_manifest(
    folder: str | Path,
    *,
    class_names: Sequence[str],
    files: int,
    complete: bool = True,
    **facts: object,
) -> Path:
    """Describe a folder of label files; atomic.

    Args:
        folder: Folder of the files; made if need be.
        class_names: One name per class, index = id in the files.
        files: Number of label files.
        complete: False while files are still to come.
        facts: Whatever else is known, such as ``module`` or ``command``, ``source`` and ``split``;
            values must be plain JSON.

    Returns:
        Path of the manifest.
    """
    from scribbleseg import __version__

    path = Path(folder) / MANIFEST
    content = {
        **facts,
        "version": __version__,
        "class_names": list(class_names),
        "files": files,
        "complete": complete,
    }
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    return path


def read_manifest(folder: str | Path) -> dict[str, Any] | None:
    """Content of a folder's manifest, ``None`` if it has none.

    Raises:
        LabelFormatError: If the file is not a JSON object (D202).
    """
    path = Path(folder) / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:  # bad JSON or bad UTF-8
        raise LabelFormatError(
            f"D202 {path}: is not valid JSON ({error}); make the labels again, or delete this file "
            "if you are sure of their classes"
        ) from error
    if not isinstance(content, dict):
        raise LabelFormatError(
            f"D202 {path}: is a {type(content).__name__}, expected an object with `class_names`; "
            "make the labels again, or delete this file if you are sure of their classes"
        )
    return content


def made_by_library(folder: str | Path, class_names: Sequence[str]) -> bool:
    """Whether a command of this library wrote the labels of a folder, which then hold class ids.

    Raises:
        LabelFormatError: If they were made for other classes (D401), or the manifest cannot be
            read (D202).
    """
    manifest = read_manifest(folder)
    own = manifest is not None and str(manifest.get("command", "")).startswith("scribbleseg")
    if own:
        check_manifest(folder, class_names)
    return own


def parent_facts(**folders: str | Path | None) -> dict[str, Any]:
    """Entry ``parents`` of a manifest: what the folders say that the files are made from.

    Later :func:`check_manifest` refuses the files if one of these has been made anew. A folder
    without manifest says names and sizes of its files.

    Args:
        folders: Role to folder; ``None`` and folders that do not exist are left out.
    """
    parents: dict[str, Any] = {}
    for role, folder in folders.items():
        if folder is None or not Path(folder).is_dir():
            continue
        manifest = read_manifest(folder)
        if manifest is None:
            facts: dict[str, Any] = {"files": _listing(Path(folder))}
        else:
            facts = {key: v for key, v in manifest.items() if key not in _VOLATILE}
        parents[role] = {"folder": str(folder), "facts": facts}
    return {"parents": parents} if parents else {}


def text_digest(lines: Iterable[str]) -> str:
    """Short number of some lines of text, another one for other lines.

    Example:
        >>> text_digest(["a", "b"]) == text_digest(["a", "c"])
        False
    """
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def content_digest(content: object) -> str:
    """SHA-256 of tensors, numbers, texts and their containers, the same on every device."""
    hasher = hashlib.sha256()
    _add(hasher, content)
    return hasher.hexdigest()


def _add(hasher: hashlib._Hash, value: Any) -> None:
    if hasattr(value, "detach"):
        import torch  # here: data commands start without it

        hasher.update(f"{value.dtype}{list(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        hasher.update(flat.view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            hasher.update(f"{key!r}:".encode())
            _add(hasher, item)
        hasher.update(b"}")
    elif isinstance(value, list | tuple):
        for item in value:
            _add(hasher, item)
        hasher.update(b"]")
    else:
        hasher.update(f"{value!r},".encode())


def _listing(folder: Path) -> str:
    # no times: a folder that has been copied holds what it held
    found = sorted((path.name, path.stat().st_size) for path in folder.iterdir() if path.is_file())
    return text_digest(f"{name} {size}" for name, size in found)


def check_manifest(
    folder: str | Path, class_names: Sequence[str], *, complete: bool = False
) -> None:
    """Refuse label files of other classes or stale ones; a folder without manifest is accepted.

    Args:
        folder: Folder of label files.
        class_names: Classes of the data set that is to use them.
        complete: Refuse files that are not complete, too; else that is a warning.

    Raises:
        LabelFormatError: If number, names or order of the classes differ (D401), what the files
            were made from has been made anew or they are not complete (D403), or the manifest
            cannot be read (D202).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_manifest(folder, class_names=("sky", "road"), files=2)
        ...     check_manifest(folder, ("sky", "road"))
        ...     read_manifest(folder)["files"]
        2
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return
    path = Path(folder) / MANIFEST
    theirs = manifest.get("class_names")
    difference = "" if theirs is None else class_difference(theirs, class_names, owner="labels")
    if difference:
        raise LabelFormatError(
            f"D401 {path}: these labels have other classes than the data set: {difference}; ids "
            "would train the wrong classes. Use labels made for this data set, or list its classes "
            "in the order of the labels"
        )
    for role, parent in (manifest.get("parents") or {}).items():
        _check_parent(path, role, parent)
    if manifest.get("complete") is False:
        message = (
            f"{path}: these files are not complete; run the command that made them again, it goes "
            "on where it stopped"
        )
        if complete:
            raise LabelFormatError(f"D403 {message}")
        logger.warning(message)


def _check_parent(path: Path, role: str, parent: dict[str, Any]) -> None:
    now = parent_facts(**{role: parent["folder"]}).get("parents", {}).get(role)
    if now is None or now["facts"] == parent["facts"]:  # moved or deleted: nothing to compare with
        return
    before, after = _flat(parent["facts"]), _flat(now["facts"])
    changed = [
        f"{key} was {before.get(key)!r}, is {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
    ]
    raise LabelFormatError(
        f"D403 {path}: these files are stale: the {role} in {parent['folder']} that they were made "
        f"from have been made anew ({'; '.join(changed[:4])}); run the command that made these "
        "files again, or point to the folder that belongs to them"
    )


def _flat(facts: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def class_difference(theirs: object, class_names: Sequence[str], *, owner: str) -> str:
    """How two lists of class names differ: number, order, spelling, or which names.

    Args:
        theirs: Names of the other side, index = id; anything that a file holds in their place.
        class_names: Names of the data set.
        owner: What the other side is called in the sentence.

    Returns:
        A clause; empty if the lists are equal.

    Example:
        >>> class_difference(["sky", "car", "tree"], ["sky", "car"], owner="checkpoint")
        "3 classes in the checkpoint, 2 in the data; only in the checkpoint: 'tree' (id 2)"
    """
    if not isinstance(theirs, (list, tuple)):
        return f"`class_names` is {theirs!r}, expected a list of {len(class_names)} names"
    names, ours = list(map(str, theirs)), list(class_names)
    pairs = [
        f"id {index}: {owner} {a!r}, data {b!r}"
        for index, (a, b) in enumerate(zip(names, ours, strict=False))
        if a != b
    ]
    listed = "; ".join(pairs[:_LISTED]) + ("; …" if len(pairs) > _LISTED else "")
    if pairs and sorted(names) == sorted(ours):
        return f"the same {len(ours)} names in another order ({listed})"
    # spaces, underscores and capitals are how tools differ
    plain = [["".join(filter(str.isalnum, n.casefold())) for n in side] for side in (names, ours)]
    if pairs and plain[0] == plain[1]:
        return f"{len(pairs)} names are spelt otherwise ({listed})"
    parts = []
    if len(names) != len(ours):
        parts.append(f"{len(names)} classes in the {owner}, {len(ours)} in the data")
    for where, these, others in ((owner, names, ours), ("data", ours, names)):
        only = [f"{name!r} (id {these.index(name)})" for name in these if name not in others]
        if only:
            more = f" and {len(only) - _LISTED} more" if len(only) > _LISTED else ""
            parts.append(f"only in the {where}: {', '.join(only[:_LISTED])}{more}")
    return "; ".join([*parts, f"differing: {listed}"] if pairs else parts)
