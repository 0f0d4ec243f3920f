"""Any source as a plain folder: images, palette PNGs in the one coding, split and class files."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scribbleseg.data import io
from scribbleseg.data.converter import ImageConverter
from scribbleseg.data.folder_files import check_lists, write_folder_files
from scribbleseg.data.image_work import work_through
from scribbleseg.data.prepared import check_settings
from scribbleseg.data.settings import source_settings
from scribbleseg.errors import ConfigError, ScribbleNotFoundError
from scribbleseg.functional.manifest import write_manifest
from scribbleseg.options import check_choice, check_flag, check_whole

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from scribbleseg.data.source import ScribbleSource
    from scribbleseg.types import Record, Split

__all__ = ["ConvertReport", "convert_source"]

_COMMAND = "scribbleseg.data convert"
_SPLITS: tuple[Split, ...] = ("train", "val", "test")
_NAMES = 3  # of many, in messages


@dataclass
class ConvertReport:
    """Outcome of :func:`convert_source`.

    Attributes:
        output: The plain folder.
        splits: Images per split, those of earlier calls included.
        files: Images in the folder that a split lists, those of earlier calls included.
        written: Images of which at least one file was written by this call.
        kept: Images whose files were all there already.
        failed: Image id to what went wrong.
        without_scribble: Training images that have no scribble.
        with_mask: Images that have a dense mask.
        notes: What a user should know, one sentence each.
    """

    output: Path
    splits: dict[str, int] = field(default_factory=dict)
    files: int = 0
    written: int = 0
    kept: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    without_scribble: list[str] = field(default_factory=list)
    with_mask: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Images of this call."""
        return self.written + self.kept + len(self.failed)

    def format(self) -> str:
        """Summary of a few lines."""
        counts = ", ".join(f"{name} {number:,}" for name, number in self.splits.items())
        lines = [
            f"{self.files:,} images in {self.output} ({counts}); of {self.total:,} in this call "
            f"{self.written:,} written, {self.kept:,} kept from earlier, {len(self.failed):,} "
            f"failed; {self.with_mask:,} have a mask"
        ]
        if self.without_scribble:
            lines.append(
                f"{len(self.without_scribble):,} training images have no scribble "
                f"(e.g. {', '.join(self.without_scribble[:_NAMES])})"
            )
        return "\n".join([*lines, *self.notes])


def convert_source(
    source: ScribbleSource,
    output: str | Path,
    *,
    splits: Sequence[Split] | None = None,
    link: bool = False,
    workers: int = 0,
    progress: bool = True,
) -> ConvertReport:
    """Write a data set as a plain folder, see :class:`~scribbleseg.data.sources.FolderSource`.

    Ordinary image files are copied byte for byte, other images become PNG (``.npy`` unless they
    have 1 or 3 channels). Scribbles and masks, those of training images too, become palette PNGs
    of ids with 255 = unlabelled or void. ``train.txt``, ``val.txt``, ``test.txt`` keep the order of
    the source; ``classes.yaml`` holds names, colours, background and mirrored pairs,
    ``dataset.yaml`` the options that a plain folder needs to read the same records, and
    ``spacing.json`` the distances of voxels where the source knows them.

    Files appear atomically and are kept if they are not older than what they are made of, so an
    interrupted call continues and a second one writes nothing. An image that fails is reported and
    does not stop the others; training images without scribble are converted and reported.

    Args:
        source: Data set; must train on scribbles.
        output: Folder to write: new, empty, or of an earlier call on the same source.
        splits: Splits to convert; by default train and val, and test where the source has it.
        link: Make hard links to image files instead of copies where the disk allows it: no space
            is used, but editing one edits both.
        workers: Processes, see :func:`~scribbleseg.data.processes.map_in_processes`; 0 = this one.
        progress: Show a progress bar on stderr.

    Returns:
        What was done; look at ``failed``.

    Raises:
        ConfigError: If an option is out of range, or ``output`` holds anything else.
        ScribbleNotFoundError: If images, lists or masks are missing (D301).
        LabelFormatError: If an image id cannot be a file name or a line of a list (D501).
        ScribbleSegError: If a worker process was killed.
    """
    output = Path(output).expanduser()
    check_whole(0, workers=workers)
    check_flag(link=link)
    kind = getattr(source, "label_type", "scribble")
    if kind != "scribble":
        raise ConfigError(
            f"label_type={kind!r}: a plain folder keeps scribbles and masks apart; leave the "
            "option at 'scribble', both are converted"
        )
    report = ConvertReport(output)
    view = _tolerant(source)
    listed = _list(view, splits, report)
    records = _merge(view, listed)
    check_lists(listed)

    names = list(source.class_names)
    settings = {
        "command": _COMMAND,
        **source_settings(source),
        "class_names": names,
    }
    earlier = check_settings(output, settings) or {}
    report.splits = {**earlier.get("splits", {}), **{s: len(r) for s, r in listed.items()}}
    facts: dict[str, Any] = {
        key: settings[key] for key in ("command", "source", "options", "coding")
    }
    facts["splits"] = report.splits
    unfinished = _unfinished(earlier, except_for=listed)
    # before the first image: a folder that is not complete must say so, and keep its own split
    if earlier.get("complete") is not True or earlier.get("splits") != report.splits:
        facts["unfinished"] = {**unfinished, **{name: len(r) for name, r in listed.items()}}
        there = 0 if not earlier else _count_images(output, report)
        write_manifest(output, class_names=names, files=there, complete=False, **facts)
    report.notes += write_folder_files(source, output, listed)

    converter = ImageConverter(view, output, link)
    everything = list(records.values())
    work_through(converter, everything, report, title="convert", workers=workers, progress=progress)
    report.files = _count_images(output, report)
    report.with_mask = sum(r.mask is not None or r.image is None for r in everything)
    for name, records_of in listed.items():
        unfinished[name] = sum(r.image_id in report.failed for r in records_of)
    facts["unfinished"] = {name: number for name, number in unfinished.items() if number}
    complete = not facts["unfinished"]
    write_manifest(output, class_names=names, files=report.files, complete=complete, **facts)
    return report


def _unfinished(earlier: Mapping[str, Any], *, except_for: Collection[str]) -> dict[str, int]:
    """Images to be done in splits of earlier calls, which this one leaves alone."""
    left = earlier.get("unfinished")
    if left is None:
        left = {} if earlier.get("complete") is True else earlier.get("splits", {})
    return {name: number for name, number in left.items() if name not in except_for}


def _count_images(output: Path, report: ConvertReport) -> int:
    """Images of all splits that are there, each once."""
    lists = [output / f"{name}.txt" for name in report.splits]
    names = {stem for path in lists if path.is_file() for stem in io.read_split(path)}
    folder = output / "images"
    there = io.find_images(folder, unique=False).keys() if folder.is_dir() else set()
    return len(names & there)


def _tolerant(source: ScribbleSource) -> ScribbleSource:
    """A view of the source that lists training images without scribble as well."""
    if getattr(source, "on_missing", None) != "error":
        return source
    view = copy.copy(source)
    view.on_missing = "unlabelled"  # type: ignore[attr-defined]
    return view


def _list(
    source: ScribbleSource, splits: Sequence[Split] | None, report: ConvertReport
) -> dict[str, list[Record]]:
    for split in splits or ():
        check_choice("split", split, _SPLITS)
    listed: dict[str, list[Record]] = {}
    for split in splits or ("train", "val"):
        listed[split] = source.records(split)
    if splits is None:
        try:
            listed["test"] = source.records("test")
        except ScribbleNotFoundError as error:
            # only a split that nobody asked for may be absent
            report.notes.append(f"split 'test' is not converted: {error}")
    if "train" in listed:
        report.without_scribble = [
            r.image_id for r in listed["train"] if r.scribble is None and r.image is not None
        ]
    return listed


def _merge(source: ScribbleSource, listed: Mapping[str, Sequence[Record]]) -> dict[str, Record]:
    """Every image once, with all its labels: a fold may be val and test at the same time."""
    merged: dict[str, Record] = {}
    for records in listed.values():
        for record in records:
            full = source.with_mask(record)
            earlier = merged.get(record.image_id)
            if earlier is not None:
                full = replace(
                    earlier,
                    scribble=earlier.scribble or full.scribble,
                    mask=earlier.mask or full.mask,
                )
            merged[record.image_id] = full
    return merged
