"""What the counts of all samples say about labels and classes: D101, D104 to D108, D203."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.check.findings import Finding, found, some_names
from scribbleseg.data.check.inspection import explain_contradiction
from scribbleseg.errors import ScribbleSegError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from scribbleseg.data.check.inspection import Sample
    from scribbleseg.data.source import ScribbleSource

__all__: list[str] = []

# label types drawn by hand, and the share that may contradict the mask: above it a warning, above
# the second an error. Discs around clicks cross the borders of small objects.
_DRAWN = {"scribble": (0.01, 0.10), "point": (0.3, 1.0)}
_MAPLESS = ("box", "tag")  # nothing, or only background, may be labelled
_CAUSES = {
    "scribble": "empty files teach nothing: draw them, or remove them from the list. If strokes "
    "are visible in them, 255 or `unlabelled_value` is the value of the strokes: correct it",
    "mask": "255 is read as void, which is not scored, and a score of nothing is NaN: write the "
    "ids of the classes, or remove them from the list",
}


def _kind(source: ScribbleSource, split: str) -> str:
    """What ``read_scribble`` reads: the label type for training, scribbles in other splits."""
    return str(getattr(source, "label_type", "scribble")) if split == "train" else "scribble"


def judge_split(
    source: ScribbleSource, split: str, group: Sequence[Sample], *, complete: bool, coded: bool
) -> Iterator[Finding]:
    """Findings about the samples of a split; ``coded`` = :func:`judge_coding` found something."""
    kind = _kind(source, split)
    yield from _judge_depth(source, group)
    if split != "train" or kind == "mask":
        yield from _judge_masks(source, split, group, complete=complete)
    drawn = [item for item in group if item.scribble.any()]
    if not drawn or (coded and kind == "scribble"):
        return
    if kind not in _MAPLESS:
        yield from _judge_empty(split, "scribble", drawn)
    if kind in _DRAWN and not getattr(source, "allow_dense_scribbles", False):
        dense = _judge_dense(source, split, drawn)
        if dense is not None:
            yield dense
            if dense.severity == "error":  # what follows from it would contradict it
                return
    if split == "train" and complete:
        yield from _judge_classes(source, kind, drawn)
    # masks and pseudo-labels are dense by nature, and guesses may contradict the mask
    if kind in _DRAWN:
        yield from _judge_contradiction(source, split, drawn, *_DRAWN[kind])


def _total(group: Sequence[Sample], counts: str) -> NDArray[np.int64]:
    """Pixels per value, int64, shape ``(256,)``."""
    return sum((getattr(item, counts) for item in group), np.zeros(256, np.int64))


def judge_coding(
    source: ScribbleSource, samples: Mapping[str, Sequence[Sample]]
) -> tuple[Finding | None, set[int]]:
    """D101 if the values of scribbles are no ids, but fit with one value for unlabelled pixels.

    Returns:
        The finding, and values of files that are told with it.
    """
    group = [i for s, items in samples.items() if _kind(source, s) == "scribble" for i in items]
    stored = Counter(dict(enumerate(_total(group, "scribble").tolist())))
    for item in group:
        stored.update(item.stored.get("scribble", {}))
    stored += Counter()  # drops values on 0 px
    mapped = getattr(getattr(source, "classes", None), "remap", None) is not None
    if mapped or not stored or getattr(source, "unlabelled_value", None) is not None:
        return None, set()
    names, (top, pixels) = source.class_names, stored.most_common(1)[0]
    known, most = {*range(len(names))}, 2 * pixels > stored.total()
    outside = stored.keys() - known - {IGNORE_INDEX}
    numbered = outside == {len(names)} and ((most and top == 0) or 0 not in stored)
    odd = [item for item in group if known & item.stored.get("scribble", {}).keys()]
    # files of one value teach nothing
    if not odd or not (numbered or (most and outside == {top})):
        return None, set()
    (extra,) = outside
    value, cause, then = extra, f"{extra} is on most pixels, so it means unlabelled", ""
    if numbered:
        value, cause = 0, "ids count from 1 and 0 means unlabelled, as in ITK-SNAP and napari"
        then = f"; 1 then means {names[0]!r} and {extra} means {names[-1]!r}"
    own = Counter(odd[0].stored["scribble"])
    text = (
        f"value {extra} on {own[extra]:,} px ({100 * own[extra] / own.total():.1f} %), values "
        f"{some_names([str(v) for v in sorted(stored)])} in {len(group)} scribbles, expected "
        f"classes 0-{len(names) - 1} and 255; {cause}: add the line `unlabelled_value: {value}` to "
        f"dataset.yaml{then}"
    )
    told = known | {extra, IGNORE_INDEX}
    return found("D101", "error", odd[0].file("scribble"), text), told


def _judge_depth(source: ScribbleSource, group: Sequence[Sample]) -> Iterator[Finding]:
    deep = [item.file("image") for item in group if item.high_depth]
    if deep and source.intensity.mode == "percentile":
        text = (
            f"{len(deep)} images have more than 8 bits per channel ({some_names(deep)}); each is "
            "scaled between percentiles of its own (0.5 and 99.5), which hides absolute "
            "intensities: if those matter, set a fixed window, `intensity: {mode: range, low: …, "
            "high: …}` in dataset.yaml"
        )
        yield found("D203", "warning", deep[0], text)


def _judge_empty(split: str, role: str, group: Sequence[Sample]) -> Iterator[Finding]:
    empty = [i.file(role) for i in group if not getattr(i, role)[:IGNORE_INDEX].any()]
    if empty:
        text = (
            f"{len(empty)} of {len(group)} {role}s of {split!r} have 0 labelled pixels "
            f"({some_names(empty)}), expected at least 1; {_CAUSES[role]}"
        )
        yield found("D104", "error" if len(empty) == len(group) else "warning", empty[0], text)


def _judge_masks(
    source: ScribbleSource, split: str, group: Sequence[Sample], *, complete: bool
) -> Iterator[Finding]:
    """Masks of void only, void that covers objects (D108), and classes that no mask shows."""
    dense = [item for item in group if item.mask.any()]
    total = _total(dense, "mask")
    ids, void = total[: source.num_classes], int(total[IGNORE_INDEX])
    if not ids.any():
        yield from _judge_empty(split, "mask", dense)
        return
    masked = [item.file("mask") for item in dense if item.mask[IGNORE_INDEX]]
    labelled = _total([item for item in dense if item.compared], "scribble")
    lost = 2 * _total(dense, "on_void") > labelled
    alone = void and np.count_nonzero(ids) == 1  # binary masks with 0 and 255
    covered = [k for k, count in enumerate(ids) if lost[k] or (alone and not count)]
    missing = [k for k, count in enumerate(ids) if not count and k not in covered]
    named = [f"{name!r} (id {label})" for label, name in enumerate(source.class_names)]
    if covered:
        sure = not ids[covered].any() and (complete or 2 * len(masked) >= len(dense))
        cure = "write the ids of the classes instead of 255"
        if len(covered) == 1:
            cure = f"write {covered[0]} instead of 255 (255 → {covered[0]})"
        text = (
            f"255 is on {void:,} px ({100 * void / total.sum():.1f} %) of {len(masked)} masks of "
            f"{split!r}, and {some_names([named[k] for k in covered])} on "
            f"{int(ids[covered].sum()):,} px; 255 is read as void, so a model that never predicts "
            f"these objects scores best: {cure}"
        )
        yield found("D108", "error" if sure else "warning", masked[0], text)
    if missing and complete:
        text = (
            f"{some_names([named[k] for k in missing])} on 0 px of {len(dense)} masks of {split!r} "
            f"(void 255 on {void:,} px), expected some of each class, which are not scored now: "
            "add images that show them, or check the order of the classes and the values of masks"
        )
        yield found("D105", "warning", str(Path(dense[0].file("mask")).parent), text)


def _judge_classes(source: ScribbleSource, kind: str, drawn: Sequence[Sample]) -> Iterator[Finding]:
    total, dense = _total(drawn, "scribble"), _total(drawn, "mask")
    what = "scribble pixels"
    if kind in _MAPLESS:
        what, total = "tags", np.zeros(256, dtype=np.int64)
        for item in drawn:
            with suppress(ScribbleSegError):  # a file that cannot be read is a finding already
                total[source.class_labels(item.record) or []] += 1
        if source.background is not None:
            total[source.background] = len(drawn)
    place = str(Path(drawn[0].file("scribble")).parent)
    place = type(source).__name__ if drawn[0].record.scribble is None else place
    for label, name in enumerate(source.class_names if total[:IGNORE_INDEX].any() else ()):
        if not total[label]:
            text = (
                f"class {name!r} (id {label}) has 0 {what} in {len(drawn)} training images"
                f"{f' but {int(dense[label]):,} mask pixels' if dense[label] else ''}, expected "
                "some; it can never be predicted: draw it, remove it from the class file, or check "
                "the order of the classes"
            )
            yield found("D105", "warning", place, text)


def _judge_dense(source: ScribbleSource, split: str, drawn: Sequence[Sample]) -> Finding | None:
    total = _total(drawn, "scribble")
    pixels, labelled = int(total.sum()), int(total[:IGNORE_INDEX].sum())
    full = [i.file("scribble") for i in drawn if 2 * i.labelled > i.scribble.sum()]
    if not full:
        return None
    value = int(np.argmax(total[:IGNORE_INDEX]))
    then = f" (1 then means {source.class_names[0]!r}, and so on)" if value == 0 else ""
    text = (
        f"{len(full)} of {len(drawn)} scribbles of {split!r} label more than half of the image, "
        f"{100 * labelled / pixels:.1f} % of all pixels are labelled, value {value} on "
        f"{int(total[value]):,} px and 255 on {int(total[IGNORE_INDEX]):,} px, expected a few "
        f"percent; {value} probably means 'unlabelled' in these files: add the line "
        f"`unlabelled_value: {value}` to dataset.yaml{then}, or `allow_dense_scribbles: true` if "
        "that is intended"
    )
    return found("D106", "error" if 2 * labelled > pixels else "warning", full[0], text)


def _judge_contradiction(
    source: ScribbleSource, split: str, drawn: Sequence[Sample], warning: float, error: float
) -> Iterator[Finding]:
    compared = [item for item in drawn if item.compared and item.labelled]
    wrong, labelled = (sum(getattr(i, n) for i in compared) for n in ("contradicting", "labelled"))
    worst = max(compared, key=lambda item: item.contradicting / item.labelled, default=None)
    if worst is None:
        return
    rate, worst_rate = wrong / labelled, worst.contradicting / worst.labelled
    if rate <= warning and worst_rate <= error:
        return
    hint = ""
    with suppress(ScribbleSegError):  # the file may have vanished after it was counted
        scribble, mask = source.read_scribble(worst.record), source.read_mask(worst.record)
        hint = explain_contradiction(scribble, mask)
    hint = hint or "the scribble may be shifted, flipped, or from another release or class order"
    text = (
        f"{worst.contradicting:,} of {worst.labelled:,} labelled pixels ({100 * worst_rate:.1f} %) "
        f"contradict the mask, in all of {split!r} {wrong:,} of {labelled:,} ({100 * rate:.2f} %), "
        f"expected less than {100 * warning:g} %; {hint}: check the export and compare both files"
    )
    yield found("D107", "error" if rate > error else "warning", worst.file("scribble"), text)
