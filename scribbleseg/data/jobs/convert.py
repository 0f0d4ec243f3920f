"""``convert``: any data set as a plain folder of images, scribbles and masks."""

from __future__ import annotations

import copy
import inspect
import os
import shutil
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from scribbleseg.constants import IMAGE_SUFFIXES
from scribbleseg.data.groups import group_pattern
from scribbleseg.data.images import read_header
from scribbleseg.data.jobs.job import ImageJob, some_ids
from scribbleseg.data.jobs.settings import is_fresh, source_settings
from scribbleseg.data.lists import find_images, read_split, safe_id
from scribbleseg.data.source import ScribbleSource
from scribbleseg.data.sources import FileSource, FolderSource
from scribbleseg.data.volumes import write_spacings
from scribbleseg.errors import (
    ConfigError,
    LabelFormatError,
    ScribbleNotFoundError,
    ScribbleSegError,
)
from scribbleseg.functional.image_files import write_atomic, write_text
from scribbleseg.functional.images import write_image, write_label
from scribbleseg.functional.intensity import Intensity
from scribbleseg.options import check_choice, check_flag, check_whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scribbleseg.data.source import FileRole
    from scribbleseg.types import Label, Record, Split

__all__ = ["convert_source"]

_ROLES: tuple[FileRole, ...] = ("scribble", "mask")
_SPLITS: tuple[Split, ...] = ("train", "val", "test")


def convert_source(
    source: ScribbleSource,
    output: str | Path,
    *,
    splits: Sequence[Split] | None = None,
    link: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> ImageJob:
    """Write a data set as a plain folder, see :class:`~scribbleseg.data.sources.FolderSource`.

    Ordinary image files are copied byte for byte, other images become PNG (``.npy`` unless they
    have 1 or 3 channels). Scribbles and masks, those of training images too, become palette PNGs
    of ids with 255 = unlabelled or void. ``train.txt``, ``val.txt``, ``test.txt`` keep the order of
    the source; ``classes.yaml`` holds names, colours, background and mirrored pairs,
    ``dataset.yaml`` the options that a plain folder needs to read the same records, and
    ``spacing.json`` the distances of voxels where the source knows them.

    Args:
        source: Data set; must train on scribbles. Training images may be without.
        output: Folder to write, see :class:`~scribbleseg.data.jobs.job.ImageJob`.
        splits: Splits to convert; by default train and val, and test where the source has it.
        link: Make hard links to image files instead of copies where the disk allows it: no space
            is used, but editing one edits both.
        workers: Processes; 0 = this one.
        progress: Show a progress bar on stderr.

    Returns:
        What was done; look at ``failed``. ``found``: images per split (``splits``), in the folder
        (``files``), those ``with_mask``, and ids of training images ``without_scribble``.

    Raises:
        ConfigError: If an option is out of range, or ``output`` holds anything else.
        ScribbleNotFoundError: If images, lists or masks are missing (D301).
        LabelFormatError: If an image id cannot be a file name or a line of a list (D501).
        ScribbleSegError: If a worker process was killed.
    """
    check_whole(0, workers=workers)
    check_flag(link=link)
    kind = getattr(source, "label_type", "scribble")
    if kind != "scribble":
        raise ConfigError(
            f"label_type={kind!r}: a plain folder keeps scribbles and masks apart; leave the "
            "option at 'scribble', both are converted"
        )
    listed, notes = _list(source, splits)
    _check_ids(listed)
    records = _merge(source, listed)
    output = Path(output).expanduser()
    job = ImageJob(output, "convert", source_settings(source), source.class_names)
    counts = {**job.earlier.get("splits", {}), **{name: len(r) for name, r in listed.items()}}
    # splits of earlier calls stay as they are
    left = {k: n for k, n in job.earlier.get("unfinished", {}).items() if k not in listed}
    todo = {name: len(records) for name, records in listed.items()}
    job.settings |= {"splits": counts, "unfinished": {**left, **todo}}
    if job.earlier.get("splits") != counts:
        job.describe(0, complete=False)  # before the lists: they name images that are not there
    windowed = bool(records) and plain_file(source, records[0]) is None
    notes += _write_texts(source, output, listed, windowed=windowed)
    make = partial(_convert, source, output, link)
    job.run(make, records, workers=workers, progress=progress)

    files = _count_images(output, list(counts))
    left |= {name: sum(r.image_id in job.failed for r in rs) for name, rs in listed.items()}
    job.settings["unfinished"] = {name: number for name, number in left.items() if number}
    job.describe(files, complete=not job.settings["unfinished"])
    with_mask = sum(r.mask is not None or r.image is None for r in records)
    missing = [r.image_id for r in listed.get("train", ()) if r.image and r.scribble is None]
    job.found |= {"splits": counts, "files": files}
    job.found |= {"with_mask": with_mask, "without_scribble": missing}
    job.summary.append(
        f"{files:,} images in {output} ({', '.join(f'{k} {n:,}' for k, n in counts.items())}); of "
        f"{len(records):,} in this call {job.written:,} written, {job.kept:,} kept from earlier, "
        f"{len(job.failed):,} failed; {with_mask:,} have a mask"
    )
    if missing:
        job.summary.append(
            f"{len(missing):,} training images have no scribble ({some_ids(missing)})"
        )
    job.summary += notes
    return job


def _list(
    source: ScribbleSource, splits: Sequence[Split] | None
) -> tuple[dict[str, list[Record]], list[str]]:
    """Images by split, and what to say about splits that are left out."""
    for split in splits or ():
        check_choice("split", split, _SPLITS)
    if getattr(source, "on_missing", None) == "error":  # images without scribble are listed too
        source = copy.copy(source)
        source.on_missing = "unlabelled"  # type: ignore[attr-defined]
    listed: dict[str, list[Record]] = {s: source.records(s) for s in splits or _SPLITS[:2]}
    if splits is None:
        try:
            listed["test"] = source.records("test")
        except ScribbleNotFoundError as error:  # only a split that nobody asked for may be absent
            return listed, [f"split 'test' is not converted: {error}"]
    return listed, []


def _check_ids(listed: Mapping[str, Sequence[Record]]) -> None:
    """Refuse image ids that are no file names (D501), repeated (D303) or changed by a list."""
    for records in listed.values():
        ids = [safe_id(record.image_id) for record in records]
        twice = [name for name, count in Counter(ids).items() if count > 1]
        if twice:
            raise LabelFormatError(
                f"D303 image id {twice[0]!r} occurs more than once in one split ({len(twice)} such "
                "ids); correct `records` of the source"
            )
        back: list[str] = []
        with tempfile.TemporaryDirectory() as folder, suppress(ScribbleSegError):
            back = read_split(_write_list(Path(folder) / "list.txt", ids))
        if back != ids:
            wrong = [name for name, read in zip(ids, back, strict=False) if name != read]
            raise LabelFormatError(
                f"D501 image id {(wrong or ids[len(back) :])[0]!r} cannot be a line of a split "
                "file: a comment sign, outer spaces, a file suffix or a folder such as 'images/' "
                "is removed when it is read; correct `image_id` in the source"
            )


def _write_list(path: Path, ids: Sequence[str]) -> Path:
    write_text(path, "\n".join(ids) + "\n")
    return path


def _merge(source: ScribbleSource, listed: Mapping[str, Sequence[Record]]) -> list[Record]:
    """Every image once, with all its labels: a fold may be val and test at the same time."""
    merged: dict[str, Record] = {}
    for record in (record for records in listed.values() for record in records):
        full = source.with_mask(record)
        one = merged.setdefault(record.image_id, full)
        merged[record.image_id] = replace(
            one, scribble=one.scribble or full.scribble, mask=one.mask or full.mask
        )
    return list(merged.values())


def _write_texts(
    source: ScribbleSource, output: Path, listed: Mapping[str, Sequence[Record]], *, windowed: bool
) -> list[str]:
    """Write lists, classes, options and spacings; sentences about what a plain folder cannot hold.

    ``windowed``: images are written after the window of intensities.
    """
    everything = [record for records in listed.values() for record in records]
    options, notes = _dataset_options(source), []
    if windowed:
        options.pop("intensity", None)
    pattern = group_pattern(everything, getattr(source, "_group_pattern", None))
    if pattern is not None:
        options["group_regex"] = pattern
    elif any(record.group is not None for record in everything):
        notes.append(
            "groups of the images cannot be told from their names and are lost: scores per volume "
            "need the original source"
        )
    for split, records in listed.items():
        _write_list(output / f"{split}.txt", [record.image_id for record in records])
    for name, content in (("classes", _class_file(source)), ("dataset", options)):
        if content:
            text = yaml.safe_dump(
                content, sort_keys=False, allow_unicode=True, default_flow_style=None
            )
            write_text(output / f"{name}.yaml", text)
    write_spacings(output, everything, by_group=pattern is not None)
    return notes


def _class_file(source: ScribbleSource) -> dict[str, Any]:
    classes: list[dict[str, Any]] = []
    seen: list[list[int]] = []
    for label, name in enumerate(source.class_names):
        colour = [int(part) for part in source.palette[label]]
        # a class file gives every colour once
        own = {} if colour in seen else {"color": colour}
        classes.append({"id": label, "name": str(name), **own})
        seen.append(colour)
    content: dict[str, Any] = {"classes": classes, "background": source.background, "ignore": 255}
    if source.flip_pairs:
        content["flip_pairs"] = [[int(a), int(b)] for a, b in source.flip_pairs]
    return content


def _dataset_options(source: ScribbleSource) -> dict[str, Any]:
    """Options of a plain folder that its images and their use need; labels are coded already."""
    known = inspect.signature(FolderSource).parameters
    values = {
        "on_missing": getattr(source, "on_missing", None),
        "allow_dense_scribbles": getattr(source, "allow_dense_scribbles", None),
        "channels": source.in_channels,
        "intensity": None if source.intensity == Intensity() else asdict(source.intensity),
        "rgb_channels": None if source.rgb_channels is None else list(source.rgb_channels),
        "max_image_pixels": source.max_image_pixels,
    }
    return {k: v for k, v in values.items() if v is not None and v != known[k].default}


def _count_images(output: Path, splits: Sequence[str]) -> int:
    """Images of all splits that are there, each once."""
    lists = [output / f"{name}.txt" for name in splits]
    names = {stem for path in lists if path.is_file() for stem in read_split(path)}
    folder = output / "images"
    there = find_images(folder, unique=False).keys() if folder.is_dir() else set()
    return len(names & there)


def _convert(source: ScribbleSource, output: Path, link: bool, record: Record) -> tuple[bool, None]:
    """Write those files of one image that are missing or older than what they are made of."""
    target = output / "images" / safe_id(record.image_id)
    written, size = _convert_image(source, target, link, record)
    for role in _ROLES:
        # a source that makes its images has no files to name
        label: Label | None = getattr(record, role)
        if label is None and record.image is not None:
            continue
        target = output / f"{role}s" / f"{record.image_id}.png"
        if is_fresh(target, *source.inputs(record, role)):
            continue
        labels = (source.read_scribble if role == "scribble" else source.read_mask)(record)
        if labels.shape != size:
            raise LabelFormatError(
                f"D201 {record.image_id if label is None else label.path}: {role} is "
                f"{labels.shape[1]}x{labels.shape[0]} (width x height), its image is "
                f"{size[1]}x{size[0]}; export it again at the image's size, or set "
                "`resize_labels: true` where the source has that option"
            )
        write_label(target, labels, source.palette)
        written = True
    return written, None


def _convert_image(
    source: ScribbleSource, target: Path, link: bool, record: Record
) -> tuple[bool, tuple[int, int]]:
    """Whether the image was written, and its height and width."""

    def size(path: Path) -> tuple[int, int]:
        return read_header(path, channels=source.in_channels).size

    path = plain_file(source, record)
    if path is not None:
        return _copy(path, target.with_name(target.name + path.suffix), link), size(path)
    for suffix in (".png", ".npy"):
        made = target.with_name(target.name + suffix)
        if is_fresh(made, *source.inputs(record, "image")):
            return False, size(made)
    pixels = source.read_image(record)
    if pixels.shape[2] in (1, 3):
        grey = bool((pixels == pixels[..., :1]).all())
        write_image(target.with_name(target.name + ".png"), pixels[..., 0] if grey else pixels)
    else:
        made = target.with_name(target.name + ".npy")
        write_atomic(made, lambda stream: np.save(stream, pixels, allow_pickle=False))
    return True, (pixels.shape[0], pixels.shape[1])


def plain_file(source: ScribbleSource, record: Record) -> Path | None:
    """File of an image if a plain folder would read the same pixels from a copy of it."""
    files = source.inputs(record, "image")
    if len(files) != 1 or files[0].suffix.lower() not in IMAGE_SUFFIXES or not files[0].is_file():
        return None
    plain = [kind.read_image for kind in (ScribbleSource, FileSource, FolderSource)]
    # other sources may stack channels, cut slices or change values
    if type(source).read_image not in plain and not np.array_equal(
        source.read_image(record), ScribbleSource.read_image(source, record)
    ):
        return None
    return files[0]


def _copy(path: Path, target: Path, link: bool) -> bool:
    """Copy or link a file; False if that was done before."""
    if target.is_file():
        same = target.samefile(path) or target.stat().st_size == path.stat().st_size
        if same and is_fresh(target, path):
            return False
        target.unlink()
    target.parent.mkdir(parents=True, exist_ok=True)
    if link:
        try:
            os.link(path.resolve(), target)
        except OSError:
            pass  # another disk, or a file system without links
        else:
            return True
    with path.open("rb") as stream:
        write_atomic(target, lambda out: shutil.copyfileobj(stream, out, 1 << 20))
    return True
