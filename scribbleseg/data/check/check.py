"""Run the data check: look at the files of all samples, and at the lists of the splits."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scribbleseg.data.check.files import find_unsafe_files
from scribbleseg.data.check.findings import CheckReport, Finding, caught, found, some_names
from scribbleseg.data.check.inspection import inspect_sample
from scribbleseg.data.check.judge import judge_coding, judge_split
from scribbleseg.data.check.statistics import class_statistics, split_statistics
from scribbleseg.data.jobs.job import with_progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from scribbleseg.data.check.inspection import Sample
    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record, Split

__all__ = ["check_source"]

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
    endless = False  # whether reading the files may never end
    root = getattr(source, "root", None)
    place = str(root or type(source).__name__)
    if sample is None and isinstance(root, Path):
        with caught(findings, "D501", place):
            unsafe, endless = find_unsafe_files(root)
            findings += unsafe
        if endless:
            return CheckReport(findings)
    listed: dict[str, list[Record]] = {}
    for split in splits:
        with caught(findings, "D301", place):
            listed[split] = source.records(split)
            if not listed[split]:
                text = f"split {split!r} of {place} has 0 images, expected at least 1; add names to"
                findings.append(Finding("D301", "error", f"{text} its split file", place))
    problems: list[Finding] = []
    with caught(problems, "D202", place):
        problems += source.problems()
    findings += [problem for problem in problems if problem not in findings]
    rng = np.random.default_rng(seed)
    samples: dict[str, list[Sample]] = {}
    drawn = {name: _draw(listed[name], len(listed), sample, rng) for name in listed}
    for name, records in drawn.items():
        samples[name] = _inspect(source, records, f"check {name}" if progress else None)
    coding, values = judge_coding(source, samples)
    findings += [*_shared_names(listed), *_shared_pixels(samples), *([coding] if coding else [])]
    for name, group in samples.items():
        told = {i.file(role) for i in group for role in i.stored if i.stored[role].keys() <= values}
        raised = [finding for item in group for finding in item.findings]
        raised = [f for f in raised if f.code != "D101" or f.file not in told]
        # all slices of a volume tell the same of it, and so may its source
        known = {(finding.code, finding.message) for finding in findings}
        once = {(finding.code, finding.message): finding for finding in raised}
        findings += [finding for key, finding in once.items() if key not in known]
        complete = len(group) == len(listed[name])
        findings += judge_split(source, name, group, complete=complete, coded=coding is not None)
    dense = [finding for finding in findings if finding.code == "D106"]
    if dense and dense[0].severity == "error":  # one cause, told once
        findings = [f for f in findings if f.code != "D106" or f is dense[0]]
    everything = [item for group in samples.values() for item in group]
    statistics = {
        "splits": {s: {"images": len(listed[s]), **split_statistics(samples[s])} for s in listed},
        "all": {"images": sum(map(len, listed.values())), **split_statistics(everything)},
        "classes": class_statistics(source.class_names, everything),
    }
    findings.sort(key=lambda finding: (finding.code, finding.severity))
    return CheckReport(findings, statistics)


def _draw(
    records: list[Record], splits: int, sample: int | None, rng: np.random.Generator
) -> list[Record]:
    """The share of a split in the sample."""
    count = len(records) if sample is None else max(1, sample // splits)
    if count >= len(records):
        return records
    return [records[i] for i in sorted(rng.choice(len(records), count, replace=False))]


def _inspect(source: ScribbleSource, records: list[Record], title: str | None) -> list[Sample]:
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
        return list(with_progress(results, len(records), title or "", enabled=title is not None))
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C nobody waits for the rest


def _shared_names(listed: Mapping[str, Sequence[Record]]) -> Iterator[Finding]:
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


def _shared_pixels(samples: Mapping[str, Sequence[Sample]]) -> Iterator[Finding]:
    """Images that are in two splits under different names (D302)."""
    seen: dict[bytes, tuple[str, Sample]] = {}
    pairs: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for split, group in samples.items():
        for item in group:
            earlier, other = seen.setdefault(item.digest or b"", (split, item))
            if item.digest and earlier != split and other.record.image_id != item.record.image_id:
                names = (other.file("image"), item.file("image"))
                pairs.setdefault((earlier, split), []).append(names)
    for (first, second), same in pairs.items():
        one, copy = same[0]
        text = (
            f"{copy} ({second!r}) has the same pixels as {one} ({first!r}), {len(same)} such "
            "images in all, expected none; a copy under another name leaks into validation: remove "
            "one of each"
        )
        yield Finding("D302", "error", text, copy)
