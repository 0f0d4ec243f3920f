"""Semantic masks from COCO's instance annotations: which one is on top, and what a crowd is."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from scribbleseg.constants import IGNORE_INDEX, voc_palette
from scribbleseg.data.image_work import work_through
from scribbleseg.data.prepared import check_settings, is_fresh
from scribbleseg.errors import LabelFormatError, MissingExtraError
from scribbleseg.functional.images import write_label
from scribbleseg.functional.manifest import write_manifest
from scribbleseg.options import check_choice, check_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from scribbleseg.data.readers.coco import CocoIndex

__all__ = ["Crowd", "MaskReport", "Overlap", "paint_mask", "write_masks"]

Crowd = Literal["background", "ignore"]
"""What pixels of crowd regions are where no object covers them: background, or 255."""

Overlap = Literal["order", "area"]
"""Which object is on top: the later one in the file, or the smaller one."""


@dataclass
class MaskReport:
    """Outcome of :func:`write_masks`.

    Attributes:
        folder: Where the masks are.
        written: Masks written by this call.
        kept: Masks that were there already.
        failed: Image id to what went wrong.
    """

    folder: Path
    written: int = 0
    kept: int = 0
    failed: dict[int, str] = field(default_factory=dict)


def paint_mask(
    index: CocoIndex, image_id: int, *, crowd: Crowd = "background", overlap: Overlap = "order"
) -> NDArray[np.uint8]:
    """Class of every pixel of one image. Time O(pixels x annotations of the image).

    Args:
        index: Annotations.
        image_id: Image.
        crowd: See :data:`Crowd`; a crowd region never covers an object.
        overlap: See :data:`Overlap`; equal areas keep the order of the file.

    Returns:
        Ids, 0 = background, uint8, shape ``(H, W)``.

    Raises:
        ScribbleNotFoundError: If the file has no such image (D301).
        LabelFormatError: If a polygon or run length is malformed (D202).
        ConfigError: If an option is unknown.
        MissingExtraError: If pycocotools is not installed.
    """
    check_choice("crowd", crowd, get_args(Crowd))
    check_choice("overlap", overlap, get_args(Overlap))
    size = index.size(image_id)
    mask = np.zeros(size, dtype=np.uint8)
    span = index.rows(image_id)
    rows = np.arange(span.start, span.stop)
    is_crowd = index.crowd[rows]
    crowds, objects = rows[is_crowd], rows[~is_crowd]
    if overlap == "area":
        objects = objects[np.argsort(-index.areas[objects], kind="stable")]
    painted = objects if crowd == "background" else np.concatenate([crowds, objects])
    if not len(painted):
        return mask
    for row, item in zip(painted, index.annotations(painted), strict=True):
        try:
            covered = _decode(item.get("segmentation"), size)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise LabelFormatError(
                f"D202 {index.path}: segmentation of annotation {item['id']} (image {image_id}) "
                f"cannot be drawn ({error}), expected polygons of at least 3 points or run lengths "
                f"of {size[0]}x{size[1]} (height x width) pixels; correct it or remove the "
                "annotation"
            ) from error
        mask[covered] = IGNORE_INDEX if index.crowd[row] else index.labels[row]
    return mask


def _decode(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    try:
        from pycocotools import mask as coco
    except ImportError as error:
        raise MissingExtraError("pycocotools", "coco", "painting COCO masks") from error
    if isinstance(segmentation, list):
        if not segmentation or not all(
            len(part) >= 6 and len(part) % 2 == 0 for part in segmentation
        ):
            raise ValueError(
                f"{len(segmentation)} polygons of {[len(p) for p in segmentation][:5]} numbers"
            )
        runs = coco.merge(coco.frPyObjects(segmentation, *size))
    else:
        counts = segmentation["counts"]
        lengths = counts if isinstance(counts, list) else _run_lengths(counts)
        # the C code trusts run lengths, so they are counted before
        if list(segmentation["size"]) != list(size) or min(lengths, default=-1) < 0:
            raise ValueError(f"run lengths of size {segmentation['size']}")
        if sum(lengths) != size[0] * size[1]:
            raise ValueError(f"run lengths of {sum(lengths):,} pixels")
        listed = {"size": list(size), "counts": list(lengths)}
        runs = coco.frPyObjects(listed, *size)
    return np.asarray(coco.decode(runs), dtype=np.bool_)


def _run_lengths(text: str) -> list[int]:
    """Run lengths of COCO's text form: 5 bits a character, differences to the last but one."""
    found: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise ValueError(f"character {character!r} in run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        found.append(value + (found[-2] if len(found) > 2 else 0))
        value = shift = 0
    return found


class _Result(NamedTuple):
    """What became of one image; ``reason`` is empty if all went well."""

    image_id: int
    written: bool
    reason: str = ""


@dataclass(frozen=True)
class _Writer:
    """All that a worker needs to write one mask."""

    index: CocoIndex
    folder: Path
    crowd: Crowd
    overlap: Overlap

    def __call__(self, item: tuple[int, str]) -> _Result:
        image_id, name = item
        target = self.folder / f"{name}.png"
        if is_fresh(target, self.index.path):
            return _Result(image_id, False)
        try:
            mask = paint_mask(self.index, image_id, crowd=self.crowd, overlap=self.overlap)
            write_label(target, mask, voc_palette())
        except (LabelFormatError, OSError) as error:  # one broken image must not stop the others
            return _Result(image_id, False, str(error))
        return _Result(image_id, True)


def write_masks(
    folder: str | Path,
    indexes: Mapping[str, CocoIndex],
    names: Mapping[str, Sequence[str]],
    *,
    class_names: Sequence[str],
    crowd: Crowd,
    overlap: Overlap,
    workers: int = 0,
    progress: bool = True,
    **facts: Any,
) -> MaskReport:
    """Write the masks of all images as palette PNGs, with a manifest of how they were painted.

    Masks appear atomically and are kept if they are not older than the JSON, so an interrupted call
    continues. An image that fails is reported and does not stop the others.

    Args:
        folder: Target: new, empty, or of an earlier call with the same settings.
        indexes: Annotations by name of the split, such as ``train2014``.
        names: Names of the mask files of every split, in the order of ``image_ids``.
        class_names: One name per class.
        crowd: See :data:`Crowd`.
        overlap: See :data:`Overlap`.
        workers: Processes, see :func:`~scribbleseg.data.processes.map_in_processes`; 0 = this one.
        progress: Show a progress bar on stderr.
        facts: Further settings that masks of one folder must share.

    Returns:
        What was done; look at ``failed``.

    Raises:
        ConfigError: If an option is out of range, or ``folder`` holds anything else.
        ScribbleSegError: If a worker process was killed.
        MissingExtraError: If pycocotools is not installed.
    """
    check_whole(0, workers=workers)
    folder = Path(folder)
    try:
        import pycocotools.mask  # noqa: F401 - a missing package is no fault of the first image
    except ImportError as error:
        raise MissingExtraError("pycocotools", "coco", "painting COCO masks") from error
    settings: dict[str, Any] = {"command": "COCOSource.prepare", "crowd": crowd, "overlap": overlap}
    settings |= facts
    classes = list(class_names)
    earlier = check_settings(folder, {**settings, "class_names": classes}) or {}
    splits: dict[str, int] = dict(earlier.get("splits", {}))
    settings["pycocotools"] = version("pycocotools")

    def describe(*, complete: bool) -> None:
        write_manifest(
            folder,
            class_names=classes,
            files=sum(splits.values()),
            complete=complete,
            splits=splits,
            **settings,
        )

    describe(complete=False)
    report = MaskReport(folder)
    for split, index in indexes.items():
        items = list(zip(map(int, index.image_ids), names[split], strict=True))
        writer = _Writer(index, folder, crowd, overlap)
        before = report.written + report.kept
        work_through(writer, items, report, title=split, workers=workers, progress=progress)
        splits[split] = report.written + report.kept - before
    describe(complete=not report.failed)
    return report
