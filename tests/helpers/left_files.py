"""What a command or a run leaves in a folder, as facts for digests.

Every file is named by its relative path. Labels and other PNGs are given by mode and decoded
pixels, since bytes depend on the compression library; JSON and YAML by their content without
version, weights and absolute paths; ``.npz`` by key, dtype, shape and some values; pages by the
text that is seen. Pictures to look at (those with drawn text, and JPEGs) have a mode and a size
here; :func:`pictures` tells their mean colours, to be compared with a tolerance, and
:func:`label_counts` those labels that floating-point arithmetic decides.
"""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from helpers.digests import sha, sha_of
from PIL import Image

VOLATILE = ("version", "weights", "ms_per_sample", "epoch_seconds")
"""Entries of JSON files that differ between machines, releases or calls."""


PICTURES = ("overview.png", "contact_sheet.png")


def contents(
    folder: Path, *, hide: Path, exact: bool = True, skip: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Facts of every file below a folder, hidden ones too, by relative path.

    Args:
        folder: Where the files are.
        hide: Folder whose path is written as ``TMP`` wherever it occurs.
        exact: Digests of labels; else their shape and palette alone.
        skip: Beginnings of relative paths that are left out.
    """
    return {
        name: _fact(path, hide, exact)
        for name, path in _files(folder)
        if not name.startswith(skip or ("\0",))
    }


def pictures(folder: Path) -> dict[str, list[float]]:
    """Mean colour of every picture to look at, by relative path."""
    found = {}
    for name, path in _files(folder):
        if _is_picture(path):
            pixels = _pixels(path)[1]
            found[name] = pixels.reshape(*pixels.shape[:2], -1).mean((0, 1)).tolist()
    return found


def label_counts(folder: Path, *, cells: int = 3) -> dict[str, dict[str, list[float]]]:
    """Pixels of each id in each cell of a coarse grid, of every label file, by relative path."""
    found = {}
    for name, path in _files(folder):
        if path.suffix == ".png" and not _is_picture(path):
            labels = _pixels(path)[1]
            rows = np.array_split(labels, cells)
            parts = [part for row in rows for part in np.array_split(row, cells, axis=1)]
            found[name] = {
                str(label): [float((part == label).sum()) for part in parts]
                for label in np.unique(labels).tolist()
            }
    return found


def clean_text(text: str, hide: Path) -> str:
    """Text without the path of a temporary folder and without times and rates."""
    for path in sorted({str(hide), str(hide.resolve())}, key=len, reverse=True):
        text = text.replace(path, "TMP")
    text = re.sub(r"scribbleseg \d+\.\d[\w.+]*", "scribbleseg VERSION", text)
    return re.sub(r"\d[\d.,]* (ms|s|images/s)\b", r"_ \1", text)


def clean(content: Any, hide: Path) -> Any:
    """JSON content without what differs between calls; classes without their file."""
    if isinstance(content, dict):
        kept = {key: clean(v, hide) for key, v in content.items() if key not in VOLATILE}
        for key in ("module", "class_path"):
            if isinstance(kept.get(key), str):
                kept[key] = kept[key].rsplit(".", 1)[-1]
        if isinstance(kept.get("files"), str):
            kept["files"] = "sizes of the files"  # compressed ones
        if isinstance(kept.get("prototypes"), str):
            kept["prototypes"] = "digest of the file"
        if isinstance(kept.get("parents"), dict):  # their own manifests say more
            for parent in kept["parents"].values():
                parent["facts"] = sorted(parent["facts"])
        return kept
    if isinstance(content, list):
        return [clean(item, hide) for item in content]
    return clean_text(content, hide) if isinstance(content, str) else content


def some_values(array: np.ndarray, *, most: int = 12) -> list[Any]:
    """Values spread evenly over an array, as JSON holds them."""
    flat = array.ravel()
    if flat.size > most:
        flat = flat[np.linspace(0, flat.size - 1, most).astype(int)]
    return [value.item() for value in flat]


class _Page(HTMLParser):
    """Text between the tags by heading, without the style sheet."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, list[str]] = {}
        self.tag, self.heading = "", ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tag = tag

    def handle_data(self, data: str) -> None:
        text = " ".join(data.split())
        if self.tag in ("h1", "h2"):
            self.heading = text
        elif text and self.tag != "style":
            self.found.setdefault(self.heading, []).append(text)

    def handle_endtag(self, tag: str) -> None:
        self.tag = ""


def visible_text(page: str) -> dict[str, str]:
    """What is to be read on an HTML page below each heading: findings, tables, charts."""
    return {heading: " | ".join(texts) for heading, texts in _Page(page).found.items()}


def _fact(path: Path, hide: Path, exact: bool) -> Any:
    kind = path.suffix.lower()
    if kind in (".jpg", ".jpeg", ".png"):
        mode, pixels, palette = _pixels(path)
        if _is_picture(path):
            return f"picture {mode} {list(pixels.shape[:2])}"
        shown = sha_of(pixels) if exact else f"{pixels.dtype.name}{list(pixels.shape)}"
        return f"{mode} {shown}" + (f" palette {sha(palette)}" if palette else "")
    if kind == ".json":
        return clean(json.loads(path.read_text(encoding="utf-8")), hide)
    if kind == ".yaml":
        return clean(yaml.safe_load(path.read_text(encoding="utf-8")), hide)
    if kind == ".npz":
        with np.load(path, allow_pickle=False) as stored:
            return {name: _array(stored[name]) for name in sorted(stored.files)}
    if kind == ".npy":
        return sha_of(np.load(path, allow_pickle=False))
    if kind == ".html":
        return clean(visible_text(path.read_text(encoding="utf-8")), hide)
    if kind not in (".txt", ".csv"):
        return f"{kind[1:]} file"
    return clean_text(path.read_text(encoding="utf-8"), hide)


def _files(folder: Path) -> list[tuple[str, Path]]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(path.relative_to(folder).as_posix(), path) for path in found]


def _is_picture(path: Path) -> bool:
    drawn = path.name in PICTURES or path.parent.name == "panels"
    return drawn or path.suffix.lower() in (".jpg", ".jpeg")


def _pixels(path: Path) -> tuple[str, np.ndarray, bytes]:
    with Image.open(path) as image:
        return image.mode, np.asarray(image), bytes(image.getpalette() or [])


def _array(array: np.ndarray) -> dict[str, Any]:
    if array.dtype.kind in "US":  # its width follows the longest name
        return {"text": list(array.shape), "values": some_values(array)}
    return {"kind": f"{array.dtype.name}{list(array.shape)}", "values": some_values(array)}
