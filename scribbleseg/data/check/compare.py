"""A data set against files of earlier stages: a checkpoint (D402), pseudo-labels (D601)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from scribbleseg.data.check.findings import Finding, caught, found, some_names
from scribbleseg.data.history import read_facts
from scribbleseg.data.images import read_header
from scribbleseg.data.labels import read_label
from scribbleseg.data.lists import find_images
from scribbleseg.errors import CheckpointError, ScribbleNotFoundError
from scribbleseg.functional.manifest import MANIFEST, check_manifest, class_difference

if TYPE_CHECKING:
    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record, Split

__all__ = ["check_checkpoint", "check_pseudo_labels"]

_PICTURE = "overview"  # written beside the labels by the commands that make them


def check_checkpoint(source: ScribbleSource, path: str | Path) -> list[Finding]:
    """Compare the classes of a data set with those that a checkpoint was trained on.

    Args:
        source: Data set.
        path: Checkpoint of this library; its weights stay on disk where the file allows it.

    Returns:
        One D402 error, or nothing.

    Raises:
        CheckpointError: If the file cannot be read, or does not say its classes.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist; correct --checkpoint")
    try:
        names = tuple(read_facts(path)["data"]["class_names"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} does not say its classes, so it was not written by scribbleseg; choose a file "
            "of a run's checkpoints folder"
        ) from error
    difference = class_difference(names, source.class_names, owner="checkpoint")
    text = (
        f"was trained on other classes than this data set has: {difference}; ids would mean other "
        "classes: use the class file of its training data, or train a new model"
    )
    return [found("D402", "error", str(path), text)] if difference else []


def check_pseudo_labels(
    source: ScribbleSource, folder: str | Path, *, split: Split = "train"
) -> list[Finding]:
    """Compare a folder of pseudo-labels with the split that is to train on it.

    Args:
        source: Data set.
        folder: Folder of label PNGs, with ``manifest.json``.
        split: Split whose images need a label; every label is decoded.

    Returns:
        D601 for what does not fit, D101 to D203 for files that do not hold ids.

    Raises:
        ScribbleNotFoundError: If the folder does not exist, or the split cannot be listed (D301).
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ScribbleNotFoundError(
            f"D301 {folder}: folder of pseudo-labels does not exist; make them, or correct "
            "--pseudo-labels"
        )
    findings: list[Finding] = []
    with caught(findings, "D601", str(folder / MANIFEST)):
        check_manifest(folder, source.class_names, complete=True)
    findings = [
        f if f.code == "D202" else Finding("D601", f.severity, f.message, f.file) for f in findings
    ]
    if not (folder / MANIFEST).is_file():
        text = (
            "does not exist, expected the classes of the labels; that their ids mean the classes "
            "of this data set cannot be checked: make sure of it"
        )
        findings.append(found("D601", "warning", str(folder / MANIFEST), text))
    files: dict[str, Path] = {}
    with caught(findings, "D601", str(folder)):
        files = find_images(folder, suffixes=(".png",))
    records = source.records(split)
    missing = [record.image_id for record in records if record.image_id not in files]
    if missing:
        text = (
            f"{len(missing)} of {len(records)} images of split {split!r} have no label "
            f"({some_names(missing)}), expected STEM.png for each; run the stage that makes them "
            "again, or set `on_missing: skip`"
        )
        findings.append(found("D601", "error", str(folder), text))
    known = {record.image_id for record in records}
    if not known >= files.keys():  # labels of other splits are no mistake, of other images they are
        known |= {record.image_id for record in source.records("predict")}
    extra = [stem for stem in files if stem not in known and stem.strip("_") != _PICTURE]
    if extra:
        text = (
            f"{len(extra)} labels belong to no image of the data set ({some_names(extra)}), "
            "expected none; the folder may be of another data set: check it"
        )
        findings.append(found("D601", "warning", str(files[extra[0]]), text))

    def look(record: Record) -> None:
        path = files[record.image_id]
        with caught(findings, "D601", str(path)):
            size, wanted = read_label(path, source.num_classes).shape, _size_of(source, record)
            if size != wanted:
                text = (
                    f"label is {size[1]}x{size[0]} (width x height), its image is "
                    f"{wanted[1]}x{wanted[0]}; it was made from a resized copy: make it again"
                )
                findings.append(found("D601", "error", str(path), text))

    with ThreadPoolExecutor() as pool:
        list(pool.map(look, [record for record in records if record.image_id in files]))
    return sorted(findings, key=lambda finding: (finding.code, finding.severity, finding.message))


def _size_of(source: ScribbleSource, record: Record) -> tuple[int, ...]:
    path = Path(str(record.image))
    if path.is_file():
        return read_header(path, channels=source.in_channels).size
    return source.read_image(record).shape[:2]
