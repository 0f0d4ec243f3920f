"""Images that leak from one split into another, by name, by group, or by their pixels (D302)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scribbleseg.data.findings import Finding, some_names
from scribbleseg.data.lists import image_key

if TYPE_CHECKING:
    from collections.abc import Collection

    from scribbleseg.data.inspection import Sample
    from scribbleseg.types import Record

__all__ = ["overlap_warning", "shared_names", "shared_pixels"]


def shared_names(listed: dict[str, list[Record]]) -> list[Finding]:
    """Images, and groups such as patients, that are in two splits.

    Args:
        listed: All records by split.

    Returns:
        D302: an error for images, a warning for groups.
    """
    findings = []
    names = list(listed)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            files = {record.image_id: record.image for record in listed[first]}
            common = [r.image_id for r in listed[second] if r.image_id in files]
            if common:
                file = str(files[common[0]] or common[0])
                findings.append(
                    Finding(
                        "D302",
                        "error",
                        f"{file}: {len(common)} images are in {first!r} and in {second!r} "
                        f"({some_names(common)}), expected none; they raise scores on {second!r}: "
                        "remove them from one list",
                        file,
                    )
                )
                continue
            groups = {r.group for r in listed[first]} & {r.group for r in listed[second]}
            shared = sorted(group for group in groups if group is not None)
            if shared:
                findings.append(
                    Finding(
                        "D302",
                        "warning",
                        f"{len(shared)} groups have images in {first!r} and in {second!r} "
                        f"({some_names(shared)}), expected none; images of one group are alike, "
                        f"which raises scores on {second!r}: split by group",
                        shared[0],
                    )
                )
    return findings


def shared_pixels(samples: dict[str, list[Sample]]) -> list[Finding]:
    """Images that are in two splits under different names.

    Args:
        samples: Inspected samples by split.

    Returns:
        One D302 error per pair of splits.
    """
    seen: dict[bytes, tuple[str, Sample]] = {}
    pairs: dict[tuple[str, str], list[tuple[Sample, Sample]]] = {}
    for split, group in samples.items():
        for item in group:
            if item.digest is None:
                continue
            other_split, other = seen.setdefault(item.digest, (split, item))
            if other_split != split and other.record.image_id != item.record.image_id:
                pairs.setdefault((other_split, split), []).append((other, item))
    return [
        Finding(
            "D302",
            "error",
            f"{b.record.image or b.record.image_id} ({second!r}) has the same pixels as "
            f"{a.record.image or a.record.image_id} ({first!r}), {len(found)} such images in all, "
            "expected none; a copy under another name leaks into validation: remove one of each",
            str(b.record.image or b.record.image_id),
        )
        for (first, second), found in pairs.items()
        for a, b in found[:1]
    ]


def overlap_warning(
    train_stems: Collection[str],
    val_stems: Collection[str],
    *,
    train_name: str = "the training list",
    val_name: str = "the validation list",
) -> Finding | None:
    """Whether weights trained on one data set have seen the validation images of another.

    VOC ids are compared without their folders, with or without underscore; other names as they are.

    Args:
        train_stems: Image names that the weights were trained on.
        val_stems: Image names that are to be scored.
        train_name: What the first list is, for the message.
        val_name: What the second list is, for the message.

    Returns:
        A D302 warning, or ``None`` if the lists have no image in common.

    Example:
        >>> overlap_warning(["2008_000002"], ["2008000002", "2008_000003"]).message[:34]
        '1 of 2 images of the validation li'
    """
    seen = set(map(image_key, train_stems))
    common = [stem for stem in val_stems if image_key(stem) in seen]
    if not common:
        return None
    return Finding(
        "D302",
        "warning",
        f"{len(common)} of {len(val_stems)} images of {val_name} are in {train_name} "
        f"({some_names(common)}), expected none if weights trained on it are the start; they "
        "raise scores: start from weights that have not seen these images, such as ImageNet's",
        common[0],
    )
