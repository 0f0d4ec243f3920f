"""Check a data set: its own files, and those of earlier stages, a checkpoint or pseudo-labels."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scribbleseg.data.check.files import find_unsafe_files, inspect_sample
from scribbleseg.data.check.findings import CheckReport, caught
from scribbleseg.data.check.judge import Group, judge
from scribbleseg.data.check.report import statistics_of
from scribbleseg.data.findings import Finding, found, some_names
from scribbleseg.data.history import read_facts
from scribbleseg.data.images import read_header
from scribbleseg.data.jobs.job import with_progress
from scribbleseg.data.labels import read_label
from scribbleseg.data.lists import find_images
from scribbleseg.errors import CheckpointError, ScribbleNotFoundError, ScribbleSegError
from scribbleseg.functional.manifest import MANIFEST, check_manifest, class_difference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from scribbleseg.data.check.files import Sample
    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record, Split

__all__ = ["check_checkpoint", "check_pseudo_labels", "check_source"]

_PICTURE = "overview"  # written beside the labels by the commands that make them
_MEASURED = 200  # images per split whose strokes are measured, at least


def check_source(
    source: ScribbleSource,
    *,
    splits: Sequence[Split] = ("train", "val"),
    sample: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> CheckReport:
    """Check the files of a data set; the data card lists the codes of what can be found.

    Training masks are read for statistics and D107 if the source can name them (``with_mask``).

    Args:
        source: Data set. Its attributes ``allow_dense_scribbles`` and ``label_type``, if any,
            switch D106 and D107 off where they do not apply.
        splits: Splits to check.
        sample: Number of images to look at in all splits together; ``None`` = all. Lists are always
            checked as a whole.
        seed: Seed of the sample.
        progress: Show a progress bar on stderr.

    Returns:
        Findings and statistics; problems of the data never raise.
    """
    findings: list[Finding] = []
    root = getattr(source, "root", None)
    place = str(root or type(source).__name__)
    if sample is None and isinstance(root, Path):
        findings, endless = find_unsafe_files(root)
        if endless:
            return CheckReport(findings)
    listed: dict[Split, list[Record]] = {}
    for split in splits:
        with caught(findings, "D301", place):
            listed[split] = source.records(split)
            if not listed[split]:
                text = f"split {split!r} of {place} has 0 images, expected at least 1; add names to"
                findings.append(Finding("D301", "error", f"{text} its split file", place))
    with caught(findings, "D202", place):
        findings += source.problems()
    findings = list(dict.fromkeys(findings))  # several splits may stumble over the same file
    rng, groups = np.random.default_rng(seed), []
    for split, records in listed.items():
        share = len(records) if sample is None else max(1, sample // len(listed))
        places = rng.choice(len(records), min(share, len(records)), replace=False)
        chosen = [records[place] for place in sorted(places)]
        samples = _look(source, chosen, f"check {split}" if progress else "")
        # what read_scribble reads for training; in other splits it is scribbles
        kind = str(getattr(source, "label_type", "scribble")) if split == "train" else "scribble"
        groups.append(Group(samples, source.num_classes, split, kind, len(records)))
    findings += [*_shared_names(listed), *_shared_pixels(groups)]
    findings += judge(source, groups, {(f.code, f.message) for f in findings})
    findings.sort(key=lambda finding: (finding.code, finding.severity))
    return CheckReport(findings, statistics_of(source, groups))


def _look(source: ScribbleSource, records: list[Record], title: str) -> list[Sample]:
    # how strokes look is a habit of the annotator, for which some images are enough
    step = max(1, len(records) // _MEASURED)
    # a source that makes its images need not be safe for threads
    threads = min(8, os.cpu_count() or 1) if records and records[0].image is not None else 1
    pool = ThreadPoolExecutor(threads)  # decoding releases the interpreter lock
    try:
        results = pool.map(
            lambda place: inspect_sample(source, records[place], strokes=place % step == 0),
            range(len(records)),
        )
        return list(with_progress(results, len(records), title, enabled=bool(title)))
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C nobody waits for the rest


def _shared_names(listed: Mapping[Split, Sequence[Record]]) -> Iterator[Finding]:
    """Images in two splits, and groups such as patients in two splits (D302)."""
    for first, second in combinations(listed, 2):
        files = {record.image_id: record.image for record in listed[first]}
        common = [r.image_id for r in listed[second] if r.image_id in files]
        groups = {r.group for r in listed[first]} & {r.group for r in listed[second]}
        shared = sorted(group for group in groups if group is not None)
        text = f"in {first!r} and in {second!r} ({some_names(common or shared)}), expected none"
        if common:
            cure = f"they raise scores on {second!r}: remove them from one list"
            file = str(files[common[0]] or common[0])
            yield found("D302", "error", file, f"{len(common)} images are {text}; {cure}")
        elif shared:
            cure = f"images of one group are alike, which raises scores on {second!r}"
            text = f"{len(shared)} groups have images {text}; {cure}: split by group"
            yield Finding("D302", "warning", text, shared[0])


def _shared_pixels(groups: Sequence[Group]) -> Iterator[Finding]:
    """Images that are in two splits under different names (D302)."""
    for first, second in combinations(groups, 2):
        seen = {i.digest: i for i in first.samples[::-1] if i.digest is not None}
        pairs = [(seen[item.digest], item) for item in second.samples if item.digest in seen]
        same = [(a, b) for a, b in pairs if a.record.image_id != b.record.image_id]
        if same:
            one, copy = (item.file("image") for item in same[0])
            text = (
                f"{copy} ({second.split!r}) has the same pixels as {one} ({first.split!r}), "
                f"{len(same)} such images in all, expected none; a copy under another name leaks "
                "into validation: remove one of each"
            )
            yield Finding("D302", "error", text, copy)


# ------------------------------------------------------------------- files of earlier stages


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
    manifest = str(folder / MANIFEST)
    with caught(findings, "D601", manifest):
        check_manifest(folder, source.class_names, complete=True)
    findings = [f if f.code == "D202" else replace(f, code="D601") for f in findings]
    if not Path(manifest).is_file():
        text = (
            "does not exist, expected the classes of the labels; that their ids mean the classes "
            "of this data set cannot be checked: make sure of it"
        )
        findings.append(found("D601", "warning", manifest, text))
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
    labelled = [record for record in records if record.image_id in files]
    with ThreadPoolExecutor() as pool:
        looks = pool.map(lambda r: _look_at_label(source, r, files[r.image_id]), labelled)
        findings += [finding for faults in looks for finding in faults]
    return sorted(findings, key=lambda finding: (finding.code, finding.severity, finding.message))


def _look_at_label(source: ScribbleSource, record: Record, path: Path) -> list[Finding]:
    """Faults of one pseudo-label: its values and its size."""
    findings: list[Finding] = []
    with caught(findings, "D601", str(path)):
        rows, columns = read_label(path, source.num_classes).shape
        height, width = _size_of(source, record)
        if (rows, columns) != (height, width):
            text = (
                f"label is {columns}x{rows} (width x height), its image is {width}x{height}; it "
                "was made from a resized copy: make it again"
            )
            findings.append(found("D601", "error", str(path), text))
    return findings


def _size_of(source: ScribbleSource, record: Record) -> tuple[int, int]:
    """Height and width of an image; its pixels are decoded only where no header tells them."""
    with suppress(ScribbleSegError):
        return read_header(str(record.image), channels=source.in_channels).size
    height, width, _ = source.read_image(record).shape
    return height, width
