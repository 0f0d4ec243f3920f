"""Do the pseudo-labels of an earlier stage fit a data set: classes, names, sizes (D601)."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from scribbleseg.data import io
from scribbleseg.data.comparison import class_difference
from scribbleseg.data.findings import Finding, finding_from_error, some_names
from scribbleseg.errors import ScribbleNotFoundError, ScribbleSegError
from scribbleseg.functional.manifest import MANIFEST, read_manifest

if TYPE_CHECKING:
    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record, Split

__all__ = ["check_pseudo_labels"]

# written beside the labels by the commands that make them
_PICTURE = "overview"


def check_pseudo_labels(
    source: ScribbleSource, folder: str | Path, *, split: Split = "train"
) -> list[Finding]:
    """Compare a folder of pseudo-labels with the split that is to train on it.

    Args:
        source: Data set.
        folder: Folder of label PNGs, with ``manifest.json``.
        split: Split whose images need a label.

    Returns:
        D601 for what does not fit, D101 to D203 for files that do not hold ids; every label of the
        split is decoded.

    Raises:
        ScribbleNotFoundError: If the folder does not exist, or the split cannot be listed (D301).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ScribbleNotFoundError(
            f"D301 {folder}: folder of pseudo-labels does not exist; make them, or correct "
            "--pseudo-labels"
        )
    findings = _check_manifest(source, folder)
    try:
        files = io.find_images(folder, suffixes=(".png",))
    except ScribbleSegError as error:
        return [*findings, finding_from_error(error, "D601", str(folder))]
    records = source.records(split)
    findings += _check_names(source, folder, files, records, split)
    there = [(record, files[record.image_id]) for record in records if record.image_id in files]
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for found in pool.map(lambda item: _check_file(source, *item), there):
            findings += found
    return findings


def _check_manifest(source: ScribbleSource, folder: Path) -> list[Finding]:
    path = str(folder / MANIFEST)
    try:
        manifest = read_manifest(folder)
    except ScribbleSegError as error:
        return [finding_from_error(error, "D601", path)]
    if manifest is None:
        return [
            Finding(
                "D601",
                "warning",
                f"{path}: does not exist, expected the classes of the labels; that their ids mean "
                "the classes of this data set cannot be checked: make sure of it",
                path,
            )
        ]
    findings = []
    theirs = manifest.get("class_names")
    if not isinstance(theirs, list):
        difference = f"`class_names` is {theirs!r}, expected a list"
    else:
        difference = class_difference(list(map(str, theirs)), source.class_names, owner="labels")
    if difference:
        findings.append(
            Finding(
                "D601",
                "error",
                f"{path}: the labels have other classes than this data set: {difference}; ids "
                "would train the wrong classes: make the labels for this data set",
                path,
            )
        )
    if manifest.get("complete") is False:
        findings.append(
            Finding(
                "D601",
                "error",
                f"{path}: says complete: false after {manifest.get('files')} files, expected true; "
                "the command that makes them was interrupted or failed: run it again, it goes on",
                path,
            )
        )
    return findings


def _check_names(
    source: ScribbleSource,
    folder: Path,
    files: dict[str, Path],
    records: list[Record],
    split: str,
) -> list[Finding]:
    findings = []
    missing = [record.image_id for record in records if record.image_id not in files]
    if missing:
        findings.append(
            Finding(
                "D601",
                "error",
                f"{folder}: {len(missing)} of {len(records)} images of split {split!r} have no "
                f"label ({some_names(missing)}), expected STEM.png for each; run the stage that "
                "makes them again, or set `on_missing: skip`",
                str(folder),
            )
        )
    known = {record.image_id for record in records}
    # labels of other splits are no mistake, of other images they are
    if any(stem not in known for stem in files):
        known |= {record.image_id for record in source.records("predict")}
    extra = [stem for stem in files if stem not in known and stem.strip("_") != _PICTURE]
    if extra:
        findings.append(
            Finding(
                "D601",
                "warning",
                f"{files[extra[0]]}: {len(extra)} labels belong to no image of the data set "
                f"({some_names(extra)}), expected none; the folder may be of another data set: "
                "check it",
                str(files[extra[0]]),
            )
        )
    return findings


def _check_file(source: ScribbleSource, record: Record, path: Path) -> list[Finding]:
    try:
        label = io.read_label(path, source.num_classes)
        if record.image is not None and record.image.is_file():
            size = io.read_header(record.image, channels=source.in_channels).size
        else:
            size = source.read_image(record).shape[:2]
    except (ScribbleSegError, OSError) as error:
        return [finding_from_error(error, "D601", str(path))]
    if label.shape == tuple(size):
        return []
    return [
        Finding(
            "D601",
            "error",
            f"{path}: label is {label.shape[1]}x{label.shape[0]} (width x height), its image is "
            f"{size[1]}x{size[0]}; it was made from a resized copy: make it again",
            str(path),
        )
    ]
