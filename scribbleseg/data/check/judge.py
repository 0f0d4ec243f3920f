"""Findings that follow from the counts of all samples: D101, D104 to D108, D203."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scribbleseg.constants import IGNORE_INDEX
from scribbleseg.data.findings import Finding, found, some_names
from scribbleseg.errors import ScribbleSegError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from scribbleseg.data.check.files import Sample
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
_SHIFT = "shifting it by ({}, {}) px"
_REACH = 8  # pixels that a scribble may be shifted by, to be recognised


class Group:
    """The samples of a split, and their counts as arrays with an image per row.

    ``scribble`` and ``mask`` count pixels per class, ``on_void`` and ``contradicting`` the labelled
    pixels whose mask is void or has another class; int64, shape ``(N, C + 1)``, the last column for
    255. ``drawn`` and ``compared`` say whether the scribble, or scribble and mask, were read;
    ``unscribbled`` says which classes of the mask the scribble lacks, shape ``(N, C)``. ``strokes``
    are summed over ``measured`` images. ``kind`` is the label type that ``read_scribble`` reads.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        num_classes: int,
        split: str = "",
        kind: str = "scribble",
        images: int = 0,
    ) -> None:
        self.samples, self.split, self.kind, self.images = samples, split, kind, images
        self.complete = len(samples) == images
        counts = np.array([item.counts for item in samples], np.int64)
        counts = counts.reshape(-1, 4, num_classes + 1)
        self.scribble, self.mask, self.on_void, self.contradicting = counts.swapaxes(0, 1)
        self.labelled = self.scribble[:, :-1].sum(axis=1)
        self.drawn: NDArray[np.bool_] = self.scribble.sum(axis=1) > 0
        self.compared: NDArray[np.bool_] = self.drawn & (self.mask.sum(axis=1) > 0)
        present, absent = self.mask[:, :-1] > 0, self.scribble[:, :-1] == 0
        self.unscribbled = present & absent & self.compared[:, None]
        measured = [item.strokes for item in samples if item.strokes is not None]
        self.strokes, self.measured = sum(measured, np.zeros((3, 256))), len(measured)

    def files(self, role: str, chosen: NDArray[np.bool_]) -> list[str]:
        """Names of the files of the chosen rows."""
        return [item.file(role) for item, taken in zip(self.samples, chosen, strict=True) if taken]


def judge(
    source: ScribbleSource, groups: Sequence[Group], known: set[tuple[str, str]]
) -> list[Finding]:
    """Findings of single samples, and those that follow from the counts of all.

    All slices of a volume have the same findings, and its source may know them as well: they are
    listed once. ``known`` holds code and message of earlier findings.
    """
    coding, values = _judge_coding(source, groups)
    findings = [] if coding is None else [coding]
    for item in (item for group in groups for item in group.samples):
        told = {item.file(role) for role in item.stored if item.stored[role].keys() <= values}
        for finding in item.findings:
            key = (finding.code, finding.message)
            if key not in known and (finding.code != "D101" or finding.file not in told):
                known.add(key)
                findings.append(finding)
    for group in groups:
        findings += _judge_group(source, group, coded=coding is not None)
    dense = [finding for finding in findings if finding.code == "D106"]
    if dense and dense[0].severity == "error":  # one cause, told once
        findings = [f for f in findings if f.code != "D106" or f is dense[0]]
    return findings


def _judge_coding(
    source: ScribbleSource, groups: Sequence[Group]
) -> tuple[Finding | None, set[int]]:
    """D101 if the values of scribbles are no ids, but fit with one value for unlabelled pixels.

    Returns:
        The finding, and values of files that are told with it.
    """
    drawn = [group for group in groups if group.kind == "scribble"]
    samples = [item for group in drawn for item in group.samples]
    names, ids = source.class_names, range(source.num_classes)
    stored: Counter[int] = Counter()
    for group in drawn:
        counts = group.scribble.sum(axis=0).tolist()
        stored.update(dict(zip([*ids, IGNORE_INDEX], counts, strict=True)))
    for item in samples:
        stored.update(item.stored.get("scribble", {}))
    stored += Counter()  # drops values on 0 px
    if not stored or getattr(source, "unlabelled_value", None) is not None:
        return None, set()
    codings = getattr(source, "codings", {})
    if "scribble" in codings and codings["scribble"].ids is not None:  # values are no indices
        return None, set()
    (top, pixels), outside = stored.most_common(1)[0], stored.keys() - {*ids, IGNORE_INDEX}
    most = 2 * pixels > stored.total()
    numbered = outside == {len(ids)} and ((most and top == 0) or 0 not in stored)
    odd = [item for item in samples if item.stored.get("scribble", {}).keys() & {*ids}]
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
        f"{some_names([str(v) for v in sorted(stored)])} in {len(samples)} scribbles, expected "
        f"classes 0-{len(names) - 1} and 255; {cause}: add the line `unlabelled_value: {value}` to "
        f"dataset.yaml{then}"
    )
    told = {*ids, extra, IGNORE_INDEX}
    return found("D101", "error", odd[0].file("scribble"), text), told


def _judge_group(source: ScribbleSource, group: Group, *, coded: bool) -> Iterator[Finding]:
    """Findings about a split; ``coded`` = one D101 says what is wrong with all its scribbles."""
    deep = [item.file("image") for item in group.samples if item.deep]
    if deep and source.intensity.mode == "percentile":
        text = (
            f"{len(deep)} images have more than 8 bits per channel ({some_names(deep)}); each is "
            "scaled between percentiles of its own (0.5 and 99.5), which hides absolute "
            "intensities: if those matter, set a fixed window, `intensity: {mode: range, low: …, "
            "high: …}` in dataset.yaml"
        )
        yield found("D203", "warning", deep[0], text)
    if group.split != "train" or group.kind == "mask":
        yield from _judge_masks(source, group)
    if not group.drawn.any() or (coded and group.kind == "scribble"):
        return
    if group.kind not in _MAPLESS:
        yield from _judge_empty(group, "scribble")
    if group.kind in _DRAWN and not getattr(source, "allow_dense_scribbles", False):
        dense = _judge_dense(source, group)
        if dense is not None:
            yield dense
            if dense.severity == "error":  # what follows from it would contradict it
                return
    if group.split == "train" and group.complete:
        yield from _judge_classes(source, group)
    # masks and pseudo-labels are dense by nature, and guesses may contradict the mask
    if group.kind in _DRAWN:
        yield from _judge_contradiction(source, group, *_DRAWN[group.kind])


def _judge_empty(group: Group, role: str) -> Iterator[Finding]:
    """Scribbles or masks in which all pixels are 255 (D104)."""
    counts = getattr(group, role)
    read = np.count_nonzero(counts.any(axis=1))
    empty = group.files(role, counts.any(axis=1) & ~counts[:, :-1].any(axis=1))
    if empty:
        text = (
            f"{len(empty)} of {read} {role}s of {group.split!r} have 0 labelled pixels "
            f"({some_names(empty)}), expected at least 1; {_CAUSES[role]}"
        )
        yield found("D104", "error" if len(empty) == read else "warning", empty[0], text)


def _judge_masks(source: ScribbleSource, group: Group) -> Iterator[Finding]:
    """Masks of void only, void that covers objects (D108), and classes that no mask shows."""
    files, split = group.files("mask", group.mask.sum(axis=1) > 0), group.split
    masked = group.files("mask", group.mask[:, -1] > 0)
    *ids, void = group.mask.sum(axis=0).tolist()
    if not any(ids):
        yield from _judge_empty(group, "mask")
        return
    lost = 2 * group.on_void.sum(axis=0) > group.scribble[group.compared].sum(axis=0)
    alone = void and sum(count > 0 for count in ids) == 1  # binary masks with 0 and 255
    covered = [k for k, count in enumerate(ids) if lost[k] or (alone and not count)]
    missing = [k for k, count in enumerate(ids) if not count and k not in covered]
    named = [f"{name!r} (id {label})" for label, name in enumerate(source.class_names)]
    if covered:
        pixels = sum(ids[k] for k in covered)
        sure = not pixels and (group.complete or 2 * len(masked) >= len(files))
        cure = "write the ids of the classes instead of 255"
        if len(covered) == 1:
            cure = f"write {covered[0]} instead of 255 (255 → {covered[0]})"
        text = (
            f"255 is on {void:,} px ({100 * void / (void + sum(ids)):.1f} %) of {len(masked)} "
            f"masks of {split!r}, and {some_names([named[k] for k in covered])} on {pixels:,} px; "
            f"255 is read as void, so a model that never predicts these objects scores best: {cure}"
        )
        yield found("D108", "error" if sure else "warning", masked[0], text)
    if missing and group.complete:
        text = (
            f"{some_names([named[k] for k in missing])} on 0 px of {len(files)} masks of {split!r} "
            f"(void 255 on {void:,} px), expected some of each class, which are not scored now: "
            "add images that show them, or check the order of the classes and the values of masks"
        )
        yield found("D105", "warning", str(Path(files[0]).parent), text)


def _judge_classes(source: ScribbleSource, group: Group) -> Iterator[Finding]:
    """Classes that no training label shows (D105)."""
    drawn = [group.samples[row] for row in np.flatnonzero(group.drawn).tolist()]
    what, dense = "scribble pixels", group.mask[group.drawn].sum(axis=0)
    total = group.scribble.sum(axis=0)
    if group.kind in _MAPLESS:
        what, total = "tags", np.zeros_like(total)
        for item in drawn:
            with suppress(ScribbleSegError):  # a file that cannot be read is a finding already
                total[source.class_labels(item.record) or []] += 1
        if source.background is not None:
            total[source.background] = len(drawn)
    place = str(Path(drawn[0].file("scribble")).parent)
    place = type(source).__name__ if drawn[0].record.scribble is None else place
    for label in np.flatnonzero(total[:-1] == 0) if total[:-1].any() else ():
        text = (
            f"class {source.class_names[label]!r} (id {label}) has 0 {what} in {len(drawn)} "
            f"training images{f' but {dense[label]:,} mask pixels' if dense[label] else ''}, "
            "expected some; it can never be predicted: draw it, remove it from the class file, or "
            "check the order of the classes"
        )
        yield found("D105", "warning", place, text)


def _judge_dense(source: ScribbleSource, group: Group) -> Finding | None:
    """Scribbles that label most of their image (D106)."""
    *ids, unlabelled = group.scribble.sum(axis=0).tolist()
    share, value = sum(ids) / (sum(ids) + unlabelled), int(np.argmax(ids))
    full = group.files("scribble", 2 * group.labelled > group.scribble.sum(axis=1))
    if not full:
        return None
    then, names = "", source.class_names
    counted = getattr(getattr(source, "classes", None), "counted", False)
    if value == 0 and len(names) > 1 and counted:
        then = (
            f", and `first_id: 1` if 1 means {names[0]!r} or `first_id: 0` if 1 means {names[1]!r}"
        )
    text = (
        f"{len(full)} of {group.drawn.sum()} scribbles of {group.split!r} label more than half of "
        f"the image, {100 * share:.1f} % of all pixels are labelled, value {value} on "
        f"{ids[value]:,} px and 255 on {unlabelled:,} px, expected a few percent; {value} probably "
        f"means 'unlabelled' in these files: add the line `unlabelled_value: {value}` to "
        f"dataset.yaml{then}, or `allow_dense_scribbles: true` if that is intended"
    )
    return found("D106", "error" if share > 0.5 else "warning", full[0], text)


def _judge_contradiction(
    source: ScribbleSource, group: Group, warning: float, error: float
) -> Iterator[Finding]:
    """Scribbles that label other classes than their masks (D107)."""
    rows = np.flatnonzero(group.compared & (group.labelled > 0))
    if not len(rows):
        return
    wrong, labelled = group.contradicting[rows].sum(axis=1), group.labelled[rows]
    rate, rates = wrong.sum() / labelled.sum(), wrong / labelled
    if rate <= warning and rates.max() <= error:
        return
    worst, hint = int(np.argmax(rates)), ""
    item = group.samples[int(rows[worst])]
    with suppress(ScribbleSegError):  # the file may have vanished after it was counted
        scribble, mask = source.read_scribble(item.record), source.read_mask(item.record)
        hint = explain_contradiction(scribble, mask)
    hint = hint or "the scribble may be shifted, flipped, or from another release or class order"
    text = (
        f"{wrong[worst]:,} of {labelled[worst]:,} labelled pixels ({100 * rates[worst]:.1f} %) "
        f"contradict the mask, in all of {group.split!r} {wrong.sum():,} of {labelled.sum():,} "
        f"({100 * rate:.2f} %), expected less than {100 * warning:g} %; {hint}: check the export "
        "and compare both files"
    )
    yield found("D107", "error" if rate > error else "warning", item.file("scribble"), text)


def explain_contradiction(scribble: NDArray[np.uint8], mask: NDArray[np.uint8]) -> str:
    """Which flip or shift of up to 8 px makes a scribble agree with its mask: a clause, or ''."""
    moved: dict[str, NDArray[np.integer]] = {
        "flipping it horizontally": mask[:, ::-1],
        "flipping it vertically": mask[::-1],
        "rotating it by 180 degrees": mask[::-1, ::-1],
    }
    padded = np.pad(mask.astype(np.int16), _REACH, constant_values=-1)
    # of equally good shifts the shortest comes first, and min() keeps it
    shifts = product(range(-_REACH, _REACH + 1), repeat=2)
    for dx, dy in sorted(shifts, key=lambda shift: shift[0] ** 2 + shift[1] ** 2):
        moved[_SHIFT.format(dx, dy)] = padded[_REACH + dy :, _REACH + dx :]
    drawn = np.nonzero(scribble != IGNORE_INDEX)
    labels = scribble[drawn]
    wrong = {
        name: float(np.mean((truth[drawn] != labels) & (truth[drawn] != IGNORE_INDEX)))
        for name, truth in moved.items()
    }
    best = min(wrong, key=lambda name: wrong[name])
    return f"{best} removes most of it" if 4 * wrong[best] < wrong[_SHIFT.format(0, 0)] else ""
