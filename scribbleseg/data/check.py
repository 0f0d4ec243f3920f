"""Find faults of a data set before the first training step, and count what is in it.

Codes are stable. Labels: D101 id out of range, D102 luminance of a palette, D103 colours, D104
nothing labelled, D105 class never scribbled, D106 dense scribbles, D107 scribble contradicts mask.
Files: D201 sizes differ, D202 undecodable, D203 more than 8 bits. Lists: D301 missing, D302 leak
between splits, D303 stem not unique. Classes: D401 name or id, D402 not those of a checkpoint
(:mod:`~scribbleseg.data.comparison`). Unsafe content: D501 name, archive, XML or pickle
(:mod:`~scribbleseg.data.unsafe_files`). Folders of an earlier stage: D601 pseudo-labels that do not
fit (:mod:`~scribbleseg.data.pseudo_check`).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.findings import CheckReport, Finding, finding_from_error, some_names
from scribbleseg.data.inspection import Sample, explain_contradiction, inspect_sample
from scribbleseg.data.leaks import shared_names, shared_pixels
from scribbleseg.data.prepared import with_progress
from scribbleseg.data.statistics import summarise
from scribbleseg.data.unsafe_files import find_unsafe_files
from scribbleseg.errors import ScribbleSegError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record, Split

__all__ = ["CheckReport", "Finding", "check_source"]

_DENSE = 0.5
_MEASURED = 200  # images per split whose strokes are measured, at least
# label types drawn by hand, and the share that may contradict the mask: above it a warning, above
# the second an error. Discs around clicks cross the borders of small objects.
_DRAWN = {"scribble": (0.01, 0.10), "point": (0.3, 1.0)}
_MAPLESS = ("box", "tag")  # nothing, or only background, may be labelled


def check_source(
    source: ScribbleSource,
    *,
    splits: Sequence[Split] = ("train", "val"),
    sample: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> CheckReport:
    """Check the files of a data set.

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
    listed: dict[str, list[Record]] = {}
    for split in splits:
        try:
            listed[split] = source.records(split)
        except ScribbleSegError as error:
            findings.append(finding_from_error(error, "D301", _root_of(source)))
            continue
        if not listed[split]:
            findings.append(
                Finding(
                    "D301",
                    "error",
                    f"split {split!r} of {_root_of(source)} has 0 images, expected at least 1; add "
                    "names to its split file",
                    _root_of(source),
                )
            )
    findings += shared_names(listed)
    rng = np.random.default_rng(seed)
    share = None if sample is None else max(1, sample // max(1, len(listed)))
    drawn = {split: _draw(records, share, rng) for split, records in listed.items()}
    samples = {
        split: _inspect_all(source, records, f"check {split}" if progress else None)
        for split, records in drawn.items()
    }
    root = getattr(source, "root", None)
    if sample is None and isinstance(root, Path):
        findings += find_unsafe_files(root)
    findings += [f for group in samples.values() for item in group for f in item.findings]
    findings += shared_pixels(samples)
    for name, group in samples.items():
        complete = len(group) == len(listed[name])
        findings += _judge_split(source, name, group, complete=complete)
    findings.sort(key=lambda finding: (finding.code, finding.severity))
    return CheckReport(findings, summarise(source, listed, samples))


def _root_of(source: ScribbleSource) -> str:
    return str(getattr(source, "root", type(source).__name__))


def _draw(records: list[Record], count: int | None, rng: np.random.Generator) -> list[Record]:
    if count is None or count >= len(records):
        return records
    return [records[i] for i in sorted(rng.choice(len(records), count, replace=False))]


def _inspect_all(source: ScribbleSource, records: list[Record], title: str | None) -> list[Sample]:
    records = [source.with_mask(record) for record in records]
    # how strokes look is a habit of the annotator, for which some images are enough
    step = max(1, len(records) // _MEASURED)
    numbered = list(enumerate(records))

    def inspect(item: tuple[int, Record]) -> Sample:
        return inspect_sample(source, item[1], strokes=item[0] % step == 0)

    def finish(results: Iterable[Sample]) -> list[Sample]:
        shown = with_progress(results, len(records), title or "", enabled=title is not None)
        return list(shown)

    if not records or records[0].image is None:
        # a source that makes its images need not be safe for threads
        return finish(map(inspect, numbered))
    # decoding and hashing release the interpreter lock
    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1))
    try:
        return finish(pool.map(inspect, numbered))
    finally:
        # after Ctrl-C nobody waits for the rest
        pool.shutdown(cancel_futures=True)


def _judge_split(
    source: ScribbleSource, split: str, group: list[Sample], *, complete: bool
) -> list[Finding]:
    findings = []
    deep = [str(item.record.image) for item in group if item.high_depth]
    window = getattr(source, "intensity", None)
    if deep and (window is None or window.mode == "percentile"):
        findings.append(
            Finding(
                "D203",
                "warning",
                f"{deep[0]}: {len(deep)} images have more than 8 bits per channel "
                f"({some_names(deep)}); each is scaled between percentiles of its own (0.5 and "
                "99.5), which hides absolute intensities: if those matter, set a fixed window, "
                "`intensity: {mode: range, low: …, high: …}` in dataset.yaml",
                deep[0],
            )
        )
    drawn = [item for item in group if item.scribble is not None]
    if not drawn:
        return findings
    kind = getattr(source, "label_type", "scribble") if split == "train" else "scribble"
    if kind not in _MAPLESS:
        findings += _judge_empty(split, drawn)
    if split == "train" and complete:
        findings += _judge_classes(source, drawn)
    # masks and pseudo-labels are dense by nature, and guesses may contradict the mask
    if kind in _DRAWN:
        if not getattr(source, "allow_dense_scribbles", False):
            findings += _judge_dense(split, drawn)
        findings += _judge_contradiction(source, split, drawn, *_DRAWN[kind])
    return findings


def _judge_empty(split: str, drawn: list[Sample]) -> list[Finding]:
    empty = [item.scribble_file for item in drawn if item.labelled == 0]
    if not empty:
        return []
    return [
        Finding(
            "D104",
            "error" if len(empty) == len(drawn) else "warning",
            f"{empty[0]}: {len(empty)} of {len(drawn)} scribbles of {split!r} have 0 labelled "
            f"pixels ({some_names(empty)}), expected at least 1; empty files teach nothing: draw "
            "them, or remove them from the list. If strokes are visible in them, 255 or "
            "`unlabelled_value` is the value of the strokes: correct it",
            empty[0],
        )
    ]


def _judge_classes(source: ScribbleSource, drawn: list[Sample]) -> list[Finding]:
    total = _total(drawn)
    what = "scribble pixels"
    if getattr(source, "label_type", "scribble") in _MAPLESS:
        total, what = _tagged(source, drawn), "tags"
    masks = [item.mask for item in drawn if item.mask is not None]
    dense = np.sum(masks, axis=0) if masks else np.zeros(256, dtype=np.int64)
    if not total[:IGNORE_INDEX].any():
        return []
    scribbles = drawn[0].record.scribble
    place = str(scribbles.parent) if scribbles is not None else type(source).__name__
    return [
        Finding(
            "D105",
            "warning",
            f"{place}: class {name!r} (id {label}) has 0 {what} in {len(drawn)} training "
            f"images{f' but {int(dense[label]):,} mask pixels' if dense[label] else ''}, expected "
            "some; it can never be predicted: draw it, remove it from the class file, or check the "
            "order of the classes",
            place,
        )
        for label, name in enumerate(source.class_names)
        if total[label] == 0
    ]


def _tagged(source: ScribbleSource, drawn: list[Sample]) -> NDArray[np.int64]:
    """Images per class by their tags, int64, shape ``(256,)``; a background class is in all."""
    total = np.zeros(256, dtype=np.int64)
    for item in drawn:
        # a file that cannot be read is a finding already
        with suppress(ScribbleSegError):
            total[source.class_labels(item.record) or []] += 1
    if source.background is not None:
        total[source.background] = len(drawn)
    return total


def _judge_dense(split: str, drawn: list[Sample]) -> list[Finding]:
    total = _total(drawn)
    pixels, labelled = int(total.sum()), int(total[:IGNORE_INDEX].sum())
    full = [item for item in drawn if item.labelled > _DENSE * _pixels(item)]
    if not full:
        return []
    value = int(np.argmax(total[:IGNORE_INDEX]))
    systematic = labelled > _DENSE * pixels
    file = full[0].scribble_file
    return [
        Finding(
            "D106",
            "error" if systematic else "warning",
            f"{file}: {len(full)} of {len(drawn)} scribbles of {split!r} label more than half of "
            f"the image, {100 * labelled / pixels:.1f} % of all pixels are labelled, value {value} "
            f"on {int(total[value]):,} px and 255 on {int(total[IGNORE_INDEX]):,} px, expected a "
            f"few percent; {value} probably means 'not drawn' in these files: set "
            f"`unlabelled_value: {value}`, or `allow_dense_scribbles: true` if that is intended",
            file,
        )
    ]


def _total(drawn: list[Sample]) -> NDArray[np.int64]:
    """Pixels per scribble value, int64, shape ``(256,)``."""
    total = np.zeros(256, dtype=np.int64)
    for item in drawn:
        if item.scribble is not None:
            total += item.scribble
    return total


def _pixels(item: Sample) -> int:
    return 0 if item.scribble is None else int(item.scribble.sum())


def _judge_contradiction(
    source: ScribbleSource, split: str, drawn: list[Sample], warning: float, error: float
) -> list[Finding]:
    compared = [item for item in drawn if item.contradicting is not None and item.labelled]
    wrong = sum(item.contradicting or 0 for item in compared)
    labelled = sum(item.labelled for item in compared)
    if not labelled:
        return []
    worst = max(compared, key=lambda item: (item.contradicting or 0) / item.labelled)
    rate = wrong / labelled
    worst_rate = (worst.contradicting or 0) / worst.labelled
    if rate <= warning and worst_rate <= error:
        return []
    hint = "the scribble may be shifted, flipped, or from another release or class order"
    # the file may have vanished after it was counted
    with suppress(ScribbleSegError):
        scribble, mask = source.read_scribble(worst.record), source.read_mask(worst.record)
        hint = explain_contradiction(scribble, mask) or hint
    file = worst.scribble_file
    return [
        Finding(
            "D107",
            "error" if rate > error else "warning",
            f"{file}: {worst.contradicting:,} of {worst.labelled:,} labelled pixels "
            f"({100 * worst_rate:.1f} %) contradict the mask, in all of {split!r} {wrong:,} of "
            f"{labelled:,} ({100 * rate:.2f} %), expected less than {100 * warning:g} %; "
            f"{hint}: check the export and compare both files",
            file,
        )
    ]
